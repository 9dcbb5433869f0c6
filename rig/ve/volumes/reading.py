"""Read logical volumes from the blocks of a tape."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from rig.drive.drive import Block
from rig.ve.volumes.logical_volume import (
    VolumeError,
    VolumeFile,
    VolumeHeader,
    VolumeTrailer,
    decode_label,
)


class VolumeSink(Protocol):
    """A destination of volumes that are read; may raise OSError.

    `end` is called for a whole and verified volume only, `abandon` for any other.
    """

    def begin(self, header: VolumeHeader) -> None:
        """Begin a volume."""

    def write(self, data: bytes) -> None:
        """Write more of its data."""

    def end(self) -> None:
        """End it: its data is complete and its SHA-256 is right."""

    def abandon(self) -> None:
        """Drop it: it is incomplete."""


class NullSink:
    """A sink that keeps nothing; reading verifies all the same."""

    def begin(self, header: VolumeHeader) -> None:
        """Do nothing."""

    def write(self, data: bytes) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def abandon(self) -> None:
        """Do nothing."""


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


class VolumeReader:
    """A reader that makes volumes of blocks, and records which were whole."""

    def __init__(self, sink: VolumeSink, names: Iterable[str] | None = None) -> None:
        """Give volumes to `sink`: all, or those of these names."""
        self.whole: list[VolumeHeader] = []
        self.incomplete: list[str] = []
        self.bytes = 0
        self._sink = sink
        self._names = None if names is None else set(names)
        self._header: VolumeHeader | None = None
        self._sha256 = hashlib.sha256()
        self._size = self._blocks = 0

    def take(self, block: Block) -> None:
        """Take the next block of the tape."""
        if not block.label:
            self._data(block.data)
            return
        label = decode_label(block.data)
        if isinstance(label, VolumeTrailer):
            self._end(label)
            return
        self.finish()
        self._header = label
        self._sha256 = hashlib.sha256()
        self._size = self._blocks = 0
        if self._wanted(label):
            with self._sink_errors(label):
                self._sink.begin(label)

    def finish(self) -> None:
        """Take the end of the tape: a volume still open is incomplete."""
        if self._header is not None:
            self.incomplete.append(self._header.name)
            if self._wanted(self._header):
                with self._sink_errors(self._header):
                    self._sink.abandon()
            self._header = None

    def _wanted(self, header: VolumeHeader) -> bool:
        return self._names is None or header.name in self._names

    def _data(self, data: bytes) -> None:
        if self._header is None:
            raise VolumeError("There is data on the tape that belongs to no logical volume.")
        self._sha256.update(data)
        self._size += len(data)
        self._blocks += 1
        if self._wanted(self._header):
            with self._sink_errors(self._header):
                self._sink.write(data)

    def _end(self, trailer: VolumeTrailer) -> None:
        header = self._header
        if header is None or trailer.name != header.name:
            raise VolumeError(f"There is a trailer of {trailer.name} on the tape without a header.")
        actual = (self._blocks, self._size, self._sha256.hexdigest())
        if actual != (trailer.blocks, header.size, header.sha256):
            raise VolumeError(
                f"The logical volume {header.name} did not come back as it was written: "
                f"{self._size} of {header.size} bytes in {self._blocks} of {trailer.blocks} "
                f"blocks, SHA-256 {actual[2]} where the label says {header.sha256}."
            )
        if self._wanted(header):
            with self._sink_errors(header):
                self._sink.end()
            self.whole.append(header)
            self.bytes += header.size
        self._header = None

    @staticmethod
    @contextlib.contextmanager
    def _sink_errors(header: VolumeHeader) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VolumeError(
                f"The logical volume {header.name} was read, but cannot be put where it goes: "
                f"{error.filename or 'there'}: {error.strerror}."
            ) from error
