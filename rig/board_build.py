"""``rig board build`` and ``rig board program``: a bitstream made, and put into a board."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from hdl.errors import HdlError
from hsm.errors import TaperigError

board_app = typer.Typer(
    no_args_is_help=True, help="FPGA boards: bitstreams, programming, the virtual board."
)

TargetArgument = Annotated[str, typer.Argument(metavar="BOARD", help="ulx3s or ecp5_evn.")]


class BoardBuildError(TaperigError):
    """A bitstream was not made, or did not get into a board."""


@contextmanager
def _as_sentence() -> Iterator[None]:
    try:
        yield
    except HdlError as error:
        raise BoardBuildError(str(error)) from error


def build_folder(target: str) -> Path:
    """Where a board's bitstream and report are, unless another folder is named."""
    from rig.state import private_folder, state_dir

    return private_folder(state_dir() / "bitstreams" / target)


@board_app.command("build")
def board_build(
    board: TargetArgument,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            "--seed", metavar="N", help="Seed of the placer; repeat to keep the best of several."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder for the results; by default in the state."
        ),
    ] = None,
    record: Annotated[
        bool,
        typer.Option(
            "--record", help="Make this the checked-in last good build; only if it meets its clock."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Make a bitstream and its report.json: the same one from the same sources and seed.

    Takes about a quarter of an hour for each seed. Exits 1 if no seed reaches the board's clock.
    """
    from hdl.synthesis import DEFAULT_SEED, build, write_summary
    from hdl.targets import find_target
    from rig.report.console import ConsoleReport

    report = ConsoleReport(error_stream=as_json)
    with _as_sentence():
        target = find_target(board)
        folder = out if out is not None else build_folder(target.name)
        built = build(target, folder, seeds=_seeds(seed, DEFAULT_SEED), say=report.line)
        if as_json:
            print(json.dumps(built.report, indent=2))
        else:
            _print_summary(built.report)
            print(f"bitstream {built.bitstream}")
            print(f"report    {built.report_file}")
        if record:
            report.line(f"recorded in {write_summary(built)}")
    if not built.meets_clock:
        report.line(
            f"{built.fmax_mhz:g} MHz is less than the {target.clock_hz / 1e6:g} MHz at which this "
            "bitstream runs: do not trust it on a board; try other seeds with --seed."
        )
        raise typer.Exit(1)


@board_app.command("program")
def board_program(
    board: TargetArgument,
    serial: Annotated[
        str | None,
        typer.Option("--serial", metavar="S", help="USB serial number, when several are there."),
    ] = None,
    bitstream: Annotated[
        Path | None,
        typer.Option("--bitstream", metavar="FILE", help="By default that of the last build."),
    ] = None,
) -> None:
    """Load a bitstream into a board on USB, until its power goes."""
    from hdl.programming import program
    from hdl.targets import find_target

    with _as_sentence():
        target = find_target(board)
        file = bitstream if bitstream is not None else build_folder(board) / f"{board}.bit"
        program(target, file, serial)
    print(f"{target.title} runs {file}")


@board_app.command("list")
def board_list() -> None:
    """List the boards that can be built for, and the programming cables on USB."""
    from hdl.programming import list_cables
    from hdl.targets import TARGETS, last_build

    with _as_sentence():
        for target in TARGETS.values():
            last = last_build(target)
            speed = f"last good build {last.fmax_mhz:g} MHz" if last else "no good build yet"
            print(f"{target.name:<10} {target.title}; {speed}")
        cables = list_cables()
    for cable in cables:
        print(f"on USB     {cable.vendor:04x}:{cable.product:04x} {cable.description}")
    if not cables:
        print("on USB     no programming cable")


def _seeds(asked: Sequence[int] | None, default: int) -> tuple[int, ...]:
    seeds = tuple(asked or (default,))
    if any(seed < 1 for seed in seeds):
        raise BoardBuildError("A seed is a whole number from 1 on; give --seed N.")
    return seeds


def _print_summary(report: dict[str, object]) -> None:
    path = report["critical_path"]
    assert isinstance(path, dict)
    modules = dict.fromkeys(share["module"] for share in path["modules"])
    print(f"Fmax      {report['fmax_mhz']} MHz, seed {report['seed']}")
    print(f"size      {report['lut4']} LUT4, {report['ff']} FF, {report['ebr']} EBR")
    print(
        f"slowest   {path['delay_ns']} ns ({path['routing_ns']} ns of it wires) through "
        f"{', '.join(modules)}"
    )
