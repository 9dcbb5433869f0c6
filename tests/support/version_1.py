"""Cartridges of format version 1, as earlier drives wrote them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import VERSION_1, CartridgeMemory, Flags, RecordHeader, TapeFormat


def as_version_1(path: Path) -> None:
    """Write a cartridge again in version 1, its records byte for byte."""
    with Cartridge.open(path) as cartridge:
        memory = cartridge.memory
        records = cartridge.read(0, cartridge.block_count)
    epochs = {record.header.epoch for record in records}
    media = bytearray()
    at = VERSION_1.media_offset
    starts = {min(r.header.block for r in records if r.header.epoch == each) for each in epochs}
    old = replace(memory, version=1, seal=None, kad=(b"", b""), sequence=1, end_offset=at)
    blank = memory.format is TapeFormat.BLANK
    for record in records:
        if record.header.block in starts:
            media += replace(
                old, epoch=record.header.epoch, block_count=record.header.block
            ).encode()
        media += record.header.encode() + record.data + record.tag
    newest = replace(old, sequence=3, end_offset=at + len(media), block_count=len(records))
    if blank:
        newest = replace(old, sequence=3)
    else:
        end = RecordHeader(len(records), 0, Flags(0), memory.epoch, 0)
        media += end.encode_end() + newest.encode()
    slots = [replace(newest, sequence=2).encode(), newest.encode()]
    path.write_bytes(b"".join(slots) + media)
    with Cartridge.open(path) as cartridge:
        assert cartridge.memory == newest
        assert cartridge.read(0, cartridge.block_count) == records
        assert not cartridge.notes


def version_of(path: Path) -> int:
    """Return the version of a cartridge's format."""
    return CartridgeMemory.decode(path.read_bytes()[: _page_bytes(path)]).version


def _page_bytes(path: Path) -> int:
    with Cartridge.open(path) as cartridge:
        return cartridge.memory.layout.page_bytes
