"""The scan of a cartridge's media from its beginning to its end."""

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
class MediaScan:
    """What is on the media: records, copies of the memory, the end."""

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
        """Drop block `number`, which is not whole, and all that follows it."""
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
    """Return the copy behind the end-of-data mark, if the file ends so."""
    at = size - PAGE_BYTES - HEADER_BYTES
    if at < MEDIA_OFFSET:
        return None
    try:
        RecordHeader.decode_end(read(at, HEADER_BYTES))
    except DamagedCartridgeError:
        return None
    page = read_page(read, size - PAGE_BYTES)
    return page if page is not None and page.end_offset == at else None


def scan_media(
    read: Read, size: int, memory: CartridgeMemory | None = None, acknowledged: int | None = None
) -> MediaScan:
    """Scan the media of a file of `size` bytes, as far as it is whole.

    Without a memory, only to find page copies, the items written first count. A copy that is
    damaged is stepped over where what must come next does come, but not behind the last record
    `acknowledged` (an offset): what a power cut tore must not lead on into old data.
    """
    scan = MediaScan(epoch=memory.first_epoch if memory else 0)
    at = MEDIA_OFFSET
    while True:
        item = _read_item(read, at, size, scan, memory)
        if (
            isinstance(item, str)
            and (acknowledged is None or at < acknowledged)
            and not isinstance(_read_item(read, at + PAGE_BYTES, size, scan, memory), str)
        ):
            scan.notes.append(f"the copy of the memory at byte {at} is damaged")
            scan.copies.append((at, None))
            at += PAGE_BYTES
            continue
        if isinstance(item, str):
            scan.stopped = item
            return scan
        if isinstance(item, CartridgeMemory):
            scan.copies.append((at, item))
            at += PAGE_BYTES
        elif item.length:
            scan.headers.append(item)
            scan.offsets.append(at)
            at += HEADER_BYTES + item.payload_bytes
            scan.epoch = item.epoch
        else:
            scan.end, scan.marked, scan.epoch = at, True, item.epoch
            return scan
        scan.end = at


def _read_item(
    read: Read, at: int, size: int, scan: MediaScan, memory: CartridgeMemory | None
) -> CartridgeMemory | RecordHeader | str:
    """Return the item at `at` if it may come next, else why it may not."""
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
    if header.epoch < scan.epoch:
        return f"a record left from epoch {header.epoch}, not {scan.epoch}"
    if header.block != len(scan.headers):
        return f"block {header.block} stands in its place"
    if at + HEADER_BYTES + header.payload_bytes > size:
        return "the file ends inside it"
    return header
