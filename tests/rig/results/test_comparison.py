"""What counts as worse between two runs, and what is only changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from rig.report import comparison as report
from rig.results.comparison import NAME, Comparison, DifferenceKind, compare
from rig.results.events import Event
from rig.results.measurement import EngineClock, Measurement
from rig.results.results import Check, RunResult, ScenarioResult, as_json, finite

Change = Callable[[dict[str, Any]], object]


def sample() -> dict[str, Any]:
    """Return a run of two scenarios, as results.json has it."""
    drive = {"serial": "TR1", "model": "TS1120"}
    run = RunResult("lab", "sim", EngineClock(62.5e6), drive, ["rig", "run"])
    run.provenance.seeds = {"run": 5}
    rates = ScenarioResult("rates", "Rates")
    rates.measurements = [
        Measurement("rate", 1000.0, "MB/s", minimum=104.0, assumed_clock=True),
        Measurement("longest gap", 10, "clocks", maximum=100),
        Measurement("cycles", 48, "clocks", minimum=48, maximum=48),
        Measurement("not judged", 5.0, "MB/s", minimum=104.0, not_judged="too little"),
    ]
    trip = ScenarioResult("round_trip", "Round trip")
    trip.checks = [Check("bytes", True), Check("bytes", True)]
    trip.steps = [Event("BOT-1", "mount", "TAP001", 1.0, 0.5, "ok")]
    run.scenarios = [trip, rates]
    found: dict[str, Any] = finite(as_json(run))
    return found


def measured(run: dict[str, Any], name: str) -> dict[str, Any]:
    item: dict[str, Any]
    (item,) = (m for m in run["scenarios"][1]["measurements"] if m["name"] == name)
    return item


def changed(change: Change) -> Comparison:
    old = sample()
    new = copy.deepcopy(old)
    change(new)
    return compare(old, new)


def test_comparison_of_a_run_with_itself_finds_nothing() -> None:
    found = compare(sample(), sample())
    assert (found.differences, found.bad) == ([], [])
    assert found.same == 2 + 2 + 1 + 4 + 1  # verdicts, checks, step, measurements, error


def test_comparison_leaves_times_and_the_command_out() -> None:
    def change(run: dict[str, Any]) -> None:
        run.update(started=9.0, duration_s=9.0, phases_s={"keys": 9.0}, command=["rig"])
        for scenario in run["scenarios"]:
            scenario.update(started=9.0, duration_s=9.0)
            for step in scenario["steps"]:
                step.update(started=9.0, duration_s=9.0)

    assert changed(change).differences == []


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("rate", 989.0, DifferenceKind.WORSE),
        ("rate", 991.0, DifferenceKind.CHANGED),
        ("rate", 1009.0, DifferenceKind.CHANGED),
        ("rate", 1011.0, DifferenceKind.BETTER),
        ("longest gap", 12, DifferenceKind.WORSE),
        ("longest gap", 11, DifferenceKind.CHANGED),
        ("longest gap", 8, DifferenceKind.BETTER),
        ("cycles", 50, DifferenceKind.CHANGED),
        ("not judged", 1.0, DifferenceKind.CHANGED),
        ("rate", None, DifferenceKind.CHANGED),
    ],
)
def test_comparison_judges_a_measurement_by_its_limit(
    name: str, value: float | None, kind: DifferenceKind
) -> None:
    found = changed(lambda run: measured(run, name).update(value=value))
    (difference,) = found.differences
    assert (difference.kind, difference.scenario, difference.name) == (kind, "rates", name)
    assert bool(found.bad) is (kind is DifferenceKind.WORSE)


@pytest.mark.parametrize(
    ("value", "kind"), [(35, DifferenceKind.CHANGED), (36, DifferenceKind.WORSE)]
)
def test_comparison_allows_a_gap_more_where_the_seeds_differ(
    value: int, kind: DifferenceKind
) -> None:
    def change(run: dict[str, Any]) -> None:
        run["provenance"]["seeds"]["run"] = 6
        measured(run, "longest gap").update(value=value)

    kinds = {each.name: each.kind for each in changed(change).differences}
    assert kinds == {"longest gap": kind, "provenance.seeds.run": DifferenceKind.CHANGED}


@pytest.mark.parametrize(
    ("change", "kind", "name"),
    [
        (lambda run: run["scenarios"].pop(0), DifferenceKind.MISSING, "the scenario"),
        (lambda run: run["scenarios"][0]["checks"].pop(), DifferenceKind.MISSING, "bytes, 2"),
        (lambda run: run["scenarios"][1]["measurements"].pop(0), DifferenceKind.MISSING, "rate"),
        (lambda run: run["scenarios"][0]["steps"].pop(), DifferenceKind.MISSING, "step BOT-1"),
        (
            lambda run: run["scenarios"][0]["checks"][1].update(verdict="fail"),
            DifferenceKind.WORSE,
            "bytes, 2",
        ),
        (
            lambda run: run["scenarios"][0]["steps"][0].update(outcome="failed"),
            DifferenceKind.WORSE,
            "step BOT-1",
        ),
        (
            lambda run: run["scenarios"][1].update(verdict="interrupted"),
            DifferenceKind.WORSE,
            "verdict",
        ),
        (lambda run: measured(run, "rate").update(verdict="fail"), DifferenceKind.WORSE, "rate"),
        (
            lambda run: measured(run, "rate").update(verdict="not judged"),
            DifferenceKind.WORSE,
            "rate",
        ),
        (lambda run: measured(run, "rate").update(unit="ratio"), DifferenceKind.WORSE, "rate"),
        (lambda run: measured(run, "rate").update(minimum=50.0), DifferenceKind.CHANGED, "rate"),
        (lambda run: measured(run, "rate").update(minimum=None), DifferenceKind.WORSE, "rate"),
        (
            lambda run: measured(run, "longest gap").update(maximum=None),
            DifferenceKind.WORSE,
            "longest gap",
        ),
        (
            lambda run: run.update(error="The board is gone."),
            DifferenceKind.WORSE,
            "the run's error",
        ),
        (lambda run: run.update(board="ulx3s"), DifferenceKind.CHANGED, "board"),
        (
            lambda run: run["provenance"].update(data_sha256="0" * 64),
            DifferenceKind.CHANGED,
            "provenance.data_sha256",
        ),
    ],
)
def test_comparison_names_what_turned_or_is_missing(
    change: Change, kind: DifferenceKind, name: str
) -> None:
    found = changed(change)
    (difference,) = found.differences
    assert (difference.kind, difference.name) == (kind, name)
    assert bool(found.bad) is (kind in (DifferenceKind.WORSE, DifferenceKind.MISSING))


def test_comparison_the_other_way_round_finds_what_is_better_or_new() -> None:
    old = sample()
    new = copy.deepcopy(old)
    new["scenarios"][0]["checks"][0]["verdict"] = "fail"
    new["scenarios"][0]["checks"].pop()
    new["scenarios"].pop(1)
    assert [each.kind for each in compare(new, old).differences] == [
        DifferenceKind.BETTER,
        DifferenceKind.NEW,
        DifferenceKind.NEW,
    ]
    new["scenarios"].append({**old["scenarios"][1], "name": "other", "verdict": "fail"})
    assert DifferenceKind.WORSE in {each.kind for each in compare(old, new).bad}


def test_comparison_leaves_the_comparison_of_an_earlier_run_out() -> None:
    old = sample()
    new = copy.deepcopy(old)
    old["scenarios"].append({**old["scenarios"][0], "name": NAME})
    assert compare(old, new).differences == []


def test_comparison_shows_values_with_units_and_the_change() -> None:
    found = changed(lambda run: measured(run, "rate").update(value=122.1))
    assert report.lines(found, 80) == [
        "       what                         old           new         change",
        "worse  rates: rate (assumed clock)  1,000.0 MB/s  122.1 MB/s  -87.79%",
        "1 worse, 9 the same",
    ]
    assert (
        report.worse(found.bad) == "worse: rates: rate (assumed clock), 1,000.0 MB/s -> 122.1 MB/s"
    )
    assert report.as_json(found) == {
        "verdict": "fail",
        "same": 9,
        "differences": [
            {
                "kind": "worse",
                "scenario": "rates",
                "name": "rate",
                "old": 1000.0,
                "new": 122.1,
                "unit": "MB/s",
                "assumed_clock": True,
                "change": pytest.approx(-0.8779),
            }
        ],
    }
