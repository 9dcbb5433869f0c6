"""The state folder: tokens, certificates, cartridges, results.

``$TAPERIG_STATE`` names the folder; without it, the user's own state folder is taken
(``~/.local/state/taperig`` on Linux). Never a system path.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from hsm.errors import TaperigError

ENVIRONMENT = "TAPERIG_STATE"
RESULT_FILES = ("results.json", "junit.xml", "soak.jsonl")
"""The files of results that every run writes, into a folder without them."""
_OLDER_CARTRIDGES = {"cartridges": "round_trip", "sites/cartridges": "two_sites"}
"""Folders of cartridges in the state folder, until runs had nodes, and the scenario of each."""


class StateError(TaperigError):
    """The state folder cannot be used."""


def state_path() -> Path:
    """Return the state folder, which need not exist; raise StateError."""
    chosen = os.environ.get(ENVIRONMENT)
    cure = f"set {ENVIRONMENT} to a folder that you can write"
    if chosen:
        return _without_tilde(Path(chosen), cure)
    try:
        return platformdirs.user_state_path("taperig").absolute()
    except RuntimeError:
        raise StateError(
            f"The state folder cannot be found: this user has no home folder; {cure}."
        ) from None


def _without_tilde(path: Path, cure: str) -> Path:
    """Return a path with its tilde replaced; raise StateError."""
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise StateError(
            f"The folder {path} cannot be found: no home folder is known for its tilde; {cure}."
        ) from None


def state_dir() -> Path:
    """Return the state folder; create it with access for its owner only."""
    return private_folder(state_path())


def private_folder(
    path: Path, cure: str = f"set {ENVIRONMENT} to a folder that you can write"
) -> Path:
    """Create a folder that only its owner may enter.

    An existing one is left as it is.

    ``cure`` is what to do when it cannot be used. Raises StateError.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"The folder {path} cannot be made ({error.strerror}); {cure}.") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise StateError(f"The folder {path} cannot be written; {cure}.")
    return path


def bitstream_folder(state: Path, target: str) -> Path:
    """Return the folder of an FPGA board's bitstream and report."""
    return state / "bitstreams" / target


@contextmanager
def locked_state(state: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Lock a state folder against commands that would use its drives.

    Cartridges of an earlier version are moved to the runs; `report` gets a sentence about it.
    """
    with (state / "run.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(
                f"Another run uses the state folder {state}; wait for its end, "
                f"or set {ENVIRONMENT} to another folder."
            ) from None
        for sentence in _move_older_cartridges(state):
            report(sentence)
        yield


def _move_older_cartridges(state: Path) -> list[str]:
    """Move an earlier version's cartridges into the folder of a run.

    No command uses them any more, so nothing is refused when they cannot be moved. Returns what
    was done, a sentence each.
    """
    older = [(state / folder, node) for folder, node in _OLDER_CARTRIDGES.items()]
    older = [(path, node) for path, node in older if path.is_dir()]
    if not older:
        return []
    try:
        run = new_run_dir(state, None)
        for path, node in older:
            (run / "nodes" / node).mkdir(mode=0o700, parents=True)
            path.rename(run / "nodes" / node / "cartridges")
    except OSError as error:
        return [
            f"The cartridges of an earlier version in {path} cannot be moved to the runs "
            f"({error.strerror}); nothing uses them any more: move or remove them."
        ]
    return [
        f"The cartridges that runs of an earlier version left in {state} are in {run} now; `rig "
        f"runs clean` removes them, and `rig ekm cartridge forget` tells the key manager."
    ]


def new_run_dir(state: Path, out: Path | None) -> Path:
    """Return the folder of a run's results: ``out``, or a new one.

    A new one is under the state folder. Raises StateError for an ``out`` that holds results.

    Runs under the state folder are named by the time they began, so that they sort.
    """
    if out is not None:
        cure = "name a folder that you can write with --out"
        chosen = _without_tilde(out, cure)
        for name in RESULT_FILES:
            if os.path.lexists(chosen / name):
                raise StateError(
                    f"The folder {out} holds the results of a run already ({name}), so nothing was "
                    "run; name another folder with --out, or remove the file."
                )
        return private_folder(chosen, cure)
    stem = time.strftime("%Y%m%d-%H%M%S")
    runs = private_folder(state / "runs")
    for number in range(1000):
        path = runs / (f"{stem}-{number}" if number else stem)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return path
    raise StateError(
        f"No new run folder fits into {runs}: it has a thousand of this second; remove some."
    )
