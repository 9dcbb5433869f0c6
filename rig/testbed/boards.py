"""The boards of a lab, opened for use."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hsm.errors import TaperigError
from rig.board.protocol import Board
from rig.board.sim import SimBoard
from rig.engine.driver import Engine
from rig.lab.model import BoardUnit, Lab
from rig.results.events import TaskDisplay


class BoardChoiceError(TaperigError):
    """The board that was asked for is not in the lab."""


def choose_board(lab: Lab, asked: str | None) -> str:
    """Return the board to use: the one asked for, else the first drive's."""
    if asked is None:
        return lab.drives_of(lab.run_node)[0].board
    if asked not in lab.boards:
        near = difflib.get_close_matches(asked, lab.boards, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(lab.boards)}."
        raise BoardChoiceError(f"There is no board '{asked}' in the lab '{lab.name}'; {hint}")
    return asked


@contextmanager
def open_board(
    lab: Lab,
    name: str,
    report: TaskDisplay,
    *,
    transport_key: Path | None = None,
    waves: Path | None = None,
    log: Path | None = None,
) -> Iterator[Board]:
    """Open a board.

    A simulation is built first when its sources are new.

    A simulation may be starting still: the first access waits for it.

    `transport_key`, `waves` and `log` are for a simulation, which is started here. Another board
    got its key when it was built or started.
    """
    unit = lab.boards[name]
    if unit.resource is not None:
        if waves is not None:
            raise BoardChoiceError(
                f"Board {name} is not simulated here and has no waveform; choose one of kind sim"
            )
        with report.task(f"opening {unit.resource}"):
            from rig.board.visa import VisaBoard  # PyVISA takes long to import

            visa = VisaBoard(name, unit.resource, clock_hz=unit.clock_hz, baud=unit.baud)
        with visa:
            yield visa
        return
    with report.task("starting the simulation (built first when its sources are new)"):
        simulation = SimBoard(
            transport_key=transport_key,
            waves=waves,
            log=log,
            clock_hz=unit.clock_hz,
            word_bytes=unit.word_bytes,
            wait=False,
            on_build=report.begin,
        )
    with simulation:
        yield simulation


def require_clock(engine: Engine, name: str, unit: BoardUnit) -> None:
    """Raise BoardChoiceError for simulated gates above their assumed clock."""
    if engine.simulated and unit.clock_hz > unit.build_clock_mhz * 1e6:
        raise BoardChoiceError(
            f"Board {name} has simulated gates, whose clock cannot be measured, and its clock_mhz "
            f"of {unit.clock_hz / 1e6:g} is above the {unit.build_clock_mhz:g} MHz that are "
            "assumed; correct clock_mhz, or remove it"
        )


@contextmanager
def open_engine(lab: Lab, asked: str | None, report: TaskDisplay) -> Iterator[Engine]:
    """Open the engine of a board, without drive or keys."""
    with open_board(lab, choose_board(lab, asked), report) as board:
        yield Engine(board)
