"""Measurement of the engine's rates, RATE-1 to RATE-3 and RATE-5.

Rates are computed from the engine's own counters at the configured clock, never from wall time
or the speed of the link to the host. MB is 10**6 bytes, KiB is 1024 bytes.

The engine alone is judged three times: against the fastest drive, against its own clear path, and
against what its build promises for records of these sizes. Gates that are slow for all records
alike fail the last, gates that are slow for some only fail the stream of mixed records.
"""

from __future__ import annotations

import itertools
import math
import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hdl.widths import clocks_per_word
from hsm.errors import TaperigError
from rig.engine.driver import (
    TAG_BYTES,
    Counters,
    Engine,
    GapCounters,
    Operation,
    Record,
    RecordStatus,
    Result,
)
from rig.engine.timed_samples import TimedSamples
from rig.engine.traffic_generator import ExpectedTraffic, TrafficGenerator, TrafficKeyChange
from rig.results.measurement import EngineClock, Measurement

RECORD_SIZES: Final = tuple(2**power * 1024 for power in range(1, 9))
"""Record sizes that are measured, in bytes: 2 KiB to 256 KiB in powers of two."""

RATIO_LIMIT: Final = 0.99
"""The minimum ratio of the encrypted rate to the clear rate."""

SMALL_RATIO_LIMIT: Final = 0.95
SMALL_BYTES: Final = 16 * 1024
"""RATE-3: the engine alone need reach no more than SMALL_RATIO_LIMIT below this record size, where
AAD and tag are a part of the time."""

PROMISE_LIMIT: Final = 0.99
"""RATE-3: the minimum ratio of the bytes a clock to those that the build promises."""

COUNTED_LIMIT: Final = 0.99
"""RATE-3: the minimum ratio of the busy clocks that the engine counts to those that passed: at its
record port in simulation, by the host's time on a board."""

NATIVE_SHARE: Final = 0.99
"""RATE-1 is judged where the clear rate is at least this share of the drive's native rate."""

BATCH_CLOCKS: Final = 32 * 1024
"""Clocks of an unpaced measurement, at least; the engine's start and end are nothing beside it."""

PACED_BATCH_BYTES: Final = 64 * 1024

BOARD_SECONDS: Final = 2.0
"""Engine time of each repeat of a measurement, at least, where the gates are not simulated."""

BOARD_REPEATS: Final = 5
"""Repeats of a measurement there; simulated gates count the same in each."""

MIN_RECORDS: Final = 4
"""Minimum records of an unpaced batch: more than the engine's banks, so that a wait for a bank
lowers the rate."""

AAD_BYTES: Final = 16
"""Length of the AAD that the drive authenticates with each record."""

GAP_LIMIT: Final = 32
"""RATE-5: the longest stretch of clocks, at most, in which the engine holds up its streams."""

LATENCY_CLOCKS: Final = 1000
"""RATE-5: a result comes this many clocks after the end of its record, at most, and those that the
results of a full buffer take before it; in a narrow engine, as many times more."""

STREAM_CLOCKS: Final = 200_000
"""Engine clocks of the stream of mixed records, at least."""

SMALL_RECORD_BYTES: Final = (16, 500, 1000, 2048)
"""Record sizes that are measured without AAD and with the longest, in bytes."""

SMALL_RECORDS: Final = (16, 512)
"""Records of such a batch: so many at least, and at most; small ones cost the host most."""
SMALL_CLOCKS: Final = 8 * 1024
"""Clocks of such a batch, if so many records give them; the wait for the first result is little."""

SMALL_CLEAR_LIMIT: Final = 0.97
SMALLEST_OVER_CLEAR: Final = 1000
"""RATE-3: without AAD, encrypted over clear of small records is at least SMALL_CLEAR_LIMIT. Smaller
ones than SMALLEST_OVER_CLEAR wait for one of the records that the engine holds at most."""

MIXED_BYTES: Final = (16, 2048, 12_000, 32_768)
"""Smallest records of the parts of the mixed stream, each part under a data key of its own. The
largest have _MIXED_SPREAD times as much: the engine holds so many records that it never waits."""

RANGE_RATIO: Final = 1.2
"""The largest over the smallest size of a narrow range of sizes; in an engine of half the width its
square, since the records take twice the clocks."""
RANGE_CLOCKS: Final = 4096
"""Clocks of the records of a range with one operation, at least, as the build promises them."""
RANGE_RECORDS: Final = 3
"""Records of a range with one operation, at least."""

_MIXED_SPREAD: Final = 8
_FIRST_RANGE_IV: Final = 1 << 72
"""Beside the IVs of other records under the same key."""
_KEYS_OF_A_RUN: Final = 4
_SMALL_SHARE: Final = 0.05


class MeasureError(TaperigError):
    """A measurement failed."""


def payload_rate(counters: Counters, clock_hz: float) -> float:
    """Return the payload in bytes a second over the busy time of the engine."""
    if counters.cycles == 0:
        raise MeasureError(
            "The engine counted no busy cycle while records went through it; "
            "its counters do not work, and no rate can be computed."
        )
    return counters.bytes * clock_hz / counters.cycles


def ratio_limit(record_bytes: int) -> float:
    """Return the minimum of encrypted over clear for the engine alone."""
    return SMALL_RATIO_LIMIT if record_bytes < SMALL_BYTES else RATIO_LIMIT


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters after one batch of records of one size."""

    operation: Operation
    record_bytes: int
    aad_bytes: int
    counters: Counters
    gaps: GapCounters
    clock: EngineClock
    promised_clocks: int
    """Clocks in which the build promises to pass one of the records."""
    counted: float = math.inf
    """Busy clocks that a board counted over those that passed by the host's time, at most."""

    @property
    def rate(self) -> float:
        """Return the rate in bytes a second."""
        return payload_rate(self.counters, self.clock.hz)

    @property
    def bytes_per_clock(self) -> float:
        """Return the payload over the busy clocks."""
        return self.rate / self.clock.hz

    def as_detail(self) -> dict[str, Any]:
        """Return the figures that the rate is computed from."""
        return {
            "record_bytes": self.record_bytes,
            "aad_bytes": self.aad_bytes,
            "bytes": self.counters.bytes,
            "cycles": self.counters.cycles,
            "cycles_stalled_by_source": self.counters.stall_source,
            "cycles_stalled_by_sink": self.counters.stall_sink,
            "longest_gap": self.gaps.longest_gap,
            "longest_latency": self.gaps.longest_latency,
            "clock_hz": self.clock.hz,
            "bytes_per_cycle": self.bytes_per_clock,
            "mb_per_s": self.rate / 1e6,
        }


@dataclass(frozen=True, slots=True)
class Repeats:
    """A measurement and its repeats: batches of as many equal records."""

    samples: tuple[Sample, ...]

    @property
    def slowest(self) -> Sample:
        """Return the repeat with the least rate, which is judged."""
        return min(self.samples, key=lambda sample: sample.rate)

    @property
    def fastest(self) -> Sample:
        """Return the repeat with the highest rate, to compare others with."""
        return max(self.samples, key=lambda sample: sample.rate)

    def as_detail(self) -> dict[str, Any]:
        """Return the figures of the slowest repeat, and the rates of all."""
        rates = [sample.rate / 1e6 for sample in self.samples]
        return {
            **self.slowest.as_detail(),
            "repeats": len(rates),
            "minimum_mb_per_s": min(rates),
            "median_mb_per_s": median(rates),
            "maximum_mb_per_s": max(rates),
            "spread": (max(rates) - min(rates)) / median(rates),
        }


@dataclass(slots=True)
class Worst:
    """What the engine counted over several measurements."""

    cycles: int = 0
    longest_gap: int = 0
    longest_latency: int = 0
    longest_equal_latency: int = 0
    """Among records of one size, which do not wait for longer ones before them."""
    counted: float = math.inf
    """The least of the busy clocks that the engine counted over those that passed at its port."""
    sent: float = math.inf
    """Of a batch's last record, the least of the promised clocks over those until it had left."""

    def add(self, counters: Counters, gaps: GapCounters) -> None:
        """Add the counters of one measurement."""
        self.cycles += counters.cycles
        self.longest_gap = max(self.longest_gap, gaps.longest_gap)
        self.longest_latency = max(self.longest_latency, gaps.longest_latency)
        if counters.port_busy:
            self.counted = min(self.counted, counters.cycles_busy / counters.port_busy)

    def add_samples(self, samples: Iterable[Sample]) -> None:
        """Add the counters of some measurements."""
        for sample in samples:
            self.add(sample.counters, sample.gaps)
            self.counted = min(self.counted, sample.counted)
            leaving = sample.counters.port_inside - sample.counters.port_busy
            if leaving > 0:
                promised = sample.gaps.longest_latency + sample.promised_clocks
                self.sent = min(self.sent, promised / leaving)
            self.longest_equal_latency = max(
                self.longest_equal_latency, sample.gaps.longest_latency
            )


class Traffic(Protocol):
    """A source of records of one size, whose results are checked."""

    def measure(
        self, operation: Operation, record_bytes: int, count: int, aad_bytes: int = AAD_BYTES
    ) -> Sample:
        """Send records back to back; raises MeasureError for a wrong result.

        With BYPASS there is no AAD.
        """


@dataclass(frozen=True, slots=True)
class Unpaced:
    """What the engine alone counted for one record size."""

    clear: Repeats
    encrypted: Repeats
    decrypted: Repeats

    @property
    def record_bytes(self) -> int:
        """Return the record size."""
        return self.clear.slowest.record_bytes

    def samples(self) -> tuple[Sample, ...]:
        """Return all repeats of all three."""
        return (*self.clear.samples, *self.encrypted.samples, *self.decrypted.samples)


@dataclass(slots=True)
class HostTraffic:
    """Random records of the host, checked by `cryptography`.

    `key` is the key that the engine holds and nothing else uses.
    """

    engine: Engine
    key: bytes
    _next_iv: int = 1

    def measure(
        self, operation: Operation, record_bytes: int, count: int, aad_bytes: int = AAD_BYTES
    ) -> Sample:
        """See Traffic."""
        aad = b"" if operation is Operation.BYPASS else secrets.token_bytes(aad_bytes)
        pairs = []
        for _ in range(count):
            pairs.append(
                record_and_result(
                    self.key, operation, secrets.token_bytes(record_bytes), self._next_iv, aad
                )
            )
            self._next_iv += 1
        counters, gaps = _send(self.engine, pairs)
        return _sample(self.engine, operation, record_bytes, len(aad), counters, gaps)


def _send(engine: Engine, pairs: Sequence[tuple[Record, Result]]) -> tuple[Counters, GapCounters]:
    """Send records back to back; return what the engine counted.

    Raises MeasureError for a result that is not the one beside its record.
    """
    engine.clear_counters()
    results = engine.process([record for record, _ in pairs])
    counters, gaps = engine.counters(), engine.gap_counters()
    for result, (record, expected) in zip(results, pairs, strict=True):
        _check_result(result, expected, len(record.data))
    check_counters(counters, len(pairs), sum(len(record.data) for record, _ in pairs))
    return counters, gaps


def _sample(
    engine: Engine,
    operation: Operation,
    record_bytes: int,
    aad_bytes: int,
    counters: Counters,
    gaps: GapCounters,
) -> Sample:
    promised = engine.promise.clocks(record_bytes, aad_bytes)
    return Sample(operation, record_bytes, aad_bytes, counters, gaps, engine.clock, promised)


@dataclass(slots=True)
class GeneratedTraffic:
    """Records that the board generates, checked by their check value.

    `key` is the key that the engine holds and nothing else uses.
    """

    engine: Engine
    generator: TrafficGenerator
    key: bytes
    seeds: random.Random = field(default_factory=random.Random)
    """Gives the seed of each measurement; a repeat has that of the one before."""
    _last: tuple[tuple[object, ...], int, ExpectedTraffic] | None = None

    def measure(
        self, operation: Operation, record_bytes: int, count: int, aad_bytes: int = AAD_BYTES
    ) -> Sample:
        """See Traffic."""
        return self.measure_under(operation, record_bytes, count, aad_bytes)

    def measure_under(
        self,
        operation: Operation,
        record_bytes: int,
        count: int,
        aad_bytes: int,
        following: tuple[bytes, TrafficKeyChange] | None = None,
    ) -> Sample:
        """Measure as `measure` does, with changes to a following key on the way."""
        if operation is Operation.BYPASS:
            aad_bytes = 0
        batch = (self.key, operation, record_bytes, count, aad_bytes, following)
        if self._last is None or self._last[0] != batch:
            new = self.seeds.getrandbits(32)
            first = ExpectedTraffic(
                self.key,
                operation,
                record_bytes,
                new,
                aad_bytes=aad_bytes,
                change_after=None if following is None else following[1].every,
                next_key=None if following is None else following[0],
            )
            self._last = batch, new, first
        _, seed, expected = self._last
        samples = TimedSamples(self.engine)

        def while_busy() -> None:
            if not self.engine.simulated:  # its clock says nothing of the host's time
                samples.take()
            expected.work_ahead(count)

        self.engine.clear_counters()
        outcome = self.generator.run(
            operation,
            record_bytes,
            count,
            seed=seed,
            tag=expected.tag,
            aad_bytes=aad_bytes,
            key_change=None if following is None else following[1],
            while_busy=while_busy,
        )
        counters, gaps = self.engine.counters(), self.engine.gap_counters()
        check = expected.after(count)
        if outcome.good != count or outcome.check != check:
            raise MeasureError(
                f"Of {count} records of {record_bytes} bytes that the board generated, "
                f"{outcome.good} ended with status OK, and their check value is "
                f"{outcome.check:032x} instead of {check:032x}; the engine computes wrong results."
            )
        check_counters(counters, count, record_bytes * count)
        sample = _sample(self.engine, operation, record_bytes, aad_bytes, counters, gaps)
        if self.engine.simulated:
            return sample
        _, _, most_hz = samples.bounds()
        return replace(sample, counted=most_hz / self.engine.clock_hz)


def measure_unpaced(engine: Engine, traffic: Traffic, size: int) -> Unpaced:
    """Measure records of one size in the clear, encrypted and decrypted.

    The engine's pace is removed.
    """
    engine.set_pace(None)
    clocks = BATCH_CLOCKS if engine.simulated else math.ceil(BOARD_SECONDS * engine.clock_hz)
    count = max(MIN_RECORDS, -(-clocks * engine.promise.word_bytes // size))
    return Unpaced(
        *(
            _repeat(engine, traffic, operation, size, count)
            for operation in (Operation.BYPASS, Operation.ENCRYPT, Operation.DECRYPT)
        )
    )


def _repeat(
    engine: Engine, traffic: Traffic, operation: Operation, size: int, count: int
) -> Repeats:
    repeats = 1 if engine.simulated else BOARD_REPEATS
    return Repeats(tuple(traffic.measure(operation, size, count) for _ in range(repeats)))


def measure_small(engine: Engine, traffic: Traffic) -> Iterator[Sample]:
    """Measure small records, without AAD and with the longest."""
    engine.set_pace(None)
    least, most = SMALL_RECORDS
    for size in SMALL_RECORD_BYTES:
        count = min(most, max(least, SMALL_CLOCKS * engine.promise.word_bytes // size))
        if size not in RECORD_SIZES:  # those are measured without AAD anyhow
            yield traffic.measure(Operation.BYPASS, size, count)
        for operation in (Operation.DECRYPT, Operation.ENCRYPT):
            for aad_bytes in (0, engine.max_aad_bytes):
                yield traffic.measure(operation, size, count, aad_bytes)


def judge_small(engine: Engine, small: Iterable[Sample]) -> Iterator[Measurement]:
    """Judge RATE-3 for small records: over the promise, and over clear.

    The promise allows them some clocks that they do not need, so both are judged.
    """
    clear: dict[int, Repeats] = {}
    for sample in small:
        name, size, aad = sample.operation.name.lower(), sample.record_bytes, sample.aad_bytes
        records = f"records of {size:,} bytes, AAD of {aad}"
        one = Repeats((sample,))
        yield _promise_ratio(name, one, engine, records)
        if sample.operation is Operation.BYPASS:
            clear[size] = one
        elif aad == 0 and size in clear and size >= SMALLEST_OVER_CLEAR:
            yield _engine_ratio(name, one, clear[size], SMALL_CLEAR_LIMIT, records)


def measure_rates(
    engine: Engine,
    traffic: Traffic,
    native_rate: float,
    fastest_rate: float,
    worst: Worst,
    done: Callable[[Unpaced], None] = lambda unpaced: None,
    sizes: Sequence[int] = RECORD_SIZES,
) -> Iterator[Measurement]:
    """Measure RATE-1 to RATE-3 for every record size the engine takes.

    Args:
        engine: its pace is set, and removed at the end.
        traffic: of records under a key that nothing else uses.
        native_rate: of the drive, bytes a second, at which RATE-1 is measured.
        fastest_rate: of the fastest drive configured, bytes a second, the limit of RATE-2.
        worst: gets the gaps, latencies and clocks of all measurements.
        done: called after each size, with what the engine alone counted.
        sizes: of the records, in bytes.
    """
    for size in sizes:
        if size > engine.max_data_bytes:
            break
        unpaced = measure_unpaced(engine, traffic, size)
        worst.add_samples(unpaced.samples())
        encrypted, decrypted = ("encrypt", unpaced.encrypted), ("decrypt", unpaced.decrypted)
        for name, repeats in (encrypted, decrypted):
            yield _engine_rate(name, repeats, fastest_rate)
            yield _engine_ratio(name, repeats, unpaced.clear, ratio_limit(size), _size(repeats))
        for name, repeats in (("clear", unpaced.clear), encrypted, decrypted):
            yield _promise_ratio(name, repeats, engine, _size(repeats))
        pace = engine.set_pace(native_rate) or native_rate
        try:
            batch = PACED_BATCH_BYTES if engine.simulated else math.ceil(BOARD_SECONDS * pace)
            count = max(1, -(-batch // size))
            clear, read, write = (
                _repeat(engine, traffic, operation, size, count)
                for operation in (Operation.BYPASS, Operation.DECRYPT, Operation.ENCRYPT)
            )
        finally:
            engine.set_pace(None)
        worst.add_samples((*clear.samples, *read.samples, *write.samples))
        for name, repeats in (("write", write), ("read", read)):
            yield _paced_ratio(name, repeats, clear, native_rate)
        done(unpaced)


def measure_stream(
    engine: Engine,
    keys: Sequence[tuple[bytes, Callable[[], None]]],
    clocks: float,
    worst: Worst,
    seed: int = 0,
) -> Iterator[Measurement]:
    """Measure RATE-3 with a stream of records of any size, operation and AAD.

    Args:
        engine: without a pace.
        keys: as many data keys as MIXED_BYTES has parts, each with what loads it.
        clocks: the engine's clocks for the whole stream, at least.
        worst: gets its gaps, latencies and clocks.
        seed: of sizes, operations and AAD.
    """
    mixed = _MixedRecords(engine, random.Random(seed))
    # Many small records cost the host more than the gates.
    shares = [_SMALL_SHARE, *[(1 - _SMALL_SHARE) / (len(MIXED_BYTES) - 1)] * (len(MIXED_BYTES) - 1)]
    for (key, load), least, share in zip(keys, MIXED_BYTES, shares, strict=True):
        load()
        engine.clear_counters()
        mixed.begin(key, least, share * clocks)
        for number, result in enumerate(
            itertools.chain.from_iterable(engine.stream(mixed.records()))
        ):
            _check_result(result, *mixed.expected[number])
        counters, gaps = engine.counters(), engine.gap_counters()
        check_counters(counters, len(mixed.expected), mixed.payload)
        worst.add(counters, gaps)
        yield _over_promise(
            f"engine alone, mixed records from {least:,} bytes",
            engine,
            counters,
            mixed.promised,
            record_bytes=[least, _MIXED_SPREAD * least],
            seed=seed,
        )


def measure_ranges(
    engine: Engine, key: bytes, worst: Worst, seed: int = 0
) -> Iterator[Measurement]:
    """Measure RATE-3 for narrow ranges of sizes, together all sizes.

    In a stream of all sizes, a few that are slow would be lost.

    Args:
        engine: without a pace; it holds the key.
        key: that nothing else uses.
        worst: gets the gaps, latencies and clocks.
        seed: of the sizes and of AAD.
    """
    choose, ivs = random.Random(seed), itertools.count(_FIRST_RANGE_IV)
    ratio = RANGE_RATIO ** clocks_per_word(engine.promise.word_bytes)
    least, number = 16, 0
    while least < engine.max_data_bytes:
        most = min(engine.max_data_bytes, max(least + 1, int(least * ratio)))
        clear = math.nan
        for turn, operation in enumerate((Operation.BYPASS, Operation.ENCRYPT, Operation.DECRYPT)):
            odd = choose.randrange(1, engine.max_aad_bytes, 2)
            aad = (AAD_BYTES, odd, 0)[(number + turn) % 3] if turn else 0
            pairs, promised = _range_records(
                engine, key, choose, ivs, operation, (least, most), aad
            )
            counters, gaps = _send(engine, pairs)
            worst.add(counters, gaps)
            name = f"engine alone, {operation.name.lower()} of {least:,} to {most:,} bytes"
            over = _over_promise(
                name,
                engine,
                counters,
                promised,
                direction=operation.name.lower(),
                record_bytes=[least, most],
                aad_bytes=aad,
                seed=seed,
            )
            yield over
            if operation is Operation.BYPASS:
                clear = over.value
            elif SMALLEST_OVER_CLEAR <= least < SMALL_BYTES:
                # Over what is promised for each, since AAD takes clocks.
                yield replace(
                    over,
                    name=f"{name}, over clear",
                    value=over.value / clear,
                    minimum=SMALL_CLEAR_LIMIT,
                )
        least, number = most + 1, number + 1


def _range_records(
    engine: Engine,
    key: bytes,
    choose: random.Random,
    ivs: Iterator[int],
    operation: Operation,
    sizes: tuple[int, int],
    aad_bytes: int,
) -> tuple[list[tuple[Record, Result]], int]:
    """Return records of a range of sizes, and the clocks promised for them."""
    pairs: list[tuple[Record, Result]] = []
    promised = 0
    while promised < RANGE_CLOCKS or len(pairs) < RANGE_RECORDS:
        size = choose.randint(*sizes)
        data, aad = choose.randbytes(size), choose.randbytes(aad_bytes)
        pairs.append(record_and_result(key, operation, data, next(ivs), aad))
        promised += engine.promise.clocks(size, aad_bytes)
    return pairs, promised


def measure_generated(
    traffic: GeneratedTraffic, new_key: Callable[[], tuple[bytes, bytes]], worst: Worst
) -> Iterator[Measurement]:
    """Measure RATE-3 with generated records of any size, AAD and key.

    A board sends equal records in one go. Where it sends them for seconds, what is encrypted
    changes its key on the way.

    Args:
        traffic: of an engine without a pace; it goes on under other keys.
        new_key: gives a data key, in the clear and sealed.
        worst: gets its gaps, latencies and clocks.
    """
    engine, choose = traffic.engine, traffic.seeds
    clocks = BATCH_CLOCKS if engine.simulated else math.ceil(BOARD_SECONDS * engine.clock_hz)
    for least in MIXED_BYTES:
        size = min(engine.max_data_bytes, int(least * choose.uniform(1, _MIXED_SPREAD)))
        aad = choose.randint(0, engine.max_aad_bytes)
        for operation in (Operation.ENCRYPT, Operation.DECRYPT):
            promised = engine.promise.clocks(size, aad)
            count = max(_KEYS_OF_A_RUN, -(-clocks // promised))
            traffic.key, sealed = new_key()
            following = None
            # Its loads of a key take thousands of clocks, in which the next record waits.
            if operation is Operation.ENCRYPT and not engine.simulated:
                key, next_sealed = new_key()
                following = key, TrafficKeyChange(-(-count // _KEYS_OF_A_RUN), next_sealed)
            samples = []
            for _ in range(1 if engine.simulated else BOARD_REPEATS):
                engine.load_sealed_key(sealed)
                samples.append(traffic.measure_under(operation, size, count, aad, following))
            repeats = Repeats(tuple(samples))
            worst.add_samples(samples)
            yield Measurement(
                name=f"engine alone, {operation.name.lower()} of generated records from "
                f"{least:,} bytes, over the promise",
                value=count * promised / repeats.slowest.counters.cycles,
                unit="ratio",
                minimum=PROMISE_LIMIT,
                rules=("RATE-3",),
                detail={
                    **repeats.as_detail(),
                    "records": count,
                    "records_under_a_key": count if following is None else following[1].every,
                    "promised_cycles": count * promised,
                },
            )


def measure_worst(engine: Engine, worst: Worst) -> Iterator[Measurement]:
    """Judge RATE-5, and RATE-3 by what counts outside the gates, over all."""
    detail = {"cycles": worst.cycles, "clock_hz": engine.clock_hz}
    longest = partial(Measurement, unit="clocks", rules=("RATE-5",), detail=detail)
    ratio = partial(Measurement, unit="ratio", rules=("RATE-3",), detail=detail)
    yield longest("longest gap", worst.longest_gap, maximum=GAP_LIMIT)
    # A result waits for all before it: at most two of the longest records are in the buffer.
    latency = LATENCY_CLOCKS * clocks_per_word(engine.promise.word_bytes)
    before = 2 * engine.max_data_bytes / engine.promise.bytes_per_clock(engine.max_data_bytes)
    yield longest("longest latency", worst.longest_latency, maximum=round(before) + latency)
    if worst.longest_equal_latency:
        yield longest(
            "longest latency among records of one size",
            worst.longest_equal_latency,
            maximum=latency,
        )
    # What follows needs something outside the gates that counts with them.
    if worst.counted < math.inf:
        yield ratio(
            "busy clocks counted by the engine, over those that passed",
            worst.counted,
            minimum=COUNTED_LIMIT,
        )
    if worst.sent < math.inf:
        yield ratio(
            "last record of a batch out, over the promise", worst.sent, minimum=PROMISE_LIMIT
        )


@dataclass(slots=True)
class _MixedRecords:
    """Records of any size, operation and AAD, with their expected results."""

    engine: Engine
    choose: random.Random
    promised: float = 0.0
    """Clocks in which the build promises to pass those under the present key."""
    expected: list[tuple[Result, int]] = field(default_factory=list)
    """The results under the present key, each with the size of its record."""
    payload: int = 0
    """Bytes of data under the present key."""
    _key: bytes = b""
    _least: int = 1
    _clocks: float = 0.0
    _next_iv: int = 1 << 64

    def begin(self, key: bytes, least: int, clocks: float) -> None:
        """Go on under another key, with records from `least` bytes up."""
        self._key, self._least, self._clocks = key, least, clocks
        self.expected.clear()
        self.payload, self.promised = 0, 0.0

    def records(self) -> Iterator[Record]:
        """Yield records for the clocks of this key."""
        most, most_aad = self.engine.max_data_bytes, self.engine.max_aad_bytes
        while self.promised < self._clocks:
            operation = self.choose.choice(tuple(Operation))
            size = min(most, int(self._least * self.choose.uniform(1, _MIXED_SPREAD)))
            aad = self.choose.choice((0, AAD_BYTES, self.choose.randint(0, most_aad)))
            if operation is Operation.BYPASS:
                aad = 0
            record, expected = record_and_result(
                self._key,
                operation,
                self.choose.randbytes(size),
                self._next_iv,
                self.choose.randbytes(aad),
            )
            self._next_iv += 1
            self.promised += size / self.engine.promise.bytes_per_clock(size, aad)
            self.expected.append((expected, size))
            self.payload += size
            yield record


def record_and_result(
    key: bytes, operation: Operation, data: bytes, number: int, aad: bytes
) -> tuple[Record, Result]:
    """Return a record and its result; decrypted, it gives `data`."""
    if operation is Operation.BYPASS:
        return Record(operation, data), Result(RecordStatus.OK, data, b"")
    iv = number.to_bytes(12, "big")
    sealed = AESGCM(key).encrypt(iv, data, aad)
    text, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
    if operation is Operation.ENCRYPT:
        return Record(operation, data, iv, aad), Result(RecordStatus.OK, text, tag)
    return Record(operation, text, iv, aad, tag), Result(RecordStatus.OK, data, b"")


def _check_result(result: Result, expected: Result, record_bytes: int) -> None:
    if result.status is not RecordStatus.OK:
        raise MeasureError(
            f"The engine refused a record of {record_bytes} bytes while its rate was "
            f"measured ({result.status.name}); no rate can be computed."
        )
    if result != expected:
        raise MeasureError(
            f"The engine computed a wrong result for a record of {record_bytes} bytes while its "
            "rate was measured; no rate can be computed."
        )


def check_counters(counters: Counters, records: int, payload: int) -> None:
    """Raise MeasureError when records or bytes were not counted right."""
    if counters.bytes != payload or counters.records != records:
        raise MeasureError(
            f"The engine counted {counters.records} records and {counters.bytes} bytes where "
            f"{records} records and {payload} bytes went through; its counters do not work."
        )


def _size(repeats: Repeats) -> str:
    return f"{repeats.slowest.record_bytes // 1024} KiB records"


def _engine_rate(name: str, unpaced: Repeats, fastest_rate: float) -> Measurement:
    return Measurement(
        name=f"engine rate, {name}, {_size(unpaced)}",
        value=unpaced.slowest.rate / 1e6,
        unit="MB/s",
        minimum=fastest_rate / 1e6,
        rules=("RATE-2",),
        assumed_clock=unpaced.slowest.clock.assumed,
        detail={"direction": name, **unpaced.as_detail()},
    )


def _engine_ratio(
    name: str, unpaced: Repeats, clear: Repeats, minimum: float, records: str
) -> Measurement:
    return Measurement(
        name=f"engine alone, {name} over clear, {records}",
        value=unpaced.slowest.rate / clear.fastest.rate,
        unit="ratio",
        minimum=minimum,
        rules=("RATE-3",),
        detail={
            "direction": name,
            "record_bytes": unpaced.slowest.record_bytes,
            "encrypted": unpaced.as_detail(),
            "clear": clear.as_detail(),
        },
    )


def _promise_ratio(name: str, unpaced: Repeats, engine: Engine, records: str) -> Measurement:
    slowest = unpaced.slowest
    promised = engine.promise.bytes_per_clock(slowest.record_bytes, slowest.aad_bytes)
    return Measurement(
        name=f"engine alone, {name} over the promise, {records}",
        value=slowest.bytes_per_clock / promised,
        unit="ratio",
        minimum=PROMISE_LIMIT,
        rules=("RATE-3",),
        detail={
            "direction": name,
            "promised_bytes_per_cycle": promised,
            **unpaced.as_detail(),
        },
    )


def _over_promise(
    name: str, engine: Engine, counters: Counters, promised: float, **batch: Any
) -> Measurement:
    """Judge records of several sizes by the clocks promised for them."""
    return Measurement(
        name=f"{name}, over the promise",
        value=promised / counters.cycles if counters.cycles else math.nan,
        unit="ratio",
        minimum=PROMISE_LIMIT,
        rules=("RATE-3",),
        detail={
            **batch,
            "records": counters.records,
            "bytes": counters.bytes,
            "cycles": counters.cycles,
            "promised_cycles": promised,
            "clock_hz": engine.clock_hz,
        },
    )


def _paced_ratio(name: str, paced: Repeats, clear: Repeats, native_rate: float) -> Measurement:
    why_not = None
    if clear.slowest.rate < NATIVE_SHARE * native_rate:
        why_not = (
            f"in the clear the engine reaches {clear.slowest.rate / 1e6:.1f} MB/s at "
            f"{clear.slowest.clock}, less than the drive's native rate of {native_rate / 1e6:g}"
        )
    return Measurement(
        name=f"encrypted over clear, {name}, {_size(paced)}",
        value=paced.slowest.rate / clear.fastest.rate,
        unit="ratio",
        minimum=RATIO_LIMIT,
        rules=("RATE-1",),
        not_judged=why_not,
        detail={
            "direction": name,
            "record_bytes": paced.slowest.record_bytes,
            "native_mb_per_s": native_rate / 1e6,
            "encrypted": paced.as_detail(),
            "clear": clear.as_detail(),
        },
    )
