"""``rig baseline``: the cycle counts that simulated gates must have."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from hdl.widths import WIDTHS
from rig.cli.help import CommandLine

baseline_app = CommandLine(help="Cycle counts that the simulated gates must have (RATE-4).")


@baseline_app.command("update")
def baseline_update(
    width: Annotated[
        list[int] | None,
        typer.Option(
            "--width",
            metavar="N",
            help="Bytes a clock, 16, 8, 4 or 1; may be given repeatedly; by default all.",
        ),
    ] = None,
) -> None:
    """Count the cycles of the simulated gates anew and keep them.

    Says every count that changed, old and new. To be run when the RTL changed on purpose.
    """
    from rig.board.sim import SimBoard
    from rig.engine.cycle_baseline import count_cycles, differences, read_or_none, write_baseline
    from rig.engine.driver import Engine
    from rig.engine.throughput import HostTraffic
    from rig.report.console import ConsoleReport

    report = ConsoleReport()
    for word_bytes in dict.fromkeys(width or WIDTHS):
        with SimBoard(word_bytes=word_bytes, on_build=report.begin) as board:
            engine, key = Engine(board), secrets.token_bytes(32)
            engine.load_plain_key(key)
            with report.task(f"counting cycles at {word_bytes} bytes a clock"):
                counts = count_cycles(engine, HostTraffic(engine, key))
        changes = differences(read_or_none(word_bytes), counts)
        path = write_baseline(word_bytes, counts)
        for change in changes:
            report.line(change)
        report.line(f"{path}: {len(changes)} of {len(counts)} counts changed")
