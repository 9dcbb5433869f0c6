"""The format of a cartridge: cartridge memory pages, records and marks.

Pure encoding and decoding; `rig/drive/cartridge.py` puts it into a file. The same text for readers
without this project is docs/cartridge-format.md. All numbers are big endian.

    0       cartridge memory, slot 0 (4096 bytes)      the slot with the higher sequence number
    4096    cartridge memory, slot 1 (4096 bytes)      of those that are whole is the memory
    8192    media: page copy | records | page copy | records ... | end-of-data mark | page copy

A page copy (a byte copy of the memory at that time) stands at the beginning of the media, where
each append begins, and behind the end-of-data mark: that is how the two EEDKs are stored "in
several places on the media" (KEY-2), and what a damaged memory is repaired from. A rekey puts
other EEDKs into both slots, then into each copy in its place.

Memory page, 4096 bytes:

    0     4   "TCMP"                       40   4   epoch: the last append epoch handed out
    4     2   version, 1                   44   4   first epoch since beginning of tape
    6     1   format: 0 blank, 1 clear,    48   8   file offset behind the last acknowledged record
              2 encrypted                  56   8   number of acknowledged records
    7     1   0                            64  16   key check (see below), 0 when not encrypted
    8     8   sequence number              80   2   length of EEDK 1    82  2  length of EEDK 2
    16    6   VOLSER, ASCII                84   4   0
    22    2   0                            88  1024 EEDK 1, padded with 0
    24   16   cartridge id, random        1112 1024 EEDK 2, padded with 0
                                          2136      0 up to 4092:  4  CRC-32 of bytes 0..4091

Record: a 48-byte header, then `length` bytes of data (ciphertext when encrypted), then, when
encrypted, the 16-byte tag. The end-of-data mark is such a header alone.

    0     4   "TREC"; "TEOD" for the mark      24   8   record counter
    4     1   flags: 1 encrypted,              32   4   CRC-32 of what follows the header
              2 volume label                   36   8   0
    5     3   0                                44   4   CRC-32 of bytes 0..43
    8     8   block number, from 0; in the mark: the number of blocks
    16    4   length of the data, 1..262144; 0 in the mark
    20    4   append epoch

AES-256-GCM: IV = append epoch (4) || record counter (8), 96 bits; tag 128 bits;
AAD, 16 bytes = VOLSER (6) || flags (1) || length (3) || block number (6).

Each writing pass (from BOT, or an append) has an epoch of its own, one above the last, that is in
the memory, synced and read back, before its first record is made; within a pass the counter
grows by one a record. So no IV repeats under one key (SP 800-38D, 8.2.1), whatever is lost in a
power cut. The counter begins at a random number, so that not even an older copy of the file, put
back and appended to again, repeats one.

Key check: the tag of an empty record under IV 0 (no pass has epoch 0), AAD with flags 0x80, length
0 and block number 2^48 - 1. It tells a wrong key before anything is read or written with it.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from hsm.errors import TaperigError

SUFFIX = ".tape"
"""How the name of a cartridge file ends."""
PAGE_BYTES = 4096
SLOT_OFFSETS = (0, PAGE_BYTES)
MEDIA_OFFSET = 2 * PAGE_BYTES
HEADER_BYTES = 48
TAG_BYTES = 16
KEY_CHECK_BYTES = 16
MAX_BLOCK_BYTES = 262144
MAX_EEDK_BYTES = 1024
MAX_BLOCKS = (1 << 48) - 1  # the last number is the key check's
MAX_EPOCH = (1 << 32) - 1
FORMAT_VERSION = 1

PAGE_MAGIC = b"TCMP"
RECORD_MAGIC = b"TREC"
END_MAGIC = b"TEOD"

_PAGE = struct.Struct(">4sHBxQ6s2x16sIIQQ16sHH4x")
_EEDK_OFFSETS = (88, 88 + MAX_EEDK_BYTES)
_HEADER = struct.Struct(">4sB3xQIIQI8x")
_CRC = struct.Struct(">I")
_VOLSER = re.compile(r"[A-Z0-9]{6}")


class CartridgeError(TaperigError):
    """A cartridge file is wrong, or cannot do what was asked."""


class UnusableCartridgeError(CartridgeError):
    """A cartridge that cannot be written or read; another one may."""


class DamagedCartridgeError(UnusableCartridgeError):
    """Bytes on the cartridge are not what was written there."""


class TapeFormat(IntEnum):
    """How the cartridge was written from beginning of tape."""

    BLANK = 0
    CLEAR = 1
    ENCRYPTED = 2


class Flags(IntFlag):
    """The kind of a record; part of its AAD."""

    ENCRYPTED = 0x01
    LABEL = 0x02  # a label of a logical volume, not data of the host
    KEY_CHECK = 0x80  # never on the media


_RECORD_FLAGS = Flags.ENCRYPTED | Flags.LABEL


def check_volser(text: str) -> str:
    """Return `text` if it is a VOLSER: six capital letters or digits."""
    if not _VOLSER.fullmatch(text):
        raise CartridgeError(
            f"VOLSER {text[:40]!r} is not six capital letters or digits; give one such as TAP001"
        )
    return text


@dataclass(frozen=True, slots=True)
class CartridgeMemory:
    """The cartridge memory, which a drive reads before the tape moves."""

    volser: str
    cartridge_id: bytes  # 16 random bytes, made with the cartridge
    sequence: int = 1
    format: TapeFormat = TapeFormat.BLANK
    epoch: int = 0
    first_epoch: int = 0
    end_offset: int = MEDIA_OFFSET  # bytes from the start of the file
    block_count: int = 0
    key_check: bytes = bytes(KEY_CHECK_BYTES)
    eedks: tuple[bytes, ...] = ()

    @property
    def version(self) -> int:
        """The version of the cartridge's format."""
        return FORMAT_VERSION

    def encode(self) -> bytes:
        """Return the page of 4096 bytes."""
        if len(self.eedks) > 2 or any(not 0 < len(e) <= MAX_EEDK_BYTES for e in self.eedks):
            raise CartridgeError(
                f"cartridge {self.volser} takes at most two EEDKs of 1 to {MAX_EEDK_BYTES} bytes, "
                f"but got {[len(e) for e in self.eedks]} bytes; shorten the key labels"
            )
        lengths = [len(e) for e in self.eedks] + [0, 0]
        page = bytearray(PAGE_BYTES)
        _PAGE.pack_into(
            page,
            0,
            PAGE_MAGIC,
            FORMAT_VERSION,
            self.format,
            self.sequence,
            self.volser.encode("ascii"),
            self.cartridge_id,
            self.epoch,
            self.first_epoch,
            self.end_offset,
            self.block_count,
            self.key_check,
            lengths[0],
            lengths[1],
        )
        for offset, eedk in zip(_EEDK_OFFSETS, self.eedks, strict=False):
            page[offset : offset + len(eedk)] = eedk
        _CRC.pack_into(page, PAGE_BYTES - 4, zlib.crc32(page[:-4]))
        return bytes(page)

    @classmethod
    def decode(cls, page: bytes) -> CartridgeMemory:
        """Decode a page; raises DamagedCartridgeError with the reason."""
        if len(page) != PAGE_BYTES or page[:4] != PAGE_MAGIC:
            raise DamagedCartridgeError("not a cartridge memory page")
        if _CRC.unpack_from(page, PAGE_BYTES - 4)[0] != zlib.crc32(page[:-4]):
            raise DamagedCartridgeError("cartridge memory page with a wrong CRC")
        (
            _,
            version,
            format_number,
            sequence,
            volser,
            cartridge_id,
            epoch,
            first_epoch,
            end_offset,
            block_count,
            key_check,
            *lengths,
        ) = _PAGE.unpack_from(page)
        if version != FORMAT_VERSION:
            raise DamagedCartridgeError(
                f"cartridge format version {version}, but only {FORMAT_VERSION} is known here"
            )
        if max(lengths) > MAX_EEDK_BYTES or (lengths[1] and not lengths[0]):
            raise DamagedCartridgeError(f"cartridge memory page with EEDKs of {lengths} bytes")
        eedks = tuple(
            page[offset : offset + length]
            for offset, length in zip(_EEDK_OFFSETS, lengths, strict=True)
            if length
        )
        try:
            memory = cls(
                volser=check_volser(volser.decode("ascii", "replace")),
                cartridge_id=cartridge_id,
                sequence=sequence,
                format=TapeFormat(format_number),
                epoch=epoch,
                first_epoch=first_epoch,
                end_offset=end_offset,
                block_count=block_count,
                key_check=key_check,
                eedks=eedks,
            )
        except (ValueError, CartridgeError) as error:
            raise DamagedCartridgeError(
                f"cartridge memory page with a wrong field: {error}"
            ) from error
        if (
            memory.encode() != page
            or first_epoch > epoch
            or end_offset < MEDIA_OFFSET
            or (memory.format is TapeFormat.ENCRYPTED) != bool(eedks)
        ):
            raise DamagedCartridgeError("cartridge memory page that contradicts itself")
        return memory


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The header in front of a record's data."""

    block: int
    length: int  # bytes of data, without the tag
    flags: Flags
    epoch: int
    counter: int
    payload_crc: int = 0

    @property
    def encrypted(self) -> bool:
        """Whether the data is ciphertext with a tag behind it."""
        return Flags.ENCRYPTED in self.flags

    @property
    def payload_bytes(self) -> int:
        """Bytes that follow the header: the data, and the tag when encrypted."""
        return self.length + (TAG_BYTES if self.encrypted else 0)

    @property
    def iv(self) -> bytes:
        """The 96-bit IV."""
        return struct.pack(">IQ", self.epoch, self.counter)

    def aad(self, volser: str) -> bytes:
        """Return the 16 bytes of AAD of this record on the cartridge `volser`."""
        return record_aad(volser, self.flags, self.length, self.block)

    def encode(self) -> bytes:
        """Return the 48 bytes in front of a record."""
        return self._encode(RECORD_MAGIC)

    def encode_end(self) -> bytes:
        """Return the 48 bytes of an end-of-data mark."""
        return self._encode(END_MAGIC)

    def _encode(self, magic: bytes) -> bytes:
        head = _HEADER.pack(
            magic, self.flags, self.block, self.length, self.epoch, self.counter, self.payload_crc
        )
        return head + _CRC.pack(zlib.crc32(head))

    @classmethod
    def decode(cls, head: bytes) -> RecordHeader:
        """Decode a record header; raises DamagedCartridgeError with the reason."""
        header = cls._decode(head, RECORD_MAGIC)
        if header.flags & ~_RECORD_FLAGS or not 0 < header.length <= MAX_BLOCK_BYTES:
            raise DamagedCartridgeError(
                f"record header with flags 0x{header.flags:02x} and length {header.length}"
            )
        return header

    @classmethod
    def decode_end(cls, head: bytes) -> RecordHeader:
        """Decode an end-of-data mark; raises DamagedCartridgeError."""
        header = cls._decode(head, END_MAGIC)
        if header.length or header.flags or header.payload_crc or header.counter:
            raise DamagedCartridgeError("end-of-data mark that contradicts itself")
        return header

    @classmethod
    def _decode(cls, head: bytes, magic: bytes) -> RecordHeader:
        if len(head) != HEADER_BYTES or head[:4] != magic:
            raise DamagedCartridgeError(f"no {magic.decode()} header")
        if _CRC.unpack_from(head, HEADER_BYTES - 4)[0] != zlib.crc32(head[:-4]):
            raise DamagedCartridgeError("header with a wrong CRC")
        _, flags, block, length, epoch, counter, crc = _HEADER.unpack_from(head)
        header = cls(block, length, Flags(flags), epoch, counter, crc)
        if header._encode(magic) != head or block > MAX_BLOCKS:
            raise DamagedCartridgeError("header that contradicts itself")
        return header


def record_aad(volser: str, flags: int, length: int, block: int) -> bytes:
    """Return the AAD of a record, 16 bytes: one word of the gates.

    VOLSER (6) || flags (1) || length (3) || block number (6).
    """
    return (
        volser.encode("ascii")
        + bytes((flags,))
        + length.to_bytes(3, "big")
        + block.to_bytes(6, "big")
    )


KEY_CHECK_IV = bytes(12)


def key_check_aad(volser: str) -> bytes:
    """Return the AAD of the key check; no record can have it."""
    return record_aad(volser, Flags.KEY_CHECK, 0, MAX_BLOCKS)
