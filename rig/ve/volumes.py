"""Logical volumes: what the host sees, many on one cartridge.

A logical volume is a real file. On tape it is a header label, its data in blocks of up to 256 KiB,
and a trailer label. Labels are marked as such in the record header and hold JSON (ASCII):

    {"label": "header", "volume": "L00001", "size": 5, "sha256": "...", "path": "/etc/hostname"}
    {"label": "trailer", "volume": "L00001", "blocks": 1}

`size` in bytes and `sha256` (hexadecimal) are of the whole file. A volume without a trailer was cut
off while it was written, and is not one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from hsm.errors import TaperigError
from rig.drive.drive import Block
from rig.drive.media import MAX_BLOCK_BYTES

MAX_LABEL_BYTES = 64 * 1024
_NAME = re.compile(r"[A-Z0-9]{6}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class VolumeError(TaperigError):
    """A file cannot become a logical volume, or what is on tape is none."""


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """A file to be written under a name of six capital letters or digits."""

    name: str
    source: Path
    size: int  # bytes
    sha256: str = ""
    """What the file must have, hexadecimal, when it is known before."""
    origin: str = ""
    """Where the content came from, for the label; by default the file's own path."""

    def __post_init__(self) -> None:
        """Check the name."""
        if not _NAME.fullmatch(self.name):
            raise VolumeError(
                f"{self.name[:40]!r} is no name of a logical volume: give six capital letters or "
                f"digits, such as L00001."
            )

    @classmethod
    def of(cls, name: str, source: Path) -> LogicalVolume:
        """Return a volume for a file."""
        try:
            return cls(name, source, source.stat().st_size)
        except OSError as error:
            raise _unreadable(source, error) from error


def number_volumes(sources: Iterable[Path], first: int = 1) -> list[LogicalVolume]:
    """Name files L00001 and on, in their order."""
    return [
        LogicalVolume.of(f"L{number:05}", source) for number, source in enumerate(sources, first)
    ]


@dataclass(frozen=True, slots=True)
class VolumeHeader:
    """What the header label says."""

    name: str
    size: int
    sha256: str
    path: str

    def encode(self) -> Block:
        """Return the label's block."""
        return _label(
            label="header", volume=self.name, size=self.size, sha256=self.sha256, path=self.path
        )


@dataclass(frozen=True, slots=True)
class VolumeTrailer:
    """What the trailer label says."""

    name: str
    blocks: int

    def encode(self) -> Block:
        """Return the label's block."""
        return _label(label="trailer", volume=self.name, blocks=self.blocks)


def decode_label(data: bytes) -> VolumeHeader | VolumeTrailer:
    """Read a label; raises VolumeError."""
    if len(data) > MAX_LABEL_BYTES:
        raise VolumeError(f"A volume label of {len(data)} bytes is on the tape: too long for one.")
    try:
        content = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError):
        raise VolumeError("A volume label on the tape is not JSON.") from None
    match content:
        case {
            "label": "header",
            "volume": str(name),
            "size": int(size),
            "sha256": str(sha256),
            "path": str(path),
            **others,
        } if not others and _NAME.fullmatch(name) and size >= 0 and _SHA256.fullmatch(sha256):
            return VolumeHeader(name, size, sha256, path)
        case {
            "label": "trailer",
            "volume": str(name),
            "blocks": int(blocks),
            **others,
        } if not others and _NAME.fullmatch(name) and blocks >= 0:
            return VolumeTrailer(name, blocks)
    raise VolumeError("A volume label on the tape is neither a header nor a trailer.")


def _label(**content: str | int) -> Block:
    data = json.dumps(content).encode("ascii")
    if len(data) > MAX_LABEL_BYTES:
        raise VolumeError(f"The path name of volume {content['volume']} is too long for a label.")
    return Block(data, label=True)


# Writing


def prepare(volumes: Sequence[LogicalVolume]) -> list[VolumeHeader]:
    """Read every file once, so that one that cannot be read fails before anything is mounted."""
    names = [volume.name for volume in volumes]
    if not names:
        raise VolumeError("There is no logical volume to write; give at least one.")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise VolumeError(f"The logical volume {twice} is given twice; give each its own name.")
    return [_header(volume) for volume in volumes]


def _header(volume: LogicalVolume) -> VolumeHeader:
    try:
        with volume.source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise _unreadable(volume.source, error) from error
    if volume.sha256 not in ("", sha256):
        raise VolumeError(
            f"The file {volume.source} is not what was stored as {volume.name} any more: its "
            f"SHA-256 is {sha256} and was {volume.sha256}; restore it."
        )
    return VolumeHeader(volume.name, size, sha256, volume.origin or str(volume.source))


def blocks_of(
    volume: LogicalVolume, header: VolumeHeader, block_bytes: int = MAX_BLOCK_BYTES
) -> Iterator[Block]:
    """Yield a volume as it goes to tape; raises VolumeError when the file changed meanwhile."""
    yield header.encode()
    sha256 = hashlib.sha256()
    count = 0
    try:
        with volume.source.open("rb") as file:
            while data := file.read(block_bytes):
                sha256.update(data)
                count += 1
                yield Block(data)
    except OSError as error:
        raise _unreadable(volume.source, error) from error
    if sha256.hexdigest() != header.sha256:
        raise VolumeError(
            f"The file {volume.source} changed while it was written as {volume.name}; write it "
            f"again."
        )
    yield VolumeTrailer(volume.name, count).encode()


def in_batches(blocks: Iterable[Block], batch_bytes: int) -> Iterator[list[Block]]:
    """Gather blocks into runs of at least `batch_bytes`, the last may be shorter."""
    batch: list[Block] = []
    size = 0
    for block in blocks:
        batch.append(block)
        size += len(block.data)
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# Reading


class VolumeSink(Protocol):
    """Where volumes go that are read; may raise OSError.

    `end` is called for a whole and verified volume only, `abandon` for any other.
    """

    def begin(self, header: VolumeHeader) -> None:
        """Take the beginning of a volume."""

    def write(self, data: bytes) -> None:
        """Take more of its data."""

    def end(self) -> None:
        """Take its end: all data came, and its SHA-256 is right."""

    def abandon(self) -> None:
        """Drop it: it is incomplete."""


class NullSink:
    """Keeps nothing: reading verifies all the same."""

    def begin(self, header: VolumeHeader) -> None:
        """Do nothing."""

    def write(self, data: bytes) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def abandon(self) -> None:
        """Do nothing."""


class FolderSink:
    """Writes each volume into a folder, under its name; it appears there whole or not at all."""

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
        """Write on."""
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
    """Compares each volume with the file that it was written from."""

    def __init__(self, volumes: Iterable[LogicalVolume]) -> None:
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
        """Compare on."""
        self._same = self._same and self._file is not None and self._file.read(len(data)) == data

    def end(self) -> None:
        """Judge."""
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
    """Turns blocks into volumes again, and says which were whole."""

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
            with self._storing(label):
                self._sink.begin(label)

    def finish(self) -> None:
        """Take the end of the tape: a volume still open is incomplete."""
        if self._header is not None:
            self.incomplete.append(self._header.name)
            if self._wanted(self._header):
                with self._storing(self._header):
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
            with self._storing(self._header):
                self._sink.write(data)

    def _end(self, trailer: VolumeTrailer) -> None:
        header = self._header
        if header is None or trailer.name != header.name:
            raise VolumeError(f"There is a trailer of {trailer.name} on the tape without a header.")
        found = (self._blocks, self._size, self._sha256.hexdigest())
        if found != (trailer.blocks, header.size, header.sha256):
            raise VolumeError(
                f"The logical volume {header.name} did not come back as it was written: "
                f"{self._size} of {header.size} bytes in {self._blocks} of {trailer.blocks} "
                f"blocks, SHA-256 {found[2]} where the label says {header.sha256}."
            )
        if self._wanted(header):
            with self._storing(header):
                self._sink.end()
            self.whole.append(header)
            self.bytes += header.size
        self._header = None

    @staticmethod
    @contextlib.contextmanager
    def _storing(header: VolumeHeader) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VolumeError(
                f"The logical volume {header.name} was read, but cannot be put where it goes: "
                f"{error.filename or 'there'}: {error.strerror}."
            ) from error


def _unreadable(path: Path, error: OSError) -> VolumeError:
    return VolumeError(
        f"The file {path} cannot be read ({error.strerror}); leave it out or change its mode."
    )
