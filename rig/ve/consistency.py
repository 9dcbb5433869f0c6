"""Check that catalogue, cache and cartridges agree (`rig ve check`).

Without `deep`, files are looked at and cartridges' headers; no key is needed. With `deep`, every
content in the cache is hashed too; `Node.verify_tapes` reads what is on tape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hsm.errors import TaperigError
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import CartridgeMemory, TapeFormat
from rig.drive.drive import Block
from rig.ve.catalogue import bad_copies, transactions
from rig.ve.catalogue.database import Catalogue
from rig.ve.catalogue.model import CopyRole, VolumeState
from rig.ve.catalogue.schema import CopyRow, LogicalRow, PhysicalRow, PremigrationRow
from rig.ve.tape.cartridge_store import CartridgeStore, facts_of
from rig.ve.tape.identity import differences
from rig.ve.volumes.logical_volume import VolumeError, VolumeHeader, decode_label
from rig.ve.volumes.tape_volume_cache import Cache


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was checked, and what is wrong."""

    logical_volumes: int
    in_cache: int
    physical_volumes: int
    copies: int
    findings: tuple[str, ...]


def check(
    catalogue: Catalogue, cache: Cache, cartridges: CartridgeStore, *, deep: bool = False
) -> CheckReport:
    """Check everything; change nothing."""
    findings = catalogue.integrity()
    with catalogue.reading() as session:
        findings += _cartridges(session, cartridges)
        findings += _volumes(session, cache, deep=deep)
        findings += _orders(session)

        def count(query: object) -> int:
            return int(session.scalar(select(func.count()).select_from(query)) or 0)  # type: ignore[arg-type]

        return CheckReport(
            logical_volumes=count(LogicalRow),
            in_cache=count(select(LogicalRow).where(LogicalRow.in_cache).subquery()),
            physical_volumes=count(PhysicalRow),
            copies=count(CopyRow),
            findings=tuple(findings),
        )


def _cartridges(session: Session, cartridges: CartridgeStore) -> Iterator[str]:
    known = set()
    for row in session.scalars(select(PhysicalRow).order_by(PhysicalRow.volser)):
        known.add(row.volser)
        copies = list(
            session.scalars(
                select(CopyRow).where(CopyRow.volser == row.volser).order_by(CopyRow.first_block)
            )
        )
        yield from (f"{row.volser}: {what}" for what in _sums(row, copies))
        if row.state == VolumeState.EJECTED.value:
            if cartridges.path(row.volser).exists():
                yield f"{row.volser}: it is ejected, and its file is here; eject or insert it again"
            continue
        yield from (f"{row.volser}: {what}" for what in _look_at(row, copies, cartridges))
    for volser in cartridges.volsers():
        if volser not in known:
            yield f"{volser}: this cartridge is in the folder, but not in the catalogue"


def _look_at(row: PhysicalRow, copies: list[CopyRow], cartridges: CartridgeStore) -> list[str]:
    """Return what is wrong with a cartridge that is in the node."""
    findings: list[str] = []

    def compare(memory: CartridgeMemory) -> None:
        if memory.volser == row.volser:
            findings.extend(differences(row, memory).values())

    try:
        with Cartridge.open(cartridges.path(row.volser), accept=compare) as cartridge:
            findings += _tape(row, copies, cartridge)
    except TaperigError as error:
        findings.append(str(error))
    return findings


def _sums(row: PhysicalRow, copies: list[CopyRow]) -> Iterator[str]:
    active = [copy for copy in copies if copy.active]
    if row.writing_pool is not None:
        yield "a write to it was cut off and not settled"
    if row.active_bytes != sum(copy.size for copy in active):
        yield f"its active bytes are {sum(copy.size for copy in active)}, not {row.active_bytes}"
    if row.active_volumes != len(active):
        yield f"{len(active)} of its copies are active, not {row.active_volumes}"
    of_hosts = [copy for copy in copies if copy.role != CopyRole.BACKUP.value]
    if sum(copy.size for copy in of_hosts) > row.written_bytes:
        yield f"its copies have more than the {row.written_bytes} bytes written"
    if row.state == VolumeState.SCRATCH.value and copies:
        yield f"it is scratch and has {len(copies)} copies"
    may_be_empty = row.read_only or row.state in (VolumeState.SCRATCH, VolumeState.EJECTED)
    if not may_be_empty and not active:
        yield f"it is {row.state} and nothing on it is active"


def _tape(row: PhysicalRow, copies: list[CopyRow], cartridge: Cartridge) -> Iterator[str]:
    if cartridge.volser != row.volser:
        yield f"the cartridge in its place is {cartridge.volser}"
        return
    if cartridge.damage:
        yield cartridge.damage
    facts = facts_of(cartridge)
    if row.written_bytes > facts.data_bytes:
        yield f"{facts.data_bytes} bytes are on it, the catalogue says {row.written_bytes}"
    labels = set(facts.label_blocks)
    for copy in copies:
        last = copy.first_block + copy.blocks - 1
        inside = cartridge.headers[copy.first_block + 1 : last]
        size = sum(header.length for header in inside)
        if not {copy.first_block, last} <= labels or size != copy.size:
            yield f"{copy.name} is not at block {copy.first_block} as the catalogue says"
        elif cartridge.format is TapeFormat.CLEAR:
            yield from _label(copy, cartridge)


def _label(copy: CopyRow, cartridge: Cartridge) -> Iterator[str]:
    (record,) = cartridge.read(copy.first_block, 1)
    try:
        label = decode_label(Block(record.data, label=True).data)
    except VolumeError as error:
        yield str(error)
        return
    if not isinstance(label, VolumeHeader) or (label.name, label.size) != (copy.name, copy.size):
        yield f"block {copy.first_block} is not the header of {copy.name}"


def _volumes(session: Session, cache: Cache, *, deep: bool) -> Iterator[str]:
    known: set[Path] = set()
    for rows in transactions.volume_batches(session):
        active = transactions.active_copies(session, [row.name for row in rows])
        for row in rows:
            path = cache.path(row.name, row.generation)
            yield from _volume(row, active.get(row.name, []), path, deep=deep)
            if row.in_cache:
                known.add(path)
    for path in cache.files():
        if path not in known:
            yield f"{path} is in the cache, but not in the catalogue"
    orphans = select(CopyRow).where(
        CopyRow.active, CopyRow.name.not_in(select(LogicalRow.name).scalar_subquery())
    )
    for copy in session.scalars(orphans):
        yield f"{copy.name} has an active copy on {copy.volser}, but does not exist"


def _volume(row: LogicalRow, active: list[CopyRow], path: Path, *, deep: bool) -> Iterator[str]:
    roles = [copy.role for copy in active]
    if len(set(roles)) != len(roles):
        yield f"{row.name} has two active copies of one role"
    for copy in active:
        if (copy.generation, copy.size) != (row.generation, row.size):
            yield f"{row.name} has an active copy of another content on {copy.volser}"
    for copy in active:
        if copy.bad:
            yield f"{row.name} has a copy on {copy.volser} that cannot be read"
    if not row.in_cache:
        if not active:
            yield f"{row.name} is lost: it is neither in the cache nor on a cartridge"
        elif not bad_copies.good(active):
            yield f"{row.name} is lost unless a cartridge is repaired: no copy can be read"
        return
    if not path.exists():
        yield f"{row.name} is not in the cache, the catalogue says it is"
    elif path.stat().st_size != row.size:
        yield f"{row.name} has {path.stat().st_size} bytes in the cache, not {row.size}"
    elif deep and _sha256(path) != row.sha256:
        yield f"{row.name} in the cache is not what was written: its SHA-256 differs"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _orders(session: Session) -> Iterator[str]:
    query = select(PremigrationRow, LogicalRow).join(
        LogicalRow, LogicalRow.name == PremigrationRow.name
    )
    for order, row in session.execute(query):
        on_tape = transactions.active_copies_of(session, row.name)
        if order.generation != row.generation or not (row.in_cache or on_tape):
            yield f"{order.name} is ordered to pool {order.pool}, but is nowhere to be copied from"
