"""Measurements: a value with its unit, its limits and its verdict; and how the rates are taken.

Rates are computed from the engine's own counters at the configured clock, never from wall time
and never from the link to the host. MB is 10**6 bytes, KiB is 1024 bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hsm.errors import TaperigError
from rig.engine.driver import Counters, Engine, Operation, Record, RecordStatus, Result
from rig.engine.traffic_generator import TrafficGenerator, expected
from rig.results.measurement import Measurement

RECORD_SIZES = tuple(2**power * 1024 for power in range(1, 9))
"""Record sizes of RATE-1 and RATE-2, in bytes: 2 KiB to 256 KiB in powers of two."""

RATIO_LIMIT = 0.99
"""RATE-1: the least that the encrypted rate may be of the clear rate."""

BATCH_BYTES = 64 * 1024
"""Least payload of one rate measurement; small records go in batches of this size."""

LEAST_RECORDS = 4
"""Least records of an unpaced batch: above the engine's banks, so that waiting for one shows."""

LEAST_PACED_RECORDS = 2
AAD_BYTES = 16
"""As much as the drive authenticates with each record."""


class MeasureError(TaperigError):
    """A measurement could not be taken."""


def rate(counters: Counters, clock_hz: float) -> float:
    """Payload in bytes a second of the time that records were in the engine."""
    if counters.cycles_busy == 0:
        raise MeasureError(
            "The engine counted no busy cycle while records went through it; "
            "its counters do not work, and no rate can be computed."
        )
    return counters.bytes * clock_hz / counters.cycles_busy


@dataclass(frozen=True, slots=True)
class Sample:
    """What the counters said of one batch of records of one size."""

    operation: Operation
    record_bytes: int
    counters: Counters
    clock_hz: float

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return rate(self.counters, self.clock_hz)

    def as_detail(self) -> dict[str, Any]:
        """The figures that a rate is made of."""
        return {
            "record_bytes": self.record_bytes,
            "bytes": self.counters.bytes,
            "cycles": self.counters.cycles_busy,
            "cycles_stalled_by_source": self.counters.stall_source,
            "cycles_stalled_by_sink": self.counters.stall_sink,
            "clock_hz": self.clock_hz,
            "bytes_per_cycle": self.counters.bytes / self.counters.cycles_busy,
            "mb_per_s": self.rate / 1e6,
        }


def sample(engine: Engine, records: Sequence[Record]) -> tuple[Sample, list[Result]]:
    """Send one batch of equal records through the engine and read its counters."""
    engine.clear_counters()
    results = engine.process(records)
    counters = engine.counters()
    for result in results:
        if result.status is not RecordStatus.OK:
            raise MeasureError(
                f"The engine refused a record of {len(records[0].data)} bytes while its rate was "
                f"measured ({result.status.name}); no rate can be computed."
            )
    size = len(records[0].data)
    if counters.bytes != size * len(records) or counters.records != len(records):
        raise MeasureError(
            f"The engine counted {counters.records} records and {counters.bytes} bytes where "
            f"{len(records)} records of {size} bytes went through; its counters do not work."
        )
    return Sample(records[0].operation, size, counters, engine.clock_hz), results


def batch(size: int, count: int, first_iv: int) -> list[Record]:
    """Records to encrypt, of ``size`` bytes each, with IVs that count up from ``first_iv``."""
    return [
        Record(
            Operation.ENCRYPT,
            data=secrets.token_bytes(size),
            iv=(first_iv + index).to_bytes(12, "big"),
            aad=bytes(AAD_BYTES),
        )
        for index in range(count)
    ]


def rates(
    engine: Engine,
    native_rate: float,
    fastest_rate: float,
    done: Callable[[int], None] = lambda size: None,
) -> Iterator[Measurement]:
    """RATE-1 and RATE-2 for every record size; the engine must hold a key that nothing else uses.

    Args:
        engine: with a key loaded; its pace is set and at the end taken away again.
        native_rate: of the drive, bytes a second, at which RATE-1 is taken.
        fastest_rate: of the fastest drive configured, bytes a second, the limit of RATE-2.
        done: called with the record size after each size.
    """
    next_iv = 1
    for size in RECORD_SIZES:
        count = max(LEAST_RECORDS, BATCH_BYTES // size)
        paced_count = max(LEAST_PACED_RECORDS, BATCH_BYTES // size)
        plain = batch(size, count, next_iv)
        again = batch(size, paced_count, next_iv + count)
        next_iv += count + paced_count
        engine.set_pace(None)
        write, sealed = sample(engine, plain)
        clear = [Record(Operation.BYPASS, data=record.data) for record in again]
        opened = [
            Record(
                Operation.DECRYPT, data=result.data, iv=record.iv, aad=record.aad, tag=result.tag
            )
            for record, result in zip(plain, sealed, strict=True)
        ]
        read, back = sample(engine, opened)
        if [result.data for result in back] != [record.data for record in plain]:
            raise MeasureError(
                f"Records of {size} bytes did not come back as they went in while the rate was "
                "measured; the engine does not decrypt what it encrypted."
            )
        for name, unpaced in (("encrypt", write), ("decrypt", read)):
            yield _engine_rate(name, unpaced, fastest_rate)
        engine.set_pace(native_rate)
        try:
            base, _ = sample(engine, clear)
            paced_read, _ = sample(engine, opened[:paced_count])
            paced_write, _ = sample(engine, again)
        finally:
            engine.set_pace(None)
        for name, paced in (("write", paced_write), ("read", paced_read)):
            yield _ratio(name, paced, base, native_rate)
        done(size)


def generated_rates(
    engine: Engine,
    generator: TrafficGenerator,
    key: bytes,
    native_rate: float,
    fastest_rate: float,
    done: Callable[[int], None] = lambda size: None,
) -> Iterator[Measurement]:
    """RATE-1 and RATE-2 as `rates` has them, with records that the board makes itself.

    `key` is the one that the engine holds and nothing else uses: what must come out is computed
    from it here and compared. Sizes beyond the engine's longest record are left out.
    """
    for size in RECORD_SIZES:
        if size > engine.max_data_bytes:
            break
        count = max(LEAST_RECORDS, BATCH_BYTES // size)
        paced_count = max(LEAST_PACED_RECORDS, BATCH_BYTES // size)

        def taken(operation: Operation, count: int, size: int = size) -> Sample:
            return generated_sample(engine, generator, key, operation, size, count)

        engine.set_pace(None)
        for name, operation in (("encrypt", Operation.ENCRYPT), ("decrypt", Operation.DECRYPT)):
            yield _engine_rate(name, taken(operation, count), fastest_rate)
        engine.set_pace(native_rate)
        try:
            base = taken(Operation.BYPASS, paced_count)
            paced_read = taken(Operation.DECRYPT, paced_count)
            paced_write = taken(Operation.ENCRYPT, paced_count)
        finally:
            engine.set_pace(None)
        for name, paced in (("write", paced_write), ("read", paced_read)):
            yield _ratio(name, paced, base, native_rate)
        done(size)


def generated_sample(
    engine: Engine,
    generator: TrafficGenerator,
    key: bytes,
    operation: Operation,
    size: int,
    count: int,
) -> Sample:
    """Let the board make one batch of equal records, check all that came out, read the counters."""
    seed = secrets.randbits(32)
    tag, check = expected(key, operation, size, count, seed)
    engine.clear_counters()
    outcome = generator.run(operation, size, count, seed=seed, tag=tag)
    counters = engine.counters()
    if outcome.good != count or outcome.check != check:
        raise MeasureError(
            f"Of {count} records of {size} bytes that the board made itself, {outcome.good} ended "
            f"well and their check value is {outcome.check:032x} instead of {check:032x}; "
            "the engine does not compute what it should."
        )
    return Sample(operation, size, counters, engine.clock_hz)


def _engine_rate(name: str, unpaced: Sample, fastest_rate: float) -> Measurement:
    return Measurement(
        name=f"engine rate, {name}, {unpaced.record_bytes // 1024} KiB records",
        value=unpaced.rate / 1e6,
        unit="MB/s",
        minimum=fastest_rate / 1e6,
        rules=("RATE-2",),
        detail={"direction": name, **unpaced.as_detail()},
    )


def _ratio(name: str, paced: Sample, base: Sample, native_rate: float) -> Measurement:
    return Measurement(
        name=f"encrypted over clear, {name}, {paced.record_bytes // 1024} KiB records",
        value=paced.rate / base.rate,
        unit="ratio",
        minimum=RATIO_LIMIT,
        rules=("RATE-1",),
        detail={
            "direction": name,
            "record_bytes": paced.record_bytes,
            "native_mb_per_s": native_rate / 1e6,
            "encrypted": paced.as_detail(),
            "clear": base.as_detail(),
        },
    )
