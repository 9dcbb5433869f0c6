"""Mixed records for hours; every byte is compared, gaps and rates judged.

What the engine counted is kept in a journal, part by part, so that a soak that was interrupted or
killed goes on.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from hsm.errors import TaperigError
from rig.drive.measurement_key import seal_measurement_key
from rig.engine.clock import judge_clock
from rig.engine.driver import Engine
from rig.engine.soak import PartFigures, WrongResultError, run_part
from rig.engine.throughput import PROMISE_LIMIT, Worst, measure_worst
from rig.report import text
from rig.results.measurement import Measurement
from rig.scenarios import soak_journal
from rig.scenarios.base import Scenario, ScenarioContext
from rig.scenarios.soak_journal import Journal, JournalError, SoakHeader, Total
from rig.scenarios.soak_options import SoakPlan

PROGRESS_S: Final = 60.0
"""A line says how far a soak is this often."""
FIRST_PROGRESS_S: Final = 10.0
SHOWN_FAILURES: Final = 10
"""So many failures are shown when they happen; all are in the journal."""


class Soak(Scenario):
    """A soak from its beginning, or from the end of its journal."""

    name = "soak"
    title = "Soak: mixed records, every byte compared"

    def __init__(self, plan: SoakPlan, folder: Path, *, resumed: bool = False) -> None:
        """Run in a folder that holds the journal, or will."""
        self._plan = plan
        self._folder = folder
        self._resumed = resumed

    def run(self, context: ScenarioContext) -> None:
        """Run parts until the time is over or a byte is wrong; judge them."""
        engine = context.session.drive.engine
        journal, total = self._open(engine)
        with journal:
            parts = _Parts(context, self._plan)
            try:
                self._run_parts(context, parts, journal, total)
            finally:
                total = journal.read()  # an interruption may come between a line and its sum
                parts.judge(total, total.parts + 1)
                if self._share_done(total, engine) < 1 and total.wrong is None:
                    context.report.line(
                        f"kept     {self._folder / soak_journal.NAME}; to go on: rig soak --resume "
                        f"{shlex.quote(str(self._folder))}"
                    )

    def _open(self, engine: Engine) -> tuple[Journal, Total]:
        if not self._resumed:
            header = SoakHeader(**self._plan.model_dump(), build_hash=engine.build_hash)
            return soak_journal.begin(self._folder, header), Total()
        header = soak_journal.read_header(self._folder)
        if header.build_hash != engine.build_hash:
            raise JournalError(
                f"The soak in {self._folder} began on gates of build {header.build_hash:#010x}, "
                f"and board {self._plan.board} has build {engine.build_hash:#010x}; nothing was "
                "run. Load that build again, or begin a new soak."
            )
        return soak_journal.resume(self._folder)

    def _share_done(self, total: Total, engine: Engine) -> float:
        if self._plan.hours is not None:
            return total.seconds / (self._plan.hours * 3600)
        assert self._plan.engine_seconds is not None
        return total.all_cycles / engine.clock_hz / self._plan.engine_seconds

    def _run_parts(
        self, context: ScenarioContext, parts: _Parts, journal: Journal, total: Total
    ) -> None:
        engine = context.session.drive.engine
        done = began_at = self._share_done(total, engine)
        if self._resumed:
            context.report.line(f"resumed  after {_amount(total)}")
        began = said = time.monotonic()
        pause = FIRST_PROGRESS_S
        with context.report.task("soaking", 1.0) as advance:
            advance(done)
            while done < 1 and total.wrong is None:
                number = total.parts + 1
                part_began = time.monotonic()
                try:
                    figures = parts.run(number)
                except WrongResultError as error:
                    journal.add_wrong(number, str(error))
                    total.wrong = str(error)
                    break
                now = time.monotonic()
                journal.add(number, figures, now - part_began)
                total.add(number, figures, now - part_began)
                before, done = done, self._share_done(total, engine)
                advance(done - before)
                if now - said >= pause and done < 1:
                    left = (now - began) * (1 - done) / (done - began_at)
                    context.report.line(f"{_amount(total)}; {text.duration(left)} left")
                    said, pause = now, PROGRESS_S


class SoakPart(Scenario):
    """One part of a soak, to repeat what was wrong in it."""

    name = "soak"
    title = "Soak: one part, every byte compared"

    def __init__(self, plan: SoakPlan, number: int) -> None:
        """Take the plan of the soak, and the number of the part."""
        self._plan = plan
        self._number = number

    def run(self, context: ScenarioContext) -> None:
        """Run the part and judge it."""
        total = Total()
        parts = _Parts(context, self._plan)
        began = time.monotonic()
        try:
            total.add(self._number, parts.run(self._number), time.monotonic() - began)
        except WrongResultError as error:
            total.wrong = str(error)
        parts.judge(total, self._number)


class _Parts:
    """Runs parts and judges what they add up to."""

    def __init__(self, context: ScenarioContext, plan: SoakPlan) -> None:
        self._context = context
        self._plan = plan
        self._drive = context.session.drive
        self._shown = 0
        self._drive.engine.set_pace(None)

    def run(self, number: int) -> PartFigures:
        """Run a part; show what is beyond a limit."""
        element = self._drive.element
        try:
            figures = run_part(
                self._drive.engine,
                self._drive.traffic,
                lambda key: seal_measurement_key(element, key),
                self._plan.seed,
                number,
            )
        except WrongResultError:
            raise
        except TaperigError:
            self._context.report.line(f"to repeat part {number}: {self._command(number)}")
            raise
        alone = Total()
        alone.add(number, figures, 0.0)
        for item in self._measurements(alone):
            if not item.passed and self._shown < SHOWN_FAILURES:
                self._shown += 1
                self._context.report.line(f"part {number:,} is beyond a limit:")
                self._context.report.measurement(item)
        return figures

    def judge(self, total: Total, last: int) -> None:
        """Judge all parts so far; what was wrong was so in the part `last`."""
        if total.parts:
            self._context.report.line(f"soaked   {_amount(total)}")
            self._context.measure(judge_clock(self._drive.engine.clock))
            for item in self._measurements(total):
                self._context.measure(item)
        if total.parts or total.wrong is not None:
            self._context.check(
                "every byte is what `cryptography` computes",
                total.wrong is None,
                _amount(total)
                if total.wrong is None
                else f"{total.wrong} To repeat it: {self._command(last)}",
            )

    def _measurements(self, total: Total) -> Iterator[Measurement]:
        engine = self._drive.engine
        yield Measurement(
            name="slowest part over the promise",
            value=total.least_ratio,
            unit="ratio",
            minimum=PROMISE_LIMIT,
            rules=("RATE-3",),
            detail={
                "part": total.ratio_part,
                "seed": self._plan.seed,
                "cycles": total.cycles,
                "promised_cycles": total.promised_cycles,
                "clock_hz": engine.clock_hz,
            },
        )
        worst = Worst(total.all_cycles, total.longest_gap, total.longest_latency)
        parts = (total.gap_part, total.latency_part)
        for item, part in zip(measure_worst(engine, worst), parts, strict=True):
            detail = {**item.detail, "part": part, "seed": self._plan.seed}
            yield replace(item, detail=detail)

    def _command(self, number: int) -> str:
        plan = self._plan
        return shlex.join(
            [
                *("rig", "soak", "--part", str(number), "--seed", str(plan.seed)),
                *("--board", plan.board, "--lab", plan.lab_file),
            ]
        )


def _amount(total: Total) -> str:
    return (
        f"{text.plural(total.parts, 'part')}, {text.plural(total.records, 'record')}, "
        f"{text.size(total.bytes)}, {text.plural(total.keys, 'key')}, "
        f"{total.all_cycles / 1e6:,.1f} million clocks"
    )
