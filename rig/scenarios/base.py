"""The interface of scenarios, and what each works with."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hsm.errors import TaperigError
from rig.report.console import ConsoleReport
from rig.results.measurement import Measurement
from rig.results.results import Check, ScenarioResult
from rig.testbed.session import LabSession

if TYPE_CHECKING:
    from rig.testbed.run_nodes import RunNodes


@dataclass
class ScenarioContext:
    """The open lab, the files to write and the report of a scenario."""

    session: LabSession
    nodes: RunNodes
    files: Sequence[Path]
    report: ConsoleReport
    result: ScenarioResult
    clocks: int = 0
    """Engine clocks that a scenario of rates counts at least."""
    seed: int = 0
    """Of the sizes, operations and AAD of generated records."""

    def check(self, name: str, passed: bool, detail: str = "", rules: tuple[str, ...] = ()) -> None:
        """Record and show a check that passed or failed."""
        check = Check(name, passed, detail, rules)
        self.result.checks.append(check)
        self.report.check(check)

    def measure(self, item: Measurement, *, show: bool = True) -> None:
        """Record a measurement, and show it unless a table shows it later."""
        self.result.measurements.append(item)
        if show or not item.passed:
            self.report.measurement(item)


class Scenario(ABC):
    """A scenario: it is run, and it judges."""

    name: str
    title: str

    @abstractmethod
    def run(self, context: ScenarioContext) -> None:
        """Run; raise TaperigError when it cannot be judged."""

    def execute(
        self,
        session: LabSession,
        nodes: RunNodes,
        files: Sequence[Path],
        report: ConsoleReport,
        results: list[ScenarioResult],
        *,
        clocks: int = 0,
        seed: int = 0,
    ) -> ScenarioResult:
        """Run, add the result to the results and return it.

        A TaperigError ends this scenario only; the result of a scenario that anything else ends is
        among the results too.
        """
        # A signal may come between any two statements: until it has ended, it is interrupted.
        result = ScenarioResult(self.name, self.title, interrupted=True)
        results.append(result)
        began = time.monotonic()
        record = result.steps.append
        session.events.listeners.insert(0, record)  # before the report, whose output may fail
        try:
            report.title(self.title)
            self.run(ScenarioContext(session, nodes, files, report, result, clocks, seed))
            result.interrupted = False
        except TaperigError as error:
            result.error, result.failure, result.interrupted = str(error), error, False
        except Exception as error:
            result.error = f"It was cut short by an internal error ({type(error).__name__})."
            result.interrupted = False
            raise
        finally:
            result.duration_s = time.monotonic() - began
            session.events.listeners.remove(record)
        report.scenario_end(result)
        return result
