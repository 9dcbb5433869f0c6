"""AWSTAPE (``.aws``, ``.het``): tape images made of blocks and tape marks.

A block is one or more segments, each behind a header of six bytes, integers little endian:

    bytes of this segment (2) | bytes of the segment before (2) | flags (1) | 0 (1)

Flag 0x80 begins a block, 0x20 ends it; 0x40 alone is a tape mark and has no bytes. Each header
gives the length of the segment before, so that a tape can be read backwards; here it proves that
nothing was lost in between. In the Hercules Emulated Tape (HET) a block may be compressed before it
is cut into segments: flag 0x01 zlib, 0x02 bzip2. Source: Hercules, `hetlib.h`, and OS/390's AWSTAPE
devices.
"""

from __future__ import annotations

import bz2
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from hsm.errors import TaperigError
from hsm.files import open_regular

MAX_SEGMENT_BYTES = 65_535
MAX_BLOCK_BYTES = 2 * 1024 * 1024
"""Longest block taken in; channel programs write at most 64 KiB, large block interfaces 2 MiB."""

_HEADER = struct.Struct("<HHBB")
_BEGINS, _MARK, _ENDS = 0x80, 0x40, 0x20
_ZLIB, _BZIP2 = 0x01, 0x02
_COMPRESSED = _ZLIB | _BZIP2

TAPE_MARK = None
"""What stands for a tape mark where blocks are read and written."""


class AwsTapeError(TaperigError):
    """A file is not an AWSTAPE image, or its image is damaged."""


def read_image(path: Path) -> Iterator[bytes | None]:
    """Yield an image's blocks, and `TAPE_MARK` for each tape mark.

    Raises AwsTapeError, with the place, at the first byte that does not fit.
    """
    try:
        with open_regular(path) as file:
            yield from _blocks(file, path)
    except OSError as error:
        raise AwsTapeError(
            f"The tape image {path} cannot be read ({error.strerror}); name a readable file."
        ) from error


def _blocks(file: BinaryIO, path: Path) -> Iterator[bytes | None]:
    block: bytearray | None = None
    place = before = method = 0
    while header := file.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise _damaged(path, place, "it ends inside a segment's header")
        length, length_before, flags, reserved = _HEADER.unpack(header)
        if length_before != before or reserved:
            raise _damaged(path, place, "there is no segment's header where one must be")
        if flags == _MARK:
            if length or block is not None:
                raise _damaged(path, place, "a tape mark has bytes, or is inside a block")
            yield TAPE_MARK
        else:
            block = _block_of_segment(block, flags & ~_COMPRESSED, path, place)
            if flags & _BEGINS:
                method = flags & _COMPRESSED
            elif flags & _COMPRESSED != method:
                raise _damaged(path, place, "a block goes on in another compression")
            data = file.read(length)
            if len(data) < length:
                raise _damaged(path, place, "it ends inside a block")
            block += data
            if len(block) > MAX_BLOCK_BYTES:
                raise _damaged(path, place, f"a block is longer than {MAX_BLOCK_BYTES} bytes")
            if flags & _ENDS:
                try:
                    yield _expanded(bytes(block), method)
                except (OSError, ValueError, zlib.error) as error:
                    raise _damaged(path, place, f"a compressed block is none ({error})") from error
                block = None
        place += _HEADER.size + length
        before = length
    if block is not None:
        raise _damaged(path, place, "it ends inside a block")


def _expanded(data: bytes, method: int) -> bytes:
    """Return a block as it was before compression.

    Raises ValueError when it is too long or incomplete, zlib.error or OSError when it is none.
    """
    if not method:
        return data
    if method == _ZLIB:
        expander = zlib.decompressobj()
        block = expander.decompress(data, MAX_BLOCK_BYTES + 1)
        whole = expander.eof and not expander.unused_data
    elif method == _BZIP2:
        reader = bz2.BZ2Decompressor()
        block = reader.decompress(data, MAX_BLOCK_BYTES + 1)
        whole = reader.eof and not reader.unused_data
    else:
        raise ValueError("its compression is unknown")
    if len(block) > MAX_BLOCK_BYTES:
        raise ValueError(f"it is longer than {MAX_BLOCK_BYTES} bytes")
    if not whole:
        raise ValueError("it is not whole")
    return block


def _block_of_segment(block: bytearray | None, flags: int, path: Path, place: int) -> bytearray:
    """Return the block that a segment with these flags continues."""
    if flags & ~(_BEGINS | _ENDS) or bool(flags & _BEGINS) != (block is None):
        raise _damaged(path, place, f"a segment has the flags {flags:#04x}, which do not fit here")
    return bytearray() if block is None else block


def _damaged(path: Path, place: int, what: str) -> AwsTapeError:
    return AwsTapeError(
        f"The file {path} is not a whole AWSTAPE image: at byte {place} {what}; create it again."
    )


_COMPRESSORS: Mapping[int, Callable[[bytes], bytes]] = {_ZLIB: zlib.compress, _BZIP2: bz2.compress}


def check_block(data: bytes) -> None:
    """Raise AwsTapeError unless a tape takes a block of this length."""
    if not 1 <= len(data) <= MAX_BLOCK_BYTES:
        raise AwsTapeError(
            f"A tape block has 1 to {MAX_BLOCK_BYTES} bytes, not {len(data)}; cut it."
        )


class ImageWriter:
    """Writes an image, which appears under its name whole or not at all."""

    def __init__(self, path: Path, *, compress: bool = False) -> None:
        """Prepare to write `path`; an image of that name is replaced at the end.

        With `compress` it is a HET, compressed with zlib.
        """
        self.path = path
        self._method = _ZLIB if compress else 0
        self._partial = path.with_name(f".{path.name}.partial")
        self._before = 0
        try:
            self._file = self._partial.open("wb")
        except OSError as error:
            raise self._unwritable(error) from error

    def block(self, data: bytes) -> None:
        """Write a block of 1 byte to `MAX_BLOCK_BYTES`."""
        check_block(data)
        method = self._method
        if method:
            compressed = _COMPRESSORS[method](data)
            if len(compressed) < len(data):
                data = compressed
            else:
                method = 0
        for start in range(0, len(data), MAX_SEGMENT_BYTES):
            segment = data[start : start + MAX_SEGMENT_BYTES]
            begins = _BEGINS if start == 0 else 0
            ends = _ENDS if start + len(segment) == len(data) else 0
            self._write(segment, begins | ends | method)

    def tape_mark(self) -> None:
        """Write a tape mark."""
        self._write(b"", _MARK)

    def __enter__(self) -> Self:
        """Write inside the context."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the image its name, or remove it after an error."""
        self._file.close()
        if error is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)

    def _write(self, segment: bytes, flags: int) -> None:
        self.put(_HEADER.pack(len(segment), self._before, flags, 0) + segment)
        self._before = len(segment)

    def put(self, data: bytes) -> None:
        """Write bytes as they are."""
        try:
            self._file.write(data)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> AwsTapeError:
        return AwsTapeError(
            f"The tape image {self.path} cannot be written ({error.strerror}); name another place."
        )
