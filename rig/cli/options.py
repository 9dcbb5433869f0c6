"""Options that several commands share, and what they are read with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsm.errors import TaperigError

if TYPE_CHECKING:
    from rig.lab.model import Lab

LabOption = Annotated[
    Path | None,
    typer.Option(
        "--lab", metavar="FILE", help="Lab file; by default lab.yaml here, else the project's own."
    ),
]
BoardOption = Annotated[
    str | None,
    typer.Option(
        "--board", metavar="NAME", help="Board of the lab file; by default the drive's own."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


DriveOption = Annotated[
    str | None,
    typer.Option(
        "--drive", metavar="SERIAL", help="Drive whose gates these are; by default the first."
    ),
]


class OptionError(TaperigError):
    """Options that do not go together, or one without effect."""


def refuse_lab_options(config: Path | None, lab: Path | None, name: str | None) -> None:
    """Refuse --lab and --name beside --config: a key manager's own file names no lab."""
    if config is not None and (lab is not None or name is not None):
        raise OptionError("--config goes without --lab and --name; leave them out, or --config.")


def drive_of(lab: Lab, serial: str | None) -> str:
    """Return the serial number of the drive asked for, else of the lab's first."""
    from rig.lab.model import LabError

    known = [unit.serial for unit in lab.drives]
    if serial is not None and serial not in known:
        raise LabError(f"There is no drive '{serial}' in the lab file; known: {', '.join(known)}.")
    return known[0] if serial is None else serial


def lab_of(path: Path | None) -> Lab:
    """Return the checked lab file: the one named, or the default."""
    from rig.lab.load import default_lab_path, load_lab

    return load_lab(path if path is not None else default_lab_path())


def print_json(value: object) -> None:
    """Print a value as JSON on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
