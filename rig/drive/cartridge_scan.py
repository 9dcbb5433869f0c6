"""Going over the media of a cartridge from its beginning, as far as it is whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rig.drive.cartridge_format import (
    END_MAGIC,
    HEADER_BYTES,
    MEDIA_OFFSET,
    PAGE_BYTES,
    PAGE_MAGIC,
    RECORD_MAGIC,
    CartridgeMemory,
    DamagedCartridgeError,
    RecordHeader,
)

Read = Callable[[int, int], bytes]  # offset, count -> bytes; fewer at the end of the file


@dataclass(slots=True)
class Walk:
    """What was found on the media."""

    epoch: int  # of the last record or mark
    headers: list[RecordHeader] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # of the headers, in bytes
    copies: list[tuple[int, CartridgeMemory | None]] = field(default_factory=list)  # None: damaged
    end: int = MEDIA_OFFSET  # behind the last thing that is whole
    marked: bool = False  # an end-of-data mark stands there
    stopped: str = ""  # why it ended, without a mark
    notes: list[str] = field(default_factory=list)

    @property
    def pages(self) -> list[CartridgeMemory]:
        """The copies of the memory that are whole, in their order."""
        return [page for _, page in self.copies if page is not None]

    def cut_back(self, number: int) -> None:
        """Drop block `number`, which is not whole, and everything behind the block before it."""
        self.marked, self.stopped = False, f"block {number} is not whole"
        del self.headers[number:], self.offsets[number:]
        self.end = (
            self.offsets[-1] + HEADER_BYTES + self.headers[-1].payload_bytes
            if number
            else MEDIA_OFFSET
        )


def read_page(read: Read, offset: int) -> CartridgeMemory | None:
    """Return the memory page at `offset`, or None where there is no whole one."""
    try:
        return CartridgeMemory.decode(read(offset, PAGE_BYTES))
    except DamagedCartridgeError:
        return None


def read_last_page(read: Read, size: int) -> CartridgeMemory | None:
    """Return the copy behind the end-of-data mark, if the file of `size` bytes ends with both."""
    at = size - PAGE_BYTES - HEADER_BYTES
    if at < MEDIA_OFFSET:
        return None
    try:
        RecordHeader.decode_end(read(at, HEADER_BYTES))
    except DamagedCartridgeError:
        return None
    page = read_page(read, size - PAGE_BYTES)
    return page if page is not None and page.end_offset == at else None


def walk_media(
    read: Read, size: int, memory: CartridgeMemory | None = None, acknowledged: int | None = None
) -> Walk:
    """Go over the media of a file of `size` bytes, as far as records follow each other.

    Without a memory, to find the page copies, whatever was written first counts. A copy that is
    damaged is stepped over where what must come next does come, but not behind the last record
    `acknowledged` (an offset): what a power cut tore must not lead on into old data.
    """
    walk = Walk(epoch=memory.first_epoch if memory else 0)
    at = MEDIA_OFFSET
    while True:
        found = _look(read, at, size, walk, memory)
        if (
            isinstance(found, str)
            and (acknowledged is None or at < acknowledged)
            and not isinstance(_look(read, at + PAGE_BYTES, size, walk, memory), str)
        ):
            walk.notes.append(f"the copy of the memory at byte {at} is damaged")
            walk.copies.append((at, None))
            at += PAGE_BYTES
            continue
        if isinstance(found, str):
            walk.stopped = found
            return walk
        if isinstance(found, CartridgeMemory):
            walk.copies.append((at, found))
            at += PAGE_BYTES
        elif found.length:
            walk.headers.append(found)
            walk.offsets.append(at)
            at += HEADER_BYTES + found.payload_bytes
            walk.epoch = found.epoch
        else:
            walk.end, walk.marked, walk.epoch = at, True, found.epoch
            return walk
        walk.end = at


def _look(
    read: Read, at: int, size: int, walk: Walk, memory: CartridgeMemory | None
) -> CartridgeMemory | RecordHeader | str:
    """Return what stands at `at` if it may come next, or else the reason why it may not."""
    head = read(at, HEADER_BYTES)
    if not head:
        return "the file ends before it"
    page = read_page(read, at) if head.startswith(PAGE_MAGIC) else None
    if page is not None:
        if memory is not None and page.cartridge_id != memory.cartridge_id:
            return "a copy of the memory of another cartridge"
        if memory is not None and page.first_epoch != memory.first_epoch:
            return "a copy of the memory from before the last write from BOT"
        return page
    try:
        if head.startswith(RECORD_MAGIC):
            header = RecordHeader.decode(head)
        elif head.startswith(END_MAGIC):
            header = RecordHeader.decode_end(head)
        else:
            return "no record header there"
    except DamagedCartridgeError as error:
        return str(error)
    if header.epoch < walk.epoch:
        return f"a record left from epoch {header.epoch}, not {walk.epoch}"
    if header.block != len(walk.headers):
        return f"block {header.block} stands in its place"
    if at + HEADER_BYTES + header.payload_bytes > size:
        return "the file ends inside it"
    return header
