"""The format of a cartridge: cartridge memory pages, records and marks.

Pure encoding and decoding; `rig/drive/cartridge.py` puts it into a file. The same text for readers
without this project is docs/cartridge-format.md. All numbers are big endian. Version 2:

    0       cartridge memory, slot 0 (8192 bytes)      the slot with the higher sequence number
    8192    cartridge memory, slot 1 (8192 bytes)      of those that are whole is the memory
    16384   media: page copy | records | page copy | records ... | end-of-data mark | page copy

A page copy (a copy of the memory at that time) stands at the beginning of the media, where each
append begins, and behind the end-of-data mark: that is how the two EEDKs are stored "in several
places on the media" (KEY-2), and what a damaged memory is repaired from. A rekey puts other EEDKs
into both slots, then into each copy in its place.

Memory page of version 2, 8192 bytes:

    0     4   "TCMP"                       48   8   file offset behind the last acknowledged record
    4     2   version, 2                   56   8   number of acknowledged records
    6     1   format: 0 blank, 1 clear,    64  16   key check (see below), 0 when not encrypted
              2 encrypted                  80   2   length of EEDK 1    82  2  length of EEDK 2
    7     1   0                            84   1   length of KAD 1     85  1  length of KAD 2
    8     8   sequence number              86   2   0
    16    6   VOLSER, ASCII                88   8   seal: nonce, 0 when there is none
    22    2   0                            96  16   seal: tag, 0 when there is none
    24   16   cartridge id, random        112  64   key-associated data (KAD) 1
    40    4   epoch: the last append      176  64   KAD 2, padded with 0
              epoch handed out            240  16   0
    44    4   first epoch since           256 3200  EEDK 1, padded with 0
              beginning of tape          3456 3200  EEDK 2, padded with 0
                                         6656       0 up to 8188:  4  CRC-32 of bytes 0..8187

Version 1 has pages of 4096 bytes (slots at 0 and 4096, the media at 8192), neither seal nor KAD,
and EEDKs of at most 1024 bytes at 88 and 1112. It is read and appended to; a write from BOT and a
rekey make version 2 of it.

Record: a 48-byte header, then `length` bytes of data (ciphertext when encrypted), then, when
encrypted, the 16-byte tag. A tape mark is a record without data; the end-of-data mark is such a
header alone.

    0     4   "TREC"; "TEOD" for the mark      24   8   record counter
    4     1   flags: 1 encrypted,              32   4   CRC-32 of what follows the header
              2 volume label, 4 tape mark      36   8   0
    5     3   0                                44   4   CRC-32 of bytes 0..43
    8     8   block number, from 0; in the mark: the number of blocks
    16    4   length of the data, 1..262144; 0 in a tape mark and in the mark
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

Seal of an encrypted memory of version 2: the tag of an empty record under the data key, with the
IV 0 (4) || nonce (8), 64 random bits and not 0, which no record and not the key check can have, and
as AAD the SHA-256 of the page without its CRC and with a seal of 0. A checksum tells damage; the
seal tells a memory that was made without the key: forged, or brought from another cartridge. It is
made each time that the memory is stored, and checked before the first block moves.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import zlib
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import Self

from hsm.errors import TaperigError

SUFFIX = ".tape"
"""How the name of a cartridge file ends."""
HEADER_BYTES = 48
TAG_BYTES = 16
KEY_CHECK_BYTES = 16
MAX_BLOCK_BYTES = 262144
MAX_KAD_BYTES = 64
MAX_BLOCKS = (1 << 48) - 1  # the last number is the key check's
MAX_EPOCH = (1 << 32) - 1

PAGE_MAGIC = b"TCMP"
RECORD_MAGIC = b"TREC"
END_MAGIC = b"TEOD"

_PAGE = struct.Struct(">4sHBxQ6s2x16sIIQQ16sHHBBxx")
_SEAL = struct.Struct(">8s16s")
_SEAL_OFFSET = _PAGE.size
_KAD_OFFSETS = (112, 112 + MAX_KAD_BYTES)
_HEADER = struct.Struct(">4sB3xQIIQI8x")
_CRC = struct.Struct(">I")
_VOLSER = re.compile(r"[A-Z0-9]{6}")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a version of the format has what."""

    version: int
    page_bytes: int
    first_eedk: int
    """Offset of EEDK 1 in a page; EEDK 2 follows it."""
    max_eedk_bytes: int
    max_kad_bytes: int
    seals: bool
    """Whether the memory of an encrypted cartridge has a seal."""

    @property
    def slot_offsets(self) -> tuple[int, int]:
        """Offsets of the two slots of the memory in the file."""
        return 0, self.page_bytes

    @property
    def media_offset(self) -> int:
        """Offset of the media in the file."""
        return 2 * self.page_bytes


VERSION_1 = Layout(1, 4096, 88, 1024, 0, False)
VERSION_2 = Layout(2, 8192, 256, 3200, MAX_KAD_BYTES, True)
LAYOUTS = {layout.version: layout for layout in (VERSION_1, VERSION_2)}

# Of what is written from BOT:
FORMAT_VERSION = VERSION_2.version
PAGE_BYTES = VERSION_2.page_bytes
SLOT_OFFSETS = VERSION_2.slot_offsets
MEDIA_OFFSET = VERSION_2.media_offset
MAX_EEDK_BYTES = VERSION_2.max_eedk_bytes


class CartridgeError(TaperigError):
    """A cartridge file is wrong, or cannot do what was asked."""


class UnusableCartridgeError(CartridgeError):
    """A cartridge that cannot be written or read; another one may."""


class DamagedCartridgeError(UnusableCartridgeError):
    """Bytes on the cartridge are not what was written there."""


class ForgedMemoryError(UnusableCartridgeError):
    """A cartridge memory was not made by a drive that had the data key."""


class TapeFormat(IntEnum):
    """How the cartridge was written from beginning of tape."""

    BLANK = 0
    CLEAR = 1
    ENCRYPTED = 2


class Flags(IntFlag):
    """The kind of a record; part of its AAD."""

    ENCRYPTED = 0x01
    LABEL = 0x02  # a label of a logical volume, not data of the host
    TAPE_MARK = 0x04  # no data
    KEY_CHECK = 0x80  # never on the media


_RECORD_FLAGS = Flags.ENCRYPTED | Flags.LABEL | Flags.TAPE_MARK


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
    kad: tuple[bytes, bytes] = (b"", b"")
    """Key-associated data of the host, two fields."""
    seal: Seal | None = None
    version: int = FORMAT_VERSION

    @property
    def layout(self) -> Layout:
        """The layout of the cartridge's version."""
        return LAYOUTS[self.version]

    @property
    def sealable(self) -> bool:
        """Whether the memory has a seal when it is stored."""
        return self.layout.seals and self.format is TapeFormat.ENCRYPTED

    @property
    def digest(self) -> bytes:
        """The SHA-256 of all that the seal covers, 32 bytes."""
        return hashlib.sha256(replace(self, seal=None).encode()[: -_CRC.size]).digest()

    def encode(self) -> bytes:
        """Return the page."""
        layout = self.layout
        if len(self.eedks) > 2 or any(not 0 < len(e) <= layout.max_eedk_bytes for e in self.eedks):
            raise CartridgeError(
                f"cartridge {self.volser} takes at most two EEDKs of 1 to {layout.max_eedk_bytes} "
                f"bytes, but got {[len(e) for e in self.eedks]} bytes; shorten the key labels"
            )
        if any(len(field) > layout.max_kad_bytes for field in self.kad):
            raise CartridgeError(
                f"cartridge {self.volser} takes key-associated data of at most "
                f"{layout.max_kad_bytes} bytes, but got {[len(field) for field in self.kad]} bytes"
            )
        lengths = [len(e) for e in self.eedks] + [0, 0]
        page = bytearray(layout.page_bytes)
        _PAGE.pack_into(
            page,
            0,
            PAGE_MAGIC,
            self.version,
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
            *map(len, self.kad),
        )
        if self.seal is not None:
            _SEAL.pack_into(page, _SEAL_OFFSET, self.seal.nonce, self.seal.tag)
        for offset, kad in zip(_KAD_OFFSETS, self.kad, strict=True):
            page[offset : offset + len(kad)] = kad
        for number, eedk in enumerate(self.eedks):
            offset = layout.first_eedk + number * layout.max_eedk_bytes
            page[offset : offset + len(eedk)] = eedk
        _CRC.pack_into(page, len(page) - _CRC.size, zlib.crc32(page[: -_CRC.size]))
        return bytes(page)

    @classmethod
    def decode(cls, page: bytes) -> CartridgeMemory:
        """Decode a page; raises DamagedCartridgeError with the reason."""
        if len(page) < _PAGE.size or page[:4] != PAGE_MAGIC:
            raise DamagedCartridgeError("not a cartridge memory page")
        layout = LAYOUTS.get(_PAGE.unpack_from(page)[1])
        if layout is None:
            raise DamagedCartridgeError(
                f"cartridge format version {_PAGE.unpack_from(page)[1]}, but only "
                f"{' and '.join(map(str, LAYOUTS))} are known here"
            )
        if len(page) != layout.page_bytes:
            raise DamagedCartridgeError("not a cartridge memory page")
        if _CRC.unpack_from(page, len(page) - _CRC.size)[0] != zlib.crc32(page[: -_CRC.size]):
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
        eedk_lengths, kad_lengths = lengths[:2], lengths[2:]
        if max(eedk_lengths) > layout.max_eedk_bytes or (eedk_lengths[1] and not eedk_lengths[0]):
            raise DamagedCartridgeError(f"cartridge memory page with EEDKs of {eedk_lengths} bytes")
        if max(kad_lengths) > layout.max_kad_bytes:
            raise DamagedCartridgeError(f"cartridge memory page with KAD of {kad_lengths} bytes")
        offsets = (layout.first_eedk, layout.first_eedk + layout.max_eedk_bytes)
        eedks = tuple(
            page[offset : offset + length]
            for offset, length in zip(offsets, eedk_lengths, strict=True)
            if length
        )
        first_kad, second_kad = (
            page[offset : offset + length]
            for offset, length in zip(_KAD_OFFSETS, kad_lengths, strict=True)
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
                kad=(first_kad, second_kad),
                seal=Seal.decode(page) if layout.seals else None,
                version=version,
            )
        except (ValueError, CartridgeError) as error:
            raise DamagedCartridgeError(
                f"cartridge memory page with a wrong field: {error}"
            ) from error
        if (
            memory.encode() != page
            or first_epoch > epoch
            or end_offset < layout.media_offset
            or (memory.format is TapeFormat.ENCRYPTED) != bool(eedks)
            or (memory.seal is not None and not memory.sealable)
        ):
            raise DamagedCartridgeError("cartridge memory page that contradicts itself")
        return memory


@dataclass(frozen=True, slots=True)
class Seal:
    """What tells that a memory was made with the data key."""

    nonce: bytes  # 8 bytes, not 0
    tag: bytes

    @property
    def iv(self) -> bytes:
        """The 96-bit IV; no record has epoch 0, and the key check has nonce 0."""
        return seal_iv(self.nonce)

    @classmethod
    def decode(cls, page: bytes) -> Self | None:
        """Return the seal in a page; None where it is 0.

        Raises ValueError for a tag without a nonce.
        """
        nonce, tag = _SEAL.unpack_from(page, _SEAL_OFFSET)
        if any(nonce):
            return cls(nonce, tag)
        if any(tag):
            raise ValueError("a seal without a nonce")
        return None


def seal_nonce() -> bytes:
    """Return a nonce for a seal: 64 random bits, not 0."""
    while not any(nonce := os.urandom(8)):
        pass
    return nonce


def seal_iv(nonce: bytes) -> bytes:
    """Return the IV of the seal with this nonce."""
    return bytes(4) + nonce


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The header in front of a record's data."""

    block: int
    length: int  # bytes of data, without the tag; 0 in a tape mark
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
        mark = Flags.TAPE_MARK in header.flags
        if (
            header.flags & ~_RECORD_FLAGS
            or header.length > MAX_BLOCK_BYTES
            or (header.length == 0) is not mark
            or (mark and Flags.LABEL in header.flags)
        ):
            raise DamagedCartridgeError(
                f"record header with flags 0x{header.flags:02x} and length {header.length}"
            )
        return header

    @classmethod
    def decode_end(cls, head: bytes) -> EndMark:
        """Decode an end-of-data mark; raises DamagedCartridgeError."""
        header = EndMark._decode(head, END_MAGIC)
        if header.length or header.flags or header.payload_crc or header.counter:
            raise DamagedCartridgeError("end-of-data mark that contradicts itself")
        return header

    @classmethod
    def _decode(cls, head: bytes, magic: bytes) -> Self:
        if len(head) != HEADER_BYTES or head[:4] != magic:
            raise DamagedCartridgeError(f"no {magic.decode()} header")
        if _CRC.unpack_from(head, HEADER_BYTES - 4)[0] != zlib.crc32(head[:-4]):
            raise DamagedCartridgeError("header with a wrong CRC")
        _, flags, block, length, epoch, counter, crc = _HEADER.unpack_from(head)
        header = cls(block, length, Flags(flags), epoch, counter, crc)
        if header._encode(magic) != head or block > MAX_BLOCKS:
            raise DamagedCartridgeError("header that contradicts itself")
        return header


class EndMark(RecordHeader):
    """The end-of-data mark: a header alone."""

    __slots__ = ()


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
