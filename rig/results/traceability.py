"""The rules of the modelled system, their tests and the last verdicts.

The texts are in rules.yaml beside this file. Tests name rules with ``@pytest.mark.rule("BOT-2b")``;
the tests' conftest.py writes which tests name which rule, and their verdicts, for this module.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hsm.configuration.yaml_source import MAX_BYTES, YamlMistakeError, read_yaml
from hsm.errors import TaperigError
from hsm.files import read_limited

PROJECT = Path(__file__).parents[2]
COLLECT_TO = "TAPERIG_RULES_COLLECT"
"""Environment variable: the file into which conftest.py writes the collected tests by rule."""

VERDICTS_KEY = "taperig/rules"
"""Name under which conftest.py keeps verdicts in pytest's cache."""


_RULES = Path(__file__).parent / "rules.yaml"
_MAX_REPORT = 64 << 20


class RulesError(TaperigError):
    """The tests of the rules cannot be collected."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the modelled system."""

    id: str
    group: str
    text: str


@dataclass(frozen=True, slots=True)
class RuleTest:
    """A test that checks a rule, and the outcome of its last run."""

    name: str
    outcome: str


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """A rule with its tests."""

    rule: Rule
    tests: tuple[RuleTest, ...]

    @property
    def verdict(self) -> str:
        """The verdict: ``passed``, ``failed``, ``not run`` or ``no test``."""
        outcomes = {test.outcome for test in self.tests}
        if not outcomes:
            return "no test"
        if "failed" in outcomes:
            return "failed"
        return "passed" if outcomes == {"passed"} else "not run"


@cache
def load_rules() -> tuple[Rule, ...]:
    """Return every rule, in the order of the source."""
    try:
        groups, _ = read_yaml(read_limited(_RULES, MAX_BYTES).decode())
    except YamlMistakeError as mistake:
        raise RulesError(f"{_RULES}:{mistake.line}: {mistake.text}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RulesError(f"The rules in {_RULES} cannot be read ({error}).") from None
    if not isinstance(groups, dict):
        raise RulesError(f"The rules in {_RULES} are no map of groups.")
    return tuple(
        Rule(rule_id, group, text)
        for group, rules in groups.items()
        for rule_id, text in rules.items()
    )


def rule_status(project: Path = PROJECT) -> list[RuleStatus]:
    """Return every rule with its tests and their last verdicts."""
    tests = _collect(project)
    verdicts = _last_verdicts(project)
    return [
        RuleStatus(
            rule,
            tuple(RuleTest(name, verdicts.get(name, "not run")) for name in tests.get(rule.id, ())),
        )
        for rule in load_rules()
    ]


def _collect(project: Path) -> dict[str, list[str]]:
    """Return the names of the tests of each rule, as pytest collects them."""
    if not (project / "tests" / "conftest.py").exists():
        raise RulesError(
            f"The tests are not beside the rig (no {project / 'tests'}); "
            "run this from a clone of the project, installed by `make setup`."
        )
    with tempfile.TemporaryDirectory(prefix="taperig-rules-") as folder:
        target = Path(folder) / "tests.json"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"],
            cwd=project,
            env={**os.environ, COLLECT_TO: str(target)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not target.exists():
            last = (done.stdout + done.stderr).strip().splitlines()[-1:] or [
                "no output from pytest"
            ]
            raise RulesError(
                f"pytest could not collect the tests of {project / 'tests'} "
                f"({last[0].strip('= ')}); run `make test` to see why."
            )
        try:
            collected: dict[str, list[str]] = json.loads(read_limited(target, _MAX_REPORT))
        except (OSError, ValueError, RecursionError) as error:
            raise RulesError(
                f"The list of tests that pytest made cannot be read ({error}); run `make test` to "
                "see why."
            ) from None
    return collected


def _last_verdicts(project: Path) -> dict[str, str]:
    path = project / ".pytest_cache" / "v" / VERDICTS_KEY
    try:
        verdicts = json.loads(read_limited(path, _MAX_REPORT))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise RulesError(
            f"The last verdicts of the tests in {path} cannot be read ({error}); remove the file."
        ) from None
    return dict(verdicts)
