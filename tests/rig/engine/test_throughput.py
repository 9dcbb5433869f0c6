"""Measurement limits and margins, and the engine's rates by its counters."""

from __future__ import annotations

import math
import secrets

import pytest

from rig.engine.driver import Counters, Engine, Operation, Record
from rig.engine.throughput import (
    RECORD_SIZES,
    MeasureError,
    measure_batch,
    measure_rates,
    payload_rate,
)
from rig.results.measurement import Measurement


@pytest.mark.parametrize(
    ("value", "minimum", "maximum", "passed", "margin"),
    [
        (110.0, 100.0, None, True, 0.10),
        (100.0, 100.0, None, True, 0.0),
        (99.0, 100.0, None, False, -0.01),
        (90.0, None, 100.0, True, 0.10),
        (101.0, None, 100.0, False, -0.01),
        (95.0, 90.0, 100.0, True, 0.05),
        (5.0, None, None, True, None),
        (math.nan, 1.0, None, False, math.nan),
        (math.nan, None, None, False, None),
    ],
)
def test_measurement_judges_its_limits(
    value: float, minimum: float | None, maximum: float | None, passed: bool, margin: float | None
) -> None:
    item = Measurement("it", value, "MB/s", minimum, maximum)
    assert item.passed is passed
    assert item.margin == (None if margin is None else pytest.approx(margin, nan_ok=True))


def test_payload_rate_is_bytes_over_busy_cycles_at_the_clock() -> None:
    counters = Counters(1000, stall_source=7, stall_sink=9, records=1, bytes=16000, tag_failures=0)
    assert payload_rate(counters, 62.5e6) == pytest.approx(1000e6)
    with pytest.raises(MeasureError, match="no busy cycle"):
        payload_rate(Counters(0, 0, 0, 0, 0, 0), 62.5e6)


@pytest.mark.rule("RATE-1", "RATE-2")
def test_measure_rates_passes_every_limit_on_the_engine(engine: Engine) -> None:
    engine.load_plain_key(secrets.token_bytes(32))
    seen: list[int] = []
    try:
        found = list(measure_rates(engine, native_rate=104e6, fastest_rate=400e6, done=seen.append))
    finally:
        engine.zeroize()
    assert tuple(seen) == RECORD_SIZES
    by_rule = {
        rule: [item for item in found if item.rules == (rule,)] for rule in ("RATE-1", "RATE-2")
    }
    for items in by_rule.values():
        for direction in {item.detail["direction"] for item in items}:
            sizes = [
                item.detail["record_bytes"]
                for item in items
                if item.detail["direction"] == direction
            ]
            assert tuple(sizes) == RECORD_SIZES
    assert all(item.passed for item in found), [item.name for item in found if not item.passed]
    for item in by_rule["RATE-1"]:
        # Both rates are the tape channel's, up to the ends of records: the pace had effect.
        assert 0.99 * 104 < item.detail["clear"]["mb_per_s"] < 1.07 * 104
        assert item.value == pytest.approx(
            item.detail["encrypted"]["mb_per_s"] / item.detail["clear"]["mb_per_s"]
        )
    for item in by_rule["RATE-2"]:
        assert {"bytes", "cycles", "clock_hz"} <= set(item.detail)
        assert item.minimum == 400.0
        assert item.value < 16 * engine.clock_hz / 1e6


def test_measure_batch_reports_a_refused_record(engine: Engine) -> None:
    engine.zeroize()
    with pytest.raises(MeasureError, match="NO_KEY"):
        measure_batch(engine, [Record(Operation.ENCRYPT, bytes(2048))])
