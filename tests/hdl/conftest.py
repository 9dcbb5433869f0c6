"""A case of its own in reports for each cocotb test of a bench.

The process that simulates attaches the outcomes to its own report; the process that writes the
reports, which is another under pytest-xdist, makes cases of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pytest

from hdl.verilator.bench import BenchOutcome, outcome_listeners

PROPERTY = "cocotb tests"


@pytest.fixture(autouse=True)
def _outcomes_of_cocotb_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    def attach(outcomes: Sequence[BenchOutcome]) -> None:
        kept = [asdict(outcome) for outcome in outcomes]
        request.node.user_properties.append((PROPERTY, kept))

    outcome_listeners.append(attach)
    yield
    outcome_listeners.remove(attach)


class CocotbCases:
    """Report each cocotb test of a bench as if it were a test of pytest."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        kept: list[Any] = [value for name, value in report.user_properties if name == PROPERTY]
        report.user_properties = [each for each in report.user_properties if each[0] != PROPERTY]
        if report.when != "call":
            return
        for outcome in (BenchOutcome(**each) for outcomes in kept for each in outcomes):
            if report.failed or not outcome.failure:  # else the test wants it to fail
                case = _case(report, outcome)
                self._config.hook.pytest_runtest_logreport(report=case)


def _case(report: pytest.TestReport, outcome: BenchOutcome) -> pytest.TestReport:
    file, line, name = report.location
    return pytest.TestReport(
        nodeid=f"{report.nodeid}[{outcome.test}]",
        location=(file, line, f"{name}[{outcome.test}]"),
        keywords={},
        outcome="failed" if outcome.failure else "passed",
        longrepr=outcome.failure or None,
        when="call",
        duration=outcome.seconds,
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(CocotbCases(config), "cocotb-cases")
