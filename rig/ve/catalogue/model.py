"""Volumes, pools, constructs and policies, as plain values.

The catalogue stores them, the planner reads them, the commands print them. Nothing here touches a
file. Times are seconds since 1970, UTC; sizes are bytes of logical volumes' data (labels of volumes
and the cartridge's own structure are not counted), so that what goes in is what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from hsm.errors import TaperigError
from hsm.keys.eedk import KeyLabel

POOL_NUMBERS = range(1, 33)  # POOL-6

SCRATCH_POOL = 0
"""The number under which the common scratch pool is kept; it is none of the pools 1 to 32."""

NO_COPY = 0
"""The secondary pool of a management class that makes no copy (POOL-4)."""

BACKUP_NAME = "DBBKUP"
"""The name under which database backups are on tape; no host may use it."""

DAY_S = 86_400.0


class SettingsError(TaperigError):
    """A setting is out of range."""


# Pools and constructs


@dataclass(frozen=True, slots=True)
class InhibitPeriod:
    """A weekly period in which no new reclaim begins (MIG-11).

    It may end past midnight.
    """

    weekday: int
    """0 Monday to 6 Sunday, UTC."""
    start_minute: int
    """Minutes after midnight, 0 to 1439."""
    minutes: int
    """How long it lasts, 1 to 10080 (a week)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (
            0 <= self.weekday <= 6
            and 0 <= self.start_minute <= 1439
            and 1 <= self.minutes <= 7 * 1440
        ):
            raise SettingsError(
                f"An inhibit period of weekday {self.weekday}, minute {self.start_minute}, lasting "
                f"{self.minutes} minutes cannot be; give 0 to 6, 0 to 1439 and 1 to 10080."
            )


@dataclass(frozen=True, slots=True)
class ReclaimPolicy:
    """When a filled volume of a pool is eligible for reclaim.

    Each of the four reasons is enough.
    """

    threshold_percent: int = 35
    """Active data strictly below this share of what was written, 5 to 95 (MIG-5)."""
    days_since_access: int = 0
    """Days since data was last recalled from it, 1 to 365; 0 is off (MIG-6)."""
    days_since_write: int = 0
    """Days since data was last written to it, 1 to 365; 0 is off (MIG-7)."""
    days_since_inactivation: int = 0
    """Days since data on it was last inactivated, 1 to 365; 0 is off (MIG-8)."""
    inactivation_max_active_percent: int = 35
    """With the former: active data must be below this too, 5 to 95 (MIG-8)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("threshold_percent", "inactivation_max_active_percent"):
            if not 5 <= getattr(self, name) <= 95:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be from 5 to 95.")
        for name in ("days_since_access", "days_since_write", "days_since_inactivation"):
            if not 0 <= getattr(self, name) <= 365:
                raise SettingsError(
                    f"{name} is {getattr(self, name)}; it must be from 1 to 365, or 0 for off."
                )


def require_pool_number(number: int) -> None:
    """Raise SettingsError for a number that no pool can have."""
    if number not in POOL_NUMBERS:
        raise SettingsError(f"There is no pool {number}; pools have the numbers 1 to 32.")


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The settings of a pool, as `rig ve pools` shows and sets them.

    `encrypt`, `keys` and `allow_public_only` apply at the next write from BOT only (POOL-2).
    """

    number: int
    encrypt: bool = False
    keys: tuple[KeyLabel, ...] = ()
    """One or two labels with their modes when it encrypts; one makes both EEDKs (KEY-11)."""
    allow_public_only: bool = False
    borrow: bool = True
    """Whether it takes volumes from the common scratch pool when it has no scratch of its own."""
    return_borrowed: bool = False
    """Whether a borrowed volume goes back to the common scratch pool when it is empty."""
    reclaim_pool: int | None = None
    """The pool that reclaim moves its data to; None is the pool itself."""
    reclaim: ReclaimPolicy = field(default_factory=ReclaimPolicy)

    def __post_init__(self) -> None:
        """Check the numbers and the keys."""
        require_pool_number(self.number)
        if self.encrypt and not 1 <= len(self.keys) <= 2:
            raise SettingsError(
                f"Pool {self.number} encrypts, but has {len(self.keys)} key labels; give it one or "
                f"two."
            )
        if self.reclaim_pool is not None and self.reclaim_pool not in POOL_NUMBERS:
            raise SettingsError(
                f"The reclaim pool of pool {self.number} is {self.reclaim_pool}; pools have the "
                f"numbers 1 to 32."
            )

    @property
    def reclaim_target(self) -> int:
        """The pool that its data goes to in reclaim."""
        return self.number if self.reclaim_pool is None else self.reclaim_pool


@dataclass(frozen=True, slots=True)
class StorageGroup:
    """A storage group: names the primary pool of its volumes."""

    name: str
    pool: int


@dataclass(frozen=True, slots=True)
class ManagementClass:
    """A management class: names the secondary pool, or NO_COPY, of volumes."""

    name: str
    secondary_pool: int = NO_COPY


# Volumes


class VolumeState(StrEnum):
    """How far a physical volume is written."""

    SCRATCH = "scratch"
    """Empty: may be written from BOT; old data may still lie on it, none of it active."""
    FILLING = "filling"
    """Written, with room for more; never reclaimed (MIG-10)."""
    FULL = "full"
    """Filled, database backup included; reclaim may come."""
    EJECTED = "ejected"
    """Taken out of the node; what is on it counts, and cannot be read until it is back."""


class TapeEncryption(StrEnum):
    """How a physical volume was written from BOT."""

    BLANK = "blank"
    CLEAR = "clear"
    ENCRYPTED = "encrypted"


class CopyRole(StrEnum):
    """Which of a logical volume's two copies; or no volume's copy at all."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    BACKUP = "backup"
    """The database backup of a filled cartridge; it is never active."""


@dataclass(frozen=True, slots=True)
class PhysicalVolume:
    """A cartridge as the catalogue knows it."""

    volser: str
    pool: int
    """1 to 32, or SCRATCH_POOL."""
    state: VolumeState
    encryption: TapeEncryption = TapeEncryption.BLANK
    keys: tuple[KeyLabel, ...] = ()
    """The labels and modes of the write from BOT; empty when not encrypted."""
    borrowed: bool = False
    """Whether it came into its pool from the common scratch pool."""
    capacity_bytes: int = 0
    """Data that it holds when full, bytes."""
    written_bytes: int = 0
    """Data of hosts written since BOT, active or not, bytes; a database backup is none."""
    active_bytes: int = 0
    """Data of it that is active: the newest version of a volume that has not expired, bytes."""
    active_volumes: int = 0
    """Logical volumes with an active copy on it."""
    last_written: float | None = None
    last_accessed: float | None = None
    """Last time that data was recalled from it; None: never since BOT."""
    last_inactivated: float | None = None
    """Last time that data on it was rewritten or expired; None: never since BOT."""


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """What the host sees: a name and its newest content."""

    name: str
    generation: int
    """1 for the first content; each rewrite is one higher."""
    size: int
    """Bytes."""
    sha256: str
    """Of the content, hexadecimal."""
    storage_group: str = ""
    """Empty: none was given, so the node's defaults hold (POOL-5)."""
    management_class: str = ""
    written: float = 0.0
    accessed: float = 0.0
    in_cache: bool = True
    mounted: bool = False
    """Whether the host has it open; it goes to its pools at the next rewind/unload."""
    source: str = ""
    """Where its content came from, as the header label on tape says it."""


@dataclass(frozen=True, slots=True)
class StackedCopy:
    """One logical volume on one physical volume: a line of the map (MIG-3)."""

    name: str
    generation: int
    volser: str
    role: CopyRole
    first_block: int
    """Its header label's block number: the position on tape."""
    blocks: int
    """Blocks that it takes, both labels included."""
    size: int
    """Bytes of data."""
    active: bool = True
