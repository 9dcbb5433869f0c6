"""The clock of the gates, measured against the host's, RATE-6.

The board sends itself clear records back to back, so that its counter of busy clocks counts every
clock; the host reads it again and again. Each sample is taken at some time between two of the
host's, so two samples give a lower and an upper bound of the clock, however slow the link is.
"""

from __future__ import annotations

import math
import time
from typing import Final

from rig.engine.driver import Engine, Operation
from rig.engine.throughput import MeasureError
from rig.engine.timed_samples import TimedSamples
from rig.engine.traffic_generator import TrafficGenerator
from rig.results.measurement import EngineClock, Measurement

LEAST_S: Final = 1.0
"""The clock is measured over so many seconds of the host at least."""
LIMIT: Final = 0.01
"""The most that the measured clock may differ from that of lab.yaml, as a share of it."""

_PRECISION = 0.002
_MOST_S = 30.0
_FIRST_CLOCKS = 1_000_000
_RECORD_BYTES = 16_384


def settle_clock(engine: Engine, traffic: TrafficGenerator | None) -> EngineClock:
    """Measure the clock of an engine where it can be measured.

    Rates are computed at the measured clock when it is not that of lab.yaml.
    """
    if traffic is None or engine.simulated:
        why = "the gates are simulated"
        if not engine.simulated:
            why = "the board has no traffic generator"
        engine.clock = EngineClock(engine.clock_hz, why_assumed=why)
    else:
        engine.clock = _measured(engine, traffic)
    return engine.clock


def judge_clock(clock: EngineClock) -> Measurement:
    """Judge RATE-6."""
    return Measurement(
        name="clock",
        value=(clock.configured_hz if clock.measured_hz is None else clock.measured_hz) / 1e6,
        unit="MHz",
        minimum=(1 - LIMIT) * clock.configured_hz / 1e6,
        maximum=(1 + LIMIT) * clock.configured_hz / 1e6,
        rules=("RATE-6",),
        not_judged=None if clock.measured_hz else f"assumed clock: {clock.why_assumed}",
        detail={
            "configured_hz": clock.configured_hz,
            "measured_hz": clock.measured_hz,
            "uncertainty": clock.uncertainty,
            "measured_s": clock.measured_s,
        },
    )


def _measured(engine: Engine, traffic: TrafficGenerator) -> EngineClock:
    configured = engine.clock_hz
    size = min(_RECORD_BYTES, engine.max_data_bytes)
    clocks = _FIRST_CLOCKS
    samples = TimedSamples(engine)
    while True:
        samples.taken.clear()
        engine.set_pace(None)
        engine.clear_counters()
        records = -(-clocks // engine.promise.clocks(size))
        began = time.monotonic()
        outcome = traffic.run(Operation.BYPASS, size, records, while_busy=samples.take)
        took = time.monotonic() - began
        if outcome.good != records:
            raise MeasureError(
                f"Of {records} clear records of {size} bytes that the board generated, "
                f"{outcome.good} ended with status OK; its clock cannot be measured."
            )
        seconds, least, most = samples.bounds()
        uncertainty = (most - least) / (most + least) if most < math.inf else math.inf
        if seconds >= LEAST_S and uncertainty <= _PRECISION:
            hz = (most + least) / 2
            false = abs(hz / configured - 1) > LIMIT
            return EngineClock(
                hz if false else configured,
                configured_hz=configured,
                measured_hz=hz,
                uncertainty=uncertainty,
                measured_s=seconds,
            )
        if took > _MOST_S:
            return EngineClock(
                configured,
                why_assumed=f"the board's link is too slow to measure it: in {took:.0f} s it was "
                f"found to be {least / 1e6:.3g} to {most / 1e6:.3g} MHz",
            )
        clocks *= 2 if took > LEAST_S else math.ceil(min(100.0, 1.5 * LEAST_S / took) + 1)
