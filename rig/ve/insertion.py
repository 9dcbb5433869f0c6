"""Insert cartridges that hold volumes, and rebuild a catalogue from them.

The file of a cartridge comes first into the node's folder, whole or not at all; then its labels are
read through a drive; then one transaction enters it. So a kill leaves at most a file that the
catalogue does not know, which the same command finds again.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from hsm.errors import TaperigError
from hsm.files import sync_directory
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import SUFFIX
from rig.ve.catalogue import settings, transactions
from rig.ve.catalogue.model import TapeEncryption, VolumeState
from rig.ve.catalogue.schema import CopyRow, LogicalRow, PhysicalRow, keys_json
from rig.ve.catalogue.transactions import TapeFacts
from rig.ve.intake import Intake, IntakeReport
from rig.ve.scheduler import Scheduler
from rig.ve.tape.cartridge_contents import CartridgeContents, keys_of_eedks
from rig.ve.tape.cartridge_store import facts_of
from rig.ve.tape.jobs import NodeParts


class InsertionError(TaperigError):
    """A cartridge cannot be inserted."""


class Arrival(Enum):
    """What a cartridge is to a node that it comes to."""

    BLANK = "blank"
    NEW = "not known here, with volumes"
    BACK = "ejected before, and as it was"
    CHANGED = "ejected before, and written elsewhere since"
    HERE = "in the node already"


def identify(parts: NodeParts, file: Path) -> tuple[str, Arrival]:
    """Return the VOLSER of a cartridge file and what it is to this node.

    Raises InsertionError for a file that may not be inserted.
    """
    with Cartridge.open(file) as cartridge:
        volser, facts = cartridge.volser, facts_of(cartridge)
    with parts.catalogue.reading() as session:
        known = session.scalar(
            select(PhysicalRow.volser).where(
                PhysicalRow.cartridge_id == facts.cartridge_id, PhysicalRow.volser != volser
            )
        )
        if known is not None:
            raise InsertionError(
                f"The cartridge in {file} is known here as {known}, and calls itself {volser}; "
                f"nothing was inserted."
            )
        row = session.get(PhysicalRow, volser)
        if row is not None:
            return volser, _judge(parts, row, facts, file)
    blank = facts.encryption is TapeEncryption.BLANK
    return volser, Arrival.BLANK if blank else Arrival.NEW


def _where_it_is(parts: NodeParts, file: Path) -> Path:
    """Return a file, or where an insertion that was cut off has put it."""
    here = parts.cartridges.folder / file.name
    return here if not file.exists() and here.exists() else file


def needs_drive(parts: NodeParts, file: Path) -> bool:
    """Whether the insertion of a file reads labels; False for a refused one."""
    try:
        return identify(parts, _where_it_is(parts, file))[1] in (Arrival.NEW, Arrival.CHANGED)
    except TaperigError:
        return False


def _judge(parts: NodeParts, row: PhysicalRow, facts: TapeFacts, file: Path) -> Arrival:
    """Return what a cartridge is whose VOLSER the catalogue has."""
    there = parts.cartridges.path(row.volser)
    absent = row.state == VolumeState.EJECTED.value or not there.exists()
    if row.cartridge_id not in (None, facts.cartridge_id):
        if row.state == VolumeState.EJECTED.value and not row.block_count:
            return Arrival.BLANK if facts.encryption is TapeEncryption.BLANK else Arrival.NEW
        raise InsertionError(
            f"The cartridge in {file} is another {row.volser} than the one of this node (id "
            f"{facts.cartridge_id}, here {row.cartridge_id}); nothing was inserted. A blank "
            f"{row.volser} makes room for it with: rig ve eject {row.volser} --to PLACE"
        )
    if facts.epoch < (row.epoch or 0):
        raise InsertionError(
            f"The cartridge in {file} is an older copy of {row.volser}: its append epoch is "
            f"{facts.epoch}, and {row.epoch} is known here; nothing was inserted."
        )
    if not absent:
        if same_file(there, file):
            return Arrival.HERE
        raise InsertionError(
            f"Cartridge {row.volser} is in this node already, and the file {file} is another "
            f"state of it; nothing was inserted."
        )
    before = (row.first_epoch, row.epoch, row.block_count, row.end_offset)
    now = (facts.first_epoch, facts.epoch, facts.block_count, facts.end_offset)
    return Arrival.BACK if before == now else Arrival.CHANGED


def insert_cartridge(
    parts: NodeParts,
    scheduler: Scheduler,
    file: Path,
    capacity_bytes: int,
    pool: int | None = None,
) -> IntakeReport:
    """Insert a cartridge: its file moves into the node, its volumes enter.

    Raises TaperigError, with the file where it was and no volume entered.
    """
    file = _where_it_is(parts, file)
    volser, arrival = identify(parts, file)
    target = parts.cartridges.path(volser)
    report = IntakeReport([volser])
    if arrival is not Arrival.HERE:
        with _brought_in(file, target):
            if arrival is Arrival.BACK:
                report = _return(parts, volser)
            else:
                with parts.catalogue.transaction() as session:
                    if pool is not None:
                        settings.pool(session, pool)
                    with Cartridge.open(target) as cartridge:
                        _forget_other(session, volser, cartridge.memory.cartridge_id.hex())
                contents = read_contents(parts, scheduler.read_labels, volser)
                with parts.catalogue.transaction() as session:
                    changes = _changes(session, contents) if arrival is Arrival.CHANGED else []
                    intake = Intake(session, parts.clock.now(), capacity_bytes)
                    intake.enter([contents], pool)
                report = intake.report
                report.notes += changes
    for name, generation in report.superseded:
        parts.cache.remove(name, generation)
    if file.resolve() != target.resolve():
        remove_file(file)
    return report


def read_contents(
    parts: NodeParts, read: Callable[[str], CartridgeContents], volser: str
) -> CartridgeContents:
    """Return what a cartridge in the folder holds; a blank one needs no drive."""
    with Cartridge.open(parts.cartridges.path(volser)) as cartridge:
        facts, damage = facts_of(cartridge), cartridge.damage
    if facts.block_count:
        return read(volser)
    return CartridgeContents(volser, facts, unreadable=[damage] if damage else [])


def _forget_other(session: Session, volser: str, cartridge_id: str) -> None:
    """Forget a blank cartridge whose VOLSER another one has now."""
    row = session.get(PhysicalRow, volser)
    if row is not None and row.cartridge_id not in (None, cartridge_id):
        session.execute(delete(CopyRow).where(CopyRow.volser == volser))
        session.delete(row)
        session.flush()


def _return(parts: NodeParts, volser: str) -> IntakeReport:
    """Enter that an ejected cartridge is back, as it was."""
    with Cartridge.open(parts.cartridges.path(volser)) as cartridge:
        keys = keys_json(keys_of_eedks(cartridge.memory.eedks))
    with parts.catalogue.transaction() as session:
        row = transactions.physical(session, volser)
        if row.first_epoch and row.encryption == TapeEncryption.ENCRYPTED.value:
            row.keys = keys
        row.ejected_to = None
        state = VolumeState.FILLING if row.backup_block is None else VolumeState.FULL
        has_copies = bool(transactions.copies_on(session, volser, active=False))
        row.state = (state if has_copies else VolumeState.SCRATCH).value
        session.flush()
        transactions.release_if_empty(session, row)
    return IntakeReport([volser], notes=[f"{volser} is back, as it was"])


def _changes(session: Session, contents: CartridgeContents) -> list[str]:
    """Say how a cartridge differs from what the catalogue knew of it."""
    row, facts = transactions.physical(session, contents.volser), contents.facts
    assert facts is not None
    how = [
        f"{what} {now} where {before} was known"
        for what, before, now in (
            ("write from BOT in epoch", row.first_epoch, facts.first_epoch),
            ("append epoch", row.epoch, facts.epoch),
            ("blocks", row.block_count, facts.block_count),
        )
        if before != now
    ]
    place = f" at {row.ejected_to}" if row.ejected_to else ""
    return [f"{contents.volser} was written elsewhere{place}: {', '.join(how)}"] if how else []


# Rebuild


def require_empty(parts: NodeParts) -> None:
    """Raise InsertionError unless a node has no volumes at all."""
    with parts.catalogue.reading() as session:
        count = select(func.count())
        volumes = session.scalar(count.select_from(LogicalRow))
        used = session.scalar(count.select_from(PhysicalRow).where(PhysicalRow.block_count > 0))
    if volumes or used:
        raise InsertionError(
            f"Node {parts.name} has {volumes} logical volumes and {used} written cartridges; "
            f"nothing was changed. A catalogue is made anew for an empty node only: insert single "
            f"cartridges with `rig ve insert FILE`, or choose another node."
        )


def rebuild(
    parts: NodeParts, scheduler: Scheduler, folder: Path, capacity_bytes: int
) -> IntakeReport:
    """Make the catalogue of an empty node from the cartridges in a folder.

    They are copied into the node. What cannot be read is named, and stops nothing else; all that
    can be read enters in one transaction.
    """

    def enter(session: Session, contents: list[CartridgeContents]) -> IntakeReport:
        intake = Intake(session, parts.clock.now(), capacity_bytes)
        intake.enter(contents)
        return intake.report

    return enter_folder(parts, folder, scheduler.drives, scheduler.read_labels, enter)


def enter_folder(
    parts: NodeParts,
    folder: Path,
    drives: int,
    read: Callable[[str], CartridgeContents],
    enter: Callable[[Session, list[CartridgeContents]], IntakeReport],
) -> IntakeReport:
    """Copy a folder's cartridges into an empty node, read and enter them."""
    require_empty(parts)
    failures: list[str] = []
    volsers = _copy_folder(parts, folder, failures)
    contents = _read_all(parts, drives, read, volsers, failures)
    if failures and not contents:
        raise InsertionError(failures[0])
    with parts.catalogue.transaction() as session:
        report = enter(session, contents)
    report.findings[:0] = failures
    return report


def _copy_folder(parts: NodeParts, folder: Path, failures: list[str]) -> list[str]:
    """Copy the cartridges of a folder into the node; return their VOLSERs."""
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        raise InsertionError(
            f"There is no cartridge in {folder}; give the folder of the *{SUFFIX} files."
        )
    volsers: dict[str, Path] = {}
    for file in files:
        try:
            with Cartridge.open(file) as cartridge:
                volser, facts = cartridge.volser, facts_of(cartridge)
            if volser in volsers:
                raise InsertionError(
                    f"{file} and {volsers[volser]} are both cartridge {volser}; the second was "
                    f"taken. Compare them with: rig cartridge show FILE"
                )
            target = parts.cartridges.path(volser)
            if not target.exists() or not same_file(file, target):
                _copy(file, target)
            with parts.catalogue.transaction() as session:
                _forget_other(session, volser, facts.cartridge_id)
        except TaperigError as error:
            failures.append(str(error))
        else:
            volsers[volser] = file
    return list(volsers)


def _read_all(
    parts: NodeParts,
    drives: int,
    read: Callable[[str], CartridgeContents],
    volsers: Sequence[str],
    failures: list[str],
) -> list[CartridgeContents]:
    """Read cartridges with all drives.

    What fails is added to `failures`, a sentence each.
    """

    def attempt(volser: str) -> CartridgeContents | str:
        try:
            return read_contents(parts, read, volser)
        except TaperigError as error:
            return f"{volser}: {error}"

    with ThreadPoolExecutor(max(1, drives), "labels") as readers:
        results = list(readers.map(attempt, volsers))
    failures += [each for each in results if isinstance(each, str)]
    return [each for each in results if isinstance(each, CartridgeContents)]


# Files


@contextmanager
def _brought_in(file: Path, target: Path) -> Iterator[None]:
    """Have a cartridge's file in the node; take it out again after an error."""
    before = target.exists()
    if not before:
        place_file(file, target)
    elif not same_file(file, target):
        raise InsertionError(
            f"There is another file {target} already; nothing was inserted. Move it away, or "
            f"insert that one: rig ve insert {target.name.removesuffix(SUFFIX)}"
        )
    try:
        yield
    except TaperigError:
        if not before:
            remove_file(target)
        raise


def place_file(file: Path, target: Path) -> None:
    """Give a file another name, on any file system; whole or not at all.

    The first name stays: `remove_file` takes it away once the second one counts.
    """
    try:
        try:
            target.hardlink_to(file)
        except FileExistsError:
            raise
        except OSError:  # another file system, or one without links
            _copy(file, target)
        else:
            sync_directory(target.parent)
    except OSError as error:
        raise _not_placed(file, target, error) from error


def _copy(file: Path, target: Path) -> None:
    """Copy a cartridge's file in place of any other; whole or not at all."""
    partial = target.with_name(f".{target.name}.incoming")
    try:
        with file.open("rb") as source, partial.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        partial.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise _not_placed(file, target, error) from error


def remove_file(file: Path) -> None:
    """Remove a name of a file, for good."""
    with suppress(OSError):  # it is read-only where it is: then it stays there
        file.unlink(missing_ok=True)
        sync_directory(file.parent)


def same_file(one: Path, other: Path) -> bool:
    """Whether two names are of one file, or of files with the same bytes."""
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def _not_placed(file: Path, target: Path, error: OSError) -> InsertionError:
    return InsertionError(
        f"The cartridge file {file} cannot be put at {target} ({error.strerror}); check rights and "
        f"free space."
    )
