"""Files for hosts to write: the user's, or some of this machine."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from hsm.errors import TaperigError

LICENCES = Path("/usr/share/common-licenses")
_NOT_LIBRARY = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "idlelib"}


class DataError(TaperigError):
    """The files to write cannot be read."""


def files_of(paths: Iterable[Path]) -> list[Path]:
    """Return every regular file of the paths; all are readable.

    Folders are walked in order of names. Raises DataError.
    """
    files: list[Path] = []
    for path in paths:
        before = len(files)
        files.extend(_walk(path))
        if len(files) == before:
            raise DataError(f"There is no file in {path}; name a file or a folder with files.")
    for path in files:
        if not os.access(path, os.R_OK):
            raise DataError(f"The file {path} may not be read; leave it out or change its mode.")
    return files


def _walk(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        if not os.access(path, os.R_OK | os.X_OK):
            raise DataError(f"The folder {path} may not be read; leave it out or change its mode.")
        for child in sorted(path.iterdir()):
            if child.is_symlink() and child.is_dir():
                continue  # it may lead back up
            if child.is_file() or child.is_dir():
                yield from _walk(child)
    elif path.exists():
        raise DataError(f"{path} is neither a file nor a folder; name one of these.")
    else:
        raise DataError(f"{path} does not exist; name a file or a folder that does.")


def machine_files() -> list[Path]:
    """Return this machine's licence texts and Python's library.

    Of the library, the largest files come first.
    """
    licences = [path for path in _files_below(LICENCES) if not path.is_symlink()]
    library = Path(sysconfig.get_path("stdlib"))
    sources = sorted(_sources(library), key=lambda path: (-path.stat().st_size, path))
    return [*licences, *sources]


def _sources(library: Path) -> Iterator[Path]:
    """Yield Python's own source files.

    What is installed for it, many times as much, is left out.
    """
    for folder, below, names in os.walk(library):
        below[:] = [name for name in below if name not in _NOT_LIBRARY]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def capped(files: Iterable[Path], limit: float) -> list[Path]:
    """Return the files, in order, that fit together into ``limit`` bytes.

    A file that does not fit is left out.
    """
    taken: list[Path] = []
    room = limit
    for path in files:
        size = path.stat().st_size
        if size <= room:
            taken.append(path)
            room -= size
    return taken
