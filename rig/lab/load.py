"""Load and check a lab file."""

from __future__ import annotations

import os
from pathlib import Path

from hsm.configuration.load import load
from rig.lab.base import LabError as LabError
from rig.lab.cross_checks import cross_check
from rig.lab.model import Lab


def load_lab(path: Path) -> Lab:
    """Return the lab in a file, checked; paths are relative to its folder."""
    return load(Lab, path, LabError, cross_check)


def default_lab_path() -> Path:
    """Return ``lab.yaml`` in the current folder, else that of the rig."""
    here = Path("lab.yaml")
    if here.exists():
        return here
    home = Path(__file__).with_name("lab.yaml").resolve()  # in a checkout, a link to its own
    return Path(os.path.relpath(home)) if home.is_relative_to(Path.cwd()) else home
