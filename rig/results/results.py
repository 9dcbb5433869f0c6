"""The results of a run, and their file, results.json.

Its schema is results.schema.json beside this file. A verdict is ``pass``, ``fail`` (something was
judged and is wrong), ``error`` (the run could not judge) or ``interrupted`` (by a signal); that of
a scenario may be ``skipped`` (the run ended before it). Times are seconds; ``started`` is seconds
since 1970, UTC.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsm.errors import TaperigError
from rig.results.events import Event, Notice
from rig.results.measurement import EngineClock, Measurement
from rig.results.provenance import Provenance

FORMAT = "taperig-results-2"
SCHEMA_PATH = Path(__file__).parent / "results.schema.json"


class ResultsError(TaperigError):
    """The results of a run cannot be written."""


@dataclass(frozen=True, slots=True)
class Check:
    """A judgement without a number; ``detail`` says what was compared."""

    name: str
    passed: bool
    detail: str = ""
    rules: tuple[str, ...] = ()


@dataclass
class ScenarioResult:
    """The steps, checks and measurements of one scenario."""

    name: str
    title: str
    started: float | None = field(default_factory=time.time)
    """None where it was not begun."""
    duration_s: float = 0.0
    steps: list[Event] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    error: str | None = None
    interrupted: bool = False
    skipped: str | None = None
    """Why it was not begun."""
    failure: TaperigError | None = None
    """What cut it short; not in results.json, which has its words in ``error``."""

    @property
    def verdict(self) -> str:
        """The verdict of the scenario.

        ``skipped`` when it was not begun, ``interrupted`` by a signal, ``error`` when it was cut
        short by another cause, ``fail`` when a check, a measurement or a step is wrong, else
        ``pass``. A scenario that judged nothing has not passed.
        """
        if self.skipped is not None:
            return "skipped"
        if self.interrupted:
            return "interrupted"
        if self.error is not None:
            return "error"
        judged: list[Check | Measurement] = [*self.checks, *self.measurements]
        if self.judged_nothing or not all(item.passed for item in judged):
            return "fail"
        return "fail" if any(step.outcome == "failed" for step in self.steps) else "pass"

    @property
    def judged_nothing(self) -> bool:
        """Whether it has neither a check nor a measurement that was judged."""
        return not self.checks and all(item.not_judged is not None for item in self.measurements)


@dataclass
class RunResult:
    """The results of a run: its set-up, scenarios and notices."""

    lab: str
    board: str
    clock: EngineClock
    drive: dict[str, Any]
    command: list[str]
    started: float = field(default_factory=time.time)
    provenance: Provenance = field(default_factory=Provenance)
    duration_s: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    scenarios: list[ScenarioResult] = field(default_factory=list)
    """Those that were begun."""
    planned: tuple[str, ...] = ()
    """The names of all that were to be run."""
    notices: list[Notice] = field(default_factory=list)
    cartridges: Path | None = None
    """Where the nodes of a run that did not pass are kept, with their cartridges."""
    error: str | None = None
    interrupted: bool = False
    began: float = field(default_factory=time.monotonic)

    @property
    def verdict(self) -> str:
        """The worst verdict of the scenarios; ``fail`` without scenarios.

        ``interrupted`` when a signal ended the run.
        """
        if self.interrupted:
            return "interrupted"
        if self.error is not None:
            return "error"
        verdicts = [scenario.verdict for scenario in self.scenarios]
        for worst in ("error", "fail"):
            if worst in verdicts:
                return worst
        return "pass" if verdicts else "fail"

    def all_scenarios(self) -> list[ScenarioResult]:
        """Return the scenarios, those that were not begun as skipped."""
        begun = {scenario.name for scenario in self.scenarios}
        return [
            *self.scenarios,
            *(
                ScenarioResult(name, name, None, skipped="The run ended before it.")
                for name in self.planned
                if name not in begun
            ),
        ]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the seconds of one part of the run."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = round(time.monotonic() - began, 3)


def as_json(run: RunResult) -> dict[str, Any]:
    """Return the run as results.json has it."""
    return {
        "format": FORMAT,
        "verdict": run.verdict,
        "error": run.error,
        "lab": run.lab,
        "board": run.board,
        "clock_hz": run.clock.hz,
        "clock": {
            "configured_hz": run.clock.configured_hz,
            "measured_hz": run.clock.measured_hz,
            "why_assumed": run.clock.why_assumed,
        },
        "drive": run.drive,
        "command": run.command,
        "provenance": run.provenance.as_json(),
        "started": run.started,
        "duration_s": round(run.duration_s, 3),
        "phases_s": run.phases,
        "data": run.data,
        "cartridges": None if run.cartridges is None else str(run.cartridges),
        "scenarios": [_scenario(scenario) for scenario in run.all_scenarios()],
        "notices": [
            {
                "kind": notice.kind.value,
                "about": notice.about,
                "text": notice.text,
                "time": notice.time,
                "detail": notice.detail,
            }
            for notice in run.notices
        ],
    }


def _scenario(result: ScenarioResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "title": result.title,
        "verdict": result.verdict,
        "error": result.error,
        "skipped": result.skipped,
        "started": result.started,
        "duration_s": round(result.duration_s, 3),
        "steps": [
            {
                "step": step.step,
                "text": step.text,
                "volume": step.volume,
                "started": step.started,
                "duration_s": round(step.duration_s, 6),
                "outcome": step.outcome,
                "detail": step.detail,
            }
            for step in result.steps
        ],
        "checks": [
            {
                "name": check.name,
                "verdict": "pass" if check.passed else "fail",
                "detail": check.detail,
                "rules": list(check.rules),
            }
            for check in result.checks
        ],
        "measurements": [_measurement(item) for item in result.measurements],
    }


def _measurement(item: Measurement) -> dict[str, Any]:
    return {
        "name": item.name,
        "value": item.value,
        "unit": item.unit,
        "minimum": item.minimum,
        "maximum": item.maximum,
        "verdict": item.verdict,
        "not_judged": item.not_judged,
        "margin": item.margin,
        "assumed_clock": item.assumed_clock,
        "rules": list(item.rules),
        "detail": item.detail,
    }


def write_results(run: RunResult, folder: Path) -> Path:
    """Write results.json into a folder, whole or not at all; return its path."""
    text = json.dumps(
        finite(as_json(run)), indent=2, ensure_ascii=False, allow_nan=False, default=str
    )
    return write_whole(folder / "results.json", text + "\n")


def finite(value: Any) -> Any:
    """Replace numbers that JSON cannot write by null."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_whole(path: Path, text: str) -> Path:
    """Write a text file whole or not at all.

    A crash leaves the old file or the new one. Raises ResultsError where the file cannot be
    written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            # File names may hold bytes that are not UTF-8; JSON has escapes for them.
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ResultsError(
            f"The results of the run cannot be written to {path} ({error.strerror}); make room "
            "there, or choose another folder with --out."
        ) from error
    return path
