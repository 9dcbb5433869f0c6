"""The tape volume cache: a file for each logical volume's content that is in it.

A file is `NAME.GENERATION`; it appears there whole and synced, or not at all. Which of the files
count, the catalogue says: what it does not know is left from something that was cut off.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hsm.errors import TaperigError
from hsm.files import sync_directory
from rig.ve.volumes.logical_volume import VolumeHeader

PIECE_BYTES = 1 << 20
INCOMING = ".incoming-"


class CacheError(TaperigError):
    """The cache cannot take or give a volume."""


class CacheFullError(CacheError):
    """There is no room, and nothing in the cache may leave it now."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What was stored."""

    size: int
    sha256: str


class Cache:
    """The files of one cache folder."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which is made when absent, with access for its owner only."""
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._pins: dict[Path, int] = {}
        self._doomed: set[Path] = set()

    def path(self, name: str, generation: int) -> Path:
        """The file of a content."""
        return self.folder / f"{name}.{generation}"

    def store(self, name: str, generation: int, pieces: Iterable[bytes]) -> Stored:
        """Store a content; when this returns, it outlives a power cut."""
        with _saying(self.folder), self.incoming(name, generation) as file:
            sha256 = hashlib.sha256()
            size = 0
            for piece in pieces:
                sha256.update(piece)
                size += len(piece)
                file.write(piece)
        return Stored(size, sha256.hexdigest())

    @contextmanager
    def incoming(self, name: str, generation: int) -> Iterator[BinaryIO]:
        """A file to write; it gets its name when all went well, and is gone otherwise."""
        partial = self.folder / f"{INCOMING}{name}.{generation}"
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            target = self.path(name, generation)
            with self._lock:
                self._doomed.discard(target)
                partial.replace(target)
            sync_directory(self.folder)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    @contextmanager
    def pinned(self, paths: Collection[Path]) -> Iterator[None]:
        """Keep files where they are for as long as the context lasts."""
        with self._lock:
            for path in paths:
                self._pins[path] = self._pins.get(path, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                for path in paths:
                    self._pins[path] -= 1
                    if not self._pins[path]:
                        del self._pins[path]
                        if path in self._doomed:
                            self._doomed.discard(path)
                            path.unlink(missing_ok=True)

    def remove(self, name: str, generation: int) -> None:
        """Remove a content that the catalogue does not know any more; one in use goes later."""
        path = self.path(name, generation)
        with self._lock:
            if path in self._pins:
                self._doomed.add(path)
            else:
                path.unlink(missing_ok=True)

    def files(self) -> list[Path]:
        """Every file in the cache, by name."""
        return sorted(self.folder.iterdir())


class Recall:
    """A sink (`VolumeSink`) that stores volumes read from tape, if they are those expected."""

    def __init__(self, cache: Cache, expected: dict[str, tuple[int, str]]) -> None:
        """Expect these volumes: generation and SHA-256 (hexadecimal) by name."""
        self.stored: list[str] = []
        self._cache = cache
        self._expected = expected
        self._header: VolumeHeader | None = None
        self._store: _Store | None = None

    def begin(self, header: VolumeHeader) -> None:
        """Begin a file; raises CacheError when the label is not that of the volume expected."""
        generation, sha256 = self._expected[header.name]
        if header.sha256 != sha256:
            raise CacheError(
                f"The logical volume {header.name} on tape is not the one in the catalogue: its "
                f"label says SHA-256 {header.sha256}, the catalogue {sha256}."
            )
        self._header = header
        self._store = _Store(self._cache, header.name, generation)

    def write(self, data: bytes) -> None:
        """Write on."""
        if self._store is not None:
            self._store.file.write(data)

    def end(self) -> None:
        """Keep it: it is whole and verified."""
        if self._store is not None and self._header is not None:
            self._store.keep()
            self.stored.append(self._header.name)
        self._store = self._header = None

    def abandon(self) -> None:
        """Drop it."""
        if self._store is not None:
            self._store.drop()
        self._store = self._header = None


class _Store:
    """`Cache.incoming`, held open between calls."""

    def __init__(self, cache: Cache, name: str, generation: int) -> None:
        self._context = cache.incoming(name, generation)
        self.file = self._context.__enter__()

    def keep(self) -> None:
        self._context.__exit__(None, None, None)

    def drop(self) -> None:
        gone = CacheError("abandoned")
        try:
            self._context.__exit__(CacheError, gone, gone.__traceback__)
        except CacheError as error:
            if error is not gone:
                raise


def pieces_of(source: Path) -> Iterator[bytes]:
    """The content of a file, piece by piece; raises CacheError when it cannot be read."""
    try:
        with source.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
    except OSError as error:
        raise CacheError(
            f"The file {source} cannot be read ({error.strerror}); leave it out or change its mode."
        ) from error


@contextmanager
def _saying(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"The cache {folder} cannot take the volume ({error.strerror}); check the folder and "
            f"its free space."
        ) from error
