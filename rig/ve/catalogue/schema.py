"""The tables of the catalogue, and how rows become values of the model.

`migrations/` brings a database from any earlier form to this one; a test compares the two.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, MetaData, UniqueConstraint, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from hsm.keys.eedk import KeyLabel, KeyMode
from rig.ve.catalogue.model import (
    CopyRole,
    LogicalVolume,
    ManagementClass,
    PhysicalVolume,
    PoolSettings,
    ReclaimPolicy,
    StackedCopy,
    StorageGroup,
    TapeEncryption,
    VolumeState,
)

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """All tables."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 - SQLAlchemy's


class SettingRow(Base):
    """A node-wide setting: a named value."""

    __tablename__ = "setting"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[dict[str, Any]]


class PoolRow(Base):
    """The settings of a pool."""

    __tablename__ = "pool"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    encrypt: Mapped[bool]
    keys: Mapped[list[Any]]
    allow_public_only: Mapped[bool]
    borrow: Mapped[bool]
    return_borrowed: Mapped[bool]
    reclaim_pool: Mapped[int | None]
    threshold_percent: Mapped[int]
    days_since_access: Mapped[int]
    days_since_write: Mapped[int]
    days_since_inactivation: Mapped[int]
    inactivation_max_active_percent: Mapped[int]

    def record(self) -> PoolSettings:
        """Return the settings as a value."""
        return PoolSettings(
            self.number,
            self.encrypt,
            keys_of(self.keys),
            self.allow_public_only,
            self.borrow,
            self.return_borrowed,
            self.reclaim_pool,
            ReclaimPolicy(
                self.threshold_percent,
                self.days_since_access,
                self.days_since_write,
                self.days_since_inactivation,
                self.inactivation_max_active_percent,
            ),
        )

    @classmethod
    def of(cls, pool: PoolSettings) -> PoolRow:
        """Return the row that stores these settings."""
        policy = pool.reclaim
        return cls(
            number=pool.number,
            encrypt=pool.encrypt,
            keys=keys_json(pool.keys),
            allow_public_only=pool.allow_public_only,
            borrow=pool.borrow,
            return_borrowed=pool.return_borrowed,
            reclaim_pool=pool.reclaim_pool,
            threshold_percent=policy.threshold_percent,
            days_since_access=policy.days_since_access,
            days_since_write=policy.days_since_write,
            days_since_inactivation=policy.days_since_inactivation,
            inactivation_max_active_percent=policy.inactivation_max_active_percent,
        )


class StorageGroupRow(Base):
    """A storage group."""

    __tablename__ = "storage_group"
    name: Mapped[str] = mapped_column(primary_key=True)
    pool: Mapped[int]

    def record(self) -> StorageGroup:
        """Return the construct as a value."""
        return StorageGroup(self.name, self.pool)


class ManagementClassRow(Base):
    """A management class."""

    __tablename__ = "management_class"
    name: Mapped[str] = mapped_column(primary_key=True)
    secondary_pool: Mapped[int]

    def record(self) -> ManagementClass:
        """Return the construct as a value."""
        return ManagementClass(self.name, self.secondary_pool)


class DriveRow(Base):
    """A drive of the node, with its mounts."""

    __tablename__ = "drive"
    serial: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    mounts: Mapped[int] = mapped_column(default=0)
    volser: Mapped[str | None]
    """The cartridge that was last mounted in it."""


class PhysicalRow(Base):
    """A cartridge."""

    __tablename__ = "physical_volume"
    volser: Mapped[str] = mapped_column(primary_key=True)
    pool: Mapped[int] = mapped_column(index=True)
    state: Mapped[str] = mapped_column(default=VolumeState.SCRATCH.value)
    encryption: Mapped[str] = mapped_column(default=TapeEncryption.BLANK.value)
    keys: Mapped[list[Any]] = mapped_column(default=list)
    borrowed: Mapped[bool] = mapped_column(default=False)
    capacity_bytes: Mapped[int]
    written_bytes: Mapped[int] = mapped_column(default=0)
    active_bytes: Mapped[int] = mapped_column(default=0)
    active_volumes: Mapped[int] = mapped_column(default=0)
    block_count: Mapped[int] = mapped_column(default=0)
    """Blocks on the cartridge at its last complete demount."""
    first_epoch: Mapped[int] = mapped_column(default=0)
    """The append epoch of the last known write from BOT; another epoch shows a later one."""
    last_written: Mapped[float | None]
    last_accessed: Mapped[float | None]
    last_inactivated: Mapped[float | None]
    close_wanted: Mapped[bool] = mapped_column(default=False)
    """A volume did not fit: the database backup is due, then the state full."""
    backup_block: Mapped[int | None]
    """Block number of the database backup's header label, once filled."""
    writing_pool: Mapped[int | None]
    """While it is being written, the pool written for; recovery looks at such a cartridge."""
    move_pool: Mapped[int | None]
    """A move of its volumes to this pool was ordered."""
    move_when_eligible: Mapped[bool] = mapped_column(default=False)
    """The move waits until it is eligible for reclaim."""
    cartridge_id: Mapped[str | None]
    """The cartridge's own random id, hexadecimal; None until it is known (a catalogue of 0001)."""
    format_version: Mapped[int | None]
    epoch: Mapped[int | None]
    """The append epoch that the cartridge memory had at the last complete demount."""
    end_offset: Mapped[int | None]
    """Where the cartridge's data ended at the last complete demount, in bytes of its file."""
    read_only: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Set aside: it is read, and not written until an operator says otherwise."""
    ejected_to: Mapped[str | None]
    """Where it went, as the operator named the place; None while it is in this node."""

    def record(self) -> PhysicalVolume:
        """Return the cartridge as a value."""
        return PhysicalVolume(
            self.volser,
            self.pool,
            VolumeState(self.state),
            TapeEncryption(self.encryption),
            keys_of(self.keys),
            self.borrowed,
            self.capacity_bytes,
            self.written_bytes,
            self.active_bytes,
            self.active_volumes,
            self.last_written,
            self.last_accessed,
            self.last_inactivated,
        )


class LogicalRow(Base):
    """A logical volume: its newest content."""

    __tablename__ = "logical_volume"
    name: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int]
    size: Mapped[int]
    sha256: Mapped[str]
    storage_group: Mapped[str] = mapped_column(default="")
    management_class: Mapped[str] = mapped_column(default="")
    written: Mapped[float]
    accessed: Mapped[float]
    in_cache: Mapped[bool] = mapped_column(default=True)
    mounted: Mapped[bool] = mapped_column(default=False)
    source: Mapped[str] = mapped_column(default="")
    found_on_tape: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It entered the catalogue from a cartridge's labels; it may have expired before."""

    __table_args__ = (Index(None, "in_cache", "accessed"),)

    def record(self) -> LogicalVolume:
        """Return the volume as a value."""
        return LogicalVolume(
            self.name,
            self.generation,
            self.size,
            self.sha256,
            self.storage_group,
            self.management_class,
            self.written,
            self.accessed,
            self.in_cache,
            self.mounted,
            self.source,
        )


class RetiredNameRow(Base):
    """The highest generation of an expired volume's name.

    A new volume of that name begins above it: no two contents share a cache file.
    """

    __tablename__ = "retired_name"
    name: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int]


class CopyRow(Base):
    """A logical volume on a cartridge."""

    __tablename__ = "stacked_copy"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    generation: Mapped[int]
    volser: Mapped[str] = mapped_column(ForeignKey("physical_volume.volser"))
    role: Mapped[str]
    first_block: Mapped[int]
    blocks: Mapped[int]
    size: Mapped[int]
    active: Mapped[bool] = mapped_column(default=True)
    bad: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It was found unreadable, and counts for nothing."""
    last_read: Mapped[float | None]
    """When it was last read whole and found right; None: not since it was written."""

    __table_args__ = (UniqueConstraint("volser", "first_block"),)

    def record(self) -> StackedCopy:
        """Return the copy as a value."""
        return StackedCopy(
            self.name,
            self.generation,
            self.volser,
            CopyRole(self.role),
            self.first_block,
            self.blocks,
            self.size,
            self.active,
        )


class PremigrationRow(Base):
    """A copy that a rewind/unload ordered and that is not on tape yet."""

    __tablename__ = "premigration"
    name: Mapped[str] = mapped_column(ForeignKey("logical_volume.name"), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int]
    pool: Mapped[int] = mapped_column(index=True)
    queued: Mapped[float]


class EventRow(Base):
    """A message to the hosts' consoles, or an intervention for the operator."""

    __tablename__ = "event"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float]
    kind: Mapped[str] = mapped_column(index=True)
    """`message`, `intervention` or `call-home`."""
    subject: Mapped[str] = mapped_column(default="")
    """What it is about; an intervention is open once for each."""
    text: Mapped[str]
    cleared: Mapped[float | None]


class TrafficRow(Base):
    """What went to a pool's cartridges within one hour (MSG-2)."""

    __tablename__ = "traffic"
    hour: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Hours since 1970, UTC."""
    pool: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    encrypted: Mapped[bool] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(default=0)
    volumes: Mapped[int] = mapped_column(default=0)


def keys_json(keys: tuple[KeyLabel, ...]) -> list[dict[str, str]]:
    """Return key labels as they are stored."""
    return [{"label": key.label, "mode": key.mode.value} for key in keys]


def keys_of(stored: list[Any]) -> tuple[KeyLabel, ...]:
    """Return the key labels that were stored."""
    return tuple(KeyLabel(each["label"], KeyMode(each["mode"])) for each in stored)
