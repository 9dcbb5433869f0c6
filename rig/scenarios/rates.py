"""Encryption costs no throughput; the engine outruns all drives.

The engine gets keys of its own for this (RATE-1 to RATE-5), zeroized at the end.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Sequence

from rig.drive.measurement_key import seal_measurement_key
from rig.drive.secure_element import SecureElement
from rig.engine.clock import judge_clock
from rig.engine.cycle_baseline import judge_cycles
from rig.engine.driver import Engine, Promise
from rig.engine.throughput import (
    MIXED_BYTES,
    RECORD_SIZES,
    STREAM_CLOCKS,
    GeneratedTraffic,
    HostTraffic,
    Unpaced,
    Worst,
    judge_small,
    measure_generated,
    measure_ranges,
    measure_rates,
    measure_small,
    measure_stream,
    measure_worst,
)
from rig.report import text
from rig.results.measurement import EngineClock, Measurement
from rig.scenarios.base import Scenario, ScenarioContext


class Rates(Scenario):
    """Rates by record size, from the engine's counters at its clock."""

    name = "rates"
    title = "Rates by record size, from the engine's cycle counters"

    def run(self, context: ScenarioContext) -> None:
        """Measure every record size, and a stream of mixed records."""
        opened = context.session.drive
        engine = opened.engine
        native, fastest = opened.unit.native_rate, context.session.lab.fastest_rate
        context.measure(judge_clock(engine.clock))
        worst = Worst()
        measurements: list[Measurement] = []
        sizes = [size for size in RECORD_SIZES if size <= engine.max_data_bytes]
        try:
            with context.report.task("measuring rates", sum(sizes)) as advance:
                key, load = _key(engine, opened.element)
                load()
                traffic = (
                    HostTraffic(engine, key)
                    if opened.traffic is None
                    else GeneratedTraffic(engine, opened.traffic, key, random.Random(context.seed))
                )
                unpaced: list[Unpaced] = []

                def done(size: Unpaced) -> None:
                    unpaced.append(size)
                    advance(size.record_bytes)

                for item in measure_rates(engine, traffic, native, fastest, worst, done):
                    measurements.append(item)
                    context.measure(item, show=False)
                small = list(measure_small(engine, traffic))
                worst.add_samples(small)
            for item in judge_small(engine, small):
                context.measure(item, show=False)
            _judge_cycles(context, judge_cycles(engine, unpaced, small))
            if isinstance(traffic, GeneratedTraffic):
                with context.report.task("measuring generated records"):

                    def new_key() -> tuple[bytes, bytes]:
                        key = secrets.token_bytes(32)
                        return key, seal_measurement_key(opened.element, key)

                    for item in measure_generated(traffic, new_key, worst):
                        context.measure(item)
            else:
                with context.report.task("measuring mixed records"):
                    for item in measure_ranges(engine, key, worst, context.seed):
                        context.measure(item, show=False)
                    # The smallest records take fewer clocks than is promised.
                    rest = max(STREAM_CLOCKS, 1.03 * (context.clocks - worst.cycles))
                    keys = [_key(engine, opened.element) for _ in MIXED_BYTES]
                    for item in measure_stream(engine, keys, rest, worst, context.seed):
                        context.measure(item)
            for item in measure_worst(engine, worst):
                context.measure(item)
        finally:
            engine.zeroize()
        context.report.line(
            f"at {engine.clock}, tape channel {native / 1e6:g} MB/s, "
            f"fastest drive {fastest / 1e6:g} MB/s, {worst.cycles / 1e6:.1f} million clocks"
        )
        context.report.table(_table(measurements, sizes))
        if not_reached := rate_not_reached(engine.promise, engine.clock, fastest):
            context.report.line(not_reached)


def _judge_cycles(context: ScenarioContext, items: Sequence[Measurement]) -> None:
    """Record RATE-4, and show it in a line; what differs has its own."""
    for item in items:
        context.measure(item, show=False)
    judged = [item for item in items if item.not_judged is None]
    same = sum(1 for item in judged if item.passed)
    if judged:
        context.report.line(f"{same} of {len(judged)} cycle counts equal the baseline")
    for reason in dict.fromkeys(item.not_judged for item in items if item.not_judged is not None):
        context.report.line(f"not judged  cycles of the baseline: {reason}")


def rate_not_reached(promise: Promise, clock: EngineClock, fastest_rate: float) -> str:
    """Return a sentence when no record can reach a drive's rate; else none.

    `fastest_rate` is in bytes a second.
    """
    widest = promise.word_bytes * clock.hz
    if widest >= fastest_rate:
        return ""
    width = "1 byte" if promise.word_bytes == 1 else f"{promise.word_bytes} bytes"
    return (
        f"RATE-2 is not reached: the engine's data path of {width} a clock passes at most "
        f"{widest / 1e6:g} MB/s at {clock}, and the fastest drive writes "
        f"{fastest_rate / 1e6:g} MB/s; take a wider engine or a slower drive."
    )


def _key(engine: Engine, element: SecureElement) -> tuple[bytes, Callable[[], None]]:
    """Return a new key and what loads it."""
    key = secrets.token_bytes(32)
    return key, lambda: engine.load_sealed_key(seal_measurement_key(element, key))


_COLUMNS = {
    "write enc/clear": "encrypted over clear, write",
    "read enc/clear": "encrypted over clear, read",
    "engine enc/clear": "engine alone, encrypt over clear",
    "dec/clear": "engine alone, decrypt over clear",
    "encrypt": "engine rate, encrypt",
    "decrypt": "engine rate, decrypt",
}


def _table(items: list[Measurement], sizes: list[int]) -> list[tuple[str, ...]]:
    """Return a row for each record size: ratios, and the engine's rates."""
    by_name = {item.name: item for item in items}
    rows: list[tuple[str, ...]] = [("record", *_COLUMNS)]
    for size in sizes:
        cells = [by_name[f"{name}, {size // 1024} KiB records"] for name in _COLUMNS.values()]
        rows.append(
            (f"{size // 1024} KiB", *(text.number(item.value, item.unit) for item in cells))
        )
    return rows
