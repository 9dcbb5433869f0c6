"""Gates that are slow in one way each fail a limit that is named."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from rig.board.sim import SimBoard
from rig.engine.cycle_baseline import judge_cycles
from rig.engine.driver import Engine
from rig.engine.throughput import (
    MIXED_BYTES,
    HostTraffic,
    Unpaced,
    Worst,
    judge_small,
    measure_ranges,
    measure_rates,
    measure_small,
    measure_stream,
    measure_worst,
)
from rig.report.text import measured
from rig.results.measurement import Measurement
from tests.support.slow_gates import SLIGHTLY_SLOW, SLOW, slow_simulation

SIZES = (2048, 131_072)
CLOCKS = 600_000


def judge(rtl: Path, number: int) -> tuple[list[Measurement], list[Measurement]]:
    """Return the limits that failed, and the cycle counts off the baseline."""
    with slow_simulation(rtl, number), SimBoard() as board:
        engine, worst = Engine(board), Worst()

        def load(key: bytes) -> tuple[bytes, Callable[[], None]]:
            return key, lambda: engine.load_plain_key(key)

        key = secrets.token_bytes(32)
        engine.load_plain_key(key)
        traffic = HostTraffic(engine, key)
        unpaced: list[Unpaced] = []
        found = list(
            measure_rates(engine, traffic, 104e6, 400e6, worst, unpaced.append, sizes=SIZES)
        )
        small = list(measure_small(engine, traffic))
        found += judge_small(engine, small)
        cycles = judge_cycles(engine, unpaced, small)
        found += measure_ranges(engine, key, worst)
        keys = [load(secrets.token_bytes(32)) for _ in MIXED_BYTES]
        found += measure_stream(engine, keys, CLOCKS, worst)
        found += measure_worst(engine, worst)
    assert {item.not_judged for item in cycles} == {None}
    return [item for item in found if not item.passed], [each for each in cycles if not each.passed]


def test_gates_made_for_these_tests_pass_when_they_are_not_slow(slow_rtl: Path) -> None:
    assert judge(slow_rtl, 0) == ([], [])


@pytest.mark.rule("RATE-3", "RATE-5")
@pytest.mark.parametrize("name", SLOW)
def test_slow_gates_fail_a_limit_that_is_named(slow_rtl: Path, name: str) -> None:
    failed, cycles = judge(slow_rtl, SLOW[name])
    assert failed
    for item in failed:
        print(measured(item))
        assert item.rules[0] in {"RATE-1", "RATE-2", "RATE-3", "RATE-5"}
        assert " (at " in measured(item)
    for item in cycles:
        print(measured(item))


@pytest.mark.rule("RATE-4")
@pytest.mark.parametrize("name", SLIGHTLY_SLOW)
def test_gates_that_are_slightly_slow_are_off_the_baseline(slow_rtl: Path, name: str) -> None:
    failed, cycles = judge(slow_rtl, SLIGHTLY_SLOW[name])
    assert failed == []
    assert cycles
    for item in cycles:
        assert " (must be " in measured(item)
