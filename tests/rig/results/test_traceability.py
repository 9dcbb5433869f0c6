"""The rules, their tests and verdicts, on a small project."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rig.results.traceability import RulesError, RuleStatus, load_rules, rule_status

PROJECT = Path(__file__).parents[3]

TESTS = """
import pytest

@pytest.mark.rule("KEY-1", "KEY-2")
@pytest.mark.parametrize("number", [1, 2, 3])
def test_of_two(number):
    assert number != {bad}

@pytest.mark.rule("KEY-1")
def test_of_one():
    pass

@pytest.mark.rule("KEY-3")
def test_skipped():
    pytest.skip("not here")
"""


def project_with(folder: Path, tests: str) -> Path:
    (folder / "tests").mkdir(exist_ok=True)
    shutil.copy(PROJECT / "tests" / "conftest.py", folder / "tests")
    (folder / "tests" / "test_them.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = tests\nmarkers = rule(*ids): rules\n")
    return folder


def run_tests(folder: Path, *options: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options],
        cwd=folder,
        capture_output=True,
        check=False,
    )


def by_id(folder: Path) -> dict[str, RuleStatus]:
    return {status.rule.id: status for status in rule_status(folder)}


def test_rules_are_those_of_the_source_once_each() -> None:
    ids = [rule.id for rule in load_rules()]
    assert len(ids) == len(set(ids)) == 102
    assert {"KEY-12", "EKM-11", "BOT-2e", "APP-3b", "READ-4", "POOL-7", "RATE-2"} <= set(ids)
    assert "CART-4" in ids
    assert all(rule.text.endswith(".") for rule in load_rules())


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_rule_status_has_the_verdicts_of_the_last_run(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    project = project_with(tmp_path, TESTS.replace("{bad}", "0"))
    assert by_id(project)["KEY-1"].verdict == "not run"
    run_tests(project, *options)
    status = by_id(project)
    assert [test.name for test in status["KEY-1"].tests] == [
        "tests/test_them.py::test_of_two",
        "tests/test_them.py::test_of_one",
    ]
    assert status["KEY-1"].verdict == status["KEY-2"].verdict == "passed"
    assert status["KEY-3"].verdict == "not run"
    assert status["KEY-4"].verdict == "no test"

    project_with(tmp_path, TESTS.replace("{bad}", "2"))
    run_tests(project, *options)
    status = by_id(project)
    assert status["KEY-1"].verdict == status["KEY-2"].verdict == "failed"


def test_rule_status_refuses_an_unknown_rule(tmp_path: Path) -> None:
    project = project_with(tmp_path, TESTS.replace("KEY-3", "KEY-99"))
    with pytest.raises(RulesError, match="could not collect"):
        rule_status(project)


def test_rule_status_needs_the_tests_beside_the_rig(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="from a clone of the project"):
        rule_status(tmp_path)
