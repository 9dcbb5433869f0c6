"""Where the rig keeps what outlives a run: tokens, certificates, cartridges, results.

``$TAPERIG_STATE`` names the folder; without it, the user's own state folder is taken
(``~/.local/state/taperig`` on Linux). Never a system path.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import platformdirs

from hsm.errors import TaperigError

ENVIRONMENT = "TAPERIG_STATE"


class StateError(TaperigError):
    """The state folder cannot be used."""


def state_dir() -> Path:
    """The state folder, made when absent with access for its owner only."""
    chosen = os.environ.get(ENVIRONMENT)
    path = Path(chosen).expanduser() if chosen else platformdirs.user_state_path("taperig")
    return private_folder(path.absolute())


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner may enter; an existing one is left as it is."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"The folder {path} cannot be made ({error.strerror}); "
            f"set {ENVIRONMENT} to a folder that you can write."
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise StateError(
            f"The folder {path} cannot be written; "
            f"set {ENVIRONMENT} to a folder that you can write."
        )
    return path


def new_run_dir(state: Path, out: Path | None) -> Path:
    """The folder of this run's results: ``out``, or a new one under the state folder.

    Runs under the state folder are named by the time they began, so that they sort.
    """
    if out is not None:
        return private_folder(out.expanduser().absolute())
    stem = time.strftime("%Y%m%d-%H%M%S")
    runs = private_folder(state / "runs")
    for number in range(1000):
        path = runs / (f"{stem}-{number}" if number else stem)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return path
    raise StateError(f"The folder {runs} holds a thousand runs of this second; please clear it.")
