"""Copies that were found unreadable: parts of transactions.

A bad copy counts for nothing: no volume leaves the cache because of it, and it is read only where
no other one is left. It is made anew, from the cache or from the other copy, by an order as any
other copy; until then it stays active, so that its cartridge is not written from BOT. Its cartridge
is read-only until an operator says otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from rig.ve.catalogue import operator_messages, settings
from rig.ve.catalogue.model import CopyRole, VolumeState
from rig.ve.catalogue.schema import CopyRow, LogicalRow, PhysicalRow, PremigrationRow

_COPIES = "copies on "
_READ_ONLY = "read-only cartridge "
_NAMED = 3


def good(copies: Iterable[CopyRow]) -> list[CopyRow]:
    """Return the copies that are not bad."""
    return [copy for copy in copies if not copy.bad]


def enter_read(
    session: Session, volser: str, right: Collection[int], wrong: Mapping[int, str], now: float
) -> None:
    """Enter which copies on a cartridge were read whole, and which were not.

    `right` has ids of copies, `wrong` says why by id. Those that are not active any more count in
    neither way.
    """
    query = select(CopyRow).where(CopyRow.volser == volser, CopyRow.active)
    worse: list[CopyRow] = []
    for copy in session.scalars(query.order_by(CopyRow.first_block)):
        if copy.id in right:
            copy.bad, copy.last_read = False, now
        elif copy.id in wrong and not copy.bad:
            copy.bad = True
            worse.append(copy)
    session.flush()
    if worse:
        _order_again(session, worse, now)
        _report(session, volser, [(copy.name, wrong[copy.id]) for copy in worse], now)
        set_aside(
            session, session.get_one(PhysicalRow, volser), "copies on it cannot be read.", now
        )
    settle(session, volser, now)


def settle(session: Session, volser: str, now: float) -> None:
    """Clear the intervention for a cartridge without bad copies."""
    query = select(CopyRow.id).where(CopyRow.volser == volser, CopyRow.active, CopyRow.bad)
    if session.scalar(query.limit(1)) is None:
        operator_messages.clear_intervention(session, f"{_COPIES}{volser}", now)


def remaining(session: Session) -> int:
    """Return how many copies are bad and not yet replaced."""
    query = select(func.count()).select_from(CopyRow).where(CopyRow.active, CopyRow.bad)
    return session.scalar(query) or 0


def lost(session: Session, volser: str) -> list[str]:
    """Return the volumes of which nothing but a bad copy here is left."""
    elsewhere = select(CopyRow.name).where(CopyRow.active, CopyRow.bad.is_(False))
    query = (
        select(LogicalRow.name)
        .join(CopyRow, CopyRow.name == LogicalRow.name)
        .where(
            CopyRow.volser == volser,
            CopyRow.active,
            CopyRow.bad,
            LogicalRow.in_cache.is_(False),
            LogicalRow.name.not_in(elsewhere),
        )
    )
    return sorted(set(session.scalars(query)))


def sources(session: Session) -> list[tuple[str, int]]:
    """Return from which cartridges copies are to be made, to which pools.

    They are ordered copies of volumes that are not in the cache.
    """
    query = _sources(CopyRow.volser, PremigrationRow.pool).distinct()
    rows = session.execute(query.order_by(CopyRow.volser, PremigrationRow.pool))
    return [(volser, pool) for volser, pool in rows]


def sources_on(session: Session, volser: str, pool: int) -> list[tuple[CopyRow, str]]:
    """Return the copies on a cartridge that such copies are made from.

    Each comes with the role of the one to be made in `pool`.
    """
    query = _sources(CopyRow, PremigrationRow.role).where(
        CopyRow.volser == volser, PremigrationRow.pool == pool
    )
    rows = session.execute(query.order_by(CopyRow.first_block))
    return [(copy, role) for copy, role in rows]


def _sources(*columns: Any) -> Select[Any]:
    return (
        select(*columns)
        .select_from(PremigrationRow)
        .join(LogicalRow, LogicalRow.name == PremigrationRow.name)
        .join(CopyRow, CopyRow.name == PremigrationRow.name)
        .join(PhysicalRow, PhysicalRow.volser == CopyRow.volser)
        .where(
            LogicalRow.in_cache.is_(False),
            LogicalRow.generation == PremigrationRow.generation,
            CopyRow.active,
            CopyRow.bad.is_(False),
            CopyRow.role != PremigrationRow.role,
            PhysicalRow.state != VolumeState.EJECTED.value,
        )
    )


def set_aside(session: Session, row: PhysicalRow, text: str, now: float) -> None:
    """Make a cartridge read-only until an operator says otherwise."""
    row.read_only = True
    row.close_wanted = False
    text = (
        f"Cartridge {row.volser} is read-only now: {text} When it may be written again: "
        f"rig ve writable {row.volser}"
    )
    operator_messages.raise_intervention(session, f"{_READ_ONLY}{row.volser}", text, now)


def clear_set_aside(session: Session, row: PhysicalRow, now: float) -> None:
    """Let a cartridge that was set aside be written again."""
    row.read_only = False
    operator_messages.clear_intervention(session, f"{_READ_ONLY}{row.volser}", now)


def _order_again(session: Session, copies: Sequence[CopyRow], now: float) -> None:
    """Order copies anew, in the pools that they are to be in now."""
    for copy in copies:
        row = session.get(LogicalRow, copy.name)
        if row is None or row.generation != copy.generation:
            continue
        pools = settings.pools_of(session, row.storage_group, row.management_class)
        pool = pools.get(CopyRole(copy.role))
        if pool is None:
            continue  # no copy of this role is wanted any more
        order = PremigrationRow(
            name=copy.name, role=copy.role, generation=copy.generation, pool=pool, queued=now
        )
        session.merge(order)
    session.flush()


def _report(session: Session, volser: str, wrong: Sequence[tuple[str, str]], now: float) -> None:
    """Raise an intervention for bad copies, and tell the hosts."""
    name, why = wrong[0]
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    what = (
        f"What is on cartridge {volser} could not be read as it was written: {name}: "
        f"{why.removesuffix('.')}{more}."
    )
    then = "It is copied again from the cache or from its other copy."
    if gone := lost(session, volser):
        named = ", ".join(gone[:_NAMED]) + (
            f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
        )
        then = (
            f"Nothing else is left of {named}. Repair the cartridge, then run "
            f"`rig ve check --tapes`."
        )
    subject = f"{_COPIES}{volser}"
    operator_messages.clear_intervention(session, subject, now)  # an earlier one says less
    session.flush()
    operator_messages.raise_intervention(session, subject, f"{what} {then}", now)
    operator_messages.notify_hosts(session, f"{what} {then}", now, volser)
