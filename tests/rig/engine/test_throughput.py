"""Measurement limits and margins, and the engine's rates by its counters."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable

import pytest

from rig.engine.driver import Counters, Engine, Operation
from rig.engine.throughput import (
    GAP_LIMIT,
    MIXED_BYTES,
    RECORD_SIZES,
    HostTraffic,
    MeasureError,
    Unpaced,
    Worst,
    measure_rates,
    measure_stream,
    measure_worst,
    payload_rate,
)
from rig.results.measurement import Measurement

RATE_RULES = ("RATE-1", "RATE-2", "RATE-3", "RATE-5")


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


@pytest.mark.rule("RATE-1", "RATE-2", "RATE-3", "RATE-5")
def test_measure_rates_passes_every_limit_on_the_engine(engine: Engine) -> None:
    key = secrets.token_bytes(32)
    engine.load_plain_key(key)
    seen: list[Unpaced] = []
    worst = Worst()
    try:
        found = list(
            measure_rates(engine, HostTraffic(engine, key), 104e6, 400e6, worst, seen.append)
        )
        found += measure_worst(engine, worst)
    finally:
        engine.zeroize()
    assert tuple(each.record_bytes for each in seen) == RECORD_SIZES
    assert all(item.passed for item in found), [item.name for item in found if not item.passed]
    assert all(item.not_judged is None for item in found)
    by_rule = {rule: [item for item in found if item.rules == (rule,)] for rule in RATE_RULES}
    assert [len(by_rule[rule]) for rule in RATE_RULES] == [16, 16, 42, 3]
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


@pytest.mark.rule("RATE-1")
def test_measure_rates_judges_no_ratio_at_a_rate_beyond_the_clear_one(engine: Engine) -> None:
    key = secrets.token_bytes(32)
    engine.load_plain_key(key)
    try:
        found = list(measure_rates(engine, HostTraffic(engine, key), 2000e6, 400e6, Worst()))
    finally:
        engine.zeroize()
    paced = [item for item in found if item.rules == ("RATE-1",)]
    assert {item.verdict for item in paced} == {"not judged"}
    assert all("less than the drive's native rate of 2000" in str(m.not_judged) for m in paced)


@pytest.mark.rule("RATE-3")
def test_measure_stream_passes_on_the_engine(engine: Engine) -> None:
    def load(key: bytes) -> tuple[bytes, Callable[[], None]]:
        return key, lambda: engine.load_plain_key(key)

    worst = Worst()
    keys = [load(secrets.token_bytes(32)) for _ in MIXED_BYTES]
    try:
        found = list(measure_stream(engine, keys, 400_000, worst))
    finally:
        engine.zeroize()
    assert [item.verdict for item in found] == ["pass"] * len(MIXED_BYTES)
    assert worst.cycles > 300_000
    assert worst.longest_gap <= GAP_LIMIT


def test_host_traffic_reports_a_refused_record(engine: Engine) -> None:
    engine.zeroize()
    with pytest.raises(MeasureError, match="NO_KEY"):
        HostTraffic(engine, bytes(32)).measure(Operation.ENCRYPT, 2048, 1)


def test_host_traffic_reports_a_wrong_result(engine: Engine) -> None:
    engine.load_plain_key(secrets.token_bytes(32))
    try:
        with pytest.raises(MeasureError, match="wrong result"):
            HostTraffic(engine, bytes(32)).measure(Operation.ENCRYPT, 2048, 1)
    finally:
        engine.zeroize()
