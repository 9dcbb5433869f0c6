"""What a run found, as results.json, junit.xml and words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from rig.report import text
from rig.report.console import ConsoleReport
from rig.report.junit import write_junit
from rig.results.events import Event
from rig.results.measurement import Measurement
from rig.results.results import SCHEMA_PATH, Check, RunResult, ScenarioResult, write_results

SCHEMA = json.loads(SCHEMA_PATH.read_text())


def good_run() -> RunResult:
    scenario = ScenarioResult("round_trip", "A round trip", duration_s=1.5)
    scenario.steps.append(Event("BOT-1", "mount", "A00001", 1000.0, 0.25, "ok", {"pool": 2}))
    scenario.checks.append(Check("it came back", True, "12 files", ("READ-2e",)))
    scenario.measurements.append(
        Measurement("to tape", 980.0, "MB/s", minimum=104.0, rules=("BOT-2e",), detail={"bytes": 9})
    )
    run = RunResult(
        lab="default",
        board="sim",
        clock_hz=62.5e6,
        drive={"serial": "T1", "model": "TS1120", "native_mb_per_s": 104.0},
        command=["rig", "run"],
        scenarios=[scenario],
        data={"volumes": 12, "bytes": 9, "sources": ["/x"]},
    )
    with run.phase("keys"):
        pass
    return run


def fail_check(run: RunResult) -> None:
    run.scenarios[0].checks.append(Check("it came back", False, "byte 7 differs"))


def fail_measurement(run: RunResult) -> None:
    run.scenarios[0].measurements.append(Measurement("slow", 1.0, "MB/s", minimum=2.0))


def not_a_number(run: RunResult) -> None:
    run.scenarios[0].measurements.append(Measurement("nothing", math.nan, "MB/s", minimum=2.0))


def fail_step(run: RunResult) -> None:
    run.scenarios[0].steps.append(Event("BOT-2d", "set key", None, 1.0, 0.1, "failed", {}))


def scenario_error(run: RunResult) -> None:
    run.scenarios[0].error = "The key manager at 127.0.0.1:1 cannot be reached."


def run_error(run: RunResult) -> None:
    run.error = "No compiler."


def interrupt(run: RunResult) -> None:
    run.scenarios[0].steps.append(Event("BOT-2e", "write", None, 1.0, 0.1, "interrupted", {}))
    run.scenarios[0].interrupted = run.interrupted = True
    run.error = "The run was interrupted."


def nothing_judged(run: RunResult) -> None:
    run.scenarios[0].checks.clear()
    run.scenarios[0].measurements.clear()


def nothing_run(run: RunResult) -> None:
    run.scenarios.clear()


def odd_names(run: RunResult) -> None:
    run.data["sources"] = ["/x/\udcff"]
    run.scenarios[0].checks.append(Check("\udcff", False, "byte 7 differs"))


def nothing_wrong(run: RunResult) -> None:
    pass


CASES = [
    (nothing_wrong, "pass", 0),
    (odd_names, "fail", 1),
    (fail_check, "fail", 1),
    (fail_measurement, "fail", 1),
    (not_a_number, "fail", 1),
    (fail_step, "fail", 1),
    (scenario_error, "error", 1),
    (run_error, "error", 1),
    (interrupt, "interrupted", 3),
    (nothing_judged, "fail", 0),
    (nothing_run, "fail", 0),
]


@pytest.mark.parametrize(("change", "verdict", "bad_cases"), CASES)
def test_verdict_is_the_same_in_every_report(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[RunResult], None],
    verdict: str,
    bad_cases: int,
) -> None:
    run = good_run()
    change(run)
    assert run.verdict == verdict
    written = json.loads(write_results(run, tmp_path).read_text())
    jsonschema.validate(written, SCHEMA)
    assert written["verdict"] == verdict
    root = ElementTree.parse(write_junit(run, tmp_path)).getroot()
    bad = [*root.iterfind(".//testcase/failure"), *root.iterfind(".//testcase/error")]
    assert len(bad) == bad_cases
    suites = root.findall("testsuite")
    assert sum(int(s.get("failures", 0)) + int(s.get("errors", 0)) for s in suites) == bad_cases
    ConsoleReport().verdict(run)
    assert verdict.upper() in capsys.readouterr().out


def test_schema_is_a_schema_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    written = json.loads(write_results(good_run(), tmp_path).read_text())
    for change in ({"verdict": "maybe"}, {"surprise": 1}, {"clock_hz": "fast"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**written, **change}, SCHEMA)


def test_junit_replaces_characters_that_xml_cannot_carry(tmp_path: Path) -> None:
    run = good_run()
    run.error = "odd \x00 name \x1b[31m <&> \ud800"
    root = ElementTree.parse(write_junit(run, tmp_path)).getroot()
    error = root.find(".//error")
    assert error is not None
    assert error.get("message") == "odd \ufffd name \ufffd[31m <&> \ufffd"


def test_results_leave_no_other_file(tmp_path: Path) -> None:
    write_results(good_run(), tmp_path)
    write_results(good_run(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_console_is_plain_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report = ConsoleReport()
    report.step(Event("BOT-1", "mount [bold]X", "A00001", 0.0, 0.0123, "ok"))
    with report.task("quick", 10) as advance:
        advance(10)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "[bold]X" in printed
    assert "12 ms" in printed
    assert "quick" not in printed


def test_text_of_values_is_rounded_and_has_units() -> None:
    item = Measurement("to tape", 1234.56, "MB/s", minimum=104.0)
    assert text.measured(item) == ("to tape: 1,234.6 MB/s (at least 104.0 MB/s, margin +1087.1%)")
    assert text.number(0.99987, "ratio") == "0.9999"
    assert [text.seconds(each) for each in (12.34, 0.0456, 0.0003)] == ["12.3 s", "46 ms", "0.3 ms"]
    assert [text.size(each) for each in (7_999_000, 12_500, 7)] == ["8.0 MB", "12.5 kB", "7 B"]
