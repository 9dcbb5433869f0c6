"""Gates that are slow in one way each fail a limit that is named."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from rig.board.sim import SimBoard
from rig.engine.driver import Engine
from rig.engine.throughput import (
    MIXED_BYTES,
    HostTraffic,
    Worst,
    measure_rates,
    measure_stream,
    measure_worst,
)
from rig.report.text import measured
from rig.results.measurement import Measurement
from tests.support.slow_gates import SLOW, slow_simulation

SIZES = (2048, 131_072)
CLOCKS = 1_200_000


def judge(rtl: Path, number: int) -> list[Measurement]:
    """Return the measurements that failed."""
    with slow_simulation(rtl, number), SimBoard() as board:
        engine, worst = Engine(board), Worst()

        def load(key: bytes) -> tuple[bytes, Callable[[], None]]:
            return key, lambda: engine.load_plain_key(key)

        key = secrets.token_bytes(32)
        engine.load_plain_key(key)
        traffic = HostTraffic(engine, key)
        found = list(measure_rates(engine, traffic, 104e6, 400e6, worst, sizes=SIZES))
        keys = [load(secrets.token_bytes(32)) for _ in MIXED_BYTES]
        found += measure_stream(engine, keys, CLOCKS, worst)
        found += measure_worst(engine, worst)
    return [item for item in found if not item.passed]


def test_gates_made_for_these_tests_pass_when_they_are_not_slow(slow_rtl: Path) -> None:
    assert judge(slow_rtl, 0) == []


@pytest.mark.rule("RATE-3", "RATE-5")
@pytest.mark.parametrize("name", SLOW)
def test_slow_gates_fail_a_limit_that_is_named(slow_rtl: Path, name: str) -> None:
    failed = judge(slow_rtl, SLOW[name])
    assert failed
    for item in failed:
        print(measured(item))
        assert item.rules[0] in {"RATE-1", "RATE-2", "RATE-3", "RATE-5"}
        assert " (at " in measured(item)
