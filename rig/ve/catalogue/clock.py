"""The time of a node: real time, which a story may set ahead."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy.orm import Session

from rig.ve.catalogue import settings
from rig.ve.catalogue.model import DAY_S

CLOCK = "clock"


class Clock:
    """Seconds since 1970, UTC: real time and an offset that only grows."""

    def __init__(self, offset_s: float = 0.0, real: Callable[[], float] = time.time) -> None:
        """Begin `offset_s` seconds ahead of real time."""
        self.offset_s = offset_s
        self._real = real

    def now(self) -> float:
        """The time."""
        return self._real() + self.offset_s

    def advance(self, *, days: float = 0.0, seconds: float = 0.0) -> None:
        """Set the time ahead."""
        ahead = days * DAY_S + seconds
        if ahead < 0:
            raise ValueError("time does not go back")
        self.offset_s += ahead


def offset(session: Session) -> float:
    """How far a node's clock is ahead, seconds."""
    ahead: float = settings.setting(session, CLOCK, {"offset_s": 0.0})["offset_s"]
    return ahead


def set_offset(session: Session, offset_s: float) -> None:
    """Keep how far a node's clock is ahead, seconds."""
    settings.set_setting(session, CLOCK, {"offset_s": offset_s})
