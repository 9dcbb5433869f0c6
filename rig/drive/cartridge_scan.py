"""The scan of a cartridge's media from its beginning to its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rig.drive.cartridge_format import (
    END_MAGIC,
    HEADER_BYTES,
    PAGE_MAGIC,
    RECORD_MAGIC,
    CartridgeMemory,
    DamagedCartridgeError,
    EndMark,
    Layout,
    RecordHeader,
)

Read = Callable[[int, int], bytes]  # offset, count -> bytes; fewer at the end of the file


@dataclass(slots=True)
class MediaScan:
    """What is on the media: records, copies of the memory, the end."""

    layout: Layout
    epoch: int  # of the last record or mark
    end: int  # behind the last thing that is whole
    headers: list[RecordHeader] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # of the headers, in bytes
    copies: list[tuple[int, CartridgeMemory | None]] = field(default_factory=list)  # None: damaged
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
            else self.layout.media_offset
        )


def read_page(read: Read, offset: int, layout: Layout) -> CartridgeMemory | None:
    """Return the memory page at `offset`, or None where there is no whole one."""
    try:
        return CartridgeMemory.decode(read(offset, layout.page_bytes))
    except DamagedCartridgeError:
        return None


def read_last_page(read: Read, size: int, layout: Layout) -> CartridgeMemory | None:
    """Return the copy behind the end-of-data mark, if the file ends so."""
    at = size - layout.page_bytes - HEADER_BYTES
    if at < layout.media_offset:
        return None
    try:
        RecordHeader.decode_end(read(at, HEADER_BYTES))
    except DamagedCartridgeError:
        return None
    page = read_page(read, size - layout.page_bytes, layout)
    return page if page is not None and page.end_offset == at else None


def scan_media(
    read: Read,
    size: int,
    layout: Layout,
    memory: CartridgeMemory | None = None,
    acknowledged: int | None = None,
) -> MediaScan:
    """Scan the media of a file of `size` bytes, as far as it is whole.

    Without a memory, only to find page copies, the items written first count. `acknowledged` is the
    end that a slot of the memory says. Behind it only what the memory's own epoch wrote counts, and
    a damaged copy is not stepped over: what a power cut tore must not lead on into old data. Before
    it, a damaged copy is stepped over where what must come next does come.
    """
    scan = MediaScan(layout, memory.first_epoch if memory else 0, layout.media_offset)
    at = layout.media_offset
    while True:
        inside = acknowledged is None or at < acknowledged
        if memory is not None and len(scan.headers) < memory.block_count:
            inside = True
        floor = scan.epoch if inside or memory is None else memory.epoch
        item = _read_item(read, at, size, scan, memory)
        if isinstance(item, RecordHeader) and not isinstance(item, EndMark) and item.epoch < floor:
            item = f"a record left from epoch {item.epoch}, not {floor}"
        if (
            isinstance(item, str)
            and inside
            and not isinstance(_read_item(read, at + layout.page_bytes, size, scan, memory), str)
        ):
            scan.notes.append(f"the copy of the memory at byte {at} is damaged")
            scan.copies.append((at, None))
            at += layout.page_bytes
            continue
        if isinstance(item, str):
            scan.stopped = item
            return scan
        if isinstance(item, CartridgeMemory):
            scan.copies.append((at, item))
            at += layout.page_bytes
        elif isinstance(item, EndMark):
            scan.end, scan.marked, scan.epoch = at, True, item.epoch
            return scan
        else:
            scan.headers.append(item)
            scan.offsets.append(at)
            at += HEADER_BYTES + item.payload_bytes
            scan.epoch = item.epoch
        scan.end = at


def _read_item(
    read: Read, at: int, size: int, scan: MediaScan, memory: CartridgeMemory | None
) -> CartridgeMemory | RecordHeader | str:
    """Return the item at `at` if it may come next, else why it may not."""
    head = read(at, HEADER_BYTES)
    if not head:
        return "the file ends before it"
    page = read_page(read, at, scan.layout) if head.startswith(PAGE_MAGIC) else None
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
