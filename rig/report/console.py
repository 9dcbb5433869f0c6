"""A run on the console: steps as they end, progress of long tasks.

At a terminal the current step or task is shown live under the lines, with its time and, when its
size is known, a bar. Elsewhere the same lines come plain, and a long task says when it begins and
when it ends. All of it goes to standard output, or to standard error where standard output carries
JSON; errors always go to standard error.
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rig.report import text
from rig.report.tables import output_width, table_lines
from rig.results.events import Event, Notice, NoticeKind
from rig.results.measurement import Measurement
from rig.results.results import Check, RunResult, ScenarioResult

PLAIN_NOTICE_S = 2.0
"""Without a terminal, a task that took longer than this is reported when it ends."""

_STYLE = {
    "ok": "green",
    "pass": "green",
    "failed": "red",
    "fail": "red",
    "error": "red",
    "interrupted": "yellow",
}
_NOTICE_STYLE = {
    NoticeKind.INTERVENTION: "yellow",
    NoticeKind.CLEARED: "green",
    NoticeKind.CALL_HOME: "bold red",
}
_STEP_COLUMNS = "{step:<8} {volume:<7} {text:<{width}} {time:>9}  {outcome}"
_STEP_TEXT = 58
_STEP_REST = 36
"""Columns of a step's line beside its text."""
_NARROW = 80
"""Below so many columns, a step's text goes to lines of its own."""


class ConsoleReport:
    """Reports a run to standard output."""

    def __init__(self, *, error_stream: bool = False) -> None:
        """Write to standard output, or to standard error; live only at a terminal."""
        self._console = Console(highlight=False, soft_wrap=True, stderr=error_stream)
        self._live = self._console.is_terminal
        self._progress: Progress | None = None

    def line(self, words: str = "", style: str = "") -> None:
        """Print one line of text."""
        self._console.print(escape(text.printable(words)), style=style or None)

    def title(self, words: str) -> None:
        """Print the heading of a part of the run."""
        self.line()
        self.line(words, "bold")

    @contextmanager
    def task(self, words: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
        """Show a task; the caller reports how much of ``total`` is done."""
        began = time.monotonic()
        if not self._live:
            yield lambda amount: None
            if (took := time.monotonic() - began) > PLAIN_NOTICE_S:
                self.line(f"{words}: done in {text.seconds(took)}")
            return
        with self._shown() as progress:
            task = progress.add_task(escape(words), total=total)
            try:
                yield lambda amount: progress.advance(task, amount)
            finally:
                progress.remove_task(task)

    def begin(self, words: str) -> None:
        """Say that a long task begins, where nothing is shown live."""
        if not self._live:
            self.line(words)

    @contextmanager
    def _shown(self) -> Iterator[Progress]:
        """Show the live area, which tasks inside tasks share."""
        if self._progress is not None:
            yield self._progress
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            self._progress = progress
            try:
                yield progress
            finally:
                self._progress = None

    def step_heading(self) -> None:
        """Print the heading of the table of steps."""
        self.line(self._step_lines("step", "volume", "", "time", "outcome")[0], "dim")

    def step(self, event: Event) -> None:
        """Print a step that has ended."""
        style = _STYLE.get(event.outcome, "") if event.outcome != "ok" else ""
        took = text.seconds(event.duration_s)
        for line in self._step_lines(
            event.step, event.volume or "", event.text, took, event.outcome
        ):
            self.line(line, style)
        for note in event.detail.get("notes", ()):
            self.line(f"note     {event.volume}  {note}")

    def _step_lines(self, step: str, volume: str, words: str, took: str, outcome: str) -> list[str]:
        """Return the lines of a step; narrow ones have the text below the rest."""
        width = self._step_width()
        if width is None:
            first = f"{step:<8} {volume:<7} {took:>9}  {outcome}"
            return [
                first,
                *(f"    {part}" for part in textwrap.wrap(words, self._console.width - 4)),
            ]
        parts = textwrap.wrap(words, width) or [""]
        first = _STEP_COLUMNS.format(
            step=step, volume=volume, text=parts[0], width=width, time=took, outcome=outcome
        )
        return [first, *(f"{'':<17}{part}" for part in parts[1:])]

    def _step_width(self) -> int | None:
        """Return the columns for a step's text; None if it needs its own lines."""
        if not self._live and "COLUMNS" not in os.environ:
            return _STEP_TEXT
        if self._console.width < _NARROW:
            return None
        return min(_STEP_TEXT, self._console.width - _STEP_REST)

    def notice(self, notice: Notice) -> None:
        """Print a notice with the time of day."""
        clock = time.strftime("%H:%M:%S", time.localtime(notice.time))
        self.line(
            f"{clock} {notice.kind.upper()}  {notice.text}", _NOTICE_STYLE.get(notice.kind, "")
        )

    def check(self, check: Check) -> None:
        """Print a check and its verdict."""
        verdict = "pass" if check.passed else "fail"
        detail = f": {check.detail}" if check.detail else ""
        self.line(f"{verdict}  {check.name}{detail}", _STYLE[verdict])

    def measurement(self, item: Measurement) -> None:
        """Print a measurement, its limits and its verdict."""
        self.line(f"{item.verdict}  {text.measured(item)}", _STYLE.get(item.verdict, ""))

    def table(self, rows: list[tuple[str, ...]]) -> None:
        """Print a table; its first row is the heading."""
        for index, line in enumerate(table_lines(rows[0], rows[1:], output_width())):
            self.line(line, "dim" if index == 0 else "")

    def scenario_end(self, result: ScenarioResult) -> None:
        """Print the verdict of a scenario."""
        verdict = result.verdict
        self.line(f"{verdict}  {result.title}, {text.seconds(result.duration_s)}", _STYLE[verdict])
        if result.error is not None:
            self.error(result.error)

    def error(self, words: str) -> None:
        """Print an error, in one sentence on standard error."""
        print(f"rig: {text.printable(words)}", file=sys.stderr, flush=True)

    def verdict(self, run: RunResult) -> None:
        """Print the verdict line of a run."""
        self.line()
        summary = "; ".join([*_figures(run), *_clock(run)]) or _checks(run)
        gates = run.provenance.gates
        if gates is not None and gates.origin == "other":
            summary = f"gates of an unknown build, {gates.build_hash}; {summary}"
        self.line(
            f"{run.verdict.upper()}  {summary}; {text.seconds(run.duration_s)}",
            f"bold {_STYLE[run.verdict]}",
        )


def _clock(run: RunResult) -> list[str]:
    """Return that the clock of the rates is assumed, or not that of lab.yaml."""
    clock = run.clock
    if not clock.assumed and clock.hz != clock.configured_hz:
        return [f"clock {clock}, not {clock.configured_hz / 1e6:g} MHz"]
    items = [item for scenario in run.scenarios for item in scenario.measurements]
    rates = any(item.assumed_clock and item.not_judged is None for item in items)
    return [str(run.clock)] if rates else []


def _checks(run: RunResult) -> str:
    """Return how many checks passed, for a run that judged no rate."""
    checks = [check for scenario in run.scenarios for check in scenario.checks]
    if not checks:
        return "nothing was judged"
    passed = sum(check.passed for check in checks)
    return f"{passed} of {text.plural(len(checks), 'check')} passed, no rate was judged"


def _figures(run: RunResult) -> Iterator[str]:
    """Yield the rates of the verdict line: the worst of each, if judged."""
    judged = [
        item
        for scenario in run.scenarios
        for item in scenario.measurements
        if item.not_judged is None
    ]
    for rule, unit, words in (
        ("BOT-2e", "MB/s", "{value} to tape"),
        ("RATE-1", "ratio", "encrypted over clear {value} at worst"),
        ("RATE-2", "MB/s", "engine {value} at worst, margin {margin}"),
    ):
        items = [item for item in judged if rule in item.rules and item.unit == unit]
        if not items:
            continue
        worst = min(items, key=lambda item: item.value)
        margin = "" if worst.margin is None else f"{worst.margin:+.0%}"
        yield words.format(value=text.number(worst.value, worst.unit), margin=margin)
    if len(run.scenarios) == 1 and run.scenarios[0].name == "soak":
        yield from (f"{item.name} {text.number(item.value, item.unit)}" for item in judged)
