"""The steps of the modelled sequences as they happen: what, when, for how long, how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Event:
    """One step that has ended; ``started`` is seconds since 1970, UTC."""

    step: str
    text: str
    volume: str | None
    started: float
    duration_s: float
    outcome: Outcome
    detail: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]


class EventLog:
    """Events in the order in which they ended, told to whoever listens."""

    def __init__(self) -> None:
        """Begin empty."""
        self.events: list[Event] = []
        self.listeners: list[Listener] = []

    @contextmanager
    def step(self, step: str, text: str, volume: str | None = None) -> Iterator[dict[str, Any]]:
        """Time a step; what is put into the dictionary becomes the event's detail."""
        detail: dict[str, Any] = {}
        started, began = time.time(), time.monotonic()
        outcome: Outcome = "failed"
        try:
            yield detail
            outcome = "ok"
        except Exception as error:
            detail["error"] = str(error)
            raise
        finally:
            duration = time.monotonic() - began
            self._tell(Event(step, text, volume, started, duration, outcome, detail))

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        for listener in self.listeners:
            listener(event)
