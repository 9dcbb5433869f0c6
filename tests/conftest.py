"""Check the rule ids of tests and keep verdicts for ``rig rules``."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.results.traceability import COLLECT_TO, VERDICTS_KEY, load_rules

WORST_FIRST = ("failed", "skipped", "passed")


def _function(nodeid: str) -> str:
    """A test's name without its parameters."""
    return nodeid.split("[", 1)[0]


def _rules_of(item: pytest.Item) -> set[str]:
    return {str(rule) for marker in item.iter_markers("rule") for rule in marker.args}


class RuleVerdicts:
    """The worst outcome of the parameters of each test that names rules."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown" and report.passed:
            return
        if report.when == "setup" and report.passed:
            return
        if "rule" not in dict(report.user_properties):
            return
        name = _function(report.nodeid)
        before = self.outcomes.get(name, "passed")
        self.outcomes[name] = min(before, report.outcome, key=WORST_FIRST.index)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        cache = session.config.cache if hasattr(session.config, "cache") else None
        if cache is None or not self.outcomes:
            return
        cache.set(VERDICTS_KEY, {**cache.get(VERDICTS_KEY, {}), **self.outcomes})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", metavar="N", help="seed of the random numbers of all benches")


def pytest_configure(config: pytest.Config) -> None:
    if (seed := config.getoption("--seed")) is not None:
        os.environ["TAPERIG_SEED"] = seed
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(RuleVerdicts(), "taperig-rules")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known = {rule.id for rule in load_rules()}
    for item in items:
        rules = _rules_of(item)
        if rules - known:
            raise pytest.UsageError(
                f"{item.nodeid} names unknown rules: {', '.join(sorted(rules - known))}"
            )
        if rules:
            item.user_properties.append(("rule", ",".join(sorted(rules))))


def pytest_collection_finish(session: pytest.Session) -> None:
    target = os.environ.get(COLLECT_TO)
    if target is None:
        return
    tests: dict[str, list[str]] = {}
    for item in session.items:
        for rule in sorted(_rules_of(item)):
            names = tests.setdefault(rule, [])
            if (name := _function(item.nodeid)) not in names:
                names.append(name)
    Path(target).write_text(json.dumps(tests), encoding="utf-8")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of this test's own, also for its child processes."""
    path = tmp_path / "state"
    monkeypatch.setenv("TAPERIG_STATE", str(path))
    return path


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Children that take SIGINT and SIGHUP, whatever this run ignores.

    Both are ignored in the background or under nohup, and a child inherits what is ignored,
    but no handler.
    """
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    hang_up = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGHUP, hang_up)
