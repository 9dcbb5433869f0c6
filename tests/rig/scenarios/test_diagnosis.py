"""A waveform is offered only where the gates may be at fault."""

from __future__ import annotations

import pytest

from hdl.errors import ToolchainError
from hsm.errors import LabelUnknownError, TaperigError
from rig.board.protocol import BoardError
from rig.drive.sense import DriveError
from rig.engine.driver import RecordError
from rig.engine.throughput import MeasureError
from rig.results.measurement import EngineClock, Measurement
from rig.results.results import Check, RunResult, ScenarioResult
from rig.scenarios.diagnosis import gates_at_fault


def run_with(
    *checks: Check, failure: TaperigError | None = None, rate: float | None = None
) -> RunResult:
    scenario = ScenarioResult("round_trip", "A round trip", failure=failure)
    scenario.checks += checks
    if rate is not None:
        scenario.measurements.append(
            Measurement("rate", rate, "MB/s", minimum=104.0, rules=("RATE-2",))
        )
    run = RunResult("default", "sim", EngineClock(62.5e6), {}, ["rig"])
    run.scenarios.append(scenario)
    return run


def caused(error: TaperigError, cause: Exception) -> TaperigError:
    error.__cause__ = cause
    return error


def test_gates_are_not_at_fault_in_a_run_that_passed() -> None:
    assert not gates_at_fault(run_with(Check("x", True, rules=("READ-2e",)), rate=200.0), None)


@pytest.mark.parametrize(
    "run",
    [
        run_with(Check("came back", False, rules=("READ-2e",))),
        run_with(rate=1.0),
        run_with(failure=RecordError("tag mismatch")),
        run_with(failure=caused(TaperigError("drive"), RecordError("tag mismatch"))),
        run_with(failure=BoardError("The simulation stopped by itself")),
        run_with(failure=MeasureError("its counters do not work")),
    ],
)
def test_gates_are_at_fault_where_data_or_rates_are_wrong(run: RunResult) -> None:
    assert gates_at_fault(run, None)


def test_gates_are_at_fault_where_they_ended_the_whole_run() -> None:
    assert gates_at_fault(run_with(), BoardError("The simulation did not start"))


@pytest.mark.parametrize(
    "run",
    [
        run_with(Check("hash mode", False, rules=("KEY-8",))),
        run_with(Check("all steps", False, rules=("BOT-1", "BOT-2e"))),
        run_with(failure=LabelUnknownError("no such label")),
        run_with(failure=DriveError.__new__(DriveError)),
        run_with(failure=caused(BoardError("no g++"), ToolchainError("no g++"))),
    ],
)
def test_gates_are_not_at_fault_where_keys_or_tools_fail(run: RunResult) -> None:
    assert not gates_at_fault(run, None)
    assert not gates_at_fault(run_with(), run.scenarios[0].failure)
