"""A board's clock is measured; a false one is found."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from hdl.boards.virtual import launch
from hdl.files import replace_once
from hdl.sources import VIRTUAL_DIRECTORY
from rig.board.virtual import VirtualBoard
from rig.board.visa import VisaBoard
from rig.engine.clock import judge_clock, settle_clock
from rig.engine.driver import Engine
from rig.engine.throughput import MeasureError
from rig.engine.traffic_generator import TrafficGenerator
from rig.lab.model import BoardUnit
from rig.report.text import measured
from rig.results.measurement import EngineClock, Measurement
from rig.testbed.boards import BoardChoiceError, require_clock
from tests.support.clocked_board import ClockedBoard


def judge(board: ClockedBoard) -> tuple[EngineClock, Measurement]:
    engine = Engine(board)
    clock = settle_clock(engine, TrafficGenerator(board))
    assert engine.clock is clock
    return clock, judge_clock(clock)


@pytest.mark.rule("RATE-6")
@pytest.mark.parametrize("link_s", [0.0001, 0.004])
def test_clock_that_is_right_passes(link_s: float) -> None:
    began = time.monotonic()
    clock, item = judge(ClockedBoard(62.5e6, 62.5e6, link_s=link_s))
    assert item.verdict == "pass"
    assert item.rules == ("RATE-6",)
    assert clock.measured_hz == pytest.approx(62.5e6, rel=0.003)
    assert clock.hz == clock.configured_hz == 62.5e6
    assert not clock.assumed
    assert clock.measured_s is not None
    assert 1.0 <= clock.measured_s < time.monotonic() - began
    assert clock.uncertainty is not None
    assert clock.uncertainty <= 0.002


@pytest.mark.rule("RATE-6")
@pytest.mark.parametrize("configured", [1000e6, 63.5e6, 61.5e6, 1e6])
def test_clock_that_is_false_fails_and_rates_have_the_measured_one(configured: float) -> None:
    clock, item = judge(ClockedBoard(62.5e6, configured))
    assert item.verdict == "fail"
    assert clock.hz == clock.measured_hz == pytest.approx(62.5e6, rel=0.003)
    assert measured(item).startswith("clock: 62.")
    assert f"(at least {0.99 * configured / 1e6:,.1f} MHz" in measured(item)


@pytest.mark.rule("RATE-6")
def test_clock_of_which_the_counter_leaves_out_two_percent_fails() -> None:
    _, item = judge(ClockedBoard(62.5e6, 62.5e6, counted=0.98))
    assert item.verdict == "fail"


def test_clock_of_simulated_gates_is_assumed() -> None:
    board = ClockedBoard(62.5e6, 62.5e6, simulated=True)
    clock, item = judge(board)
    assert board.runs == 0
    assert clock.assumed
    assert item.not_judged == "assumed clock: the gates are simulated"
    assert measured(item) == "clock: 62.5 MHz (assumed clock: the gates are simulated)"


def test_clock_of_a_board_without_traffic_generator_is_assumed() -> None:
    engine = Engine(ClockedBoard(62.5e6, 62.5e6))
    item = judge_clock(settle_clock(engine, None))
    assert item.not_judged == "assumed clock: the board has no traffic generator"


def test_clock_is_not_measured_with_records_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    board = ClockedBoard(62.5e6, 62.5e6)
    engine = Engine(board)
    original = board._register
    monkeypatch.setattr(
        board, "_register", lambda address: 7 if address == 0x1004C else original(address)
    )
    with pytest.raises(MeasureError, match=r"^Of \d+ clear records .* 7 ended with status OK"):
        settle_clock(engine, TrafficGenerator(board))


@pytest.fixture
def unmarked_board(tmp_path: Path) -> Iterator[VirtualBoard]:
    """The virtual board, simulated, whose gates do not say so."""
    folder = tmp_path / "virtual"
    shutil.copytree(VIRTUAL_DIRECTORY, folder)
    replace_once(folder / "virtual_top.sv", ".Simulated    (1'b1)", ".Simulated    (1'b0)")
    with (
        patch.object(launch, "VIRTUAL_DIRECTORY", folder),
        VirtualBoard(bank_bytes=16384) as board,
    ):
        yield board


@pytest.mark.rule("RATE-6")
def test_clock_of_gates_that_only_claim_to_be_real_fails(unmarked_board: VirtualBoard) -> None:
    with VisaBoard("bench", unmarked_board.socket_resource, clock_hz=62.5e6) as board:
        engine = Engine(board)
        assert not engine.simulated
        clock = settle_clock(engine, TrafficGenerator(board))
        item = judge_clock(clock)
    # A simulation moves by the host's speed, and stands still between two accesses.
    assert clock.hz < 20e6
    assert item.verdict == "fail"


@pytest.mark.rule("RATE-6")
def test_clock_of_simulated_gates_behind_visa_is_refused_above_the_assumed() -> None:
    engine = Engine(ClockedBoard(62.5e6, 1e9, simulated=True))
    unit = BoardUnit(kind="visa", resource="TCPIP::127.0.0.1::3820::SOCKET", clock_mhz=1000.0)
    with pytest.raises(BoardChoiceError) as caught:
        require_clock(engine, "virtual", unit)
    assert str(caught.value) == (
        "Board virtual has simulated gates, whose clock cannot be measured, and its clock_mhz of "
        "1000 is above the 62.5 MHz that are assumed; correct clock_mhz, or remove it"
    )
    require_clock(Engine(ClockedBoard(62.5e6, 1e9)), "virtual", unit)
    require_clock(engine, "virtual", unit.replace(clock_mhz=62.5))
