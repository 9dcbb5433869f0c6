"""Run the scenarios of a lab, judge them and write the results."""

from __future__ import annotations

import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from hdl.verilator.power_up import power_up_seed
from hsm.errors import TaperigError
from rig.engine.clock import settle_clock
from rig.lab.model import Lab
from rig.report import comparison as comparison_report
from rig.report import text
from rig.report.console import ConsoleReport
from rig.report.junit import write_junit
from rig.report.tables import output_width
from rig.results import comparison
from rig.results.events import EventLog
from rig.results.measurement import EngineClock
from rig.results.provenance import software
from rig.results.reading import read_one
from rig.results.results import (
    Check,
    ResultsError,
    RunResult,
    ScenarioResult,
    as_json,
    finite,
    write_results,
)
from rig.results.runs import under_way
from rig.scenarios.base import Scenario
from rig.scenarios.diagnosis import gates_at_fault
from rig.scenarios.host_files import capped, files_of, machine_files
from rig.scenarios.soak_options import SoakOptions
from rig.testbed.boards import choose_board
from rig.testbed.provenance import (
    board_address,
    data_sha256,
    describe_session,
    identify_gates,
    lab_file,
    require_known_build,
)
from rig.testbed.session import choose_drive, start_session
from rig.testbed.state import locked_state, new_run_dir

SCENARIOS: Final = {
    "round_trip": "RoundTrip",
    "rates": "Rates",
    "pool_over_time": "PoolOverTime",
    "migration": "Migration",
    "two_sites": "TwoSites",
}
"""The modules of rig.scenarios, named as the scenarios, and their classes; in a run's order."""
DEFAULT_SCENARIOS: Final = ("round_trip", "rates")
"""What runs when no scenario is asked for."""
CLOCKS = 4_000_000
THOROUGH_CLOCKS = 10_000_000
"""Engine clocks that rates are counted over at least, where the host makes the records: what is
rarer is not seen by a run of seconds. With a waveform no clock more than the measurements need."""
WAVES_CAP_BYTES = 64_000
"""With a waveform, no more of the lab's own data than this: an FST grows by the clock."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of a run, as the command line gives them."""

    board: str | None = None
    data: tuple[Path, ...] = ()
    out: Path | None = None
    waves: bool = False
    scenarios: tuple[str, ...] = ()
    thorough: bool = False
    any_build: bool = False
    seed: int = field(default_factory=lambda: secrets.randbits(32))
    """Of the sizes, operations and AAD of generated records."""
    lab_file: Path | None = None
    """Where the lab was loaded from."""
    baseline: Path | None = None
    """Results of an earlier run, against which those of this one are compared."""
    soak: SoakOptions | None = None
    """A soak in place of scenarios and files."""


class ScenarioChoiceError(TaperigError):
    """The scenario that was asked for does not exist."""


def choose_scenarios(asked: Sequence[str]) -> list[str]:
    """Return the scenarios of a run: those asked for, else the default.

    They are in the order of SCENARIOS.
    """
    for name in asked:
        if name not in SCENARIOS:
            raise ScenarioChoiceError(
                f"There is no scenario '{name}'; there are {', '.join(SCENARIOS)}."
            )
    return [name for name in SCENARIOS if name in (asked or DEFAULT_SCENARIOS)]


def _load(names: Sequence[str]) -> list[Scenario]:
    """Import scenarios, which takes half a second for those on a node."""
    return [getattr(import_module(f"rig.scenarios.{name}"), SCENARIOS[name])() for name in names]


def _soak(options: SoakOptions, folder: Path) -> Scenario:
    from rig.scenarios.soak import Soak, SoakPart

    if options.part is not None:
        return SoakPart(options.plan, options.part)
    return Soak(options.plan, folder, resumed=options.resumed is not None)


def run_lab(lab: Lab, state: Path, options: RunOptions) -> RunResult:
    """Run the lab's scenarios; report, write and return the results.

    Raises TaperigError for what is wrong before anything runs; later errors are in the results.
    """
    began = time.monotonic()
    report = ConsoleReport()
    names = choose_scenarios(options.scenarios) if options.soak is None else ["soak"]
    if options.data and names == ["rates"]:
        raise ScenarioChoiceError("The scenario rates writes no files; leave --data out.")
    if options.thorough and ("rates" not in names or options.waves):
        raise ScenarioChoiceError(
            "--thorough counts more clocks in the scenario rates, and a waveform is of few clocks; "
            "leave --thorough out, or run rates without --waves."
        )
    baseline = None if options.baseline is None else read_one(options.baseline)
    board = choose_board(lab, options.board)
    unit = choose_drive(lab, board)
    files = _files(lab, options) if options.soak is None else []
    total = sum(path.stat().st_size for path in files)
    folder = _folder(state, options)
    run = RunResult(
        lab=lab.name,
        board=board,
        clock=EngineClock(lab.boards[board].clock_hz, why_assumed="the board was not opened"),
        drive={
            "serial": unit.serial,
            "model": unit.model,
            "native_mb_per_s": unit.native_rate / 1e6,
        },
        command=sys.argv,
        data={"volumes": len(files), "bytes": total, "sources": _sources(lab, options)},
        planned=(*names, *(() if baseline is None else (comparison.NAME,))),
        began=began,
    )
    if options.lab_file is not None:
        run.provenance.lab_file = lab_file(options.lab_file)
    run.provenance.board = board_address(lab.boards[board])
    simulated = lab.boards[board].resource is None
    run.provenance.seeds = {
        "run": options.seed,
        "power_up": power_up_seed() if simulated else None,
    }
    report.line(
        f"lab {lab.name}, board {board} at {run.clock}, drive {unit.serial} "
        f"({unit.model}, {unit.native_rate / 1e6:g} MB/s), "
        + (
            f"{text.plural(len(files), 'file')} of {text.size(total)}"
            if options.soak is None
            else f"seed {options.soak.plan.seed}"
        )
    )
    failure: TaperigError | None = None
    with under_way(folder):
        try:
            _run_all(lab, board, state, folder, names, files, report, run, options)
            if baseline is not None:
                run.scenarios.append(_compared(run, baseline, str(options.baseline), report))
        except TaperigError as error:
            run.error, failure = str(error), error
            report.error(str(error))
        except BaseException as error:
            run.interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            if run.interrupted:
                run.error = "The run was interrupted."
            else:
                run.error = f"The run was cut short by an internal error ({type(error).__name__})."
            with suppress(ResultsError, OSError):  # the user gets the first error
                results = _write(run, folder)
                _report_end(report, run, results)
            raise
        results = _write(run, folder)
    _report_end(report, run, results)
    if options.waves:
        report.line(f"waves    {folder / 'waves.fst'}")
    elif (
        options.soak is None and lab.boards[board].resource is None and gates_at_fault(run, failure)
    ):
        command = shlex.join(["rig", *sys.argv[1:], "--waves"])
        report.line(f"for a waveform of this run: {command}")
    return run


def _compared(
    run: RunResult, baseline: dict[str, Any], name: str, report: ConsoleReport
) -> ScenarioResult:
    """Return a scenario that fails where a run is worse than its baseline."""
    result = ScenarioResult(comparison.NAME, f"Compared with {name}")
    found = comparison.compare(baseline, finite(as_json(run)))
    check = Check(
        "nothing is worse than in the baseline",
        not found.bad,
        comparison_report.worse(found.bad) or comparison_report.summary(found),
    )
    result.checks.append(check)
    report.title(result.title)
    for line in comparison_report.lines(found, output_width()):
        report.line(line)
    report.check(check)
    report.scenario_end(result)
    return result


def _report_end(report: ConsoleReport, run: RunResult, results: Path) -> None:
    report.verdict(run)
    report.line(f"results  {results}")
    if run.cartridges is not None:
        report.line(f"kept     {run.cartridges}, with the run's cartridges")


def _write(run: RunResult, folder: Path) -> Path:
    """Write both files of results; return the path of results.json."""
    run.duration_s = time.monotonic() - run.began
    if run.provenance.software is None:
        run.provenance.software = software()
    results = write_results(run, folder)
    write_junit(run, folder)
    return results


def _keep(run: RunResult, folder: Path) -> None:
    """Write what is there so far, for when this process is killed."""
    so_far = replace(run, interrupted=True, error="The run had not ended when this was written.")
    with suppress(ResultsError):  # the end of the run says it
        _write(so_far, folder)


def _run_all(
    lab: Lab,
    board: str,
    state: Path,
    folder: Path,
    names: Sequence[str],
    files: Sequence[Path],
    report: ConsoleReport,
    run: RunResult,
    options: RunOptions,
) -> None:
    events = EventLog()
    events.listeners.append(report.step)
    events.notice_listeners.append(report.notice)
    run.notices = events.notices
    with (
        locked_state(state, report.line),
        start_session(
            lab,
            lab.run_node,
            state,
            report,
            events,
            [choose_drive(lab, board)],
            board=board,
            reach_key_manager=True,
            phase=run.phase,
            waves=folder / "waves.fst" if options.waves else None,
            log=folder / "simulation.log",
        ) as started,
    ):
        # While the processes of the lab start.
        scenarios = _load(names) if options.soak is None else [_soak(options.soak, folder)]
        from rig.testbed.run_nodes import RunNodes

        provenance = run.provenance
        provenance.software = software()
        if files and names != ["rates"]:
            provenance.data_sha256 = data_sha256(files)
        session = started.open()
        describe_session(provenance, session)
        drive, unit = session.drive, lab.boards[board]
        engine = drive.engine
        provenance.gates = identify_gates(engine, unit, state, waves=options.waves)
        if not options.any_build:
            require_known_build(provenance.gates, engine, board, unit, state)
        with run.phase("clock"), report.task("measuring the board's clock"):
            run.clock = settle_clock(engine, drive.traffic)
        if not run.clock.assumed:
            report.line(f"board {board} at {run.clock}")
        nodes = RunNodes(folder)
        try:
            for scenario in scenarios:
                with run.phase(scenario.name):
                    scenario.execute(
                        session,
                        nodes,
                        files,
                        report,
                        run.scenarios,
                        clocks=_clocks(options),
                        seed=options.seed,
                    )
                if scenario is not scenarios[-1]:
                    _keep(run, folder)
            if run.verdict == "pass":
                for sentence in nodes.discard():
                    report.line(sentence)
        finally:
            describe_session(provenance, session)
            if nodes.folder.exists():
                run.cartridges = nodes.folder
                nodes.keep()


def _folder(state: Path, options: RunOptions) -> Path:
    """Return the folder of the results: a new one, or that of a resumed soak."""
    if options.soak is not None and options.soak.resumed is not None:
        return options.soak.resumed
    return new_run_dir(state, options.out)


def _clocks(options: RunOptions) -> int:
    if options.waves:
        return 0
    return THOROUGH_CLOCKS if options.thorough else CLOCKS


def _files(lab: Lab, options: RunOptions) -> list[Path]:
    """Return the files to write.

    All that the command line names, else the lab's own up to its cap.
    """
    if options.data:
        return files_of(options.data)
    candidates = machine_files() if lab.scenario.data is None else files_of(lab.scenario.data)
    cap = lab.scenario.cap_mb * 1e6
    return capped(candidates, min(cap, WAVES_CAP_BYTES) if options.waves else cap)


def _sources(lab: Lab, options: RunOptions) -> list[str]:
    named = options.data or lab.scenario.data
    return [str(path) for path in named] if named else ["this machine's licences and library"]
