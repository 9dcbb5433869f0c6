"""``rig board``: build bitstreams, load them, serve a virtual board."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from hdl.errors import HdlError
from hdl.widths import DEFAULT_WIDTH
from hsm.errors import TaperigError
from hsm.files import read_limited
from rig.cli.help import CommandLine
from rig.cli.options import (
    DriveOption,
    JsonOption,
    LabOption,
    OutOption,
    drive_of,
    lab_of,
    print_json,
)

board_app = CommandLine(help="FPGA boards: bitstreams, programming, the virtual board.")

TargetArgument = Annotated[
    str, typer.Argument(metavar="BOARD", help="Board, one of `rig board targets`.")
]


class BoardBuildError(TaperigError):
    """A bitstream cannot be built, or not be loaded into a board."""


@contextmanager
def _hdl_errors() -> Iterator[None]:
    """Raise errors of the HDL tools as BoardBuildError."""
    try:
        yield
    except HdlError as error:
        raise BoardBuildError(str(error)) from error


def build_folder(target: str) -> Path:
    """Return the default folder of a board's bitstream and report."""
    from rig.testbed.state import bitstream_folder, private_folder, state_dir

    return private_folder(bitstream_folder(state_dir(), target))


@board_app.command("build")
def board_build(
    board: TargetArgument,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            "--seed",
            metavar="N",
            min=1,
            max=2**31 - 1,
            help="Seed of the placer; repeat to keep the best of several.",
        ),
    ] = None,
    out: OutOption = None,
    record: Annotated[
        bool,
        typer.Option(
            "--record", help="Record this as the last good build; only if it meets its clock."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build a bitstream and its report.json, reproducibly.

    Takes about a quarter of an hour for each seed. Exits 1 if no seed reaches the board's clock.
    """
    from hdl.fpga.synthesis import DEFAULT_SEED, build, write_summary
    from hdl.fpga.targets import find_target
    from rig.report.console import ConsoleReport

    report = ConsoleReport(error_stream=as_json)
    with _hdl_errors():
        target = find_target(board)
        folder = out if out is not None else build_folder(target.name)
        built = build(
            target, folder, seeds=tuple(dict.fromkeys(seed or [DEFAULT_SEED])), progress=report.line
        )
        if as_json:
            print_json(built.report)
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
        typer.Option(
            "--serial", metavar="S", help="USB serial number, when several boards are there."
        ),
    ] = None,
    bitstream: Annotated[
        Path | None,
        typer.Option(
            "--bitstream", metavar="FILE", help="Bitstream; by default that of the last build."
        ),
    ] = None,
) -> None:
    """Load a bitstream over USB; it stays until the board loses power."""
    from hdl.fpga.programming import program
    from hdl.fpga.targets import find_target

    with _hdl_errors():
        target = find_target(board)
        built = build_folder(board) / f"{board}{target.family.bitstream_suffix}"
        file = bitstream if bitstream is not None else built
        program(target, file, serial)
    print(f"{target.title} runs {file}")


@board_app.command("provision")
def board_provision(
    board: TargetArgument,
    drive: DriveOption = None,
    lab: LabOption = None,
) -> None:
    """Put a drive's transport key into the last build's bitstream.

    The result is that drive's own bitstream. The key goes from its file into the bitstream in a
    process of its own.
    """
    from hdl.fpga.synthesis import routed_name
    from hdl.fpga.targets import find_target
    from rig.report.console import ConsoleReport
    from rig.testbed.key_managers import provision
    from rig.testbed.state import state_dir

    with _hdl_errors():
        target = find_target(board)
    checked = lab_of(lab)
    serial = drive_of(checked, drive)
    folder = build_folder(target.name)
    try:
        seed = json.loads(read_limited(folder / "report.json", 16 << 20))["seed"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise BoardBuildError(
            f"There is no build of {board} in {folder}; make it with: rig board build {board}"
        ) from None
    with ConsoleReport(error_stream=True).task("preparing tokens, keys and certificates"):
        provisioned = provision(checked, state_dir(), [serial])
    out = folder / f"{target.name}-{serial}{target.family.bitstream_suffix}"
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "hdl.fpga.transport_key"),
            *(
                str(provisioned.drive(serial).transport_key),
                str(folder / routed_name(target, seed)),
                str(out),
            ),
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise BoardBuildError(ended.stderr.strip())
    print(f"bitstream {out}")


@board_app.command("targets")
def board_targets() -> None:
    """List the boards to build for and the programming cables on USB."""
    from hdl.fpga.programming import list_cables
    from hdl.fpga.synthesis import source_hash
    from hdl.fpga.targets import TARGETS, last_build

    with _hdl_errors():
        for target in TARGETS.values():
            last = last_build(target)
            speed = f"last good build {last.fmax_mhz:g} MHz" if last else "no good build yet"
            if last and last.source_hash != source_hash(target):
                speed += f", of other sources than these ({last.source_hash[:8]})"
            print(f"{target.name:<10} {target.title}; {speed}")
        cables = list_cables()
    for cable in cables:
        print(f"on USB     {cable.vendor:04x}:{cable.product:04x} {cable.description}")
    if not cables:
        print("on USB     no programming cable")


def _print_summary(report: dict[str, object]) -> None:
    path = report["critical_path"]
    assert isinstance(path, dict)
    modules = dict.fromkeys(share["module"] for share in path["modules"])
    print(f"Fmax      {report['fmax_mhz']} MHz, seed {report['seed']}")
    print(f"size      {report['lut4']} LUT4, {report['ff']} FF, {report['ebr']} block RAMs")
    print(
        f"slowest   {path['delay_ns']} ns ({path['routing_ns']} ns of it wires) through "
        f"{', '.join(modules)}"
    )


def board_serve(
    board: Annotated[str, typer.Argument(metavar="BOARD", help="Board: virtual.")] = "virtual",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            metavar="N",
            min=0,
            max=65_535,
            help="TCP port on 127.0.0.1; 0 takes a free one.",
        ),
    ] = 3820,
    width: Annotated[
        int,
        typer.Option("--width", metavar="N", help="Bytes a clock of its gates: 16, 8, 4 or 1."),
    ] = DEFAULT_WIDTH,
    drive: DriveOption = None,
    lab: LabOption = None,
) -> None:
    """Serve a whole board, simulated at its pins, until interrupted.

    Prints the two VISA resources of its serial line: a TCP socket and a terminal (pty).
    """
    from rig.board.virtual import VirtualBoard
    from rig.lab.model import LabError
    from rig.report.console import ConsoleReport
    from rig.testbed.key_managers import provision
    from rig.testbed.state import state_dir

    if board != "virtual":
        raise LabError(f"There is no board '{board}' to serve; there is 'virtual'.")
    checked = lab_of(lab)
    serial = drive_of(checked, drive)
    report = ConsoleReport(error_stream=True)
    with report.task("preparing tokens, keys and certificates"):
        provisioned = provision(checked, state_dir(), [serial])
    key = provisioned.drive(serial).transport_key
    with VirtualBoard(
        port=port, transport_key=key, word_bytes=width, on_build=report.begin
    ) as served:
        print(f"serving {served.socket_resource}")
        print(f"serving {served.serial_resource}")
        try:
            served.wait()
        except KeyboardInterrupt:
            return
