"""SIMH magnetic tape images (``.tap``): records and tape marks.

A record is its length (4 bytes, little endian), its data, padded to an even length, and its length
again. A length of 0 is a tape mark; 0xFFFFFFFF ends the medium, 0xFFFFFFFE is an erase gap. The
highest bit of a length marks a record that was read with an error. Source: SIMH Magtape
Representation and Handling, 2006.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hsm.files import open_regular
from rig.ve.volumes.awstape import (
    MAX_BLOCK_BYTES,
    TAPE_MARK,
    AwsTapeError,
    ImageWriter,
    check_block,
)

_LENGTH = struct.Struct("<I")
_END, _GAP, _ERROR = 0xFFFFFFFF, 0xFFFFFFFE, 0x80000000


def read_simh(path: Path) -> Iterator[bytes | None]:
    """Yield an image's records, and `TAPE_MARK` for each tape mark.

    Raises AwsTapeError, with the place, at the first byte that does not fit.
    """
    try:
        with open_regular(path) as file:
            yield from _records(file, path)
    except OSError as error:
        raise AwsTapeError(
            f"The tape image {path} cannot be read ({error.strerror}); name a readable file."
        ) from error


def _records(file: BinaryIO, path: Path) -> Iterator[bytes | None]:
    place = 0
    while head := file.read(_LENGTH.size):
        if len(head) < _LENGTH.size:
            raise _damaged(path, place, "it ends inside a length")
        (length,) = _LENGTH.unpack(head)
        place += _LENGTH.size
        if length == _END:
            return
        if length == _GAP:
            continue
        if not length:
            yield TAPE_MARK
            continue
        if length & _ERROR:
            raise _damaged(path, place, "a record is marked as read with an error")
        if length > MAX_BLOCK_BYTES:
            raise _damaged(path, place, f"a record is longer than {MAX_BLOCK_BYTES} bytes")
        padded = length + length % 2
        data = file.read(padded + _LENGTH.size)
        if len(data) < padded + _LENGTH.size or data[padded:] != head:
            raise _damaged(path, place, "a record has not its length behind it")
        yield data[:length]
        place += padded + _LENGTH.size


def _damaged(path: Path, place: int, what: str) -> AwsTapeError:
    return AwsTapeError(
        f"The file {path} is not a whole SIMH tape image: at byte {place} {what}; create it again."
    )


class SimhWriter(ImageWriter):
    """Writes a SIMH image, which appears under its name whole or not at all."""

    def block(self, data: bytes) -> None:
        """Write a record of 1 byte to `MAX_BLOCK_BYTES`."""
        check_block(data)
        length = _LENGTH.pack(len(data))
        self.put(length + data + bytes(len(data) % 2) + length)

    def tape_mark(self) -> None:
        """Write a tape mark."""
        self.put(_LENGTH.pack(0))
