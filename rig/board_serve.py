"""``rig board serve``: the virtual board, for as long as one likes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def board_serve(
    board: Annotated[str, typer.Argument(metavar="BOARD", help="virtual.")] = "virtual",
    port: Annotated[
        int, typer.Option("--port", metavar="N", help="TCP port on 127.0.0.1; 0 takes a free one.")
    ] = 3820,
    drive: Annotated[
        str | None,
        typer.Option(
            "--drive",
            metavar="SERIAL",
            help="Drive that the gates belong to; by default the first.",
        ),
    ] = None,
    lab: Annotated[
        Path | None,
        typer.Option(
            "--lab", metavar="FILE", help="Lab file; by default lab.yaml here, else the project's."
        ),
    ] = None,
) -> None:
    """Serve a whole board, simulated at its pins, until interrupted.

    Prints the two VISA resources at which its serial line is: a TCP socket and a terminal (pty).
    """
    from rig.board.virtual import VirtualBoard
    from rig.keyside import provision
    from rig.lab import LabError, default_lab_path, load_lab
    from rig.report.console import ConsoleReport
    from rig.state import state_dir

    if board != "virtual":
        raise LabError(f"There is no board '{board}' to serve; there is 'virtual'.")
    checked = load_lab(lab if lab is not None else default_lab_path())
    serial = drive if drive is not None else checked.drives[0].serial
    if serial not in [unit.serial for unit in checked.drives]:
        known = ", ".join(unit.serial for unit in checked.drives)
        raise LabError(f"There is no drive '{serial}' in the lab file; known: {known}.")
    report = ConsoleReport(error_stream=True)
    with report.task("preparing tokens, keys and certificates"):
        made = provision(checked, state_dir(), [serial])
    key = made.drive(serial).transport_key
    with VirtualBoard(port=port, transport_key=key, on_build=report.begin) as served:
        print(f"serving {served.socket_resource}")
        print(f"serving {served.serial_resource}")
        try:
            served.wait()
        except KeyboardInterrupt:
            return
