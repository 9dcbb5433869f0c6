"""Options that several commands share, and what they are read with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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


def lab_of(path: Path | None) -> Lab:
    """Return the checked lab file: the one named, or the default."""
    from rig.lab.load import default_lab_path, load_lab

    return load_lab(path if path is not None else default_lab_path())


def print_json(value: object) -> None:
    """Print a value as JSON on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
