"""The commands of ``rig``; how the process ends is in rig/__main__.py."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
import typer.main
from typer._click.exceptions import ClickException  # typer has no public name for it

from hsm.errors import TaperigError
from rig.cli.baseline import baseline_app
from rig.cli.board import board_app, board_serve
from rig.cli.compare import compare
from rig.cli.doctor import doctor
from rig.cli.ekm import ekm_app
from rig.cli.ekm_verify import ekm_verify
from rig.cli.help import CommandLine, ExampleGroup, branch
from rig.cli.hsm import hsm_app
from rig.cli.kat import kat
from rig.cli.options import (
    AnyBuildOption,
    BoardOption,
    JsonOption,
    LabOption,
    OutOption,
    exit_code_of,
    lab_of,
    print_json,
)
from rig.cli.runs import runs_app
from rig.cli.soak import soak
from rig.cli.ve import ve_app

# Every command imports what it needs when it runs, so that --help and completion answer at once.

_EXAMPLES = """
rig run                            run the default scenario of lab.yaml
rig run --data FOLDER --out DIR    write your own files as logical volumes
rig run --waves                    write a waveform (FST), of little data
rig runs list                      list the runs and their verdicts
rig compare OLD NEW                what changed between two runs
rig soak --hours 8                 mixed records overnight, each compared
rig kat gcmEncryptExtIV256.rsp     run NIST's known answers through the gates
rig hsm list                       list the keys in the token
rig ekm verify                     does every key manager know every label?
rig ve write FILE...               put files into the cache as volumes
rig ve work                        copy the cached volumes to tape
rig cartridge show FILE            show what is on a cartridge
rig board build ulx3s              build a bitstream; say how fast it is
rig board serve virtual            serve a simulated board at a VISA resource
rig doctor                         check everything that a run needs
rig rules                          list every rule, its tests, their verdict

State (tokens, PINs, certificates, cartridges, results) is in $TAPERIG_STATE, by default
~/.local/state/taperig. Shell completion: rig --install-completion.
"""
_JUDGE, _OPERATE, _SET_UP = "Test and judge", "Operate", "Set up"

app = CommandLine(
    name="rig",
    cls=ExampleGroup,
    epilog=_EXAMPLES,
)
cartridge_app = CommandLine(help="Cartridge files.")
app.add_typer(runs_app, name="runs", rich_help_panel=_JUDGE)
app.add_typer(baseline_app, name="baseline", rich_help_panel=_JUDGE)
app.add_typer(ve_app, name="ve", rich_help_panel=_OPERATE)
app.add_typer(ekm_app, name="ekm", rich_help_panel=_OPERATE)
app.add_typer(cartridge_app, name="cartridge", rich_help_panel=_OPERATE)
app.add_typer(hsm_app, name="hsm", rich_help_panel=_SET_UP)
app.add_typer(board_app, name="board", rich_help_panel=_SET_UP)
board_app.command("serve")(board_serve)
ekm_app.command("verify")(ekm_verify)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the versions of the rig, its gates, its simulator."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --version: print JSON instead of text.")
    ] = False,
) -> None:
    """Judge tape encryption: gates, keys, drive, virtualization engine."""
    if as_json and not version:
        raise typer.BadParameter("--json goes with --version, or behind a command.")
    if not version:
        if context.invoked_subcommand is None:
            context.fail("Missing command.")
        return
    if context.invoked_subcommand is not None:
        raise typer.BadParameter("--version goes without a command.")
    from rig.cli.version import describe, print_version

    versions = describe()
    print_json(versions) if as_json else print_version(versions)


@app.command(rich_help_panel=_JUDGE)
def run(
    lab: LabOption = None,
    board: BoardOption = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            metavar="PATH",
            help="File or folder to write to tape; may be given repeatedly.",
        ),
    ] = None,
    out: OutOption = None,
    waves: Annotated[
        bool, typer.Option("--waves", help="Write a waveform of the run (FST); slower.")
    ] = False,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Count 10 million clocks for rates, not 4.")
    ] = False,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            metavar="NAME",
            help="round_trip, rates (both by default), pool_over_time, migration or two_sites.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="N",
            min=0,
            max=2**32 - 1,
            help="Seed of the records that rates generates; by default a random one.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="FILE",
            help="results.json of an earlier run; fail what is worse, as `rig compare` does.",
        ),
    ] = None,
    any_build: AnyBuildOption = False,
) -> None:
    """Write files to tape through the gates, read back, compare, measure.

    Writes results.json and junit.xml, and exits 0 only if everything holds. Both say what the run
    was made with, and keep what was done when it is interrupted.
    """
    from rig.lab.load import default_lab_path
    from rig.scenarios.runner import RunOptions, run_lab
    from rig.testbed.state import state_dir

    options = RunOptions(
        board=board,
        data=tuple(data or ()),
        out=out,
        waves=waves,
        thorough=thorough,
        scenarios=tuple(scenario or ()),
        any_build=any_build,
        baseline=baseline,
        lab_file=lab if lab is not None else default_lab_path(),
    )
    if seed is not None:
        options = replace(options, seed=seed)
    result = run_lab(lab_of(options.lab_file), state_dir(), options)
    raise typer.Exit(exit_code_of(result.verdict))


app.command("soak", rich_help_panel=_JUDGE)(soak)
app.command("compare", rich_help_panel=_JUDGE)(compare)
app.command("kat", rich_help_panel=_JUDGE)(kat)
app.command("doctor", rich_help_panel=_SET_UP)(doctor)


@cartridge_app.command("show")
def cartridge_show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Cartridge file.")],
    as_json: JsonOption = False,
) -> None:
    """Show a cartridge's memory, EEDKs (never keys) and record map."""
    from rig.cli.cartridge import render, show

    shown = show(file)
    if as_json:
        print_json(shown)
    else:
        print(render(shown))
    if shown["damage"]:
        raise TaperigError(shown["damage"])


@app.command(rich_help_panel=_JUDGE)
def rules(as_json: JsonOption = False) -> None:
    """List every rule with its tests and their last verdict."""
    from rig.cli.tables import print_table
    from rig.report.console import ConsoleReport
    from rig.report.text import plural
    from rig.results.traceability import rule_status

    report = ConsoleReport(error_stream=as_json)
    with report.task("collecting the tests"):
        status = rule_status()
    if as_json:
        print_json(
            [
                {
                    "id": each.rule.id,
                    "group": each.rule.group,
                    "text": each.rule.text,
                    "verdict": each.verdict,
                    "tests": [{"name": test.name, "last": test.outcome} for test in each.tests],
                }
                for each in status
            ]
        )
        return
    for group, members in groupby(status, key=lambda each: each.rule.group):
        print(group)
        rows = []
        for each in members:
            rows.append({"rule": each.rule.id, "verdict": each.verdict, "text": each.rule.text})
            rows += [{"verdict": test.outcome, "text": test.name} for test in each.tests]
        print_table(rows, ("rule", "verdict", "text"), "no rules")
        print()
    covered = sum(1 for each in status if each.tests)
    print(f"{covered} of {plural(len(status), 'rule')} with tests")


def run_command_line(arguments: list[str]) -> int:
    """Run the command that the arguments name; return its exit code.

    Only mistakes in the arguments are reported here; every other error is raised to the caller.
    """
    if "_RIG_COMPLETE" in os.environ:
        app(prog_name="rig")  # the shell asks for completions; this exits
    command = typer.main.get_command(branch(app, arguments))
    try:
        with command.make_context("rig", arguments) as context:
            command.invoke(context)
    except typer.Exit as ending:
        return ending.exit_code
    except ClickException as mistake:
        mistake.show()
        return mistake.exit_code
    return 0
