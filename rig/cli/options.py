"""Options that several commands share, and the checks of their values."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsm.errors import TaperigError

if TYPE_CHECKING:
    from rig.lab.model import EkmUnit, Lab

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
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Folder for the results; by default in the state folder."
    ),
]
AnyBuildOption = Annotated[
    bool,
    typer.Option("--any-build", help="Judge a board whose build of the gates is not known."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
DriveOption = Annotated[
    str | None,
    typer.Option("--drive", metavar="SERIAL", help="Drive of the lab file; by default the first."),
]
NodeOption = Annotated[
    str | None,
    typer.Option("--node", metavar="NAME", help="Node of the lab file; by default the first."),
]
EkmOption = Annotated[
    str | None,
    typer.Option(
        "--name", metavar="NAME", help="Key manager of the lab file; by default the first."
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A key manager's own file, instead of a lab."),
]


class OptionError(TaperigError):
    """Options conflict, or one has no effect."""


def refuse_lab_options(config: Path | None, lab: Path | None, name: str | None) -> None:
    """Refuse --lab and --name beside --config, whose file names no lab."""
    if config is not None and (lab is not None or name is not None):
        raise OptionError("--config goes without --lab and --name; leave them out, or --config.")


def drive_of(lab: Lab, serial: str | None) -> str:
    """Return the serial of the drive asked for, else of the lab's first."""
    from rig.lab.model import LabError

    known = [unit.serial for unit in lab.drives]
    if serial is not None and serial not in known:
        raise LabError(f"There is no drive '{serial}' in the lab file; known: {', '.join(known)}.")
    return known[0] if serial is None else serial


def ekm_of(lab: Lab, name: str | None) -> EkmUnit:
    """Return the key manager asked for, else the lab's first."""
    from rig.lab.model import LabError

    for unit in lab.ekms:
        if name is None or unit.name == name:
            return unit
    known = ", ".join(unit.name for unit in lab.ekms)
    raise LabError(f"There is no key manager '{name}' in the lab file; known: {known}.")


def lab_of(path: Path | None) -> Lab:
    """Return the checked lab file: the one named, or the default."""
    from rig.lab.load import default_lab_path, load_lab

    return load_lab(path if path is not None else default_lab_path())


def exit_code_of(verdict: str) -> int:
    """Return the exit code of a run with this verdict."""
    return {"pass": 0, "fail": 1, "error": 2}[verdict]


def print_json(value: object) -> None:
    """Print a value as JSON on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_rows(rows: Iterable[object]) -> None:
    """Print rows as `print_json` prints a list, each as soon as it comes."""
    before = "["
    for row in rows:
        text = json.dumps(row, indent=2, ensure_ascii=False).replace("\n", "\n  ")
        print(f"{before}\n  {text}", end="")
        before = ","
    print("[]" if before == "[" else "\n]")
