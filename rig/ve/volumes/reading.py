"""Read logical volumes from the blocks of a tape."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from rig.drive.drive import Block
from rig.ve.volumes.logical_volume import (
    VolumeError,
    VolumeHeader,
    VolumeTrailer,
    decode_label,
)


class VolumeSinkError(VolumeError):
    """A volume was read, and cannot be put where it goes."""


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
        if block.mark:
            self.finish()
            return
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
            raise VolumeSinkError(
                f"The logical volume {header.name} was read, but cannot be put where it goes: "
                f"{error.filename or 'there'}: {error.strerror}."
            ) from error
