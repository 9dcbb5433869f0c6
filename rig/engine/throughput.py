"""Measurement of the engine's rates, RATE-1 and RATE-2.

Rates are computed from the engine's own counters at the configured clock, never from wall time
or the speed of the link to the host. MB is 10**6 bytes, KiB is 1024 bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hsm.errors import TaperigError
from rig.engine.driver import Counters, Engine, Operation, Record, RecordStatus, Result
from rig.engine.traffic_generator import ExpectedTraffic, TrafficGenerator
from rig.results.measurement import Measurement

RECORD_SIZES = tuple(2**power * 1024 for power in range(1, 9))
"""Record sizes of RATE-1 and RATE-2, in bytes: 2 KiB to 256 KiB in powers of two."""

RATIO_LIMIT = 0.99
"""RATE-1: the minimum ratio of the encrypted rate to the clear rate."""

BATCH_BYTES = 64 * 1024
"""Minimum payload of one rate measurement; small records go in batches of this size."""

MIN_RECORDS = 4
"""Minimum records of an unpaced batch: more than the engine's banks, so that a wait for a bank
lowers the rate."""

MIN_PACED_RECORDS = 2
AAD_BYTES = 16
"""Length of the AAD that the drive authenticates with each record."""


class MeasureError(TaperigError):
    """A measurement failed."""


def payload_rate(counters: Counters, clock_hz: float) -> float:
    """Return the payload in bytes a second over the busy time of the engine."""
    if counters.cycles_busy == 0:
        raise MeasureError(
            "The engine counted no busy cycle while records went through it; "
            "its counters do not work, and no rate can be computed."
        )
    return counters.bytes * clock_hz / counters.cycles_busy


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters after one batch of records of one size."""

    operation: Operation
    record_bytes: int
    counters: Counters
    clock_hz: float

    @property
    def rate(self) -> float:
        """Return the rate in bytes a second."""
        return payload_rate(self.counters, self.clock_hz)

    def as_detail(self) -> dict[str, Any]:
        """Return the figures that the rate is computed from."""
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


def measure_batch(engine: Engine, records: Sequence[Record]) -> tuple[Sample, list[Result]]:
    """Process one batch of records of one size and read the counters."""
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


def _random_records(size: int, count: int, first_iv: int) -> list[Record]:
    """Return records of `size` bytes to encrypt, with IVs from `first_iv` up."""
    return [
        Record(
            Operation.ENCRYPT,
            data=secrets.token_bytes(size),
            iv=(first_iv + index).to_bytes(12, "big"),
            aad=bytes(AAD_BYTES),
        )
        for index in range(count)
    ]


def measure_rates(
    engine: Engine,
    native_rate: float,
    fastest_rate: float,
    done: Callable[[int], None] = lambda size: None,
) -> Iterator[Measurement]:
    """Measure RATE-1 and RATE-2 for every record size.

    Args:
        engine: with a key loaded that nothing else uses; its pace is set, and removed at the end.
        native_rate: of the drive, bytes a second, at which RATE-1 is measured.
        fastest_rate: of the fastest drive configured, bytes a second, the limit of RATE-2.
        done: called with the record size after each size.
    """
    next_iv = 1
    for size in RECORD_SIZES:
        count = max(MIN_RECORDS, BATCH_BYTES // size)
        paced_count = max(MIN_PACED_RECORDS, BATCH_BYTES // size)
        plain = _random_records(size, count, next_iv)
        paced_plain = _random_records(size, paced_count, next_iv + count)
        next_iv += count + paced_count
        engine.set_pace(None)
        write, encrypted = measure_batch(engine, plain)
        clear = [Record(Operation.BYPASS, data=record.data) for record in paced_plain]
        to_decrypt = [
            Record(
                Operation.DECRYPT, data=result.data, iv=record.iv, aad=record.aad, tag=result.tag
            )
            for record, result in zip(plain, encrypted, strict=True)
        ]
        read, decrypted = measure_batch(engine, to_decrypt)
        if [result.data for result in decrypted] != [record.data for record in plain]:
            raise MeasureError(
                f"Records of {size} bytes were changed by encryption and decryption while the rate "
                "was measured; the engine does not decrypt what it encrypted."
            )
        for name, unpaced in (("encrypt", write), ("decrypt", read)):
            yield _engine_rate(name, unpaced, fastest_rate)
        engine.set_pace(native_rate)
        try:
            base, _ = measure_batch(engine, clear)
            paced_read, _ = measure_batch(engine, to_decrypt[:paced_count])
            paced_write, _ = measure_batch(engine, paced_plain)
        finally:
            engine.set_pace(None)
        for name, paced in (("write", paced_write), ("read", paced_read)):
            yield _ratio(name, paced, base, native_rate)
        done(size)


def measure_generated_rates(
    engine: Engine,
    generator: TrafficGenerator,
    key: bytes,
    native_rate: float,
    fastest_rate: float,
    done: Callable[[int], None] = lambda size: None,
) -> Iterator[Measurement]:
    """Measure RATE-1 and RATE-2 with records that the board generates.

    `key` is the key that the engine holds and nothing else uses; the expected results are computed
    from it. Sizes above the engine's longest record are left out.
    """
    for size in RECORD_SIZES:
        if size > engine.max_data_bytes:
            break
        count = max(MIN_RECORDS, BATCH_BYTES // size)
        paced_count = max(MIN_PACED_RECORDS, BATCH_BYTES // size)

        def measure(operation: Operation, count: int, size: int = size) -> Sample:
            return _measure_generated_batch(engine, generator, key, operation, size, count)

        engine.set_pace(None)
        for name, operation in (("encrypt", Operation.ENCRYPT), ("decrypt", Operation.DECRYPT)):
            yield _engine_rate(name, measure(operation, count), fastest_rate)
        engine.set_pace(native_rate)
        try:
            base = measure(Operation.BYPASS, paced_count)
            paced_read = measure(Operation.DECRYPT, paced_count)
            paced_write = measure(Operation.ENCRYPT, paced_count)
        finally:
            engine.set_pace(None)
        for name, paced in (("write", paced_write), ("read", paced_read)):
            yield _ratio(name, paced, base, native_rate)
        done(size)


def _measure_generated_batch(
    engine: Engine,
    generator: TrafficGenerator,
    key: bytes,
    operation: Operation,
    size: int,
    count: int,
) -> Sample:
    """Run one generated batch, check its results, read the counters."""
    seed = secrets.randbits(32)
    aad_bytes = 0 if operation is Operation.BYPASS else AAD_BYTES
    expected = ExpectedTraffic(key, operation, size, seed, aad_bytes=aad_bytes)
    check = expected.after(count)
    engine.clear_counters()
    outcome = generator.run(
        operation, size, count, seed=seed, tag=expected.tag, aad_bytes=aad_bytes
    )
    counters = engine.counters()
    if outcome.good != count or outcome.check != check:
        raise MeasureError(
            f"Of {count} records of {size} bytes that the board generated, {outcome.good} ended "
            f"with status OK, and their check value is {outcome.check:032x} instead of "
            f"{check:032x}; the engine computes wrong results."
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
