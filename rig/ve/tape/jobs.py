"""Tape jobs of one drive: premigrate, close, recall, verify, move.

Each ends in one transaction, a move in one for each run of volumes.

The order is always the same: the catalogue says that a cartridge is being written; the data goes to
tape, synced; the catalogue says in one transaction where it is and that the cartridge is free.
After any failure in between, `reconcile` compares the cartridge with the catalogue: at once, or at
the next start when the process was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import not_, select
from sqlalchemy.orm import Session

from hsm.ekm.protocol.errors import EkmUnavailable
from hsm.errors import TaperigError
from rig.drive.cartridge_format import UnusableCartridgeError
from rig.ve.catalogue import operator_messages, settings, transactions
from rig.ve.catalogue.backup import make_backup, set_sequence
from rig.ve.catalogue.clock import Clock
from rig.ve.catalogue.database import Catalogue
from rig.ve.catalogue.model import BACKUP_NAME, CopyRole, TapeEncryption, VolumeState
from rig.ve.catalogue.schema import CopyRow, DriveRow, LogicalRow, PhysicalRow, PremigrationRow
from rig.ve.catalogue.transactions import Reservation
from rig.ve.tape.cartridge_contents import CartridgeContents
from rig.ve.tape.cartridge_locks import CartridgeLocks
from rig.ve.tape.cartridge_store import CartridgeMismatchError, CartridgeStore
from rig.ve.tape.sequences import DriveSequences
from rig.ve.volumes.logical_volume import CopyFacts, VolumeError, VolumeFile, VolumeFileError
from rig.ve.volumes.tape_volume_cache import Cache, RecallSink

BATCH_VOLUMES = 1000
"""Logical volumes written in one mount at most."""

RUN_BYTES = 64_000_000
"""Data that a move takes from a cartridge in one mount, bytes; at least one volume."""


class NoScratchError(TaperigError):
    """A pool has no cartridge left to write."""


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What the tape jobs of all drives of a node share."""

    name: str
    catalogue: Catalogue
    cache: Cache
    staging: Cache
    """Volumes on their way from tape to tape; they never enter the cache."""
    cartridges: CartridgeStore
    locks: CartridgeLocks
    clock: Clock


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A logical volume on its way to a cartridge."""

    name: str
    generation: int
    role: str
    size: int
    sha256: str
    origin: str
    storage_group: str
    management_class: str
    written: float
    path: Path
    source_copy: int | None = None
    """The copy (its id) that a move takes it from."""

    def file(self, pool: int = 0, copied: float = 0.0) -> VolumeFile:
        """Return the file that is written, to `pool` at the time `copied`."""
        facts = CopyFacts(
            self.generation,
            self.storage_group,
            self.management_class,
            self.written,
            self.role,
            pool,
            copied,
        )
        return VolumeFile(self.name, self.path, self.size, self.sha256, self.origin, facts)


Written = Sequence[tuple[Outgoing, CopyRow]]
"""Logical volumes that are on tape now, and their copies there, not entered yet."""

CompleteWrite = Callable[[Session, Written], None]
"""What else is entered in the same transaction."""


class TapeJobs:
    """The tape jobs of one drive."""

    def __init__(self, parts: NodeParts, sequences: DriveSequences) -> None:
        """Work with a drive's sequences."""
        self.parts = parts
        self.sequences = sequences

    # Cache to tape

    def premigrate(self, pool: int) -> int:
        """Copy ordered volumes to a pool; return how many.

        Copies as much as one cartridge takes.

        A volume whose file in the cache is found damaged stays ordered and is left out from then
        on, with an intervention. When nothing else is left, raises VolumeError naming all of them.
        """
        cache = self.parts.cache
        orders = self._orders(pool)
        if not orders:
            self._recheck(pool)
        with cache.pinned([order.path for order in orders]):
            # What was rewritten before its file was pinned is no longer ordered.
            current = set(self._orders(pool))
            orders = [order for order in orders if order in current]
            try:
                return self._write(pool, orders, _complete_orders)
            except VolumeFileError:
                if len(self._intact(orders)) == len(orders):
                    raise
                return 0  # the intact ones are written by the next job

    def _recheck(self, pool: int) -> None:
        """Verify again the files known to be damaged.

        Raises VolumeError naming those that still are.
        """
        orders = self._orders(pool, damaged=True)
        intact = self._intact(orders)
        with self.parts.catalogue.transaction() as session:
            transactions.clear_damaged(session, intact, self.parts.clock.now())
        names = [order.name for order in orders if order.name not in intact]
        if names:
            raise VolumeError(
                f"Not copied to pool {pool}: {', '.join(names)}. What the cache holds of each is "
                f"not what was stored; see `rig ve interventions`, and write each again."
            )

    def _intact(self, orders: Sequence[Outgoing]) -> set[str]:
        """Verify volumes' files and enter the damaged ones; return the rest."""
        intact = set()
        for order in orders:
            try:
                order.file().verify()
            except VolumeFileError as error:
                with self.parts.catalogue.transaction() as session:
                    now = self.parts.clock.now()
                    transactions.enter_damaged(session, order.name, str(error), now)
            else:
                intact.add(order.name)
        return intact

    def _orders(self, pool: int, *, damaged: bool = False) -> list[Outgoing]:
        """Return the next volumes ordered for a pool.

        With `damaged`, those whose file is known to be damaged; else all others.
        """
        query = (
            select(
                LogicalRow.name,
                LogicalRow.generation,
                PremigrationRow.role,
                LogicalRow.size,
                LogicalRow.sha256,
                LogicalRow.source,
                LogicalRow.storage_group,
                LogicalRow.management_class,
                LogicalRow.written,
            )
            .join(PremigrationRow, LogicalRow.name == PremigrationRow.name)
            .where(PremigrationRow.pool == pool)
            .order_by(PremigrationRow.queued, PremigrationRow.name)
            .limit(BATCH_VOLUMES)
        )
        orders: dict[str, Outgoing] = {}
        with self.parts.catalogue.reading() as session:
            known = LogicalRow.name.in_(transactions.damaged(session))
            rows = session.execute(query.where(known if damaged else not_(known)))
            for row in rows:
                path = self.parts.cache.path(row.name, row.generation)
                outgoing = Outgoing(*row, path)
                orders.setdefault(row.name, outgoing)  # two copies are never on one cartridge
        return list(orders.values())

    def _write(self, pool: int, volumes: Sequence[Outgoing], complete: CompleteWrite) -> int:
        """Write the first volumes that fit to one cartridge; return how many.

        A cartridge that cannot be used is set aside, and another one is taken.
        """
        tried: set[str] = set()
        while volumes:
            with suppress(UnusableCartridgeError):
                return self._write_to_one(pool, volumes, complete, tried)
        return 0

    def _write_to_one(
        self, pool: int, volumes: Sequence[Outgoing], complete: CompleteWrite, tried: set[str]
    ) -> int:
        """Write to one cartridge that is not in `tried`; put it there."""
        parts = self.parts
        with parts.catalogue.reading() as session:
            active = transactions.active_copies(session, [each.name for each in volumes])
        # Cartridges with the other copy of a volume: this copy goes to none of them.
        elsewhere = {
            each.name: {copy.volser for copy in active.get(each.name, ()) if copy.role != each.role}
            for each in volumes
        }
        leading = volumes[0]
        with self._reserved(pool, leading.size, elsewhere[leading.name], tried) as target:
            fitting = _fitting(volumes, target, elsewhere)
            with parts.catalogue.reading() as session:
                chosen = settings.pool(session, pool)
            copied = parts.clock.now()
            files = [each.file(pool, copied) for each in fitting]
            if target.from_bot:
                self.sequences.write_from_bot(chosen, files, target.volser)
            else:
                self.sequences.append(target.volser, files)
            facts = parts.cartridges.facts(target.volser)
            now = parts.clock.now()
            with parts.catalogue.transaction() as session:
                row = session.get_one(PhysicalRow, target.volser)
                if target.from_bot:
                    transactions.enter_bot(session, row, chosen.keys, facts)
                transactions.enter_facts(row, facts)
                row.written_bytes = facts.data_bytes
                copies = [
                    CopyRow(
                        name=each.name,
                        generation=each.generation,
                        volser=target.volser,
                        role=each.role,
                        first_block=first,
                        blocks=blocks,
                        size=each.size,
                    )
                    for each, (first, blocks) in zip(
                        fitting, facts.last_volumes(len(fitting)), strict=True
                    )
                ]
                complete(session, list(zip(fitting, copies, strict=True)))
                transactions.enter_copies(session, row, copies, now)
                self._enter_mount(session, target.volser)
                operator_messages.clear_intervention(session, _scratch_subject(pool), now)
                transactions.end_writing(session, row)
        return len(fitting)

    def close(self, volser: str) -> None:
        """Close a cartridge: append its database backup, set it full (MSG-1)."""
        parts = self.parts
        with parts.locks.locked(volser):
            with parts.catalogue.transaction() as session:
                row = transactions.physical(session, volser)
                if not row.close_wanted or row.writing_pool is not None:
                    return  # it became scratch meanwhile
                row.writing_pool = row.pool
            with self._reconciled(volser):
                self._write_backup(volser)

    def _write_backup(self, volser: str) -> None:
        parts = self.parts
        backup = parts.staging.path(BACKUP_NAME + volser, 0)
        backup.unlink(missing_ok=True)
        now = parts.clock.now()
        with parts.catalogue.reading() as session:
            content = make_backup(session, transactions.physical(session, volser), parts.name, now)
        try:
            backup.write_bytes(content.encode())
            made = CopyFacts(content.sequence, written=now, copied=now)
            self.sequences.append(volser, [replace(VolumeFile.of(BACKUP_NAME, backup), facts=made)])
            size = backup.stat().st_size
        finally:
            backup.unlink(missing_ok=True)
        facts = parts.cartridges.facts(volser)
        with parts.catalogue.transaction() as session:
            row = session.get_one(PhysicalRow, volser)
            transactions.enter_facts(row, facts)
            row.written_bytes = facts.data_bytes
            ((first, blocks),) = facts.last_volumes(1)
            row.backup_block = first
            session.add(
                CopyRow(
                    name=BACKUP_NAME,
                    generation=content.sequence,
                    volser=volser,
                    role=CopyRole.BACKUP.value,
                    first_block=first,
                    blocks=blocks,
                    size=size,
                    active=False,
                )
            )
            set_sequence(session, content.sequence)
            row.state = VolumeState.FULL.value
            row.close_wanted = False
            encrypted = facts.encryption is TapeEncryption.ENCRYPTED
            kind = "Encrypted Physical" if encrypted else "Physical"
            text = f"Database Backup written to {kind} Tape {volser}"
            operator_messages.notify_hosts(session, text, now, volser)
            self._enter_mount(session, volser)
            transactions.end_writing(session, row)

    # Tape to cache

    def recall(self, volser: str, copies: Sequence[CopyRow]) -> None:
        """Recall volumes from a cartridge into the cache by position (MIG-3)."""
        parts = self.parts
        with parts.locks.locked(volser):
            current = self._still_active(copies)
            if not current:
                return
            stored = self._read(volser, current, parts.cache)
            now = parts.clock.now()
            with parts.catalogue.transaction() as session:
                rows = transactions.existing(session, {copy.name for copy in current})
                superseded = [
                    copy
                    for copy in current
                    if copy.name not in rows or rows[copy.name].generation != copy.generation
                ]
                names = [name for name in stored if name not in {copy.name for copy in superseded}]
                transactions.recalled(session, volser, names, now)
                self._enter_mount(session, volser)
            for copy in superseded:
                parts.cache.remove(copy.name, copy.generation)

    def _still_active(self, copies: Sequence[CopyRow]) -> list[CopyRow]:
        with self.parts.catalogue.reading() as session:
            active = transactions.active_copies(session, {copy.name for copy in copies})
        ids = {copy.id for same_name in active.values() for copy in same_name}
        return sorted((c for c in copies if c.id in ids), key=lambda copy: copy.first_block)

    def _read(self, volser: str, copies: Sequence[CopyRow], into: Cache) -> list[str]:
        """Read copies and verify them; return the names of what was stored."""
        with self.parts.catalogue.reading() as session:
            rows = transactions.logicals(session, {copy.name for copy in copies})
            expected = {copy.name: (copy.generation, rows[copy.name].sha256) for copy in copies}
        runs = [range(copy.first_block, copy.first_block + copy.blocks) for copy in copies]
        with into.incoming() as incoming:
            sink = RecallSink(incoming, expected)
            self.sequences.read(volser, sink, expected.keys(), runs)
            incoming.commit()
        if missing := sorted(expected.keys() - set(sink.stored)):
            raise TaperigError(
                f"Cartridge {volser} does not hold {', '.join(missing)} where the catalogue says; "
                f"run `rig ve check`."
            )
        return sink.stored

    def verify(self, volser: str) -> list[str]:
        """Read every active copy on a cartridge; return what is wrong.

        Raises EkmUnavailable.
        """
        with self.parts.locks.locked(volser):
            with self.parts.catalogue.reading() as session:
                copies = transactions.copies_on(session, volser)
                expected = {copy.first_block: copy for copy in copies}
                sha256 = {
                    copy.name: transactions.logical(session, copy.name).sha256 for copy in copies
                }
            runs = [range(first, first + copy.blocks) for first, copy in expected.items()]
            wanted = [(copy.name, sha256[copy.name]) for copy in copies]
            if self._holds(volser, runs, wanted) is None:
                return []
            findings = []  # something is wrong: copy by copy
            for copy, run, want in zip(copies, runs, wanted, strict=True):
                wrong = self._holds(volser, [run], [want])
                if wrong is not None:
                    findings.append(f"{copy.name} on {volser}: {wrong}")
            return findings

    def _holds(
        self, volser: str, runs: Sequence[range], wanted: Sequence[tuple[str, str]]
    ) -> str | None:
        """Return what is wrong with these runs of blocks, or None.

        They are to hold volumes of these names and SHA-256s.
        """
        try:
            report = self.sequences.read(volser, at=runs)
        except EkmUnavailable:
            raise  # says nothing about the cartridge
        except TaperigError as error:
            return str(error)
        there = [(header.name, header.sha256) for header in report.volumes]
        return None if there == list(wanted) else "it is not what was written"

    def read_labels(self, volser: str) -> CartridgeContents:
        """Read the volume labels of a cartridge."""
        with self.parts.locks.locked(volser):
            return self.sequences.read_labels(volser)

    def read_backup(self, volser: str) -> CartridgeContents:
        """Read the database backup of a cartridge, else its labels."""
        with self.parts.locks.locked(volser):
            return self.sequences.read_backup(volser)

    # Tape to tape

    def move(self, volser: str, pool: int) -> int:
        """Move a cartridge's active data to a pool; return how many volumes.

        The data goes from tape to tape (MIG-4).
        """
        parts = self.parts
        moved = 0
        with parts.locks.locked(volser):
            while run := self._next_run(volser):
                try:
                    self._read(volser, run, parts.staging)
                    with parts.catalogue.transaction() as session:
                        self._enter_mount(session, volser)
                        outgoing = [self._staged(session, copy) for copy in run]
                    while outgoing:
                        count = self._write(pool, outgoing, _complete_move)
                        moved += count
                        outgoing = outgoing[count:]
                finally:
                    for copy in run:
                        parts.staging.remove(copy.name, copy.generation)
        return moved

    def _next_run(self, volser: str) -> list[CopyRow]:
        run: dict[str, CopyRow] = {}
        size = 0
        with self.parts.catalogue.reading() as session:
            for copy in transactions.copies_on(session, volser):
                size += copy.size
                if run and (size > RUN_BYTES or len(run) == BATCH_VOLUMES):
                    break
                run.setdefault(copy.name, copy)
        return list(run.values())

    def _staged(self, session: Session, copy: CopyRow) -> Outgoing:
        row = session.get(LogicalRow, copy.name)
        if row is not None and row.generation != copy.generation:
            row = None  # superseded meanwhile
        return Outgoing(
            copy.name,
            copy.generation,
            copy.role,
            copy.size,
            "" if row is None else row.sha256,
            "" if row is None else row.source,
            "" if row is None else row.storage_group,
            "" if row is None else row.management_class,
            0.0 if row is None else row.written,
            self.parts.staging.path(copy.name, copy.generation),
            copy.id,
        )

    # Parts

    @contextmanager
    def _reserved(
        self, pool: int, size: int, avoid: Set[str], tried: set[str]
    ) -> Iterator[Reservation]:
        """Reserve a cartridge to write to, none of those tried.

        Whatever happens, the catalogue agrees with it afterwards.
        """
        parts = self.parts
        with parts.locks.choosing() as busy:
            with parts.catalogue.transaction() as session:
                target = transactions.reserve(session, pool, size, busy | avoid | tried)
            if target is not None:
                busy.add(target.volser)
        if target is None:
            text = (
                f"Pool {pool} is out of scratch volumes; what is bound for it stays in the cache. "
                f"Insert cartridges with: rig ve insert"
            )
            with parts.catalogue.transaction() as session:
                operator_messages.raise_intervention(
                    session, _scratch_subject(pool), text, parts.clock.now()
                )
            raise NoScratchError(text)
        tried.add(target.volser)
        try:
            with self._reconciled(target.volser):
                yield target
        finally:
            parts.locks.release(target.volser)

    @contextmanager
    def _reconciled(self, volser: str) -> Iterator[None]:
        try:
            yield
        except CartridgeMismatchError:  # nothing on it was touched, and an intervention is open
            with self.parts.catalogue.transaction() as session:
                transactions.end_writing(session, session.get_one(PhysicalRow, volser))
            raise
        except UnusableCartridgeError as error:
            with self.parts.catalogue.transaction() as session:
                row = session.get_one(PhysicalRow, volser)
                transactions.set_aside(session, row, _sentence(error), self.parts.clock.now())
            with suppress(TaperigError):  # then the next start does it
                reconcile_cartridge(self.parts, volser)
            raise
        except BaseException:
            with suppress(TaperigError):  # then the next start does it
                reconcile_cartridge(self.parts, volser)
            raise

    def _enter_mount(self, session: Session, volser: str) -> None:
        row = session.get_one(DriveRow, self.sequences.drive.serial)
        row.mounts += 1
        row.volser = volser


def reconcile_cartridge(parts: NodeParts, volser: str) -> str:
    """Reconcile the catalogue with a cartridge that was being written."""
    facts = parts.cartridges.inspect(volser, repair=True)
    with parts.catalogue.transaction() as session:
        row = session.get_one(PhysicalRow, volser)
        if row.writing_pool is None:
            return "nothing was open"
        return transactions.reconcile(session, row, facts)


def _complete_orders(session: Session, written: Written) -> None:
    """Delete the orders that are carried out.

    An order to another pool, given meanwhile by a rewind/unload, stays.
    """
    copies = {(copy.name, copy.role): copy for _, copy in written}
    names = [volume.name for volume, _ in written]
    for order in session.scalars(select(PremigrationRow).where(PremigrationRow.name.in_(names))):
        copy = copies.get((order.name, order.role))
        if copy is None or copy.generation != order.generation:
            continue
        if session.get_one(PhysicalRow, copy.volser).pool == order.pool:
            session.delete(order)


def _complete_move(session: Session, written: Written) -> None:
    """Keep inactive the copies that were superseded during the move.

    Their volumes were rewritten, expired or copied meanwhile.
    """
    sources = [volume.source_copy for volume, _ in written]
    query = select(CopyRow.id).where(CopyRow.id.in_(sources), CopyRow.active)
    active = set(session.scalars(query))
    for volume, copy in written:
        if volume.source_copy not in active:
            copy.active = False


def _fitting(
    volumes: Sequence[Outgoing], target: Reservation, elsewhere: Mapping[str, Set[str]]
) -> list[Outgoing]:
    """Return the first volumes, as many as the cartridge takes.

    A volume whose other copy is on the cartridge ends them.
    """
    fitting: list[Outgoing] = []
    room = target.room
    for volume in volumes:
        room -= volume.size
        if room < 0 or target.volser in elsewhere[volume.name]:
            break
        fitting.append(volume)
    return fitting


def _sentence(error: TaperigError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}."


def _scratch_subject(pool: int) -> str:
    return f"scratch pool {pool}"
