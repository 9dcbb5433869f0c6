"""Views of the catalogue for the operator, as JSON-ready values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hsm.keys.labels import label_key
from rig.ve.catalogue import operator_messages, settings, transactions
from rig.ve.catalogue.model import DAY_S, SCRATCH_POOL, CopyRole, TapeEncryption, VolumeState
from rig.ve.catalogue.schema import (
    CopyRow,
    DriveRow,
    EventRow,
    LogicalRow,
    ManagementClassRow,
    PhysicalRow,
    PoolRow,
    PremigrationRow,
    StorageGroupRow,
    TrafficRow,
)
from rig.ve.reclaim_planner import ReclaimPlan

Row = dict[str, Any]


def utc_text(seconds: float | None) -> str | None:
    """Return a time as text: UTC, to the second."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def status(session: Session, now: float, cache_bytes: int) -> Row:
    """Return the state of the node: volumes, cache, drives, cartridges."""

    def count(*conditions: Any) -> tuple[int, int]:
        query = select(func.count(), func.coalesce(func.sum(LogicalRow.size), 0))
        number, size = session.execute(query.where(*conditions)).one()
        return number, size

    volumes, total = count()
    cached, cached_bytes = count(LogicalRow.in_cache)
    waiting = select(func.count()).select_from(PremigrationRow)
    opened = select(func.count()).select_from(EventRow)
    return {
        "time": utc_text(now),
        "logical_volumes": volumes,
        "bytes": total,
        "in_cache": cached,
        "cache_bytes": cached_bytes,
        "cache_limit_bytes": cache_bytes,
        "waiting_for_tape": session.scalar(waiting),
        "interventions": session.scalar(
            opened.where(
                EventRow.kind == operator_messages.INTERVENTION, EventRow.cleared.is_(None)
            )
        ),
        "drives": [
            {"serial": row.serial, "model": row.model, "mounts": row.mounts, "last": row.volser}
            for row in session.scalars(select(DriveRow).order_by(DriveRow.serial))
        ],
        "cartridges": [
            {"pool": place, "state": state, "cartridges": number}
            for place, state, number in session.execute(
                select(PhysicalRow.pool, PhysicalRow.state, func.count())
                .group_by(PhysicalRow.pool, PhysicalRow.state)
                .order_by(PhysicalRow.pool, PhysicalRow.state)
            )
        ],
    }


def pools(session: Session) -> list[Row]:
    """Return every pool's settings, and what it holds."""
    rows = []
    for row in session.scalars(select(PoolRow).order_by(PoolRow.number)):
        settings = row.record()
        held = select(
            func.count(),
            func.coalesce(func.sum(PhysicalRow.active_bytes), 0),
            func.coalesce(func.sum(PhysicalRow.active_volumes), 0),
        ).where(PhysicalRow.pool == row.number)
        cartridges, active, volumes = session.execute(held).one()
        rows.append(
            {
                "pool": settings.number,
                "encrypt": settings.encrypt,
                "keys": _keys(row.keys),
                "allow_public_only": settings.allow_public_only,
                "borrow": settings.borrow,
                "return_borrowed": settings.return_borrowed,
                "reclaim_pool": settings.reclaim_target,
                "reclaim": asdict(settings.reclaim),
                "cartridges": cartridges,
                "logical_volumes": volumes,
                "active_bytes": active,
            }
        )
    return rows


def constructs(session: Session) -> Row:
    """Return storage groups, management classes and defaults."""
    primary, secondary = settings.defaults(session)
    groups = session.scalars(select(StorageGroupRow).order_by(StorageGroupRow.name))
    classes = session.scalars(select(ManagementClassRow).order_by(ManagementClassRow.name))
    return {
        "storage_groups": {row.name: row.pool for row in groups},
        "management_classes": {row.name: row.secondary_pool for row in classes},
        "defaults": {"primary_pool": primary, "secondary_pool": secondary},
    }


def volumes(
    session: Session,
    names: Sequence[str] | None = None,
    *,
    after: str = "",
    storage_group: str | None = None,
    in_cache: bool | None = None,
) -> Iterator[Row]:
    """Yield logical volumes and where they are, by name.

    All, or those of these names; only those behind the name `after`; None filters nothing.
    """
    query = select(LogicalRow)
    if names:
        for name in names:
            transactions.logical(session, name)
        query = query.where(LogicalRow.name.in_(names))
    if storage_group is not None:
        query = query.where(LogicalRow.storage_group == storage_group)
    if in_cache is not None:
        query = query.where(LogicalRow.in_cache.is_(in_cache))
    places = {
        volser: (pool, away)
        for volser, pool, away in session.execute(
            select(PhysicalRow.volser, PhysicalRow.pool, PhysicalRow.ejected_to)
        )
    }
    for rows in transactions.volume_batches(session, query, after):
        some = [row.name for row in rows]
        active = transactions.active_copies(session, some)
        orders: dict[str, list[int]] = {}
        ordered = select(PremigrationRow.name, PremigrationRow.pool)
        for name, pool in session.execute(ordered.where(PremigrationRow.name.in_(some))):
            orders.setdefault(name, []).append(pool)
        for row in rows:
            yield _volume(row, active.get(row.name, []), places, orders.get(row.name, []))


def _volume(
    row: LogicalRow,
    active: Sequence[CopyRow],
    places: Mapping[str, tuple[int, str | None]],
    orders: list[int],
) -> Row:
    return {
        "volume": row.name,
        "size": row.size,
        "storage_group": row.storage_group,
        "management_class": row.management_class,
        "written": utc_text(row.written),
        "accessed": utc_text(row.accessed),
        "in_cache": row.in_cache,
        "mounted": row.mounted,
        "copies": [
            {
                "role": copy.role,
                "pool": places[copy.volser][0],
                "volser": copy.volser,
                "block": copy.first_block,
                "ejected_to": places[copy.volser][1],
                "bad": copy.bad,
            }
            for copy in active
        ],
        "waiting_for_pools": orders,
        "found_on_tape": row.found_on_tape,
        "sha256": row.sha256,
    }


@dataclass(frozen=True, slots=True)
class Search:
    """The filters of "Search database" (POOL-7); None filters nothing."""

    pool: int | None = None
    encryption: TapeEncryption | None = None
    state: VolumeState | None = None
    key: str | None = None
    """A key label, compared without case."""
    fill_above: float | None = None
    """Percent of the capacity that is written, with the database backup."""
    fill_below: float | None = None
    active_below: float | None = None
    """Percent of what is written that is active."""
    written_before_days: float | None = None
    """Last written so many days ago or longer."""
    written_within_days: float | None = None
    accessed_before_days: float | None = None
    """Last accessed so many days ago or longer, or never."""
    accessed_within_days: float | None = None


def search(session: Session, filters: Search, now: float) -> Iterator[Row]:
    """Yield the physical volumes that pass all filters, by VOLSER."""
    query = select(PhysicalRow).order_by(PhysicalRow.volser)
    if filters.pool is not None:
        query = query.where(PhysicalRow.pool == filters.pool)
    if filters.encryption is not None:
        query = query.where(PhysicalRow.encryption == filters.encryption.value)
    if filters.state is not None:
        query = query.where(PhysicalRow.state == filters.state.value)
    of_backups = (
        select(CopyRow.volser, func.sum(CopyRow.size))
        .where(CopyRow.role == CopyRole.BACKUP.value)
        .group_by(CopyRow.volser)
    )
    backups = dict(session.execute(of_backups).all())
    for row in session.scalars(query.execution_options(yield_per=1000)):
        fill = 100 * (row.written_bytes + backups.get(row.volser, 0)) / max(1, row.capacity_bytes)
        if _passes(row, fill, filters, now):
            yield _physical(row, fill)


def _physical(row: PhysicalRow, fill: float) -> Row:
    return {
        "volser": row.volser,
        "pool": row.pool,
        "state": row.state,
        "encryption": row.encryption,
        "keys": _keys(row.keys),
        "borrowed": row.borrowed,
        "fill_percent": round(fill, 1),
        "active_percent": round(_active(row), 1),
        "active_volumes": row.active_volumes,
        "active_bytes": row.active_bytes,
        "last_written": utc_text(row.last_written),
        "last_accessed": utc_text(row.last_accessed),
        "last_inactivated": utc_text(row.last_inactivated),
        "move_to_pool": row.move_pool,
        "read_only": row.read_only,
        "ejected_to": row.ejected_to,
    }


def _passes(row: PhysicalRow, fill: float, filters: Search, now: float) -> bool:
    if filters.key is not None and label_key(filters.key) not in {
        label_key(key["label"]) for key in row.keys
    }:
        return False
    for limit, value, above in (
        (filters.fill_above, fill, True),
        (filters.fill_below, fill, False),
        (filters.active_below, _active(row), False),
    ):
        if limit is not None and (value <= limit if above else value >= limit):
            return False
    for before, within, at, never_counts in (
        (filters.written_before_days, filters.written_within_days, row.last_written, False),
        (filters.accessed_before_days, filters.accessed_within_days, row.last_accessed, True),
    ):
        days = None if at is None else (now - at) / DAY_S
        if before is not None and (not never_counts if days is None else days < before):
            return False
        if within is not None and (days is None or days > within):
            return False
    return True


def _active(row: PhysicalRow) -> float:
    return 100 * row.active_bytes / max(1, row.written_bytes)


def key_users(session: Session, label: str) -> list[str]:
    """Return the cartridges with active data that need a KEK (POOL-3)."""
    rows = session.scalars(
        select(PhysicalRow)
        .where(PhysicalRow.state != VolumeState.SCRATCH.value)
        .order_by(PhysicalRow.volser)
    )
    wanted = label_key(label)
    return [row.volser for row in rows if wanted in {label_key(key["label"]) for key in row.keys}]


def tape_map(session: Session, volser: str) -> list[Row]:
    """Return the logical volumes on a cartridge in tape order (MIG-3)."""
    transactions.physical(session, volser)
    return [
        {
            "block": copy.first_block,
            "blocks": copy.blocks,
            "volume": copy.name,
            "generation": copy.generation,
            "size": copy.size,
            "role": copy.role,
            "active": copy.active if copy.role != CopyRole.BACKUP.value else None,
            "bad": copy.bad,
            "last_read": utc_text(copy.last_read),
        }
        for copy in transactions.copies_on(session, volser, active=False)
    ]


def events(session: Session, *kinds: str, only_open: bool = False) -> list[Row]:
    """Return messages or interventions, in order."""
    query = select(EventRow).where(EventRow.kind.in_(kinds)).order_by(EventRow.id)
    if only_open:
        query = query.where(EventRow.cleared.is_(None))
    return [
        {
            "time": utc_text(row.at),
            "kind": row.kind,
            "subject": row.subject,
            "text": row.text,
            "cleared": utc_text(row.cleared),
        }
        for row in session.scalars(query)
    ]


def statistics(session: Session, hours: int) -> list[Row]:
    """Return what was written by pool, encrypted and clear (MSG-2).

    A row covers a period of `hours`.
    """
    rows: dict[tuple[int, int], Row] = {}
    for row in session.scalars(select(TrafficRow).order_by(TrafficRow.hour, TrafficRow.pool)):
        begin = row.hour // hours * hours
        entry = rows.setdefault(
            (begin, row.pool),
            {
                "from": utc_text(begin * 3600.0),
                "pool": row.pool,
                "encrypted_volumes": 0,
                "encrypted_bytes": 0,
                "clear_volumes": 0,
                "clear_bytes": 0,
            },
        )
        kind = "encrypted" if row.encrypted else "clear"
        entry[f"{kind}_volumes"] += row.volumes
        entry[f"{kind}_bytes"] += row.bytes
    return list(rows.values())


def plan(reclaim_plan: ReclaimPlan) -> Row:
    """Return a reclaim plan's fields."""
    return {
        "eligible": reclaim_plan.eligible,
        "inhibited_until": None
        if reclaim_plan.inhibited_until is None
        else (
            utc_text(reclaim_plan.inhibited_until)
            if reclaim_plan.inhibited_until != float("inf")
            else "ever"
        ),
        "candidates": [
            {
                "volser": each.volume.volser,
                "pool": each.volume.pool,
                "to_pool": each.target_pool,
                "active_percent": round(each.active_percent, 1),
                "active_bytes": each.volume.active_bytes,
                "reasons": [reason.value for reason in each.reasons],
            }
            for each in reclaim_plan.candidates
        ],
    }


def scratch_left(session: Session) -> int:
    """Return how many cartridges are in the common scratch pool."""
    query = select(func.count()).select_from(PhysicalRow)
    return session.scalar(query.where(PhysicalRow.pool == SCRATCH_POOL)) or 0


def _keys(stored: list[Any]) -> list[str]:
    return [f"{key['label']} ({key['mode']})" for key in stored]
