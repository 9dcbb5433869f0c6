"""Tape jobs of one drive: premigrate, close, recall, verify, move.

Each ends in one transaction, a move in one for each run of volumes.

The order is always the same: the catalogue says that a cartridge is being written; the data goes to
tape, synced; the catalogue says in one transaction where it is and that the cartridge is free.
After any failure in between, `reconcile` compares the cartridge with the catalogue: at once, or at
the next start when the process was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy import not_, select
from sqlalchemy.orm import Session

from hsm.ekm.protocol.errors import ExchangeError
from hsm.errors import TaperigError
from hsm.keys.eedk import KeyLabel
from rig.drive.cartridge_format import (
    DamagedCartridgeError,
    ForgedMemoryError,
    UnusableCartridgeError,
)
from rig.ve.catalogue import bad_copies, operator_messages, settings, transactions
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
from rig.ve.volumes.reading import NullSink, VolumeSink
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


@dataclass(slots=True)
class CopiesRead:
    """Copies that were read from a cartridge."""

    right: list[CopyRow] = field(default_factory=list)
    wrong: dict[int, str] = field(default_factory=dict)
    """Why the others cannot be read, by the copy's id."""


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
                    on_tape = transactions.enter_damaged(
                        session, order.name, order.generation, str(error), self.parts.clock.now()
                    )
                if on_tape:
                    self.parts.cache.remove(order.name, order.generation)
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
            .where(PremigrationRow.pool == pool, LogicalRow.in_cache)
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
            unproved: Sequence[KeyLabel] = ()
            if target.from_bot:
                with self._reporting_refused_key(f"keys of pool {pool}"):
                    unproved = self.sequences.write_from_bot(chosen, files, target.volser)
            else:
                with self._reporting_refused_key(f"key of cartridge {target.volser}"):
                    self.sequences.append(target.volser, files)
            facts = parts.cartridges.facts(target.volser)
            now = parts.clock.now()
            with parts.catalogue.transaction() as session:
                row = session.get_one(PhysicalRow, target.volser)
                if target.from_bot:
                    transactions.enter_bot(session, row, chosen.keys, facts)
                if unproved:
                    names = " and ".join(repr(key.label) for key in unproved)
                    text = (
                        f"{target.volser} was written with an EEDK that is not proved: no key "
                        f"manager of this node has the private half of {names}."
                    )
                    operator_messages.notify_hosts(session, text, now, target.volser)
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

    def recall(self, volser: str, copies: Sequence[CopyRow]) -> dict[str, str]:
        """Recall volumes from a cartridge into the cache by position (MIG-3).

        Returns why some of them cannot be read there, by name.
        """
        parts = self.parts
        with parts.locks.locked(volser):
            current = self._still_active(copies)
            if not current:
                return {}
            read = self._read(volser, current, parts.cache)
            now = parts.clock.now()
            with parts.catalogue.transaction() as session:
                rows = transactions.existing(session, {copy.name for copy in current})
                superseded = [
                    copy
                    for copy in current
                    if copy.name not in rows or rows[copy.name].generation != copy.generation
                ]
                old = {copy.name for copy in superseded}
                names = [copy.name for copy in read.right if copy.name not in old]
                transactions.recalled(session, volser, names, now)
                self._enter_read(session, volser, read)
            for copy in superseded:
                parts.cache.remove(copy.name, copy.generation)
        return {copy.name: read.wrong[copy.id] for copy in current if copy.id in read.wrong}

    def _still_active(self, copies: Sequence[CopyRow]) -> list[CopyRow]:
        with self.parts.catalogue.reading() as session:
            active = transactions.active_copies(session, {copy.name for copy in copies})
        ids = {copy.id for same_name in active.values() for copy in same_name}
        return sorted((c for c in copies if c.id in ids), key=lambda copy: copy.first_block)

    def _read(
        self, volser: str, copies: Sequence[CopyRow], into: Cache | None = None
    ) -> CopiesRead:
        """Read copies and verify them; those that are right are stored.

        What cannot be opened or written at all is set aside.
        """
        with self.parts.catalogue.reading() as session:
            rows = transactions.logicals(session, {copy.name for copy in copies})
            expected = {copy.name: (copy.generation, rows[copy.name].sha256) for copy in copies}
        runs = [range(copy.first_block, copy.first_block + copy.blocks) for copy in copies]
        with (
            ExitStack() as storing,
            self._reporting_unusable(volser),
            self._reporting_refused_key(f"key of cartridge {volser}"),
        ):
            sink: VolumeSink = NullSink()
            if into is not None:
                incoming = storing.enter_context(into.incoming())
                sink = RecallSink(incoming, expected)
            report = self.sequences.read(volser, sink, expected.keys(), runs)
            if into is not None:
                incoming.commit()
        whole = {(header.name, header.sha256) for header in report.volumes}
        read = CopiesRead()
        for copy in copies:
            if copy.first_block in report.damaged:
                read.wrong[copy.id] = report.damaged[copy.first_block]
            elif (copy.name, expected[copy.name][1]) in whole:
                read.right.append(copy)
            else:
                read.wrong[copy.id] = (
                    f"Cartridge {volser} does not hold {copy.name} at block {copy.first_block} as "
                    f"the catalogue says."
                )
        return read

    def verify(self, volser: str) -> list[str]:
        """Read every active copy on a cartridge; return what is wrong.

        Raises TaperigError when the cartridge cannot be read at all.
        """
        with self.parts.locks.locked(volser):
            return self._verify(volser)

    def _verify(self, volser: str) -> list[str]:
        with self.parts.catalogue.reading() as session:
            copies = transactions.copies_on(session, volser)
        if not copies:
            return []
        read = self._read(volser, copies)
        with self.parts.catalogue.transaction() as session:
            self._enter_read(session, volser, read)
        wrong = read.wrong
        return [f"{each.name} on {volser}: {wrong[each.id]}" for each in copies if each.id in wrong]

    def _enter_read(self, session: Session, volser: str, read: CopiesRead) -> None:
        """Enter that copies were read, and the mount for it."""
        right = {copy.id for copy in read.right}
        bad_copies.enter_read(session, volser, right, read.wrong, self.parts.clock.now())
        self._enter_mount(session, volser)

    @contextmanager
    def _reporting_unusable(self, volser: str) -> Iterator[None]:
        """Set a cartridge aside that cannot be read.

        What is on a damaged one counts as bad copies.
        """
        try:
            yield
        except CartridgeMismatchError:
            raise  # an intervention is open, and what belongs there may come back
        except UnusableCartridgeError as error:
            self._set_aside(volser, error)
            if isinstance(error, (DamagedCartridgeError, ForgedMemoryError)):
                with self.parts.catalogue.transaction() as session:
                    copies = transactions.copies_on(session, volser)
                    wrong = {copy.id: _sentence(error) for copy in copies}
                    bad_copies.enter_read(session, volser, (), wrong, self.parts.clock.now())
            raise

    @contextmanager
    def _reporting_refused_key(self, subject: str) -> Iterator[None]:
        """Raise an intervention when a key is refused.

        It is cleared when it is not any more.
        """
        now = self.parts.clock.now
        try:
            yield
        except ExchangeError as error:
            with self.parts.catalogue.transaction() as session:
                operator_messages.raise_intervention(session, subject, str(error), now())
            raise
        with self.parts.catalogue.reading() as session:
            is_open = subject in operator_messages.open_subjects(session, subject)
        if is_open:
            with self.parts.catalogue.transaction() as session:
                operator_messages.clear_intervention(session, subject, now())

    def _set_aside(self, volser: str, error: UnusableCartridgeError) -> None:
        with self.parts.catalogue.transaction() as session:
            row = session.get_one(PhysicalRow, volser)
            bad_copies.set_aside(session, row, _sentence(error), self.parts.clock.now())

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

        The data goes from tape to tape (MIG-4). What cannot be read stays, and is named at the end
        by a VolumeError.
        """
        parts = self.parts
        moved = 0
        wrong: dict[str, str] = {}
        with parts.locks.locked(volser):
            while run := self._next_run(volser):
                count, unreadable = self._from_tape(volser, pool, run, _complete_move)
                moved += count
                wrong |= unreadable
            with parts.catalogue.transaction() as session:
                transactions.end_move(session, volser)
        if wrong:
            raise VolumeError(f"Moved from {volser}: {moved} volumes, but for {_named(wrong)}")
        return moved

    def copy_again(self, volser: str, pool: int) -> int:
        """Make ordered copies from the other copies, on a cartridge.

        They are of volumes that are not in the cache. Returns how many; raises VolumeError naming
        what cannot be read.
        """
        with self.parts.locks.locked(volser):
            with self.parts.catalogue.reading() as session:
                sources = bad_copies.sources_on(session, volser, pool)
            done = 0
            wrong: dict[str, str] = {}
            for run in _runs([copy for copy, _ in sources]):
                roles = {copy.name: role for copy, role in sources}
                count, unreadable = self._from_tape(volser, pool, run, _complete_orders, roles)
                done += count
                wrong |= unreadable
        if wrong:
            raise VolumeError(f"Not copied again: {_named(wrong)}")
        return done

    def _from_tape(
        self,
        volser: str,
        pool: int,
        run: Sequence[CopyRow],
        complete: CompleteWrite,
        roles: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str]]:
        """Write copies on a cartridge to a pool, in other `roles` if given.

        Returns how many, and why others cannot be read, by name.
        """
        parts = self.parts
        done = 0
        try:
            read = self._read(volser, run, parts.staging)
            with parts.catalogue.transaction() as session:
                self._enter_read(session, volser, read)
                outgoing = [
                    self._staged(session, copy, (roles or {}).get(copy.name, copy.role))
                    for copy in read.right
                ]
            while outgoing:
                count = self._write(pool, outgoing, complete)
                done += count
                outgoing = outgoing[count:]
        finally:
            for copy in run:
                parts.staging.remove(copy.name, copy.generation)
        return done, {copy.name: read.wrong[copy.id] for copy in run if copy.id in read.wrong}

    def _next_run(self, volser: str) -> list[CopyRow]:
        """Return the next copies that a move takes in one mount."""
        with self.parts.catalogue.reading() as session:
            copies = bad_copies.good(transactions.copies_on(session, volser))
        return next(_runs(copies), [])

    def _staged(self, session: Session, copy: CopyRow, role: str) -> Outgoing:
        row = session.get(LogicalRow, copy.name)
        if row is not None and row.generation != copy.generation:
            row = None  # superseded meanwhile
        return Outgoing(
            copy.name,
            copy.generation,
            role,
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
            self._set_aside(volser, error)
            with suppress(TaperigError):  # then the next start does it
                reconcile_cartridge(self.parts, volser)
            with suppress(TaperigError):  # what cannot be read counts as bad copies
                self._verify(volser)
            raise
        except BaseException:
            with suppress(TaperigError):  # then the next start does it
                reconcile_cartridge(self.parts, volser)
            raise

    def _enter_mount(self, session: Session, volser: str) -> None:
        row = session.get_one(DriveRow, self.sequences.drive.serial)
        row.mounts += 1
        row.volser = volser
        now = self.parts.clock.now()
        for note in self.parts.cartridges.notes(volser):
            operator_messages.notify_once(session, f"{volser}: {note}", now, volser)


def _runs(copies: Iterable[CopyRow]) -> Iterator[list[CopyRow]]:
    """Yield copies as they are read in one mount, each volume once."""
    run: dict[str, CopyRow] = {}
    size = 0
    for copy in copies:
        if run and (size + copy.size > RUN_BYTES or len(run) == BATCH_VOLUMES):
            yield list(run.values())
            run, size = {}, 0
        if copy.name not in run:
            run[copy.name] = copy
            size += copy.size
    if run:
        yield list(run.values())


def _named(wrong: Mapping[str, str]) -> str:
    """Name volumes, each with what is wrong with it."""
    return "; ".join(f"{name}: {why.removesuffix('.')}" for name, why in wrong.items()) + "."


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
