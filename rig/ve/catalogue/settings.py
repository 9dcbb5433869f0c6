"""Settings of a node: pools, constructs, defaults, inhibit periods.

Each function is a part of one transaction. Settings change at any time; what is on cartridges stays
as it is until they are written from BOT (POOL-2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from rig.ve.catalogue.database import CatalogueError
from rig.ve.catalogue.model import (
    NO_COPY,
    SCRATCH_POOL,
    CopyRole,
    InhibitPeriod,
    ManagementClass,
    PoolSettings,
    SettingsError,
    StorageGroup,
    VolumeState,
    require_pool_number,
)
from rig.ve.catalogue.schema import (
    ManagementClassRow,
    PhysicalRow,
    PoolRow,
    SettingRow,
    StorageGroupRow,
)

DEFAULTS = "defaults"
SCRUB = "scrub"
DEFAULT_SCRUB_DAYS = 90
MAX_SCRUB_DAYS = 3650
INHIBIT = "inhibit reclaim"
_DEFAULTS = {"primary_pool": 1, "secondary_pool": NO_COPY}


def setting(session: Session, name: str, default: dict[str, Any]) -> dict[str, Any]:
    """Return a node-wide setting, or its default."""
    row = session.get(SettingRow, name)
    return {**default, **(row.value if row else {})}


def set_setting(session: Session, name: str, value: dict[str, Any]) -> None:
    """Set a node-wide setting."""
    session.merge(SettingRow(name=name, value=value))


def pool(session: Session, number: int) -> PoolSettings:
    """Return a pool's settings.

    Raises CatalogueError for a pool that is not configured, SettingsError for one that cannot be.
    """
    require_pool_number(number)
    row = session.get(PoolRow, number)
    if row is None:
        known = ", ".join(map(str, session.scalars(select(PoolRow.number)))) or "none"
        raise CatalogueError(
            f"Pool {number} is not configured; configured: {known}. Set it up with: "
            f"rig ve pools --set {number}"
        )
    return row.record()


def set_pool(session: Session, settings: PoolSettings) -> None:
    """Set a pool's settings.

    Cartridges keep what they are until written from BOT (POOL-2).
    """
    if settings.reclaim_target != settings.number:
        pool(session, settings.reclaim_target)
    session.merge(PoolRow.of(settings))
    session.flush()
    for row in session.scalars(
        select(PhysicalRow).where(
            PhysicalRow.pool == settings.number, PhysicalRow.state == VolumeState.SCRATCH.value
        )
    ):
        return_borrowed(row, settings)


def _require_name(name: str) -> None:
    """Raise SettingsError for a construct's name that lab.yaml refuses."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise SettingsError(
            f"{name[:40]!r} is no name of a storage group or management class; give 1 to 64 "
            "letters, digits, '.', '_' and '-'."
        )


def set_storage_group(session: Session, construct: StorageGroup) -> None:
    """Map a storage group to a primary pool (POOL-4)."""
    _require_name(construct.name)
    pool(session, construct.pool)
    session.merge(StorageGroupRow(name=construct.name, pool=construct.pool))


def set_management_class(session: Session, construct: ManagementClass) -> None:
    """Map a management class to a secondary pool, or to none (POOL-4)."""
    _require_name(construct.name)
    if construct.secondary_pool != NO_COPY:
        pool(session, construct.secondary_pool)
    session.merge(ManagementClassRow(name=construct.name, secondary_pool=construct.secondary_pool))


def defaults(session: Session) -> tuple[int, int]:
    """Return both pools of a volume without constructs (POOL-5)."""
    pools = setting(session, DEFAULTS, _DEFAULTS)
    return pools["primary_pool"], pools["secondary_pool"]


def set_defaults(session: Session, primary_pool: int, secondary_pool: int = NO_COPY) -> None:
    """Change the pools of volumes without constructs (POOL-5)."""
    pool(session, primary_pool)
    if secondary_pool != NO_COPY:
        pool(session, secondary_pool)
    value = {"primary_pool": primary_pool, "secondary_pool": secondary_pool}
    set_setting(session, DEFAULTS, value)


def pools_of(session: Session, storage_group: str, management_class: str) -> dict[CopyRole, int]:
    """Return the pools that these constructs name now.

    Raises CatalogueError for unknown constructs.
    """
    primary, secondary = defaults(session)
    if storage_group:
        group = session.get(StorageGroupRow, storage_group)
        if group is None:
            raise _no_construct("storage group", storage_group, session, StorageGroupRow)
        primary = group.pool
    if management_class:
        chosen = session.get(ManagementClassRow, management_class)
        if chosen is None:
            raise _no_construct("management class", management_class, session, ManagementClassRow)
        secondary = chosen.secondary_pool
    pools = {CopyRole.PRIMARY: primary}
    if secondary != NO_COPY:
        pools[CopyRole.SECONDARY] = secondary
    return pools


def _no_construct(
    what: str,
    name: str,
    session: Session,
    table: type[StorageGroupRow] | type[ManagementClassRow],
) -> CatalogueError:
    known = ", ".join(sorted(session.scalars(select(table.name)))) or "none"
    return CatalogueError(
        f"There is no {what} '{name[:40]}'; known: {known}. Make it with: rig ve constructs"
    )


def inhibit_periods(session: Session) -> tuple[InhibitPeriod, ...]:
    """Return the weekly periods in which no reclaim begins (MIG-11)."""
    stored = setting(session, INHIBIT, {"periods": []})["periods"]
    return tuple(InhibitPeriod(*period) for period in stored)


def set_inhibit_periods(session: Session, periods: Iterable[InhibitPeriod]) -> None:
    """Replace the inhibit-reclaim schedule."""
    value = [[each.weekday, each.start_minute, each.minutes] for each in periods]
    set_setting(session, INHIBIT, {"periods": value})


def scrub_days(session: Session) -> int:
    """Return after how many days a copy is read again; 0: never by itself."""
    days: int = setting(session, SCRUB, {"days": DEFAULT_SCRUB_DAYS})["days"]
    return days


def set_scrub_days(session: Session, days: int) -> None:
    """Set after how many days a copy is read again; 0: never by itself."""
    if not 0 <= days <= MAX_SCRUB_DAYS:
        raise SettingsError(
            f"Copies cannot be read again every {days} days; give 1 to {MAX_SCRUB_DAYS}, or 0 for "
            f"never."
        )
    set_setting(session, SCRUB, {"days": days})


def begin_migration(session: Session, old: int, new: int) -> list[str]:
    """Make the changes that begin every migration to encryption (MIG-1).

    Storage groups and management classes that name the old pool, and the defaults, name the new
    one; it becomes the old one's reclaim pool; the old one returns what it borrowed. Returns what
    was changed, a sentence each. Raises CatalogueError unless the new pool encrypts and is empty.
    """
    settings, target = pool(session, old), pool(session, new)
    if not target.encrypt:
        raise CatalogueError(
            f"Pool {new} does not encrypt; data is migrated to an encrypted pool. Set it up with: "
            f"rig ve pools --set {new} --encrypt --key LABEL"
        )
    used = session.scalar(select(PhysicalRow.volser).where(PhysicalRow.pool == new).limit(1))
    if used is not None:
        raise CatalogueError(
            f"Pool {new} is not empty ({used} is in it); data is migrated to a new pool."
        )
    changes = []
    for group in session.scalars(select(StorageGroupRow).where(StorageGroupRow.pool == old)):
        group.pool = new
        changes.append(f"storage group {group.name}: primary pool {old} -> {new}")
    classes = select(ManagementClassRow).where(ManagementClassRow.secondary_pool == old)
    for chosen in session.scalars(classes):
        chosen.secondary_pool = new
        changes.append(f"management class {chosen.name}: secondary pool {old} -> {new}")
    before = defaults(session)
    if old in before:
        primary, secondary = (new if number == old else number for number in before)
        set_defaults(session, primary, secondary)
        changes.append(f"defaults: primary pool {primary}, secondary pool {secondary}")
    set_pool(session, replace(settings, reclaim_pool=new, return_borrowed=True))
    changes.append(f"pool {old}: reclaim pool {new}")
    changes.append(f"pool {old}: borrowed volumes return to the scratch pool")
    return changes


def return_borrowed(row: PhysicalRow, settings: PoolSettings) -> None:
    """Return an empty, borrowed cartridge to the common scratch pool.

    Does so if its pool returns borrowed volumes.
    """
    if row.borrowed and settings.return_borrowed and row.writing_pool is None:
        row.pool = SCRATCH_POOL
        row.borrowed = False
