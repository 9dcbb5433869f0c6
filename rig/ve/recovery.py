"""Recovery at a node's start: catalogue, cache and cartridges agree.

It makes them agree after a kill at any moment.

The reasoning is in README.md beside this module.
"""

from __future__ import annotations

from sqlalchemy import select

from hsm.errors import TaperigError
from rig.ve.catalogue import operator_messages, transactions
from rig.ve.catalogue.model import SCRATCH_POOL, TapeEncryption
from rig.ve.catalogue.schema import LogicalRow, PhysicalRow
from rig.ve.tape.jobs import NodeParts, reconcile_cartridge


def recover(parts: NodeParts, capacity_bytes: int) -> list[str]:
    """Make everything agree; return what was found, one sentence each."""
    messages = list(_reconcile_interrupted_writes(parts))
    messages += _enter_unknown_cartridges(parts, capacity_bytes)
    messages += _remove_leftover_files(parts)
    messages += _unload_lost_sessions(parts)
    return messages


def _reconcile_interrupted_writes(parts: NodeParts) -> list[str]:
    """Reconcile the cartridges that were being written.

    No other cartridge can differ from the catalogue.
    """
    with parts.catalogue.reading() as session:
        query = select(PhysicalRow.volser).where(PhysicalRow.writing_pool.is_not(None))
        volsers = list(session.scalars(query))
    messages = []
    for volser in volsers:
        subject = transactions.cartridge_subject(volser)
        now = parts.clock.now()
        try:
            what = reconcile_cartridge(parts, volser)
        except TaperigError as error:
            messages.append(f"{volser}: {error}")
            with parts.catalogue.transaction() as session:
                operator_messages.raise_intervention(session, subject, str(error), now)
            continue
        messages.append(f"{volser}: its writing was cut off: {what}")
        with parts.catalogue.transaction() as session:
            operator_messages.clear_intervention(session, subject, now)
    return messages


def _enter_unknown_cartridges(parts: NodeParts, capacity_bytes: int) -> list[str]:
    """Enter blank cartridges that the catalogue does not know.

    Their insertion was interrupted. One with data is left to the operator.
    """
    with parts.catalogue.reading() as session:
        known = set(session.scalars(select(PhysicalRow.volser)))
    messages = []
    for volser in sorted(set(parts.cartridges.volsers()) - known):
        try:
            blank = parts.cartridges.inspect(volser).encryption is TapeEncryption.BLANK
        except TaperigError as error:
            messages.append(str(error))
            continue
        if blank:
            insert(parts, volser, capacity_bytes)
            messages.append(f"{volser}: a blank cartridge that was not entered yet")
    return messages


def insert(parts: NodeParts, volser: str, capacity_bytes: int) -> None:
    """Enter a blank cartridge of the folder into the common scratch pool."""
    facts = parts.cartridges.inspect(volser)
    with parts.catalogue.transaction() as session:
        row = PhysicalRow(volser=volser, pool=SCRATCH_POOL, capacity_bytes=capacity_bytes)
        session.add(row)
        transactions.enter_facts(row, facts)


def _remove_leftover_files(parts: NodeParts) -> list[str]:
    """Remove cache files that the catalogue lacks, and all staged files."""
    with parts.catalogue.reading() as session:
        rows = session.execute(
            select(LogicalRow.name, LogicalRow.generation).where(LogicalRow.in_cache)
        )
        known = {parts.cache.path(name, generation) for name, generation in rows}
    left = [path for path in parts.cache.files() if path not in known]
    left += parts.staging.files()
    for path in left:
        path.unlink()
    return [f"{path.name}: removed, left over from an interrupted operation" for path in left]


def _unload_lost_sessions(parts: NodeParts) -> list[str]:
    """Unload what hosts had mounted.

    Their sessions ended with the process.
    """
    with parts.catalogue.transaction() as session:
        names = list(session.scalars(select(LogicalRow.name).where(LogicalRow.mounted)))
        transactions.unload(session, names, parts.clock.now())
    return [f"{name}: unloaded, its host is gone" for name in names]
