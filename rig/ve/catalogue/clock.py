"""The time of a node: real time, or ahead of it by as much as was set."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from hsm.errors import TaperigError
from rig.ve.catalogue import settings
from rig.ve.catalogue.model import DAY_S
from rig.ve.catalogue.schema import (
    EventRow,
    LogicalRow,
    PhysicalRow,
    PremigrationRow,
    TrafficRow,
)
from rig.ve.catalogue.transactions import HOUR_S

CLOCK = "clock"

MAX_DAYS = 36_525
"""How far a node's clock may be ahead of real time: 100 years."""

_TIMES = (
    LogicalRow.written,
    LogicalRow.accessed,
    PhysicalRow.last_written,
    PhysicalRow.last_accessed,
    PhysicalRow.last_inactivated,
    PremigrationRow.queued,
    EventRow.at,
    EventRow.cleared,
)


class ClockError(TaperigError):
    """A node's clock is, or would be, further ahead than it may be."""


class Clock:
    """Seconds since 1970, UTC: real time and an offset."""

    def __init__(self, offset_s: float = 0.0, real: Callable[[], float] = time.time) -> None:
        """Begin `offset_s` seconds ahead of real time."""
        self.offset_s = offset_s
        self._real = real

    def now(self) -> float:
        """Return the node's time, seconds since 1970, UTC."""
        return self._real() + self.offset_s

    def advance(self, *, days: float) -> None:
        """Set the clock ahead.

        Raises ClockError, with nothing changed, when that is too far.
        """
        ahead = self.offset_s + days * DAY_S
        if not (days >= 0 and ahead <= MAX_DAYS * DAY_S):
            raise ClockError(
                f"The node's clock would be {ahead / DAY_S:.0f} days ahead of real time, and may "
                f"be 0 to {MAX_DAYS} (100 years); it is as it was. Set it ahead by 0 or more days "
                f"within that, or back to real time with: rig ve clock --reset"
            )
        self.offset_s = ahead


def offset(session: Session) -> float:
    """Return how far a node's clock is ahead of real time, in seconds.

    Raises ClockError when the stored offset is out of range.
    """
    ahead: float = settings.setting(session, CLOCK, {"offset_s": 0.0})["offset_s"]
    if not 0 <= ahead <= MAX_DAYS * DAY_S:
        raise ClockError(
            f"The node's clock is {ahead / DAY_S:.0f} days ahead of real time, and may be 0 to "
            f"{MAX_DAYS}; set it back to real time with: rig ve clock --reset"
        )
    return ahead


def set_offset(session: Session, offset_s: float) -> None:
    """Store how far a node's clock is ahead of real time, in seconds."""
    settings.set_setting(session, CLOCK, {"offset_s": offset_s})


def reset(session: Session, now: float) -> None:
    """Set a node's clock back to real time.

    Whatever is dated later is dated `now`.
    """
    set_offset(session, 0.0)
    for column in _TIMES:
        session.execute(update(column.class_).where(column > now).values({column: now}))
    hour = int(now // HOUR_S)
    later = list(session.scalars(select(TrafficRow).where(TrafficRow.hour > hour)))
    for row in later:
        key = (hour, row.pool, row.encrypted)
        entry = session.get(TrafficRow, key)
        if entry is None:
            entry = TrafficRow(
                hour=hour, pool=row.pool, encrypted=row.encrypted, bytes=0, volumes=0
            )
            session.add(entry)
            session.flush()
        entry.bytes += row.bytes
        entry.volumes += row.volumes
        session.delete(row)
