"""A cartridge: one file, whole after a power cut at any byte.

The bytes are described in `cartridge_format.py`. The order of the operations makes the file safe:

- the memory is stored in the slot that does not hold the newest good page, never in both at once;
- a new append epoch is stored, synced and read back before the first IV under it is used;
- records are synced before they count as written (`append` returns only then), and the memory's
  account of them follows, so at most one slot is ever unsynced;
- what lies behind the last whole record is cut off when the cartridge is opened for writing, but
  only where the memory says that nothing acknowledged can be there. Damage before that point is
  reported, and appending is refused.

An encrypted cartridge of version 2 has a seal on its memory, made with its data key each time that
the memory is stored. So such a cartridge is repaired only once it is unlocked: `unlock` is given
the hardware that holds the key, checks the seal, and does what opening left to do.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

from hsm.files import sync_directory
from rig.drive.cartridge_format import (
    HEADER_BYTES,
    KEY_CHECK_BYTES,
    MAX_BLOCK_BYTES,
    MAX_BLOCKS,
    MAX_EPOCH,
    PAGE_MAGIC,
    SUFFIX,
    VERSION_1,
    VERSION_2,
    CartridgeError,
    CartridgeMemory,
    DamagedCartridgeError,
    Flags,
    ForgedMemoryError,
    Layout,
    RecordHeader,
    Seal,
    TapeFormat,
    UnusableCartridgeError,
    check_volser,
    seal_iv,
    seal_nonce,
)
from rig.drive.cartridge_scan import MediaScan, read_last_page, read_page, scan_media
from rig.drive.tape_file import TapeFile


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it lies on the cartridge."""

    header: RecordHeader
    data: bytes
    tag: bytes  # empty in the clear format

    @property
    def crc_matches(self) -> bool:
        """Whether the payload has the CRC that the writing drive stored."""
        return zlib.crc32(self.tag, zlib.crc32(self.data)) == self.header.payload_crc


class KeyedHardware(Protocol):
    """The hardware while it holds the cartridge's data key."""

    def tag(self, iv: bytes, aad: bytes) -> bytes:
        """Return the tag of an empty record."""

    def matches(self, iv: bytes, aad: bytes, tag: bytes) -> bool:
        """Whether an empty record has this tag."""


class Cartridge:
    """An open cartridge: reads and writes its memory and its records."""

    def __init__(
        self, file: TapeFile, accept: Callable[[CartridgeMemory], None] = lambda memory: None
    ) -> None:
        """Read the memory, repaired from the media if needed; find the records."""
        self._file = file
        self._accept = accept
        self.path = file.path
        self.notes: list[str] = []  # what was repaired or cut, for the log
        self.damage = ""  # a sentence, when acknowledged records cannot be reached
        self._in_pass = False
        self._failed = False
        self._slot_unsynced = False
        self._counter = 0
        self.memory: CartridgeMemory
        self.headers: list[RecordHeader] = []  # of all whole records, by block number
        self._offsets: list[int] = []
        self._end = 0  # behind the last whole record
        self._slots: list[CartridgeMemory | None] = []  # as they were when it was opened
        self._known: list[CartridgeMemory] = []  # every page that was whole, the newest first
        self._scan: MediaScan
        self._keyed: KeyedHardware | None = None
        self._to_repair = False  # once it is unlocked
        self._epoch_floor = 0  # the highest epoch ever seen here
        try:
            self._load()
        except OSError as error:
            file.close()
            raise DamagedCartridgeError(
                f"cannot read cartridge {self.path}: {error.strerror}"
            ) from error
        except BaseException:
            file.close()
            raise

    # Create, open, close

    @classmethod
    def create(cls, path: Path, volser: str) -> None:
        """Create a blank cartridge; the file appears whole or not at all."""
        memory = CartridgeMemory(check_volser(volser), os.urandom(16), sequence=2)
        older = replace(memory, sequence=1)
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            with new.open("wb") as file:
                file.write(memory.encode() + older.encode())
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(new, path)
            finally:
                new.unlink()
            sync_directory(path.parent)
        except FileExistsError as error:
            raise CartridgeError(
                f"cartridge file {path} exists already; choose another VOLSER"
            ) from error
        except OSError as error:
            raise CartridgeError(
                f"cannot make cartridge file {path}: {error.strerror}; check the folder and its "
                f"free space"
            ) from error

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        write: bool = False,
        accept: Callable[[CartridgeMemory], None] = lambda memory: None,
    ) -> Cartridge:
        """Open a cartridge file.

        With `write` it is locked for this process alone, and repaired where that is safe: but only
        when `accept`, which is given its memory, raises nothing.
        """
        return cls(TapeFile(path, writable=write), accept)

    def close(self) -> None:
        """End a writing pass as `end_pass` does, and unlock the file."""
        try:
            self.end_pass()
        finally:
            self._file.close()

    def end_pass(self) -> None:
        """End a writing pass with its end-of-data mark."""
        try:
            if self._in_pass and not self._failed:
                self._write_end()
        finally:
            self._in_pass = False

    def __enter__(self) -> Cartridge:
        """Return the cartridge itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    # Properties

    @property
    def volser(self) -> str:
        """The VOLSER."""
        return self.memory.volser

    @property
    def format(self) -> TapeFormat:
        """Blank, clear or encrypted."""
        return self.memory.format

    @property
    def found(self) -> CartridgeMemory:
        """The memory with all records that are there, also those not acknowledged.

        Of a damaged cartridge, what the memory itself says.
        """
        if self.damage:
            return self.memory
        return replace(self.memory, end_offset=self._end, block_count=len(self.headers))

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self._file.writable

    @property
    def block_count(self) -> int:
        """Whole records on the cartridge; the next block has this number."""
        return len(self.headers)

    @property
    def data_bytes(self) -> int:
        """Bytes of data in all records."""
        return sum(header.length for header in self.headers)

    # The seal of the memory

    def unlock(self, keyed: KeyedHardware) -> None:
        """Check the memory's seal, and do the repairs that waited for the key.

        The newest memory with a seal that is right counts. Raises ForgedMemoryError when none has;
        nothing is changed then.
        """
        first, self._keyed = self._keyed is None, keyed
        if not first or not self.memory.sealable:
            return
        try:
            sealed = self._newest_sealed(keyed)
        except BaseException:
            self._keyed = None
            raise
        if sealed is not self._known[0]:
            self.notes.append(
                "the newest cartridge memory was not made with the data key; an older one was used"
            )
            self._take(sealed, self._known)
            self._accept(self.found)
        if self._to_repair:
            self._to_repair = False
            self._repair()

    def _newest_sealed(self, keyed: KeyedHardware) -> CartridgeMemory:
        for page in self._known:
            if _has_seal(page, keyed):
                return page
        raise ForgedMemoryError(
            f"The memory of cartridge {self.volser} has no seal of its data key: it was forged, or "
            f"brought from another cartridge. Nothing on it was read or written; put the right "
            f"cartridge back."
        )

    def _sealed(self, memory: CartridgeMemory) -> CartridgeMemory:
        """Return a memory with its seal, where it has one."""
        if not memory.sealable:
            return replace(memory, seal=None)
        if self._keyed is None:
            raise CartridgeError(
                f"cartridge {memory.volser} needs its data key in the drive to be written"
            )
        nonce = seal_nonce()
        return replace(memory, seal=Seal(nonce, self._keyed.tag(seal_iv(nonce), memory.digest)))

    # Write

    def begin_from_bot(
        self,
        tape_format: TapeFormat,
        eedks: tuple[bytes, ...] = (),
        key_check: bytes = bytes(KEY_CHECK_BYTES),
        *,
        kad: tuple[bytes, bytes] = (b"", b""),
        keyed: KeyedHardware | None = None,
    ) -> None:
        """Begin a writing pass from BOT, which replaces all records (BOT-5).

        `keyed` holds the new data key of an encrypted one. A cartridge of version 1 becomes one of
        version 2.
        """
        epoch = self._next_epoch()
        self._keyed, self._to_repair = keyed, False
        memory = replace(
            self.memory,
            format=tape_format,
            epoch=epoch,
            first_epoch=epoch,
            end_offset=VERSION_2.media_offset,
            block_count=0,
            key_check=key_check,
            eedks=eedks,
            kad=kad,
            version=VERSION_2.version,
        )
        if self.memory.layout is VERSION_2:
            self._store(memory, verify=True)
        else:
            self._replace_file(memory, lambda new: None)
        self.headers, self._offsets, self._end = [], [], self.memory.end_offset
        self.damage = ""
        self._begin_media()

    def begin_append(self, at: int | None = None) -> None:
        """Begin a writing pass behind the last record, in the present format.

        With `at` it is before that block; it and what follows are gone then.
        """
        if self.format is TapeFormat.BLANK:
            raise CartridgeError(
                f"cartridge {self.volser} is blank: there is nothing to append to; write it from "
                f"BOT"
            )
        if self.damage:
            raise DamagedCartridgeError(f"cannot append: {self.damage}")
        encrypted = self.format is TapeFormat.ENCRYPTED
        other = next((each for each in self.headers if each.encrypted is not encrypted), None)
        if other is not None:
            raise DamagedCartridgeError(
                f"cannot append: by its memory cartridge {self.volser} is "
                f"{self.format.name.lower()}, but block {other.block} is "
                f"{'encrypted' if other.encrypted else 'clear'}; it was forged or exchanged: "
                f"put the right cartridge back"
            )
        end, count = self._end, len(self.headers)
        if at is not None and at < count:
            end, count = self._offsets[at], at
        self._store(
            replace(self.memory, epoch=self._next_epoch(), end_offset=end, block_count=count),
            verify=True,
        )
        del self.headers[count:], self._offsets[count:]
        self._end = end
        self._begin_media()

    def rekey(self, eedks: tuple[bytes, ...]) -> None:
        """Replace both EEDKs, in the memory and in every copy on the media.

        No record is touched. The memory comes first: once one slot has the new EEDKs, they are the
        cartridge's. A power cut before that leaves the old ones; after one later, the next opening
        for writing finishes the rekey. When this returns, the old EEDKs are nowhere in the file.

        A cartridge of version 1 is copied into a file of version 2, its records byte for byte,
        which takes the place of the first: a power cut leaves one of them, whole.
        """
        if self.format is not TapeFormat.ENCRYPTED:
            raise CartridgeError(
                f"cartridge {self.volser} is not encrypted, so it has no EEDKs to replace; write "
                f"it from BOT in a pool that encrypts"
            )
        if not self._file.writable or self._in_pass or self._failed:
            raise CartridgeError(
                f"cartridge {self.volser} must be mounted for writing, with no writing pass begun, "
                f"to get new EEDKs"
            )
        if self.damage:
            raise DamagedCartridgeError(f"cannot store new EEDKs: {self.damage}")
        scan = scan_media(
            self._file.read, self._file.size(), self._layout, self.memory, self.memory.end_offset
        )
        if self._layout is not VERSION_2:
            self._copy_as_version_2(eedks, scan)
            return
        for _ in self._layout.slot_offsets:
            self._store(replace(self.memory, eedks=eedks), verify=True)
        self._renew_copies(scan)

    def next_headers(
        self, records: Sequence[tuple[int, Flags]], first: int | None = None
    ) -> list[RecordHeader]:
        """Return headers for records of these lengths (bytes) and flags.

        Each has a block number and an IV; an IV is used up, even if its record is never written.
        `first` is the first block's number where records before it are still to be appended.
        """
        if not self._in_pass or self._failed:
            raise CartridgeError(
                f"cartridge {self.volser} is not being written; begin a writing pass first"
            )
        if first is None:
            first = len(self.headers)
        if first + len(records) > MAX_BLOCKS:
            raise CartridgeError(f"cartridge {self.volser} is full: no more block numbers")
        encrypted = self.format is TapeFormat.ENCRYPTED
        headers = []
        for number, (length, flags) in enumerate(records):
            mark = Flags.TAPE_MARK in flags
            if length > MAX_BLOCK_BYTES or (length == 0) is not mark:
                raise CartridgeError(
                    f"a block of {length} bytes does not fit: blocks are 1 to {MAX_BLOCK_BYTES} "
                    f"bytes"
                )
            flags = flags & ~Flags.ENCRYPTED | (Flags.ENCRYPTED if encrypted else Flags(0))
            headers.append(
                RecordHeader(first + number, length, flags, self.memory.epoch, self._counter)
            )
            self._counter += 1
        return headers

    def after(
        self, headers: Sequence[RecordHeader], before: CartridgeMemory | None = None
    ) -> CartridgeMemory:
        """Return the memory, without its seal, once these records are written.

        `before` is the one after records that are still to be appended.
        """
        if before is None:
            before = replace(self.memory, end_offset=self._end, block_count=len(self.headers))
        size = sum(HEADER_BYTES + header.payload_bytes for header in headers)
        return replace(
            before,
            sequence=before.sequence + 1,
            end_offset=before.end_offset + size,
            block_count=before.block_count + len(headers),
            seal=None,
        )

    def append(
        self,
        records: Sequence[tuple[RecordHeader, bytes, bytes]],
        memory: CartridgeMemory | None = None,
    ) -> None:
        """Write records of (header, data, tag); they are synced on return.

        `memory` is what `after` says of them, with its seal; by default it is made here.
        """
        parts: list[bytes] = []
        headers: list[RecordHeader] = []
        offsets: list[int] = []
        end = self._end
        for number, (header, data, tag) in enumerate(records, start=len(self.headers)):
            if (
                not self._in_pass
                or header.block != number
                or header.epoch != self.memory.epoch
                or header.length != len(data)
                or header.payload_bytes != len(data) + len(tag)
            ):
                raise CartridgeError(f"record {header.block} was not prepared by this pass")
            header = replace(header, payload_crc=zlib.crc32(tag, zlib.crc32(data)))
            parts += (header.encode(), data, tag)
            headers.append(header)
            offsets.append(end)
            end += HEADER_BYTES + header.payload_bytes
        after = self.after(headers)
        if memory is None:
            memory = self._sealed(after)
        elif replace(memory, seal=None) != after:
            raise CartridgeError(f"the memory of cartridge {self.volser} is not of these records")
        with self._failing("write"):
            self._file.write(self._end, b"".join(parts))
            self._sync()
        self.headers += headers
        self._offsets += offsets
        self._end = end
        self._write_slot(memory)

    # Read

    def read(self, first: int, count: int) -> list[StoredRecord]:
        """Read `count` records from block `first` on, with one read.

        Raises DamagedCartridgeError when the disk does not give them.
        """
        headers = self.headers[first : first + count]
        if not headers:
            return []
        start = self._offsets[first]
        last = first + len(headers) - 1
        size = self._offsets[last] + HEADER_BYTES + headers[-1].payload_bytes - start
        try:
            data = self._file.read(start, size)
        except OSError as error:
            raise DamagedCartridgeError(
                f"block {first} of {self.volser} cannot be read: {error.strerror}"
            ) from error
        if len(data) != size:
            raise DamagedCartridgeError(
                f"cartridge {self.path} became shorter while mounted; let nothing else write to it"
            )
        records = []
        for number, header in enumerate(headers, start=first):
            begin = self._offsets[number] - start + HEADER_BYTES
            middle = begin + header.length
            stop = begin + header.payload_bytes
            records.append(StoredRecord(header, data[begin:middle], data[middle:stop]))
        return records

    def offset(self, block: int) -> int:
        """Return the offset of block `block` in the file, in bytes."""
        return self._offsets[block]

    # Internal

    def _next_epoch(self) -> int:
        if not self._file.writable:
            raise CartridgeError(f"cartridge {self.volser} is mounted for reading only")
        if self._in_pass or self._failed:
            raise CartridgeError(
                f"cartridge {self.volser} must be demounted and mounted to be written again"
            )
        if self._epoch_floor >= MAX_EPOCH:
            raise UnusableCartridgeError(
                f"cartridge {self.volser} has been written {MAX_EPOCH} times and has no epoch left;"
                f" use another cartridge"
            )
        return self._epoch_floor + 1

    def _begin_media(self) -> None:
        """Write the page copy that begins a pass; only now may IVs be used."""
        self._epoch_floor = self.memory.epoch
        self._counter = int.from_bytes(os.urandom(8), "big") >> 1
        with self._failing("write"):
            self._file.truncate(self._end)
            self._write_page()
        self._in_pass = True

    def _renew_copies(self, scan: MediaScan) -> None:
        """Write the memory's EEDKs into copies that differ or are damaged.

        The copy behind the end-of-data mark, the newest, comes first. Each is safe before the next
        is touched: a torn one is stepped over, but two in a row would not be.
        """
        copies = list(scan.copies)
        if scan.marked:
            last = scan.end + HEADER_BYTES
            copies.insert(0, (last, read_page(self._file.read, last, self._layout)))
        for at, page in copies:
            if page is not None and page.eedks == self.memory.eedks:
                continue
            if page is None or (page.sealable and not _has_seal(page, self._keyed)):
                page = self.memory  # a forged copy gets no seal
            renewed = self._sealed(replace(page, eedks=self.memory.eedks))
            with self._failing("renew the EEDKs on the media of"):
                self._file.write(at, renewed.encode())
                self._sync()

    def _copy_as_version_2(self, eedks: tuple[bytes, ...], scan: MediaScan) -> None:
        """Make a file of version 2 with the same records; see `rekey`."""
        grown = VERSION_2.page_bytes - self._layout.page_bytes
        copies = sorted(at for at, _ in scan.copies)

        def moved(at: int) -> int:
            return at + grown * (2 + bisect_left(copies, at))  # two slots, and copies before it

        offsets = [moved(at) for at in scan.offsets]
        memory = replace(
            self.memory,
            version=VERSION_2.version,
            end_offset=moved(scan.end),
            block_count=len(scan.headers),
            eedks=eedks,
        )
        page = self._sealed(memory).encode()
        end = RecordHeader(len(scan.headers), 0, Flags(0), scan.epoch, 0).encode_end()

        def write(new: TapeFile) -> None:
            for at in copies:
                new.write(moved(at), page)
            for header, at in zip(scan.headers, scan.offsets, strict=True):
                new.write(moved(at), self._file.read(at, HEADER_BYTES + header.payload_bytes))
            new.write(moved(scan.end), end + page)

        self._replace_file(memory, write)
        self._offsets, self._end = offsets, memory.end_offset

    def _replace_file(self, memory: CartridgeMemory, write: Callable[[TapeFile], None]) -> None:
        """Put a new file in the place of this one, which stays mounted.

        It has `memory` in both slots, and what `write` writes to its media.
        """
        new = self.path.with_name(f".{self.path.name}.new")  # only who holds the lock writes it
        pages = []
        for number in (1, 2):
            memory = self._sealed(replace(memory, sequence=self.memory.sequence + number))
            pages.append((memory.layout.slot_offsets[memory.sequence % 2], memory.encode()))
        with self._failing("replace the file of"):
            new.write_bytes(b"")
            file = TapeFile(new, writable=True)
            try:
                for offset, page in pages:
                    file.write(offset, page)
                write(file)
                file.sync()
                new.replace(self.path)
                sync_directory(self.path.parent)
            except BaseException:
                file.close()
                new.unlink(missing_ok=True)
                raise
        file.path = self.path
        self._file.close()
        self._file, self.memory = file, memory

    def _write_page(self) -> None:
        self._file.write(self._end, self.memory.encode())
        self._end += self._layout.page_bytes

    def _write_end(self) -> None:
        """Mark the end of data, with a page copy behind it."""
        with self._failing("write"):
            if self._end == self._layout.media_offset:
                self._write_page()
            self._store(replace(self.memory, end_offset=self._end, block_count=len(self.headers)))
            mark = RecordHeader(len(self.headers), 0, Flags(0), self.memory.epoch, 0)
            self._file.write(self._end, mark.encode_end() + self.memory.encode())
            self._sync()

    def _store(self, memory: CartridgeMemory, *, verify: bool = False) -> None:
        """Store the memory in the older slot; `verify` syncs and reads it back."""
        memory = replace(memory, sequence=self.memory.sequence + 1)
        self._write_slot(self._sealed(memory), verify=verify)

    def _write_slot(self, memory: CartridgeMemory, *, verify: bool = False) -> None:
        page = memory.encode()
        slot = self._layout.slot_offsets[memory.sequence % 2]
        with self._failing("store the memory of"):
            if self._slot_unsynced:
                self._sync()
            self._slot_unsynced = True
            self._file.write(slot, page)
            if verify:
                self._sync()
                if self._file.read(slot, len(page)) != page:
                    self._failed = True
                    raise DamagedCartridgeError(
                        f"the memory of cartridge {self.path} does not read back as written; "
                        f"replace the disk that it lies on"
                    )
        self.memory = memory

    @property
    def _layout(self) -> Layout:
        return self.memory.layout

    def _sync(self) -> None:
        self._file.sync()
        self._slot_unsynced = False

    @contextlib.contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        """Raise an OSError as CartridgeError and end the pass.

        After such an error the content of the disk is unknown.
        """
        try:
            yield
        except OSError as error:
            self._failed = True
            raise CartridgeError(
                f"cannot {what} cartridge {self.path}: {error.strerror}; records acknowledged "
                f"before are safe: repair the disk, then mount and append again"
            ) from error

    def _load(self) -> None:
        file, size = self._file, self._file.size()
        for layout in (VERSION_2, VERSION_1):
            self._slots = [read_page(file.read, at, layout) for at in layout.slot_offsets]
            copies = (
                read_page(file.read, layout.media_offset, layout),
                read_last_page(file.read, size, layout),
            )
            known = [page for page in (*self._slots, *copies) if page is not None]
            known = known or scan_media(file.read, size, layout).pages
            if known:
                break
        else:
            raise DamagedCartridgeError(self._nothing_readable(size))
        self._take(max(known, key=lambda page: page.sequence), known)
        if self.memory in self._slots and None in self._slots:
            self.notes.append(
                f"cartridge memory slot {self._slots.index(None)} was damaged; the other was used"
            )
        self._accept(self.found)
        self._require_one_story()
        if self._file.writable:
            if self.memory.sealable:
                self._to_repair = True
            else:
                self._repair()

    def _take(self, memory: CartridgeMemory, known: Sequence[CartridgeMemory]) -> None:
        """Take a page for the memory, and find the records by it."""
        in_slot = memory in self._slots
        scan = scan_media(
            self._file.read,
            self._file.size(),
            memory.layout,
            memory,
            memory.end_offset if in_slot else None,
        )
        if not in_slot:  # a copy that comes later on the media may say more
            memory = max([memory, *scan.pages], key=lambda page: page.sequence)
            in_slot = memory in self._slots
        pages = {page.encode(): page for page in (*known, *scan.pages)}
        self._known = sorted(pages.values(), key=lambda page: -page.sequence)
        self._scan, self.memory, self.damage = scan, memory, ""
        self._adopt(scan, repaired=not in_slot)
        if not in_slot:
            self.memory = replace(
                memory,
                epoch=self._epoch_floor,
                end_offset=scan.end,
                block_count=len(self.headers),
            )
            self.notes.append("the cartridge memory was repaired from a copy on the media")

    def _require_one_story(self) -> None:
        """Refuse copies of the memory that cannot be of one write from BOT."""
        memory = self.memory
        for page in self._known:
            if page.first_epoch != memory.first_epoch:
                continue
            for name in ("volser", "cartridge_id", "format", "key_check", "kad"):
                if getattr(page, name) != getattr(memory, name):
                    raise ForgedMemoryError(
                        f"The copies of the memory of cartridge {self.path} contradict each other "
                        f"({name.replace('_', ' ')}): one was forged, or is of another cartridge. "
                        f"Put the right cartridge back."
                    )

    def _adopt(self, scan: MediaScan, *, repaired: bool) -> None:
        """Adopt the records found, up to the first that a power cut tore."""
        memory = self.memory
        self.headers, self._offsets, self._end = scan.headers, scan.offsets, scan.end
        self.notes += scan.notes
        self._epoch_floor = max(memory.epoch, scan.epoch)
        for number in range(memory.block_count, len(scan.headers)):
            if not self.read(number, 1)[0].crc_matches:
                scan.cut_back(number)
                self._end = scan.end
                break
        if len(self.headers) < memory.block_count:
            self.damage = (
                f"cartridge {self.path} is damaged at byte {scan.end}, block {len(self.headers)} "
                f"of {memory.block_count} ({scan.stopped}); read the blocks before it, then write "
                f"the cartridge from BOT"
            )
        elif repaired and not scan.marked and self.format is not TapeFormat.BLANK:
            self.damage = (
                f"cartridge {self.path} lost its memory and its end of data: behind block "
                f"{len(self.headers) - 1} (byte {scan.end}: {scan.stopped}) there may be more; "
                f"read the blocks found, then write the cartridge from BOT"
            )
        if self.damage:
            self.notes.append(self.damage)

    def _repair(self) -> None:
        """Repair the slots; cut off what a power cut left behind the records."""
        scan, slots, size = self._scan, list(self._slots), self._file.size()
        if self.damage:
            return
        self._acknowledge(scan)
        for _ in range(2):
            if self.memory not in slots or any(
                slot is None or slot.eedks != self.memory.eedks for slot in slots
            ):
                self._store(self.memory, verify=True)
                slots[self.memory.sequence % 2] = self.memory
        if self.format is TapeFormat.ENCRYPTED:
            self._renew_copies(scan)
        if not scan.marked and self.format is not TapeFormat.BLANK:
            torn = size - scan.end
            if torn > 0:
                self.notes.append(
                    f"{torn} bytes behind block {len(self.headers) - 1} were cut off: a torn write"
                )
            with self._failing("repair"):
                self._file.truncate(self._end)
                self._file.sync()
            self._write_end()

    def _acknowledge(self, scan: MediaScan) -> None:
        """Have the memory count every record found, once these are safe.

        It may know an earlier end, from before a power cut. Then a copy on the media that is torn
        later, while it is written in place, would count as the end.
        """
        found = replace(self.memory, end_offset=scan.end, block_count=len(self.headers))
        if self.format is not TapeFormat.BLANK and found != self.memory:
            with self._failing("repair"):
                self._file.sync()
            self.memory = found

    def _nothing_readable(self, size: int) -> str:
        if size < VERSION_1.media_offset and self._file.read(0, 4) != PAGE_MAGIC:
            return (
                f"{self.path} is not a cartridge: a file of {size} bytes without a cartridge "
                f"memory; give the path of a {SUFFIX} file"
            )
        return (
            f"cartridge {self.path} is damaged: neither slot of the cartridge memory nor a copy on "
            f"the media can be read; restore the file or replace the cartridge"
        )


def _has_seal(page: CartridgeMemory, keyed: KeyedHardware | None) -> bool:
    """Whether a memory has a seal of the data key."""
    seal = page.seal
    if seal is None or keyed is None:
        return False
    return keyed.matches(seal.iv, page.digest, seal.tag)
