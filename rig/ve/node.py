"""A node: one virtualization engine with catalogue, cache and drives.

The host's side (`write`, `read`, `unload`, `expire`) works on the cache and the catalogue. The tape
jobs that it orders, `work` runs on all drives; what fails stays ordered. `serve` repeats `work`
until it is stopped, and so resumes by itself what had to wait, for a key manager for instance
(EKM-9).
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from hsm.errors import TaperigError
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import check_volser
from rig.drive.drive import Drive
from rig.results.events import EventLog, Notice, NoticeKind
from rig.ve.catalogue import operator_messages, settings, transactions
from rig.ve.catalogue.clock import Clock, offset, reset, set_offset
from rig.ve.catalogue.database import FILE, Catalogue, CatalogueError
from rig.ve.catalogue.model import BACKUP_NAME, DAY_S, LogicalVolume, VolumeState
from rig.ve.catalogue.schema import CopyRow, LogicalRow, PhysicalRow, PremigrationRow
from rig.ve.consistency import CheckReport, check
from rig.ve.ejection import Ejected, eject
from rig.ve.ekm.relay import Relay
from rig.ve.insertion import insert_cartridge, rebuild
from rig.ve.intake import IntakeReport
from rig.ve.recovery import insert, recover
from rig.ve.restoration import restore
from rig.ve.scheduler import Scheduler, WorkReport
from rig.ve.tape.cartridge_locks import CartridgeLocks
from rig.ve.tape.cartridge_store import CartridgeStore
from rig.ve.tape.identity import require_known
from rig.ve.tape.jobs import NodeParts
from rig.ve.volumes.logical_volume import VolumeFile, VolumeFileError, path_text
from rig.ve.volumes.tape_volume_cache import Cache, CacheFullError, pieces_of

SCRUB_PAUSE = 10
"""From one scrub to the next by itself at least, in times of what the first took."""

RETRY_S = 2.0
"""How long `serve` waits before it tries again what failed, seconds."""

CARTRIDGES = "cartridges"
"""The folder in a node's own that holds its cartridges."""


MAX_INSERT = 10_000
"""Cartridges that are inserted at once at most."""

MAX_BATCH_VOLUMES = 100
"""Volumes of `write_files` that are acknowledged together at most."""

MAX_BATCH_BYTES = 32_000_000
"""Data of volumes that are acknowledged together, bytes; at least one volume."""


class NodeError(TaperigError):
    """The node cannot do what was asked."""


def reset_clock(folder: Path) -> None:
    """Set the clock of the node in `folder` to real time.

    Works also when the clock is too far ahead for the node to open.
    """
    with _lock(folder):
        catalogue = Catalogue(folder / FILE)
        try:
            with catalogue.transaction() as session:
                reset(session, time.time())
        finally:
            catalogue.close()


def _lock(folder: Path) -> TextIO:
    """Lock a node for this process, until the file is closed."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = (folder / "node.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise NodeError(
            f"Another process works with the node in {folder}; wait for its end."
        ) from None
    return file


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What is configured for a node."""

    name: str = "main"
    cache_bytes: int = 1_000_000_000
    """Data that the cache holds."""
    cartridge_bytes: int = 500_000_000_000
    """Data that a cartridge inserted from now on holds; a 3592 JA cartridge in a TS1120 drive."""


class Node:
    """An open node.

    One process at a time has it open; the host's calls may come from any thread.

    Use it as a context manager, or close it.
    """

    def __init__(
        self,
        folder: Path,
        drives: Sequence[Drive],
        proxy: Relay | None = None,
        *,
        settings: NodeSettings | None = None,
        events: EventLog | None = None,
        real_time: Callable[[], float] | None = None,
        refusals: Mapping[str, str] | None = None,
    ) -> None:
        """Open the node in `folder`, and recover from an interruption.

        `refusals` says by serial why a drive may not write encrypted (PRE-7).
        """
        self.folder = folder
        self.settings = settings or NodeSettings()
        self.events = events or EventLog()
        self._lock_file = _lock(folder)
        try:
            self.catalogue = Catalogue(folder / FILE)
            with self.catalogue.reading() as session:
                ahead = offset(session)
            self.clock = Clock(ahead) if real_time is None else Clock(ahead, real_time)
            self.parts = NodeParts(
                name=self.settings.name,
                catalogue=self.catalogue,
                cache=Cache(folder / "cache"),
                staging=Cache(folder / "staging"),
                cartridges=CartridgeStore(
                    folder / CARTRIDGES, partial(require_known, self.catalogue, self.clock)
                ),
                locks=CartridgeLocks(),
                clock=self.clock,
            )
            self.recovered = recover(self.parts, self.settings.cartridge_bytes)
            self.scheduler = Scheduler(self.parts, drives, proxy, self.events, refusals or {})
        except BaseException:
            self._lock_file.close()
            raise
        if proxy is not None and (answering := proxy.answering()):
            with self.catalogue.transaction() as session:
                operator_messages.clear_key_managers(session, answering, self.clock.now())
        self._host = threading.Lock()
        self._wake = threading.Event()
        for notice in self.events.notices:
            self._keep(notice)
        self.events.notice_listeners.append(self._keep)

    def close(self) -> None:
        """Close the node's files; drives and key managers are the caller's."""
        if self._keep in self.events.notice_listeners:
            self.events.notice_listeners.remove(self._keep)
        self.catalogue.close()
        self._lock_file.close()

    def __enter__(self) -> Self:
        """Return the node."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _keep(self, notice: Notice) -> None:
        """Enter a notice about a key manager into the catalogue."""
        subject = operator_messages.key_manager_subject(notice.about)
        now = self.clock.now()
        with self.catalogue.transaction() as session:
            match notice.kind:
                case NoticeKind.INTERVENTION:
                    operator_messages.raise_intervention(session, subject, notice.text, now)
                case NoticeKind.CLEARED:
                    operator_messages.clear_intervention(session, subject, now)
                case NoticeKind.HOSTS:
                    operator_messages.notify_hosts(session, notice.text, now, subject)
                case NoticeKind.CALL_HOME:
                    operator_messages.call_home(session, notice.text, now, subject)

    # Settings

    @contextmanager
    def change(self) -> Iterator[Session]:
        """Change settings, in one transaction, with the functions of `settings`."""
        with self.catalogue.transaction() as session:
            yield session
        self._wake.set()

    def advance(self, days: float) -> None:
        """Set the node's clock ahead, for good.

        Raises ClockError when that is too far.
        """
        self.clock.advance(days=days)
        with self.catalogue.transaction() as session:
            set_offset(session, self.clock.offset_s)

    def insert(self, volsers: Iterable[str]) -> None:
        """Insert blank cartridges into the common scratch pool."""
        chosen = list(volsers)
        if len(chosen) > MAX_INSERT:
            raise NodeError(
                f"{len(chosen)} cartridges are too many to insert at once; nothing was inserted. "
                f"Give at most {MAX_INSERT}."
            )
        with self.catalogue.reading() as session:
            known = set(session.scalars(select(PhysicalRow.volser)))
        for volser in chosen:
            if self.parts.cartridges.path(check_volser(volser)).exists() or volser in known:
                raise NodeError(
                    f"There is a cartridge {volser} already; nothing was inserted. Choose another "
                    f"VOLSER."
                )
        if len(set(chosen)) != len(chosen):
            raise NodeError("A VOLSER is given twice; nothing was inserted. Give each once.")
        for volser in chosen:
            Cartridge.create(self.parts.cartridges.path(volser), volser)
            insert(self.parts, volser, self.settings.cartridge_bytes)
        self._wake.set()

    def make_writable(self, volsers: Sequence[str]) -> None:
        """Let cartridges that were set aside be written again.

        Raises CatalogueError, with none changed, when one is not read-only.
        """
        with self.change() as session:
            for volser in volsers:
                transactions.make_writable(session, volser, self.clock.now())

    def insert_cartridge(self, file: Path, pool: int | None = None) -> IntakeReport:
        """Insert a cartridge that may hold volumes; its file moves here (DR-1)."""
        report = insert_cartridge(
            self.parts, self.scheduler, file, self.settings.cartridge_bytes, pool
        )
        self._wake.set()
        return report

    def eject(self, volser: str, place: str, folder: Path, *, only_copies: bool = False) -> Ejected:
        """Eject a cartridge to a place; its file moves into `folder` (DR-5)."""
        return eject(self.parts, volser, place, folder, only_copies=only_copies)

    def rebuild(self, folder: Path) -> IntakeReport:
        """Make the catalogue anew from the cartridges in a folder (DR-2)."""
        return rebuild(self.parts, self.scheduler, folder, self.settings.cartridge_bytes)

    def restore(self, folder: Path) -> IntakeReport:
        """Restore the catalogue from the newest backup in a folder (DR-3)."""
        return restore(self.parts, self.scheduler, folder, self.settings.cartridge_bytes)

    # The host's side

    def write(
        self,
        name: str,
        source: Path | Iterable[bytes],
        size: int | None = None,
        *,
        storage_group: str | None = None,
        management_class: str | None = None,
        origin: str = "",
    ) -> LogicalVolume:
        """Write a logical volume, new or again, and leave it mounted.

        When this returns, it is acknowledged.

        `size` in bytes is needed for pieces, to make room for them. Constructs that are None stay
        as they were. Raises CacheFullError, CatalogueError for an unknown construct, NodeError.
        """
        if isinstance(source, Path):
            incoming = _Incoming.of(VolumeFile.of(name, source))
        else:
            incoming = _Incoming(VolumeFile(name, Path(), size or 0).name, source, size or 0)
        if origin:
            incoming = replace(incoming, origin=origin)
        (volume,) = self._write([incoming], storage_group, management_class, mounted=True)
        return volume

    def write_files(
        self,
        files: Sequence[VolumeFile],
        *,
        storage_group: str | None = None,
        management_class: str | None = None,
    ) -> Iterator[list[LogicalVolume]]:
        """Write files as logical volumes and unload each.

        Yields those that are acknowledged together.

        Constructs and errors are those of `write`; what was yielded before an error is safe.
        """
        incoming = [_Incoming.of(file) for file in files]
        names = [each.name for each in incoming]
        if len(set(names)) != len(names):
            duplicate = next(name for name in names if names.count(name) > 1)
            raise NodeError(
                f"The logical volume {duplicate} is given twice; give each its own name."
            )
        while incoming:
            batch = _first_batch(incoming)
            while True:
                try:
                    written = self._write(batch, storage_group, management_class, mounted=False)
                    break
                except CacheFullError:
                    if len(batch) == 1:
                        raise
                    batch = batch[: len(batch) // 2]
            self._wake.set()
            yield written
            incoming = incoming[len(batch) :]

    def _write(
        self,
        incoming: Sequence[_Incoming],
        storage_group: str | None,
        management_class: str | None,
        *,
        mounted: bool,
    ) -> list[LogicalVolume]:
        """Write volumes in one transaction, and leave them mounted or unload them."""
        for each in incoming:
            if each.name == BACKUP_NAME:
                raise NodeError(f"{each.name} is the name of database backups; choose another.")
            if each.size > self.settings.cartridge_bytes:
                raise NodeError(
                    f"{each.name} has {each.size} bytes and a cartridge holds "
                    f"{self.settings.cartridge_bytes}; divide it."
                )
        cache = self.parts.cache
        names = [each.name for each in incoming]
        with self._host:
            with self.catalogue.reading() as session:
                query = select(LogicalRow).where(LogicalRow.name.in_(names))
                before = {row.name: row for row in session.scalars(query)}
                constructs = {
                    name: (
                        _or_previous(storage_group, row.storage_group if row else ""),
                        _or_previous(management_class, row.management_class if row else ""),
                    )
                    for name, row in ((name, before.get(name)) for name in names)
                }
                for chosen in set(constructs.values()):
                    settings.pools_of(session, *chosen)
                used = transactions.generations(session, names)
            generations = {name: used.get(name, 0) + 1 for name in names}
            self._make_room(sum(each.size for each in incoming))
            stored = cache.store(
                (each.name, generations[each.name], each.pieces) for each in incoming
            )
            now = self.clock.now()
            rows = [
                LogicalRow(
                    name=each.name,
                    generation=generations[each.name],
                    size=content.size,
                    sha256=content.sha256,
                    storage_group=constructs[each.name][0],
                    management_class=constructs[each.name][1],
                    written=now,
                    accessed=now,
                    in_cache=True,
                    mounted=True,
                    source=each.origin,
                )
                for each, content in zip(incoming, stored, strict=True)
            ]
            with self.catalogue.transaction() as session:
                transactions.enter_written(session, rows, now)
                if not mounted:
                    transactions.unload(session, names, now)
            for row in before.values():
                cache.remove(row.name, row.generation)
        return [row.record() for row in rows]

    def existing(self, names: Sequence[str]) -> list[str]:
        """Return those of the names that logical volumes have."""
        with self.catalogue.reading() as session:
            query = select(LogicalRow.name).where(LogicalRow.name.in_(names))
            return sorted(session.scalars(query))

    def free_names(self, count: int) -> list[str]:
        """Return the first names from L00001 on that no volume has."""
        with self.catalogue.reading() as session:
            taken = set(session.scalars(select(LogicalRow.name).where(LogicalRow.name.like("L%"))))
        names = (f"L{number:05}" for number in range(1, 100_000))
        free = list(islice((name for name in names if name not in taken), count))
        if len(free) < count:
            raise NodeError(
                f"{count} names are needed and {len(free)} of L00001 to L99999 are free; name the "
                f"volumes, or let some expire."
            )
        return free

    def read(self, name: str) -> Path:
        """Mount a volume for the host; return its file in the cache.

        It is recalled when the cache does not have it.
        """
        return self.read_all([name])[0]

    def read_all(self, names: Sequence[str]) -> list[Path]:
        """Mount volumes together; return their files in the cache.

        Those that the cache does not have are recalled.
        """
        absent, lost = self._compare_cache(names)
        _raise_together(lost, "are lost")
        if absent:
            self.recall(absent)
        with self.catalogue.transaction() as session:
            rows = transactions.logicals(session, names)
            now = self.clock.now()
            for row in rows.values():
                if not row.in_cache:
                    raise NodeError(
                        f"The logical volume {row.name} left the cache again before it was read; "
                        f"the cache is too small for all of these."
                    )
                row.mounted = True
                row.accessed = now
            return [self.parts.cache.path(name, rows[name].generation) for name in names]

    def absent(self, names: Sequence[str]) -> list[str]:
        """Return the volumes that must be recalled to be read.

        A cache file that is not what was stored does not count when a tape has the volume.
        """
        return self._compare_cache(names)[0]

    def _compare_cache(self, names: Sequence[str]) -> tuple[list[str], dict[str, TaperigError]]:
        """Return the volumes to be recalled, and those that nothing has any more."""
        lost: dict[str, TaperigError] = {}
        with self.catalogue.reading() as session:
            rows = list(transactions.logicals(session, names).values())
        for row in rows:
            if not row.in_cache:
                continue
            path = self.parts.cache.path(row.name, row.generation)
            try:
                VolumeFile(row.name, path, row.size, row.sha256).verify()
            except VolumeFileError as error:
                with self.catalogue.transaction() as session:
                    on_tape = transactions.enter_damaged(
                        session, row.name, row.generation, str(error), self.clock.now()
                    )
                if on_tape:
                    self.parts.cache.remove(row.name, row.generation)
                else:
                    lost[row.name] = NodeError(f"{error} No cartridge has it either.")
        with self.catalogue.reading() as session:
            current = transactions.logicals(session, names)
            return [name for name in names if not current[name].in_cache], lost

    def unload(self, name: str) -> None:
        """Rewind and unload a volume.

        Its copies are ordered to the pools that its constructs name now (MIG-2).
        """
        self.unload_all([name])

    def unload_all(self, names: Sequence[str]) -> None:
        """Rewind and unload volumes together."""
        with self.catalogue.transaction() as session:
            for name, row in transactions.logicals(session, names).items():
                if not row.mounted:
                    raise NodeError(f"The logical volume {name} is not mounted; nothing to unload.")
            for some in transactions.name_batches(names):
                transactions.unload(session, some, self.clock.now())
        self._wake.set()

    def release(self, name: str) -> None:
        """Unload a volume if it is mounted."""
        with self.catalogue.reading() as session:
            mounted = transactions.logical(session, name).mounted
        if mounted:
            self.unload(name)

    def expire(self, name: str) -> None:
        """Expire a volume: its name is free and its data inactive (MIG-12)."""
        with self._host:
            with self.catalogue.transaction() as session:
                if transactions.logical(session, name).mounted:
                    raise NodeError(f"The logical volume {name} is mounted; unload it first.")
                row = transactions.expire(session, name, self.clock.now())
            self.parts.cache.remove(name, row.generation)

    def recall(self, names: Sequence[str]) -> None:
        """Recall volumes into the cache by position on tape (MIG-3).

        Another copy serves for one that cannot be read. Raises TaperigError naming what no copy
        gives; the others are in the cache.
        """
        copies_of: dict[str, list[CopyRow]] = {}
        failed: dict[str, TaperigError] = {}
        with self.catalogue.reading() as session:
            total = 0
            active = transactions.active_copies(session, names)
            for name, row in transactions.logicals(session, names).items():
                if row.in_cache:
                    continue
                try:
                    copies_of[name] = transactions.readable(session, name, active.get(name, []))
                except CatalogueError as error:
                    failed[name] = error
                    continue
                total += row.size
        self._make_room(total, keep=names)
        while copies_of:
            by_cartridge: dict[str, list[CopyRow]] = {}
            for copies in copies_of.values():
                by_cartridge.setdefault(copies[0].volser, []).append(copies[0])
            for volser, copies in sorted(by_cartridge.items()):
                failed |= self._recall_from(volser, copies)
                for copy in copies:
                    rest = copies_of.pop(copy.name)[1:]
                    if copy.name in failed and rest:
                        copies_of[copy.name] = rest
                        del failed[copy.name]
        _raise_together(failed, "could not be recalled")

    def _recall_from(self, volser: str, copies: Sequence[CopyRow]) -> dict[str, TaperigError]:
        """Recall volumes from a cartridge; return what went wrong, by name."""
        try:
            wrong = self.scheduler.recall(volser, copies)
        except TaperigError as error:
            return {copy.name: error for copy in copies}
        return {name: NodeError(why) for name, why in wrong.items()}

    def recall_job(self, names: Iterable[str]) -> None:
        """Recall volumes and unload each, so that they move to their new pool.

        This is the recall method of a migration (MIG-2). What fails stops none of the others;
        raises TaperigError naming it.
        """
        failed: dict[str, TaperigError] = {}
        for batch in self._by_tape(names):
            try:
                absent = self.absent(batch)
                self.recall(absent)
            except TaperigError as error:
                failed |= dict.fromkeys(batch, error)
            with self.catalogue.transaction() as session:
                rows = transactions.existing(session, batch)
                there = [name for name in batch if name in rows and rows[name].in_cache]
                transactions.unload(session, there, self.clock.now())
            failed = {name: error for name, error in failed.items() if name not in there}
            report = self.work()
            with self.catalogue.reading() as session:
                waiting = transactions.waiting(session, there)
            why = " ".join(map(str, report.failures))
            failed |= {name: NodeError(f"It waits in the cache. {why}") for name in waiting}
        _raise_together(failed, "did not move")

    def _by_tape(self, names: Iterable[str]) -> Iterator[list[str]]:
        """Yield names by position on tape, in batches of half the cache."""
        with self.catalogue.reading() as session:
            positions = []
            for name in names:
                row = transactions.logical(session, name)
                copies = transactions.active_copies_of(session, name)
                place = (copies[0].volser, copies[0].first_block) if copies else ("", 0)
                positions.append((*place, name, row.size))
        batch: list[str] = []
        size = 0
        for _, _, name, its_size in sorted(positions):
            if batch and size + its_size > self.settings.cache_bytes // 2:
                yield batch
                batch, size = [], 0
            batch.append(name)
            size += its_size
        if batch:
            yield batch

    # The cache

    def free_cache(self, size: int) -> None:
        """Evict volumes until `size` bytes of the cache are free.

        Raises CacheFullError.
        """
        self._make_room(size)

    def _make_room(self, size: int, keep: Sequence[str] = ()) -> None:
        """Evict the least recently used volumes that are safe on tape."""
        with self.catalogue.transaction() as session:
            query = select(func.sum(LogicalRow.size)).where(LogicalRow.in_cache)
            free = self.settings.cache_bytes - (session.scalar(query) or 0)
            evicted: list[LogicalRow] = []
            leaving = _evictable(keep, self._readable_cartridges(session) if free < size else ())
            for row in session.scalars(leaving):
                if free >= size:
                    break
                row.in_cache = False
                free += row.size
                evicted.append(row)
            if free < size:
                session.rollback()
                raise CacheFullError(
                    f"The cache of node {self.settings.name} is full: {size} bytes are needed, "
                    f"{max(free, 0)} can be had; what is in it waits to be copied to tape or is "
                    f"mounted. See: rig ve status"
                )
        for row in evicted:
            self.parts.cache.remove(row.name, row.generation)

    def _readable_cartridges(self, session: Session) -> list[str]:
        """Return the cartridges whose copies count, as far as is known."""
        doubted = operator_messages.open_subjects(session, transactions.cartridge_subject(""))
        here = select(PhysicalRow.volser).where(PhysicalRow.state != VolumeState.EJECTED.value)
        return [
            volser
            for volser in session.scalars(here)
            if transactions.cartridge_subject(volser) not in doubted
            and self.parts.cartridges.path(volser).exists()
        ]

    # The drives' side

    def work(self, *, reclaim: bool = False) -> WorkReport:
        """Carry out with all drives what is ordered; see `Scheduler.work`."""
        return self.scheduler.work(reclaim=reclaim)

    def serve(self, stop: threading.Event, retry_s: float = RETRY_S) -> None:
        """Work until `stop` is set.

        What failed is tried again every `retry_s` seconds. While nothing else is to be done,
        cartridges are scrubbed one by one, for a tenth of the time at most.
        """
        unreadable: set[str] = set()
        next_scrub = 0.0
        while not stop.is_set():
            self._wake.clear()
            report = self.work(reclaim=True)
            if stop.is_set():
                return
            began = time.monotonic()
            if not report.done and began >= next_scrub:
                self._scrub_next(unreadable)
                next_scrub = began + SCRUB_PAUSE * (time.monotonic() - began)
            if not self._wake.is_set():
                self._wake.wait(retry_s)

    def _scrub_next(self, unreadable: set[str]) -> None:
        """Scrub the cartridge that was read longest ago, if one is due.

        One that cannot be read at all is added to `unreadable`, and left out.
        """
        with self.catalogue.reading() as session:
            days = settings.scrub_days(session)
        for volser in self.due_to_scrub(days) if days else ():
            if volser in unreadable:
                continue
            try:
                if self.scheduler.verify(volser):
                    self._wake.set()  # copies are ordered anew
            except TaperigError:
                unreadable.add(volser)
            return

    def due_to_scrub(self, days: float) -> list[str]:
        """Return the cartridges with copies not read for so many days.

        The one read longest ago comes first. Bad copies do not count.
        """
        oldest = func.min(func.coalesce(CopyRow.last_read, PhysicalRow.last_written, 0.0))
        query = (
            select(CopyRow.volser)
            .join(PhysicalRow, PhysicalRow.volser == CopyRow.volser)
            .where(
                CopyRow.active,
                CopyRow.bad.is_(False),
                PhysicalRow.state != VolumeState.EJECTED.value,
                PhysicalRow.writing_pool.is_(None),
            )
            .group_by(CopyRow.volser)
            .having(oldest <= self.clock.now() - days * DAY_S)
            .order_by(oldest, CopyRow.volser)
        )
        with self.catalogue.reading() as session:
            return list(session.scalars(query))

    def move_stacked(
        self, volsers: Iterable[str], pool: int, *, when_eligible: bool = False
    ) -> None:
        """Order that the volumes on these cartridges move to a pool (MIG-4).

        `work` moves them.
        """
        with self.catalogue.transaction() as session:
            for volser in volsers:
                transactions.order_move(session, volser, pool, when_eligible=when_eligible)
        self._wake.set()

    # Looking

    def check(self, *, deep: bool = False) -> CheckReport:
        """Check that catalogue, cache and cartridges agree."""
        return check(self.catalogue, self.parts.cache, self.parts.cartridges, deep=deep)

    def verify_tapes(self, volsers: Iterable[str] | None = None) -> list[str]:
        """Read every active copy, or those on some cartridges.

        Returns what is not as it was written. Such copies are bad from then on, and are ordered
        anew (COPY-1).
        """
        findings: list[str] = []
        for volser in self._readable() if volsers is None else volsers:
            try:
                findings += self.scheduler.verify(volser)
            except TaperigError as error:
                findings.append(f"{volser}: {error}")
        return findings

    def _readable(self) -> list[str]:
        query = select(PhysicalRow.volser).where(
            PhysicalRow.active_volumes > 0, PhysicalRow.state != VolumeState.EJECTED.value
        )
        with self.catalogue.reading() as session:
            return list(session.scalars(query.order_by(PhysicalRow.volser)))


@dataclass(frozen=True, slots=True)
class _Incoming:
    """The content of a volume that a host writes."""

    name: str
    pieces: Iterable[bytes]
    size: int
    origin: str = ""

    @classmethod
    def of(cls, file: VolumeFile) -> _Incoming:
        """Return the content of a file."""
        return cls(
            file.name, pieces_of(file.source), file.size, file.origin or path_text(file.source)
        )


def _first_batch(incoming: Sequence[_Incoming]) -> Sequence[_Incoming]:
    """Return as many as are acknowledged together: at least one."""
    size = 0
    for count, each in enumerate(incoming[:MAX_BATCH_VOLUMES]):
        size += each.size
        if count and size > MAX_BATCH_BYTES:
            return incoming[:count]
    return incoming[:MAX_BATCH_VOLUMES]


def _or_previous(given: str | None, before: str) -> str:
    return before if given is None else given


def _evictable(keep: Sequence[str], readable: Sequence[str]) -> Select[LogicalRow]:
    """Return the query of volumes that may leave the cache, oldest first."""
    ordered = select(PremigrationRow.name)
    on_tape = select(CopyRow.name).where(
        CopyRow.active, CopyRow.bad.is_(False), CopyRow.volser.in_(readable)
    )
    return (
        select(LogicalRow)
        .where(
            LogicalRow.in_cache,
            LogicalRow.mounted.is_(False),
            LogicalRow.name.not_in(keep),
            LogicalRow.name.not_in(ordered),
            LogicalRow.name.in_(on_tape),
        )
        .order_by(LogicalRow.accessed, LogicalRow.name)
    )


def _raise_together(failed: Mapping[str, TaperigError], what: str) -> None:
    """Raise what went wrong with volumes, if anything, each reason once."""
    reasons: dict[str, list[str]] = {}
    for name, error in failed.items():
        reasons.setdefault(str(error), []).append(name)
    if len(reasons) == 1:
        raise next(iter(failed.values()))
    if reasons:
        raise NodeError(
            f"{len(failed)} logical volumes {what}: "
            + " ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
        )
