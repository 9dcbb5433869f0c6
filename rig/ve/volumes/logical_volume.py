"""Logical volumes: what the host sees, many on one cartridge.

A logical volume is a real file. On tape it is a header label, its data in blocks of up to 256 KiB,
and a trailer label. Labels are marked as such in the record header and hold JSON (ASCII):

    {"label": "header", "volume": "L00001", "size": 5, "sha256": "...", "path": "/etc/hostname",
     "generation": 1, "storage_group": "PAYROLL", "management_class": "", "written": 1796112000.0,
     "role": "primary", "pool": 2, "copied": 1796112060.0}
    {"label": "trailer", "volume": "L00001", "blocks": 1}

`size` in bytes and `sha256` (hexadecimal) are of the whole file. What follows `path` is what a
catalogue needs when it is made anew from cartridges (`CopyFacts`); older labels end with `path`.
A volume without a trailer was cut off while it was written, and is not one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from hsm.errors import TaperigError
from hsm.files import open_regular
from rig.drive.cartridge_format import MAX_BLOCK_BYTES
from rig.drive.drive import Block

MAX_LABEL_BYTES = 64 * 1024
MAX_INTEGER = 2**63 - 1
"""The highest number in a label: what a catalogue can store."""
MAX_TIME = 253_402_300_799
"""The latest time in a label: the end of the year 9999."""
_NAME = re.compile(r"[A-Z0-9]{6}")
_CONSTRUCT = re.compile(r"[A-Za-z0-9._-]{0,64}")
_ROLES = ("", "primary", "secondary")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class VolumeError(TaperigError):
    """A file cannot become a logical volume, or one on tape is invalid."""


class VolumeFileError(VolumeError):
    """The file of a volume cannot be read, or is not what was stored."""

    def __init__(self, name: str, text: str) -> None:
        """Keep the name of the volume."""
        super().__init__(text)
        self.name = name


@dataclass(frozen=True, slots=True)
class CopyFacts:
    """What a header label says of a volume and of this copy for a catalogue.

    Times are seconds since 1970, UTC.
    """

    generation: int = 0
    """1 for the first content of that name, each rewrite is one higher; 0: not known."""
    storage_group: str = ""
    management_class: str = ""
    written: float = 0.0
    """When the host wrote the volume."""
    role: str = ""
    """`primary` or `secondary`; empty: not known."""
    pool: int = 0
    """The pool that the copy was written to; 0: not known."""
    copied: float = 0.0
    """When the copy was written to tape."""

    @classmethod
    def decode(cls, content: Mapping[Any, object]) -> CopyFacts | None:
        """Return the facts in a label's further members, None if wrong.

        An older label has no further members.
        """
        match content:
            case {
                "generation": int(generation),
                "storage_group": str(group),
                "management_class": str(management_class),
                "written": float(written),
                "role": str(role),
                "pool": int(pool),
                "copied": float(copied),
                **others,
            } if (
                not others
                and 0 <= generation <= MAX_INTEGER
                and _CONSTRUCT.fullmatch(group)
                and _CONSTRUCT.fullmatch(management_class)
                and role in _ROLES
                and 0 <= pool <= MAX_INTEGER
                and all(0 <= at <= MAX_TIME for at in (written, copied))
            ):
                return cls(generation, group, management_class, written, role, pool, copied)
        return None if content else cls()


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """A file to be written under a name of six capital letters or digits."""

    name: str
    source: Path
    size: int  # bytes
    sha256: str = ""
    """The expected SHA-256 of the file, hexadecimal, when it is known."""
    origin: str = ""
    """Where the content came from, for the label; by default the file's own path."""
    facts: CopyFacts = CopyFacts()

    def __post_init__(self) -> None:
        """Check the name."""
        if not _NAME.fullmatch(self.name):
            raise VolumeError(
                f"{self.name[:40]!r} is no name of a logical volume: give six capital letters or "
                f"digits, such as L00001."
            )

    @classmethod
    def of(cls, name: str, source: Path) -> VolumeFile:
        """Return a volume for a file."""
        try:
            return cls(name, source, source.stat().st_size)
        except OSError as error:
            raise _unreadable(name, source, error) from error

    def verify(self) -> None:
        """Read the file; raise VolumeFileError unless it is what was stored."""
        with self.opened() as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            raise _changed(self, f"its SHA-256 is {digest} and was {self.sha256}")

    @contextmanager
    def opened(self) -> Iterator[BufferedReader]:
        """Open the file to read it; raises VolumeFileError."""
        try:
            with open_regular(self.source) as file:
                yield file
        except OSError as error:
            raise _unreadable(self.name, self.source, error) from error


def path_text(path: Path) -> str:
    """Return a path as UTF-8 text; other bytes become escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True, slots=True)
class VolumeHeader:
    """The header label of a volume on tape."""

    name: str
    size: int
    sha256: str
    path: str
    facts: CopyFacts = CopyFacts()

    def encode(self) -> Block:
        """Return the label's block."""
        return _label(
            label="header",
            volume=self.name,
            size=self.size,
            sha256=self.sha256,
            path=self.path,
            **asdict(self.facts),
        )


@dataclass(frozen=True, slots=True)
class VolumeTrailer:
    """The trailer label of a volume on tape."""

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
        } if (
            _NAME.fullmatch(name)
            and 0 <= size <= MAX_INTEGER
            and _SHA256.fullmatch(sha256)
            and (facts := CopyFacts.decode(others)) is not None
        ):
            return VolumeHeader(name, size, sha256, path, facts)
        case {
            "label": "trailer",
            "volume": str(name),
            "blocks": int(blocks),
            **others,
        } if not others and _NAME.fullmatch(name) and blocks >= 0:
            return VolumeTrailer(name, blocks)
    raise VolumeError("A volume label on the tape is neither a header nor a trailer.")


def _label(**content: str | float) -> Block:
    data = json.dumps(content).encode("ascii")
    if len(data) > MAX_LABEL_BYTES:
        raise VolumeError(f"The path name of volume {content['volume']} is too long for a label.")
    return Block(data, label=True)


# Writing


def prepare(volumes: Sequence[VolumeFile]) -> list[VolumeHeader]:
    """Make the header labels of volumes to write.

    What cannot be written is refused here, before anything is mounted.

    A file whose SHA-256 is known is not read here: `blocks_of` compares it on the way to tape.
    """
    names = [volume.name for volume in volumes]
    if not names:
        raise VolumeError("There is no logical volume to write; give at least one.")
    if len(set(names)) != len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise VolumeError(f"The logical volume {duplicate} is given twice; give each its own name.")
    return [_header(volume) for volume in volumes]


def _header(volume: VolumeFile) -> VolumeHeader:
    with volume.opened() as file:
        size = os.fstat(file.fileno()).st_size
        sha256 = volume.sha256 or hashlib.file_digest(file, "sha256").hexdigest()
    if volume.sha256 and size != volume.size:
        raise _changed(volume, f"it has {size} bytes and had {volume.size}")
    origin = volume.origin or str(volume.source)
    return VolumeHeader(volume.name, size, sha256, origin, volume.facts)


def blocks_of(
    volume: VolumeFile, header: VolumeHeader, block_bytes: int = MAX_BLOCK_BYTES
) -> Iterator[Block]:
    """Yield a volume's blocks for tape; verify its SHA-256.

    The trailer comes only when the SHA-256 is the header's.

    Raises VolumeFileError when it is not.
    """
    yield header.encode()
    sha256 = hashlib.sha256()
    count = 0
    with volume.opened() as file:
        while data := file.read(block_bytes):
            sha256.update(data)
            count += 1
            yield Block(data)
    digest = sha256.hexdigest()
    if digest != header.sha256:
        raise _changed(volume, f"its SHA-256 is {digest} and was {header.sha256}")
    yield VolumeTrailer(volume.name, count).encode()


def _changed(volume: VolumeFile, how: str) -> VolumeFileError:
    if volume.sha256:
        text = (
            f"The file {volume.source} is not what was stored as {volume.name} any more: {how}; "
            f"restore it, or write the volume again."
        )
    else:
        text = (
            f"The file {volume.source} changed while it was written as {volume.name}: {how}; "
            f"write it again."
        )
    return VolumeFileError(volume.name, text)


def in_batches(blocks: Iterable[Block], batch_bytes: int) -> Iterator[list[Block]]:
    """Collect blocks into batches of at least `batch_bytes`.

    The last batch may be shorter.
    """
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


def _unreadable(name: str, path: Path, error: OSError) -> VolumeFileError:
    return VolumeFileError(
        name, f"The file {path} cannot be read ({error.strerror}); correct it or leave it out."
    )
