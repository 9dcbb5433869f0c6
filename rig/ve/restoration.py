"""Restore a catalogue from the newest database backup on tape.

The backup gives the settings, the cartridges and what had expired. What is on a cartridge comes
from the map in its own backup, else from its labels; whatever was written after the newest backup,
on any cartridge, comes in the same way. A backup that is missing or damaged costs nothing but the
time to read labels, unless it is the newest: then the one before is the newest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import delete
from sqlalchemy.orm import Session

from hsm.errors import TaperigError
from rig.ve.catalogue import backup as database_backup
from rig.ve.catalogue import transactions
from rig.ve.catalogue.backup import DatabaseBackup
from rig.ve.catalogue.model import VolumeState
from rig.ve.catalogue.schema import PhysicalRow, PoolRow, RetiredNameRow
from rig.ve.insertion import enter_folder
from rig.ve.intake import Intake, IntakeReport
from rig.ve.operator_views import utc_text
from rig.ve.scheduler import Scheduler
from rig.ve.tape.cartridge_contents import CartridgeContents
from rig.ve.tape.jobs import NodeParts

ABSENT = "a place unknown since the catalogue was restored"


class RestorationError(TaperigError):
    """A catalogue cannot be restored."""


def restore(
    parts: NodeParts, scheduler: Scheduler, folder: Path, capacity_bytes: int
) -> IntakeReport:
    """Restore the catalogue of an empty node from the cartridges in a folder.

    They are copied into the node. Everything enters in one transaction.
    """

    def enter(session: Session, contents: list[CartridgeContents]) -> IntakeReport:
        backups = [each.backup for each in contents if each.backup is not None]
        if not backups:
            raise RestorationError(
                f"No cartridge in {folder} has a database backup that can be read; make the "
                f"catalogue from the labels instead: rig ve rebuild {folder}"
            )
        newest = max(backups, key=lambda each: (each.sequence, each.time))
        notes, findings = _restore_tables(session, newest, contents)
        intake = Intake(
            session,
            parts.clock.now(),
            capacity_bytes,
            expired=newest.expired,
            vouched_until=newest.time if newest.expired_complete else float("-inf"),
        )
        intake.enter([each for each in contents if not _is_still_scratch(session, each)])
        intake.report.notes[:0] = notes
        intake.report.findings[:0] = findings
        return intake.report

    return enter_folder(parts, folder, scheduler.drives, scheduler.read_backup, enter)


def _restore_tables(
    session: Session, newest: DatabaseBackup, contents: Sequence[CartridgeContents]
) -> tuple[list[str], list[str]]:
    """Replace the settings and the cartridges; return notes and findings."""
    for table in reversed(database_backup.TABLES):
        session.execute(delete(table))
    for table in database_backup.TABLES:
        session.add_all(table(**row) for row in newest.tables[table.__tablename__])
        session.flush()
    for pool in session.query(PoolRow):
        pool.record()  # raises SettingsError for what cannot be
    names = newest.expired.items()
    session.add_all(RetiredNameRow(name=name, generation=number) for name, number in names)
    database_backup.set_sequence(session, newest.sequence)
    here = {each.volser: each for each in contents if each.facts is not None}
    findings = []
    for row in session.query(PhysicalRow).order_by(PhysicalRow.volser):
        row.active_bytes = row.active_volumes = 0
        row.writing_pool = row.move_pool = row.backup_block = None
        row.close_wanted = row.move_when_eligible = False
        found = here.get(row.volser)
        if found is not None and found.facts is not None:
            if row.cartridge_id not in (None, found.facts.cartridge_id):
                session.delete(row)  # another cartridge has that VOLSER now
        elif row.state == VolumeState.SCRATCH.value:
            session.delete(row)
        else:
            row.end_offset = None  # so its labels are read when it comes
        if found is None and row.state not in (VolumeState.SCRATCH, VolumeState.EJECTED):
            row.state, row.ejected_to = VolumeState.EJECTED.value, ABSENT
            findings.append(
                f"Cartridge {row.volser} is in the database backup, and was not in the folder or "
                f"cannot be read; what only it has enters when it is inserted: rig ve insert FILE"
            )
    session.flush()
    text = (
        f"database backup {newest.sequence} of node {newest.node}, on {newest.volser}, of "
        f"{utc_text(newest.time)} UTC"
    )
    return [text], findings


def _is_still_scratch(session: Session, contents: CartridgeContents) -> bool:
    """Whether a cartridge was scratch at the backup and is as it was then."""
    row, facts = session.get(PhysicalRow, contents.volser), contents.facts
    if row is None or facts is None or row.state != VolumeState.SCRATCH.value:
        return False
    if (row.first_epoch, row.epoch) != (facts.first_epoch, facts.epoch):
        return False
    transactions.enter_facts(row, facts)
    return True
