"""Changes to the catalogue; each function is a part of one transaction.

They keep these true, and `consistency.py` checks them:

- a logical volume is in the cache, or a cartridge has an active copy of its newest generation;
- a copy is entered only after it is on tape, and is active only if it is of the newest generation;
- a scratch cartridge has no copies; a cartridge's sums are those of its copies.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from hsm.keys.eedk import KeyLabel
from rig.ve.catalogue import bad_copies, operator_messages, settings
from rig.ve.catalogue.database import CatalogueError
from rig.ve.catalogue.model import SCRATCH_POOL, CopyRole, TapeEncryption, VolumeState
from rig.ve.catalogue.schema import (
    CopyRow,
    LogicalRow,
    PhysicalRow,
    PremigrationRow,
    RetiredNameRow,
    TrafficRow,
    keys_json,
)

HOUR_S = 3600
_ROWS_AT_ONCE = 1000
_NAMES_AT_ONCE = 10_000
"""SQLite takes 32,766 values in one statement."""


@dataclass(frozen=True, slots=True)
class TapeFacts:
    """What a cartridge itself holds, as read at its demount."""

    cartridge_id: str
    """Its own random id, hexadecimal."""
    format_version: int
    encryption: TapeEncryption
    first_epoch: int
    epoch: int
    block_count: int
    end_offset: int
    """Where its data ends, in bytes of its file."""
    data_bytes: int
    """Data of logical volumes, whole or not, without labels."""
    label_blocks: tuple[int, ...]

    def last_volumes(self, count: int) -> list[tuple[int, int]]:
        """Return first block and block count of the last `count` whole volumes."""
        labels = self.label_blocks[len(self.label_blocks) - 2 * count :]
        return [
            (first, last - first + 1) for first, last in zip(labels[::2], labels[1::2], strict=True)
        ]


# The host's side


def logical(session: Session, name: str) -> LogicalRow:
    """Return a logical volume.

    Raises CatalogueError when there is none of that name.
    """
    row = session.get(LogicalRow, name)
    if row is None:
        raise CatalogueError(
            f"There is no logical volume {name[:40]!r}; `rig ve volumes` lists all."
        )
    return row


def existing(session: Session, names: Collection[str]) -> dict[str, LogicalRow]:
    """Return by name the logical volumes of these names that exist."""
    return {
        row.name: row
        for some in name_batches(names)
        for row in session.scalars(select(LogicalRow).where(LogicalRow.name.in_(some)))
    }


def logicals(session: Session, names: Collection[str]) -> dict[str, LogicalRow]:
    """Return logical volumes by name.

    Raises CatalogueError when there is none of a name.
    """
    rows = existing(session, names)
    for name in names:
        if name not in rows:
            logical(session, name)  # raises
    return rows


def volume_batches(
    session: Session, query: Select[LogicalRow] | None = None, after: str = ""
) -> Iterator[Sequence[LogicalRow]]:
    """Yield logical volumes of a query by name, some at a time.

    `after` leaves out the names up to that one. Rows are forgotten once the next come.
    """
    chosen = (select(LogicalRow) if query is None else query).order_by(LogicalRow.name)
    while rows := session.scalars(chosen.where(LogicalRow.name > after).limit(_ROWS_AT_ONCE)).all():
        after = rows[-1].name
        yield rows
        session.expunge_all()


def name_batches(names: Collection[str]) -> Iterator[list[str]]:
    """Yield names in batches that one statement takes."""
    listed = list(names)
    for first in range(0, len(listed), _NAMES_AT_ONCE):
        yield listed[first : first + _NAMES_AT_ONCE]


def generations(session: Session, names: Collection[str]) -> dict[str, int]:
    """Return the newest generation of each of these names.

    A name that was never used is absent. A copy that cannot be read may be newer than its volume.
    """
    newest: dict[str, int] = {}
    for table in (RetiredNameRow, LogicalRow, CopyRow):
        query = select(table.name, table.generation).where(table.name.in_(names))
        for name, generation in session.execute(query):
            newest[name] = max(generation, newest.get(name, 0))
    return newest


def enter_written(session: Session, rows: Sequence[LogicalRow], now: float) -> None:
    """Enter contents just written to the cache.

    The contents that were there before are inactivated.
    """
    names = [row.name for row in rows]
    for copies in active_copies(session, names).values():
        for copy in copies:
            inactivate(session, copy, now)
    for table in (PremigrationRow, RetiredNameRow, LogicalRow):
        session.execute(delete(table).where(table.name.in_(names)))
    session.add_all(rows)
    session.flush()
    clear_damaged(session, names, now)


def expire(session: Session, name: str, now: float) -> LogicalRow:
    """Expire a volume: inactivate its data and free its name (MIG-12)."""
    row = logical(session, name)
    for copy in active_copies_of(session, name):
        inactivate(session, copy, now)
    session.execute(delete(PremigrationRow).where(PremigrationRow.name == name))
    session.merge(RetiredNameRow(name=name, generation=row.generation))
    session.delete(row)
    clear_damaged(session, [name], now)
    return row


def unload(session: Session, names: Collection[str], now: float) -> None:
    """Unload volumes: choose their pools and order missing copies (MIG-2)."""
    active = active_copies(session, names)
    ordered = session.scalars(select(PremigrationRow).where(PremigrationRow.name.in_(names)))
    orders = {(order.name, order.role): order for order in ordered}
    volsers = {copy.volser for copies in active.values() for copy in copies}
    pool_of = {volser: session.get_one(PhysicalRow, volser).pool for volser in volsers}
    pools: dict[tuple[str, str], dict[CopyRole, int]] = {}
    for row in session.scalars(select(LogicalRow).where(LogicalRow.name.in_(names))):
        row.mounted = False
        if not row.in_cache:
            continue
        constructs = (row.storage_group, row.management_class)
        if constructs not in pools:
            pools[constructs] = settings.pools_of(session, *constructs)
        readable = bad_copies.good(active.get(row.name, ()))
        there = {CopyRole(copy.role): pool_of[copy.volser] for copy in readable}
        for role, number in pools[constructs].items():
            order = orders.get((row.name, role.value))
            if there.get(role) == number:
                if order is not None:
                    session.delete(order)
                continue
            if order is None:
                order = PremigrationRow(name=row.name, role=role.value)
                session.add(order)
            order.generation, order.pool, order.queued = row.generation, number, now


def waiting(session: Session, names: Collection[str]) -> list[str]:
    """Return those of these volumes of which a copy is ordered."""
    query = select(PremigrationRow.name).distinct()
    return [
        name
        for some in name_batches(names)
        for name in session.scalars(query.where(PremigrationRow.name.in_(some)))
    ]


# Damaged files in the cache: not what was stored

_DAMAGED = "cache file of "


def enter_damaged(session: Session, name: str, generation: int, text: str, now: float) -> bool:
    """Enter that a volume's cache file is not what was stored.

    With a good copy on tape the volume leaves the cache, and the result is True: nobody needs the
    file. Else an intervention is raised; the file cannot go to tape.
    """
    row = session.get(LogicalRow, name)
    if row is None or row.generation != generation:
        return True
    if bad_copies.good(active_copies_of(session, name)):
        row.in_cache = False
        operator_messages.notify_hosts(session, f"{text} It is read from tape.", now, name)
        clear_damaged(session, [name], now)
        return True
    operator_messages.raise_intervention(session, f"{_DAMAGED}{name}", text, now)
    return False


def damaged(session: Session) -> set[str]:
    """Return the volumes whose cache file is known to be damaged."""
    subjects = operator_messages.open_subjects(session, _DAMAGED)
    return {subject.removeprefix(_DAMAGED) for subject in subjects}


def clear_damaged(session: Session, names: Collection[str], now: float) -> None:
    """Clear the interventions for these volumes' cache files."""
    for name in damaged(session).intersection(names):
        operator_messages.clear_intervention(session, f"{_DAMAGED}{name}", now)


# Copies


def active_copies_of(session: Session, name: str) -> list[CopyRow]:
    """Return the active copies of a logical volume, as `active_copies` does."""
    return active_copies(session, [name]).get(name, [])


def active_copies(session: Session, names: Collection[str]) -> dict[str, list[CopyRow]]:
    """Return active copies by volume name: the primary first, bad ones last."""
    query = select(CopyRow).where(CopyRow.active).order_by(CopyRow.bad, CopyRow.role)
    by_name: dict[str, list[CopyRow]] = {}
    for some in name_batches(names):
        for copy in session.scalars(query.where(CopyRow.name.in_(some))):
            by_name.setdefault(copy.name, []).append(copy)
    return by_name


def readable(session: Session, name: str, copies: Sequence[CopyRow]) -> list[CopyRow]:
    """Return the copies of a volume that are not on ejected cartridges.

    Raises CatalogueError when there is none.
    """
    rows = {copy.volser: session.get_one(PhysicalRow, copy.volser) for copy in copies}
    here = [copy for copy in copies if rows[copy.volser].state != VolumeState.EJECTED.value]
    if here:
        return here
    if rows:
        away = ", ".join(f"ejected {row.volser} at {row.ejected_to}" for row in rows.values())
        raise CatalogueError(
            f"The logical volume {name} is on {away}; bring the cartridge back with: "
            f"rig ve insert FILE"
        )
    raise CatalogueError(f"The logical volume {name} is on no cartridge; run `rig ve check`.")


def inactivate(session: Session, copy: CopyRow, now: float) -> None:
    """Make a copy's data inactive.

    A cartridge without active data becomes scratch (MIG-12).
    """
    copy.active = False
    row = session.get_one(PhysicalRow, copy.volser)
    row.active_bytes -= copy.size
    row.active_volumes -= 1
    row.last_inactivated = now
    session.flush()
    release_if_empty(session, row)
    bad_copies.settle(session, row.volser, now)


def release_if_empty(session: Session, row: PhysicalRow) -> None:
    """Return a cartridge without active data to scratch.

    One that a drive is writing, that is ejected or read-only stays as it is.
    """
    if row.active_volumes or row.writing_pool is not None or row.read_only:
        return
    if row.state in (VolumeState.SCRATCH.value, VolumeState.EJECTED.value):
        return
    session.execute(delete(CopyRow).where(CopyRow.volser == row.volser))
    row.state = VolumeState.SCRATCH.value
    row.keys = []
    row.written_bytes = 0
    row.close_wanted = False
    row.backup_block = None
    row.move_pool = None
    row.move_when_eligible = False
    settings.return_borrowed(row, settings.pool(session, row.pool))


# Cartridges

_CARTRIDGE = "cartridge "


def cartridge_subject(volser: str) -> str:
    """Return the subject of interventions about what a cartridge is."""
    return f"{_CARTRIDGE}{volser}"


def make_writable(session: Session, volser: str, now: float) -> None:
    """Let a cartridge that was set aside be written again.

    Raises CatalogueError when it is not read-only.
    """
    row = physical(session, volser)
    if not row.read_only:
        raise CatalogueError(f"Cartridge {volser} is not read-only; nothing was changed.")
    bad_copies.clear_set_aside(session, row, now)
    release_if_empty(session, row)


@dataclass(frozen=True, slots=True)
class Reservation:
    """A cartridge that is reserved to be written."""

    volser: str
    from_bot: bool
    room: int
    """Bytes of data that it still takes."""


def physical(session: Session, volser: str) -> PhysicalRow:
    """Return a cartridge.

    Raises CatalogueError when the catalogue has none of that VOLSER.
    """
    row = session.get(PhysicalRow, volser)
    if row is None:
        raise CatalogueError(
            f"There is no physical volume {volser[:40]!r}; `rig ve search` lists all."
        )
    return row


def require_in_node(row: PhysicalRow) -> None:
    """Raise CatalogueError for a cartridge that is ejected."""
    if row.state == VolumeState.EJECTED.value:
        raise CatalogueError(
            f"Cartridge {row.volser} is ejected, at {row.ejected_to}; bring it back with: "
            f"rig ve insert FILE"
        )


def reserve(session: Session, number: int, size: int, busy: Collection[str]) -> Reservation | None:
    """Choose a pool's cartridge to write, and mark it as being written.

    It has room for `size` bytes or more.

    A filling one with room, the fullest first; else scratch of the pool; else, if the pool may,
    one borrowed from the common scratch pool. None when there is none. A filling one without room
    is to be closed.
    """
    pool = settings.pool(session, number)
    filling = select(PhysicalRow).where(
        PhysicalRow.read_only.is_(False),
        PhysicalRow.pool == number,
        PhysicalRow.state == VolumeState.FILLING.value,
        PhysicalRow.writing_pool.is_(None),
        PhysicalRow.move_pool.is_(None),
        PhysicalRow.close_wanted.is_(False),
    )
    for row in session.scalars(filling.order_by(PhysicalRow.written_bytes.desc())):
        if row.volser in busy:
            continue
        if row.capacity_bytes - row.written_bytes >= size:
            row.writing_pool = number
            return Reservation(row.volser, False, row.capacity_bytes - row.written_bytes)
        row.close_wanted = True
    sources = [number, SCRATCH_POOL] if pool.borrow else [number]
    for source in sources:
        scratch = select(PhysicalRow).where(
            PhysicalRow.read_only.is_(False),
            PhysicalRow.pool == source,
            PhysicalRow.state == VolumeState.SCRATCH.value,
            PhysicalRow.writing_pool.is_(None),
            PhysicalRow.capacity_bytes >= size,
        )
        for row in session.scalars(scratch.order_by(PhysicalRow.volser)):
            if row.volser not in busy:
                row.writing_pool = number
                return Reservation(row.volser, True, row.capacity_bytes)
    return None


def order_move(session: Session, volser: str, number: int, *, when_eligible: bool) -> None:
    """Order that the volumes of a cartridge move to a pool.

    With `when_eligible`, they move once the cartridge is eligible for reclaim.
    """
    settings.pool(session, number)
    row = physical(session, volser)
    if row.state == VolumeState.SCRATCH.value:
        raise CatalogueError(f"Cartridge {volser} is scratch; there is nothing on it to move.")
    require_in_node(row)
    row.move_pool = number
    row.move_when_eligible = when_eligible


def end_move(session: Session, volser: str) -> None:
    """Enter that all that can be read on a cartridge was moved."""
    row = physical(session, volser)
    row.move_pool, row.move_when_eligible = None, False


def enter_bot(
    session: Session, row: PhysicalRow, keys: tuple[KeyLabel, ...], facts: TapeFacts
) -> None:
    """Enter that a reserved scratch cartridge was written from BOT (BOT-5)."""
    assert row.writing_pool is not None
    if row.pool == SCRATCH_POOL:
        row.borrowed = True
    row.pool = row.writing_pool
    row.state = VolumeState.FILLING.value
    row.keys = keys_json(keys) if facts.encryption is TapeEncryption.ENCRYPTED else []
    row.last_accessed = row.last_inactivated = None


def enter_facts(row: PhysicalRow, facts: TapeFacts) -> None:
    """Enter what was read from the cartridge itself."""
    row.cartridge_id = facts.cartridge_id
    row.format_version = facts.format_version
    row.encryption = facts.encryption.value
    row.first_epoch = facts.first_epoch
    row.epoch = facts.epoch
    row.block_count = facts.block_count
    row.end_offset = facts.end_offset


def enter_copies(
    session: Session,
    row: PhysicalRow,
    copies: Sequence[CopyRow],
    now: float,
) -> None:
    """Enter copies that are on tape now.

    Those of the newest generation replace the active copies of the same role.

    A copy whose `active` is already False was superseded while it was written, and stays so.
    """
    names = [copy.name for copy in copies]
    query = select(LogicalRow.name, LogicalRow.generation).where(LogicalRow.name.in_(names))
    newest = dict(session.execute(query).all())
    before = active_copies(session, names)
    for copy in copies:
        copy.active = copy.active is not False and newest.get(copy.name) == copy.generation
        if copy.active:
            for other in before.get(copy.name, ()):
                if other.role == copy.role:
                    inactivate(session, other, now)
            row.active_bytes += copy.size
            row.active_volumes += 1
    session.add_all(copies)
    session.flush()
    row.last_written = now
    _count_traffic(session, row, sum(copy.size for copy in copies), len(copies), now)


def _count_traffic(session: Session, row: PhysicalRow, size: int, volumes: int, now: float) -> None:
    key = (int(now // HOUR_S), row.pool, row.encryption == TapeEncryption.ENCRYPTED.value)
    entry = session.get(TrafficRow, key)
    if entry is None:
        entry = TrafficRow(hour=key[0], pool=key[1], encrypted=key[2], bytes=0, volumes=0)
        session.add(entry)
    entry.bytes += size
    entry.volumes += volumes


def end_writing(session: Session, row: PhysicalRow) -> None:
    """Mark that a reserved cartridge is no longer being written."""
    row.writing_pool = None
    session.flush()
    release_if_empty(session, row)


def reconcile(session: Session, row: PhysicalRow, facts: TapeFacts) -> str:
    """Make the catalogue agree with a cartridge after an interrupted write.

    Returns what was found, in words.

    Whatever is on it that the catalogue does not know was never acknowledged: it counts as written
    and inactive, and its volumes are still in the cache or on the cartridge that they were moved
    from.
    """
    finding = "nothing had been written"
    if facts.first_epoch != row.first_epoch:
        if row.state != VolumeState.SCRATCH.value:
            raise CatalogueError(
                f"Cartridge {row.volser} was written from BOT outside this node: its epoch is "
                f"{facts.first_epoch}, the catalogue says {row.first_epoch}. Run `rig ve check`."
            )
        finding = "it had been begun from BOT; it is scratch again"
    elif facts.block_count < row.block_count:
        raise CatalogueError(
            f"Cartridge {row.volser} has lost data: it has {facts.block_count} blocks, the "
            f"catalogue says {row.block_count}. Run `rig ve check`."
        )
    elif facts.block_count > row.block_count:
        finding = f"{facts.block_count - row.block_count} blocks of a write that was cut off"
        row.written_bytes = facts.data_bytes
    enter_facts(row, facts)
    end_writing(session, row)
    return finding


def copies_on(session: Session, volser: str, *, active: bool = True) -> list[CopyRow]:
    """Return the copies on a cartridge in their order on tape (MIG-3)."""
    query = select(CopyRow).where(CopyRow.volser == volser).order_by(CopyRow.first_block)
    return list(session.scalars(query.where(CopyRow.active) if active else query))


def recalled(session: Session, volser: str, names: Sequence[str], now: float) -> None:
    """Enter that volumes were read from a cartridge into the cache."""
    session.get_one(PhysicalRow, volser).last_accessed = now
    for row in logicals(session, names).values():
        row.in_cache = True
        row.accessed = now
