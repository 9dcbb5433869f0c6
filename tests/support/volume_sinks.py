"""Sinks of tests: into a folder, or compared with the original files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from rig.ve.volumes.logical_volume import (
    VolumeFile,
    VolumeHeader,
)


class FolderSink:
    """A sink that writes each volume into a folder, under its name.

    A file appears there whole or not at all.
    """

    def __init__(self, folder: Path) -> None:
        """Write into `folder`, which is made when absent."""
        self.folder = folder
        self._file: BinaryIO | None = None
        self._name = ""

    def begin(self, header: VolumeHeader) -> None:
        """Begin a file."""
        self._name = header.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = self._partial.open("wb")

    def write(self, data: bytes) -> None:
        """Write more data."""
        if self._file is not None:
            self._file.write(data)

    def end(self) -> None:
        """Give the file its name."""
        self._close()
        self._partial.replace(self.folder / self._name)

    def abandon(self) -> None:
        """Remove what was written."""
        self._close()
        with contextlib.suppress(FileNotFoundError):
            self._partial.unlink()

    @property
    def _partial(self) -> Path:
        return self.folder / f".{self._name}.partial"

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class CompareSink:
    """A sink that compares each volume with its original file."""

    def __init__(self, volumes: Iterable[VolumeFile]) -> None:
        """Expect these volumes; others are counted as `unexpected`."""
        self.expected = {volume.name: volume for volume in volumes}
        self.equal: list[str] = []
        self.different: list[str] = []
        self.unexpected: list[str] = []
        self._name = ""
        self._file: BinaryIO | None = None
        self._same = True

    @property
    def missing(self) -> list[str]:
        """Expected volumes that were not read."""
        return sorted(self.expected.keys() - set(self.equal) - set(self.different))

    @property
    def all_equal(self) -> bool:
        """Whether exactly the expected volumes came, each as its file is."""
        return not (self.missing or self.different or self.unexpected)

    def begin(self, header: VolumeHeader) -> None:
        """Open the file to compare with."""
        self._name, self._same = header.name, True
        volume = self.expected.get(header.name)
        self._file = volume.source.open("rb") if volume else None

    def write(self, data: bytes) -> None:
        """Compare more data."""
        self._same = self._same and self._file is not None and self._file.read(len(data)) == data

    def end(self) -> None:
        """Compare the ends, and record the result."""
        if self._file is None:
            self.unexpected.append(self._name)
        elif self._same and not self._file.read(1):
            self.equal.append(self._name)
        else:
            self.different.append(self._name)
        self.abandon()

    def abandon(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
