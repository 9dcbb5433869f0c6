"""The tape volume cache: a file for each volume's content in it.

A file is `NAME.GENERATION`; it appears there whole and synced, or not at all. Which of the files
count, the catalogue says: what it does not know is left from something that was cut off.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hsm.errors import TaperigError
from hsm.files import open_regular, sync_directory
from rig.ve.volumes.logical_volume import VolumeError, VolumeHeader

PIECE_BYTES = 1 << 20
PARTIAL_PREFIX = ".incoming-"
PARALLEL_SYNCS = 8
"""Files synced at the same time."""
MAX_OPEN_FILES = 100
"""Files on their way into the cache that are open at most; then they are synced."""


class CacheError(TaperigError):
    """The cache cannot take or give a volume."""


class CacheFullError(CacheError):
    """The cache is full, and nothing in it may leave it now."""


@dataclass(frozen=True, slots=True)
class StoredContent:
    """The size and hash of a stored content."""

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
        self._to_remove: set[Path] = set()

    def path(self, name: str, generation: int) -> Path:
        """Return the path of a content's file."""
        return self.folder / f"{name}.{generation}"

    def store(self, contents: Iterable[tuple[str, int, Iterable[bytes]]]) -> list[StoredContent]:
        """Store contents, given as name, generation and pieces, durably.

        When this returns, all of them outlive a power cut.

        None of them is there when it raises.
        """
        stored = []
        with _cache_errors(self.folder), self.incoming() as incoming:
            for name, generation, pieces in contents:
                file = incoming.begin(name, generation)
                sha256 = hashlib.sha256()
                size = 0
                for piece in pieces:
                    sha256.update(piece)
                    size += len(piece)
                    file.write(piece)
                stored.append(StoredContent(size, sha256.hexdigest()))
            incoming.commit()
        return stored

    @contextmanager
    def incoming(self) -> Iterator[IncomingFiles]:
        """Open a set of files to write; those not committed are removed."""
        incoming = IncomingFiles(self)
        try:
            yield incoming
        finally:
            incoming.discard()

    def rename(self, partial: Path, target: Path) -> None:
        """Give a file its name, and cancel a removal of that name."""
        with self._lock:
            self._to_remove.discard(target)
            partial.replace(target)

    @contextmanager
    def pinned(self, paths: Collection[Path]) -> Iterator[None]:
        """Keep files from being removed while the context lasts."""
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
                        if path in self._to_remove:
                            self._to_remove.discard(path)
                            path.unlink(missing_ok=True)

    def remove(self, name: str, generation: int) -> None:
        """Remove a content that the catalogue no longer knows.

        A pinned one is removed once it is not pinned any more.
        """
        path = self.path(name, generation)
        with self._lock:
            if path in self._pins:
                self._to_remove.add(path)
            else:
                path.unlink(missing_ok=True)

    def files(self) -> list[Path]:
        """Every file in the cache, by name."""
        return sorted(self.folder.iterdir())


class IncomingFiles:
    """Files on their way into a cache.

    They get their names together, once all are synced.
    """

    def __init__(self, cache: Cache) -> None:
        """Begin with none."""
        self._cache = cache
        self._open: list[BinaryIO] = []
        self._targets: list[Path] = []

    def begin(self, name: str, generation: int) -> BinaryIO:
        """Begin a file, to be written until the next one begins."""
        if len(self._open) == MAX_OPEN_FILES:
            self._sync()
        target = self._cache.path(name, generation)
        file = _partial(target).open("wb")
        self._open.append(file)
        self._targets.append(target)
        return file

    def commit(self) -> None:
        """Sync all files and give them their names.

        When this returns, they outlive a power cut.
        """
        with _cache_errors(self._cache.folder):
            self._sync()
            for target in self._targets:
                self._cache.rename(_partial(target), target)
            self._targets = []
            sync_directory(self._cache.folder)

    def discard_last(self) -> None:
        """Remove the file that was begun last."""
        _close(self._open.pop())
        _partial(self._targets.pop()).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove all files that were not committed."""
        while self._open:
            _close(self._open.pop())
        while self._targets:
            _partial(self._targets.pop()).unlink(missing_ok=True)

    def _sync(self) -> None:
        for file in self._open:
            file.flush()
        # The file system writes files together that are synced at the same time.
        with ThreadPoolExecutor(PARALLEL_SYNCS, thread_name_prefix="sync") as syncs:
            list(syncs.map(os.fsync, [file.fileno() for file in self._open]))
        while self._open:
            self._open.pop().close()


def _partial(target: Path) -> Path:
    return target.with_name(f"{PARTIAL_PREFIX}{target.name}")


def _close(file: BinaryIO) -> None:
    with suppress(OSError):  # what was not written yet need not be
        file.close()


class RecallSink:
    """A sink that stores recalled volumes, if they are those expected."""

    def __init__(self, incoming: IncomingFiles, expected: dict[str, tuple[int, str]]) -> None:
        """Expect these volumes: generation and SHA-256 (hexadecimal) by name."""
        self.stored: list[str] = []
        self._incoming = incoming
        self._expected = expected
        self._name = ""
        self._file: BinaryIO | None = None

    def begin(self, header: VolumeHeader) -> None:
        """Begin a file.

        Raises VolumeError when the label is not that of the expected volume.
        """
        generation, sha256 = self._expected[header.name]
        if header.sha256 != sha256:
            raise VolumeError(
                f"The logical volume {header.name} on tape is not the one in the catalogue: its "
                f"label says SHA-256 {header.sha256}, the catalogue {sha256}."
            )
        self._name = header.name
        self._file = self._incoming.begin(header.name, generation)

    def write(self, data: bytes) -> None:
        """Write more data."""
        if self._file is not None:
            self._file.write(data)

    def end(self) -> None:
        """Record it as stored: it is whole and verified."""
        if self._file is not None:
            self.stored.append(self._name)
        self._file = None

    def abandon(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._incoming.discard_last()
        self._file = None


def pieces_of(source: Path) -> Iterator[bytes]:
    """Yield the content of a file, piece by piece.

    Raises CacheError when it cannot be read.
    """
    try:
        with open_regular(source) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
    except OSError as error:
        raise CacheError(
            f"The file {source} cannot be read ({error.strerror}); correct it or leave it out."
        ) from error


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"The cache {folder} cannot take the volume ({error.strerror}); check the folder and "
            f"its free space."
        ) from error
