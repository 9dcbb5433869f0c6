"""Events of a run: steps of the modelled sequences, and notices.

A step has a duration and an outcome. A notice has a time only: an intervention raised or cleared at
the library manager, a notice to the hosts, a call home.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from hsm.errors import TaperigError

Outcome = Literal["ok", "failed", "expected", "skipped", "interrupted"]
"""``expected``: it failed, as it had to for what is judged. ``interrupted``: by a signal."""


class WorkInterruptedError(TaperigError):
    """A drive's work was interrupted by a signal to the process."""


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


class NoticeKind(StrEnum):
    """The kinds of notices, by whom they are for."""

    INTERVENTION = "intervention raised"
    """The operator at the library manager has something to do."""
    CLEARED = "intervention cleared"
    """The cause of the intervention is gone."""
    HOSTS = "host notice"
    """A message to the attached hosts."""
    CALL_HOME = "call home"
    """A message to the service organization."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A message to operators, hosts or the service.

    ``about`` names what it concerns: an intervention is cleared under the name it was raised under.
    ``time`` is seconds since 1970, UTC.
    """

    kind: NoticeKind
    about: str
    text: str
    time: float
    detail: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]
NoticeListener = Callable[[Notice], None]


class TaskDisplay(Protocol):
    """Shows long tasks while a lab is opened."""

    def task(
        self, words: str, total: float | None = None
    ) -> AbstractContextManager[Callable[[float], None]]:
        """Show a task; the caller reports how much of ``total`` is done."""

    def begin(self, words: str) -> None:
        """Say that a long task begins, where nothing is shown live."""


class EventLog:
    """Events in the order in which they ended, and their listeners."""

    def __init__(self) -> None:
        """Begin empty."""
        self.events: list[Event] = []
        self.listeners: list[Listener] = []
        self.notices: list[Notice] = []
        self.notice_listeners: list[NoticeListener] = []
        self._failure: Outcome = "failed"

    def notice(self, kind: NoticeKind, about: str, text: str, **detail: Any) -> None:
        """Record a notice and call the listeners; from any thread."""
        notice = Notice(kind, about, text, time.time(), detail)
        self.notices.append(notice)
        for listener in self.notice_listeners:
            listener(notice)

    @contextmanager
    def expecting_failure(self) -> Iterator[None]:
        """Record steps that fail in this context as expected."""
        self._failure = "expected"
        try:
            yield
        finally:
            self._failure = "failed"

    @contextmanager
    def step(self, step: str, text: str, volume: str | None = None) -> Iterator[dict[str, Any]]:
        """Time a step; the dictionary becomes the event's detail."""
        detail: dict[str, Any] = {}
        started, began = time.time(), time.monotonic()
        outcome = self._failure
        try:
            yield detail
            outcome = "ok"
        except (KeyboardInterrupt, SystemExit, WorkInterruptedError):
            outcome = "interrupted"
            raise
        except Exception as error:
            detail["error"] = str(error)
            raise
        finally:
            duration = time.monotonic() - began
            self._record(Event(step, text, volume, started, duration, outcome, detail))

    def _record(self, event: Event) -> None:
        self.events.append(event)
        for listener in self.listeners:
            listener(event)
