"""What a run found, as results.json, junit.xml and words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from rig.report import text
from rig.report.console import ConsoleReport
from rig.report.junit import write_junit
from rig.results.events import Event
from rig.results.measurement import EngineClock, Measurement
from rig.results.provenance import (
    BoardAddress,
    Gates,
    KeyManagerFacts,
    LabFile,
    Provenance,
    Software,
    TokenFacts,
)
from rig.results.results import SCHEMA_PATH, Check, RunResult, ScenarioResult, write_results
from tests.support.junit import read_junit

SCHEMA = json.loads(SCHEMA_PATH.read_text())


def full_provenance() -> Provenance:
    packages = {"cbor2": "5.7.0", "xmlschema": "4.3.2"}
    return Provenance(
        software=Software("0.1.0", "ab" * 20, False, "bench", "Linux", "3.11", None, packages),
        lab_file=LabFile("/lab.yaml", "01" * 32),
        board=BoardAddress("ASRL/dev/ttyUSB0::INSTR", "D00039"),
        gates=Gates("0x01234567", "other", None, None, None, None, True, 16),
        tokens=[TokenFacts("ekm", "taperig-ekm", "SoftHSM project", "SoftHSM v2", "1f", "2.6")],
        key_managers=[KeyManagerFacts("main", "127.0.0.1:3801", "23" * 32)],
        data_sha256="45" * 32,
        seeds={"run": 7, "power_up": None},
        link_faults=3,
    )


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
        clock=EngineClock(62.5e6),
        drive={"serial": "T1", "model": "TS1120", "native_mb_per_s": 104.0},
        command=["rig", "run"],
        scenarios=[scenario],
        data={"volumes": 12, "bytes": 9, "sources": ["/x"]},
        provenance=full_provenance(),
    )
    with run.phase("keys"):
        pass
    return run


def fail_check(run: RunResult) -> None:
    run.scenarios[0].checks.append(Check("it came back again", False, "byte 7 differs"))


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


def not_reached(run: RunResult) -> None:
    run.planned = ("round_trip", "rates")
    run.error = "The run was cut short."


def nothing_known(run: RunResult) -> None:
    run.provenance = Provenance()


def not_judged(run: RunResult) -> None:
    run.scenarios[0].measurements.append(
        Measurement("slow", 1.0, "MB/s", minimum=2.0, rules=("BOT-2e",), not_judged="only 3 B")
    )


def skip_step(run: RunResult) -> None:
    run.scenarios[0].steps.append(Event("BOT-4", "demount", "A00001", 1.0, 0.1, "skipped", {}))


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
    (nothing_judged, "fail", 1),
    (nothing_run, "fail", 1),
    (not_reached, "error", 1),
    (nothing_known, "pass", 0),
    (not_judged, "pass", 0),
    (skip_step, "pass", 0),
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
    root = read_junit(write_junit(run, tmp_path))
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


def test_junit_has_the_provenance_as_properties(tmp_path: Path) -> None:
    root = read_junit(write_junit(good_run(), tmp_path))
    suite = root.find("testsuite[@name='run']")
    assert suite is not None
    assert suite.get("hostname") == "bench"
    found = {each.get("name"): each.get("value") for each in suite.iterfind("properties/property")}
    expected = {
        "verdict": "pass",
        "software.git_commit": "ab" * 20,
        "software.git_clean": "false",
        "software.verilator": "null",
        "software.packages.cbor2": "5.7.0",
        "lab_file.sha256": "01" * 32,
        "board.usb_serial": "D00039",
        "gates.build_hash": "0x01234567",
        "gates.simulated": "true",
        "tokens.0.firmware": "2.6",
        "key_managers.0.certificate_sha256": "23" * 32,
        "seeds.run": "7",
        "link_faults": "3",
    }
    assert {name: found.get(name) for name in expected} == expected


def test_junit_skips_what_was_not_judged_and_not_reached(tmp_path: Path) -> None:
    run = good_run()
    not_judged(run)
    not_reached(run)
    root = read_junit(write_junit(run, tmp_path))
    skipped = {
        (suite.get("name"), case.get("name")): case.findtext("skipped")
        for suite in root
        for case in suite
        if case.find("skipped") is not None
    }
    assert skipped == {
        ("round_trip", "slow"): "only 3 B",
        ("rates", "rates"): "The run ended before it.",
    }
    assert [suite.get("skipped") for suite in root] == ["1", "1", "0"]


def test_junit_names_are_the_same_for_other_volumes_and_verdicts(tmp_path: Path) -> None:
    def names(run: RunResult) -> list[tuple[str | None, str | None]]:
        root = read_junit(write_junit(run, tmp_path))
        return [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]

    other = good_run()
    scenario = other.scenarios[0]
    scenario.steps[0] = Event("BOT-1", "mount", "B00007", 5.0, 9.0, "failed", {"error": "B00007"})
    scenario.error = "The cartridge B00007 is damaged."
    assert names(other) == names(good_run())


def test_junit_replaces_characters_that_xml_cannot_carry(tmp_path: Path) -> None:
    run = good_run()
    run.error = "odd \x00 name \x1b[31m <&> \ud800"
    root = read_junit(write_junit(run, tmp_path))
    error = root.find(".//error")
    assert error is not None
    assert error.get("message") == "odd \ufffd name \ufffd[31m <&> \ufffd"


def test_results_leave_no_other_file(tmp_path: Path) -> None:
    write_results(good_run(), tmp_path)
    write_results(good_run(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_verdict_line_says_that_the_build_of_gates_is_unknown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = good_run()
    ConsoleReport().verdict(run)
    assert "PASS  gates of an unknown build, 0x01234567; " in capsys.readouterr().out
    run.provenance = Provenance()
    ConsoleReport().verdict(run)
    assert "build" not in capsys.readouterr().out


def test_verdict_line_leads_with_checks_where_no_rate_was_judged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = good_run()
    run.provenance = Provenance()
    run.scenarios[0].measurements.clear()
    not_judged(run)
    fail_check(run)
    ConsoleReport().verdict(run)
    assert "FAIL  1 of 2 checks passed, no rate was judged; " in capsys.readouterr().out


@pytest.mark.rule("RATE-6")
@pytest.mark.parametrize("assumed", [True, False])
def test_verdict_line_and_measurement_say_that_the_clock_is_assumed(
    assumed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run = good_run()
    (rate,) = run.scenarios[0].measurements
    run.scenarios[0].measurements = [replace(rate, assumed_clock=assumed)]
    if not assumed:
        run.clock = EngineClock(62.5e6, measured_hz=62.49e6)
    report = ConsoleReport()
    report.measurement(run.scenarios[0].measurements[0])
    report.verdict(run)
    first, _, verdict = capsys.readouterr().out.splitlines()
    assert ("980.0 MB/s, assumed clock (at" in first) is assumed
    assert ("; 62.5 MHz (assumed clock); " in verdict) is assumed
    run.clock = EngineClock(31e6, 62.5e6, measured_hz=31e6)
    report.verdict(run)
    assert "; clock 31 MHz (measured), not 62.5 MHz; " in capsys.readouterr().out


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
