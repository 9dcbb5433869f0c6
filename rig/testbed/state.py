"""Where the rig keeps what outlives a run: tokens, certificates, cartridges, results.

``$TAPERIG_STATE`` names the folder; without it, the user's own state folder is taken
(``~/.local/state/taperig`` on Linux). Never a system path.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from hsm.errors import TaperigError

ENVIRONMENT = "TAPERIG_STATE"


class StateError(TaperigError):
    """The state folder cannot be used."""


def state_path() -> Path:
    """Return the path of the state folder, which need not exist."""
    chosen = os.environ.get(ENVIRONMENT)
    path = Path(chosen).expanduser() if chosen else platformdirs.user_state_path("taperig")
    return path.absolute()


def state_dir() -> Path:
    """The state folder, made when absent with access for its owner only."""
    return private_folder(state_path())


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


@contextmanager
def used_alone(state: Path) -> Iterator[None]:
    """Keep other runs out of a state folder, since they would use the same cartridges."""
    with (state / "run.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(
                f"Another run uses the state folder {state}; wait for its end, "
                f"or set {ENVIRONMENT} to another folder."
            ) from None
        yield


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
