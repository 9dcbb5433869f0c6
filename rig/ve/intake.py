"""Enter cartridges into the catalogue from their labels.

Of each logical volume the newest readable generation wins, in the catalogue or on a cartridge.
Labels of an earlier version have no generation: their contents are taken in the order of append
epochs, and where two cartridges have different contents of one name, that is named. What loses
stays on its cartridge; a cartridge with something unreadable or ambiguous becomes read-only, so
that nothing on it is overwritten.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from hsm.errors import TaperigError
from rig.ve.catalogue import settings, transactions
from rig.ve.catalogue.backup import next_sequence, set_sequence
from rig.ve.catalogue.model import (
    BACKUP_NAME,
    NO_COPY,
    SCRATCH_POOL,
    CopyRole,
    ManagementClass,
    StorageGroup,
    TapeEncryption,
    VolumeState,
)
from rig.ve.catalogue.schema import (
    CopyRow,
    LogicalRow,
    ManagementClassRow,
    PhysicalRow,
    PoolRow,
    PremigrationRow,
    RetiredNameRow,
    StorageGroupRow,
    keys_json,
)
from rig.ve.tape.cartridge_contents import CartridgeContents, VolumeOnTape


class IntakeError(TaperigError):
    """A cartridge cannot enter the catalogue."""


@dataclass(slots=True)
class IntakeReport:
    """What entered the catalogue, and what is wrong with it."""

    cartridges: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    """Logical volumes that are new, or newer than they were."""
    findings: list[str] = field(default_factory=list)
    """What could not be read, or is ambiguous: a sentence each."""
    notes: list[str] = field(default_factory=list)
    superseded: list[tuple[str, int]] = field(default_factory=list)
    """Cache files (name, generation) that no volume has any more."""

    def add(self, other: IntakeReport) -> None:
        """Add what another report has."""
        self.cartridges += other.cartridges
        self.volumes += other.volumes
        self.findings += other.findings
        self.notes += other.notes
        self.superseded += other.superseded


@dataclass(slots=True)
class _Found:
    """A logical volume found on a cartridge."""

    volume: VolumeOnTape
    volser: str
    generation: int

    @property
    def name(self) -> str:
        return self.volume.header.name

    @property
    def content(self) -> tuple[str, int]:
        return self.volume.header.sha256, self.volume.header.size

    @property
    def age(self) -> tuple[float, int, str, int]:
        """What grows from an older copy to a newer one."""
        copied = self.volume.header.facts.copied
        return copied, self.volume.epoch, self.volser, self.volume.first_block

    @property
    def place(self) -> str:
        return f"{self.volser} block {self.volume.first_block}"


class Intake:
    """The entry of cartridges into the catalogue, in one transaction."""

    def __init__(
        self,
        session: Session,
        now: float,
        capacity_bytes: int,
        *,
        expired: Mapping[str, int] | None = None,
        vouched_until: float = -math.inf,
    ) -> None:
        """Enter into the catalogue of `session`.

        A database backup of the time `vouched_until` said which generations had `expired`.
        """
        self.report = IntakeReport()
        self._session = session
        self._now = now
        self._capacity = capacity_bytes
        self._expired = expired or {}
        self._vouched_until = vouched_until
        self._rows: dict[str, PhysicalRow] = {}
        self._before: set[str] = set()
        """Volumes that had an active copy on a cartridge that is entered again."""
        self._keep: set[str] = set()
        """Cartridges on which nothing may be overwritten."""

    def enter(self, contents: Sequence[CartridgeContents], pool: int | None = None) -> None:
        """Enter cartridges, into `pool` or where their labels say."""
        found: dict[str, list[_Found]] = {}
        for each in contents:
            self._enter_cartridge(each, pool)
            for volume in each.volumes:
                name = volume.header.name
                if name != BACKUP_NAME:
                    generation = volume.header.facts.generation
                    found.setdefault(name, []).append(_Found(volume, each.volser, generation))
        for some in transactions.name_batches(found):
            self._enter_volumes(some, found)
        self._session.flush()
        backups = [
            volume.header.facts.generation
            for each in contents
            for volume in each.volumes
            if volume.header.name == BACKUP_NAME
        ]
        newest = max(backups, default=0)
        if newest >= next_sequence(self._session):
            set_sequence(self._session, newest)
        self._report_lost()
        for row in self._rows.values():
            self._settle(row)
        self._session.flush()

    # Cartridges

    def _enter_cartridge(self, contents: CartridgeContents, pool: int | None) -> None:
        facts = contents.facts
        assert facts is not None
        row = self._session.get(PhysicalRow, contents.volser)
        if row is None:
            row = PhysicalRow(volser=contents.volser, pool=SCRATCH_POOL, keys=[])
            row.capacity_bytes = self._capacity
        else:
            copies = transactions.copies_on(self._session, contents.volser)
            self._before.update(copy.name for copy in copies)
            self._session.execute(delete(CopyRow).where(CopyRow.volser == contents.volser))
        if row.pool == SCRATCH_POOL:
            row.pool = self._pool_of(contents) if pool is None else pool
            row.borrowed = row.pool != SCRATCH_POOL
        elif pool is not None:
            row.pool = pool
        transactions.enter_facts(row, facts)
        row.keys = keys_json(contents.keys)
        backups = [v for v in contents.volumes if v.header.name == BACKUP_NAME]
        row.written_bytes = facts.data_bytes - sum(v.header.size for v in backups)
        row.capacity_bytes = max(row.capacity_bytes, facts.data_bytes)
        row.ejected_to = row.backup_block = row.move_pool = None
        row.close_wanted = False
        row.last_written = max((v.header.facts.copied for v in contents.volumes), default=None)
        self._session.add(row)
        self._rows[contents.volser] = row
        self.report.cartridges.append(contents.volser)
        self.report.findings += contents.unreadable
        if contents.unreadable:
            self._keep.add(contents.volser)
        self._session.flush()
        for volume in backups:
            found = _Found(volume, contents.volser, volume.header.facts.generation)
            self._add_copy(found, CopyRole.BACKUP, active=False)
            row.backup_block = volume.first_block
        if contents.volumes and contents.volumes[-1].header.name != BACKUP_NAME:
            row.backup_block = None

    def _pool_of(self, contents: CartridgeContents) -> int:
        """Return the pool that a cartridge joins.

        The one its newest label names, if it is one here and encrypts when the cartridge is
        encrypted; else the first pool that encrypts as the cartridge does.
        """
        facts = contents.facts
        assert facts is not None
        if not facts.block_count:
            return SCRATCH_POOL
        encrypted = facts.encryption is TapeEncryption.ENCRYPTED
        pools = {row.number: row.encrypt for row in self._session.scalars(select(PoolRow))}
        labelled = 0
        for volume in contents.volumes:
            labelled = volume.header.facts.pool or labelled
        if labelled in pools and (pools[labelled] or not encrypted):
            return labelled
        for number, encrypts in sorted(pools.items()):
            if encrypts is encrypted:
                return number
        if pools and not encrypted:
            return min(pools)
        raise IntakeError(
            f"Cartridge {contents.volser} is encrypted, and no pool here encrypts; it did not "
            f"enter the catalogue. Set one up with `rig ve pools --set POOL --encrypt --key LABEL`."
        )

    def _settle(self, row: PhysicalRow) -> None:
        """Set the sums of a cartridge and its state."""
        query = select(func.count(), func.coalesce(func.sum(CopyRow.size), 0))
        active = query.where(CopyRow.volser == row.volser, CopyRow.active)
        row.active_volumes, row.active_bytes = self._session.execute(active).one()
        full = row.backup_block is not None or row.written_bytes >= row.capacity_bytes
        row.state = (VolumeState.FULL if full else VolumeState.FILLING).value
        if row.volser in self._keep:
            row.state, row.read_only = VolumeState.FULL.value, True
        elif row.pool == SCRATCH_POOL:
            row.state, row.written_bytes, row.keys = VolumeState.SCRATCH.value, 0, []
        self._session.flush()
        transactions.release_if_empty(self._session, row)

    # Logical volumes

    def _enter_volumes(self, names: Collection[str], found: dict[str, list[_Found]]) -> None:
        existing = transactions.existing(self._session, names)
        active = transactions.active_copies(self._session, names)
        for name in names:
            self._enter_volume(found[name], existing.get(name), active.get(name, []))
        entered = select(LogicalRow.name).where(LogicalRow.name.in_(names))
        self._session.execute(delete(RetiredNameRow).where(RetiredNameRow.name.in_(entered)))

    def _enter_volume(
        self, found: list[_Found], row: LogicalRow | None, active: list[CopyRow]
    ) -> None:
        self._number(found, row)
        for each in found:
            if each.volume.damage:
                self._report_unreadable(each)
        readable = [each for each in found if not each.volume.damage]
        newest = max((each.generation for each in readable), default=0)
        chosen = self._chosen([each for each in readable if each.generation == newest], row)
        winner = chosen[0] if chosen else None
        if winner is None or (row is not None and not self._replaces(winner, row, active)):
            same = row is not None and winner is not None and _is_content(winner, row)
        elif winner.generation <= self._expired.get(winner.name, 0):
            same = False
        else:
            if row is not None:
                self._drop_content(row, active)
                active = []
            row = self._enter_content(winner, row)
            same = True
        self._enter_copies(found, chosen if same else [], active)
        if same and row is not None:
            self._enter_constructs(row, chosen)

    def _number(self, found: list[_Found], row: LogicalRow | None) -> None:
        """Give contents of labels without a generation one.

        A content that has a number elsewhere has that one. Others are older than any that has one.
        """
        numbers = {each.content: each.generation for each in found if each.generation}
        if row is not None:
            numbers[row.sha256, row.size] = row.generation
        without = sorted((each for each in found if not each.generation), key=lambda each: each.age)
        for each in without:
            each.generation = numbers.get(each.content, 0)
        rest = [each for each in without if not each.generation]
        if not rest:
            return
        places = ", ".join(f"{each.place} (epoch {each.volume.epoch})" for each in rest)
        if row is not None:
            self._keep |= {each.volser for each in rest}
            self.report.findings.append(
                f"{rest[0].name} has another content on {places}, and its label has no generation "
                f"to say which is newer; the one in the catalogue stays."
            )
            return
        if numbers:
            return  # the history of a volume whose newer labels have generations
        contents = list(dict.fromkeys(each.content for each in reversed(rest)))
        for each in rest:
            each.generation = len(contents) - contents.index(each.content)
        if len(contents) > 1 and len({each.volser for each in rest}) > 1:
            self._keep |= {each.volser for each in rest if each.content != contents[0]}
            self.report.findings.append(
                f"{rest[0].name} has {len(contents)} contents without a generation, on {places}; "
                f"the one of {rest[-1].place} was taken."
            )

    def _chosen(self, newest: list[_Found], row: LogicalRow | None) -> list[_Found]:
        """Return the copies of the newest content, the newest copy first."""
        if not newest:
            return []
        ordered = sorted(newest, key=lambda each: each.age, reverse=True)
        leading = next((e for e in ordered if row is not None and _is_content(e, row)), ordered[0])
        others = [each for each in ordered if each.content != leading.content]
        for each in others:
            self._keep.add(each.volser)
            self.report.findings.append(
                f"{each.name} has two contents of generation {each.generation}, on "
                f"{leading.place} and {each.place}; the first was taken."
            )
        return [each for each in ordered if each.content == leading.content]

    def _replaces(self, winner: _Found, row: LogicalRow, active: list[CopyRow]) -> bool:
        """Whether what was found is newer than what the catalogue has."""
        if winner.generation < row.generation or _is_content(winner, row):
            return False
        only_here = row.in_cache and not active and row.name not in self._before
        if winner.generation > row.generation and not only_here:
            return True
        self._keep.add(winner.volser)
        why = "is in the cache alone" if only_here else "is another one of that generation"
        self.report.findings.append(
            f"{row.name} has generation {winner.generation} on {winner.place}, and what the "
            f"catalogue has, generation {row.generation}, {why}; the one in the catalogue stays."
        )
        return False

    def _drop_content(self, row: LogicalRow, active: list[CopyRow]) -> None:
        for copy in active:
            transactions.inactivate(self._session, copy, self._now)
        self._session.execute(delete(PremigrationRow).where(PremigrationRow.name == row.name))
        if row.in_cache:
            self.report.superseded.append((row.name, row.generation))

    def _enter_content(self, winner: _Found, row: LogicalRow | None) -> LogicalRow:
        header = winner.volume.header
        if row is None:
            row = LogicalRow(name=header.name, mounted=False)
            self._session.add(row)
        row.generation = winner.generation
        row.size, row.sha256, row.source = header.size, header.sha256, header.path
        row.storage_group = header.facts.storage_group
        row.management_class = header.facts.management_class
        row.written = row.accessed = header.facts.written
        row.in_cache = False
        row.found_on_tape = row.written > self._vouched_until
        self.report.volumes.append(header.name)
        return row

    # Copies

    def _enter_copies(
        self, found: Iterable[_Found], chosen: list[_Found], active: list[CopyRow]
    ) -> None:
        """Enter copies; of those chosen, one of each role is active.

        Without a role in its label, the newest copy is the primary one.
        """
        taken = {copy.role: copy.volser for copy in active if not copy.bad}
        for each in chosen:
            primary = CopyRole.PRIMARY.value not in taken
            unknown = CopyRole.PRIMARY if primary else CopyRole.SECONDARY
            role = CopyRole(each.volume.header.facts.role or unknown)
            free = role.value not in taken and each.volser not in taken.values()
            if free:
                taken[role.value] = each.volser
            self._add_copy(each, role, active=free)
        for each in found:
            if not any(each is other for other in chosen):
                role = CopyRole(each.volume.header.facts.role or CopyRole.PRIMARY)
                self._add_copy(each, role, active=False)

    def _add_copy(self, found: _Found, role: CopyRole, *, active: bool) -> None:
        self._session.add(
            CopyRow(
                name=found.name,
                generation=found.generation,
                volser=found.volser,
                role=role.value,
                first_block=found.volume.first_block,
                blocks=found.volume.blocks,
                size=found.volume.header.size,
                active=active,
                bad=bool(found.volume.damage),
            )
        )

    def _report_unreadable(self, found: _Found) -> None:
        self._keep.add(found.volser)
        self.report.findings.append(
            f"{found.name}, generation {found.generation}, on {found.volser} cannot be read: "
            f"{found.volume.damage}."
        )

    def _report_lost(self) -> None:
        """Name the volumes of which no copy is left."""
        for some in transactions.name_batches(self._before):
            existing = transactions.existing(self._session, some)
            active = transactions.active_copies(self._session, some)
            self.report.findings += [
                f"{name} is on no cartridge any more: what had its copy was written elsewhere."
                for name, row in sorted(existing.items())
                if not row.in_cache and name not in active
            ]

    # Constructs

    def _enter_constructs(self, row: LogicalRow, chosen: Sequence[_Found]) -> None:
        """Make the constructs of a volume that this node does not have.

        Each names the pool of the copy.
        """
        pools = {
            each.volume.header.facts.role or CopyRole.PRIMARY.value: self._rows[each.volser].pool
            for each in chosen
        }
        session, group, chosen_class = self._session, row.storage_group, row.management_class
        primary = pools.get(CopyRole.PRIMARY.value) or next(iter(pools.values()))
        if group and session.get(StorageGroupRow, group) is None:
            settings.set_storage_group(session, StorageGroup(group, primary))
            self.report.notes.append(f"storage group {group} was made: primary pool {primary}")
        if chosen_class and session.get(ManagementClassRow, chosen_class) is None:
            pool = pools.get(CopyRole.SECONDARY.value, NO_COPY)
            settings.set_management_class(session, ManagementClass(chosen_class, pool))
            what = f"secondary pool {pool}" if pool else "no copy, as none was found"
            self.report.notes.append(f"management class {chosen_class} was made: {what}")


def _is_content(found: _Found, row: LogicalRow) -> bool:
    return (found.generation, *found.content) == (row.generation, row.sha256, row.size)
