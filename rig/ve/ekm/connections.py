"""Permanent connections to all configured key managers (EKM-5).

They are kept open at all times and pinged when idle. A lost one is tried again with exponential
backoff. Each loss and each return is reported once (`notices`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hsm.ekm.client import CONNECT_SECONDS, PING_SECONDS, EkmClient
from hsm.ekm.protocol.errors import EkmUnavailable
from rig.ve.ekm.notices import EkmNotices


@dataclass(frozen=True, slots=True)
class ConnectionTiming:
    """Intervals and timeouts of the connections, in seconds."""

    ping_every: float = 10.0
    """A connection that was not used for this long is pinged."""
    ping_answer: float = PING_SECONDS
    first_retry: float = 0.5
    """A lost key manager is tried again after this; the delay doubles with each failure."""
    longest_retry: float = 60.0
    """Longest delay between two tries of a lost key manager."""
    probe: float = 1.0
    """How long an exchange waits for a key manager that was lost before."""


class EkmConnection:
    """The connection to one key manager, and its last known state."""

    def __init__(
        self, client: EkmClient, timing: ConnectionTiming, clock: Callable[[], float]
    ) -> None:
        """Connect to nothing yet."""
        self.client = client
        self.name = client.endpoint.name or str(client.endpoint)
        self.up: bool | None = None
        """Whether it answered when last asked; None before that."""
        self._timing = timing
        self._clock = clock
        self._lock = threading.RLock()
        self._used = clock()
        self._delay = timing.first_retry

    @property
    def due(self) -> float:
        """When the next ping or the next try is due, by the clock."""
        return self._used + (self._timing.ping_every if self.up else self._delay)

    @contextmanager
    def exclusive(self, seconds: float | None = None) -> Iterator[EkmClient]:
        """Use the connection exclusively.

        Raises EkmUnavailable when other threads keep it too long.

        ``seconds`` is how long to wait for them, by default as long as `revive` would.
        """
        if not self._lock.acquire(timeout=self._patience if seconds is None else seconds):
            raise EkmUnavailable(
                f"The key manager {self.name} is being tried for another exchange; try again."
            )
        try:
            yield self.client
        finally:
            self._lock.release()

    def revive(self) -> None:
        """Make sure that it answers before an exchange.

        Raises EkmUnavailable.

        One that was lost before is not waited for as long as one that answered.
        """
        self.client.ensure_connected(self._patience)

    @property
    def _patience(self) -> float:
        return self._timing.probe if self.up is False else self._timing.ping_answer

    def mark_answered(self) -> bool:
        """Note that it answered; return whether that is a change."""
        changed, self.up = self.up is not True, True
        self._used, self._delay = self._clock(), self._timing.first_retry
        return changed

    def mark_failed(self) -> bool:
        """Note that it did not answer; return whether that is a change.

        The next tries come with exponential backoff; tries by exchanges in between do not delay
        them.
        """
        now, changed = self._clock(), self.up is not False
        if not changed and now >= self.due:
            self._delay = min(2 * self._delay, self._timing.longest_retry)
            self._used = now
        elif changed:
            self._used = now
        self.up = False
        return changed


class EkmConnections:
    """All key managers of a node, the primary first."""

    def __init__(
        self,
        clients: Sequence[EkmClient],
        notices: EkmNotices,
        timing: ConnectionTiming | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; ``clock`` gives seconds."""
        self._timing = timing or ConnectionTiming()
        self._clock = clock
        self._notices = notices
        self._recording = threading.Lock()
        self._end = threading.Event()
        self._watcher: threading.Thread | None = None
        self.all = tuple(EkmConnection(client, self._timing, clock) for client in clients)

    def check(self) -> Mapping[EkmConnection, float | EkmUnavailable]:
        """Ping every key manager; return the seconds it took, or the failure."""
        return self._check(self.all, wait=CONNECT_SECONDS)

    def tick(self) -> float:
        """Run what is due; return the seconds until something is due next."""
        now = self._clock()
        self._check([each for each in self.all if each.due <= now], wait=0)
        return max(0.0, min(each.due for each in self.all) - self._clock())

    def watch(self) -> None:
        """Start a thread that runs what is due, until closed."""
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="key managers", daemon=True)
            self._watcher.start()

    def _watch(self) -> None:
        while not self._end.wait(max(self.tick(), self._timing.first_retry / 10)):
            pass

    def close(self) -> None:
        """Stop the thread and close all connections."""
        self._end.set()
        if self._watcher is not None:
            self._watcher.join()
        for each in self.all:
            each.client.close()

    def record_outcomes(self, outcomes: Mapping[EkmConnection, EkmUnavailable | None]) -> None:
        """Record whether key managers answered, and report changes."""
        with self._recording:
            first_look = all(each.up is None for each in outcomes)  # before they are noted
            changed = [
                each
                for each, failure in outcomes.items()
                if (each.mark_answered() if failure is None else each.mark_failed())
            ]
            for each in changed:
                failure = outcomes[each]
                where = str(each.client.endpoint)
                if failure is not None:
                    self._notices.report_lost(each.name, where, str(failure).removesuffix("."))
                else:
                    self._notices.report_returned(each.name, where)
            up = [each.name for each in self.all if each.up]
            down = [each.name for each in self.all if each.up is False]
            all_known = len(up) + len(down) == len(self.all)
            if changed and (up or all_known) and not (first_look and not down):
                self._notices.report_hosts(up, down)

    def _check(
        self, chosen: Sequence[EkmConnection], wait: float
    ) -> Mapping[EkmConnection, float | EkmUnavailable]:
        outcomes: dict[EkmConnection, float | EkmUnavailable] = {}
        for each in chosen:
            try:
                with each.exclusive(wait) as client:
                    outcomes[each] = self._ping(each, client)
            except EkmUnavailable as failure:
                if wait:
                    outcomes[each] = failure  # else an exchange uses it just now
        self.record_outcomes(
            {e: f if isinstance(f, EkmUnavailable) else None for e, f in outcomes.items()}
        )
        return outcomes

    def _ping(self, each: EkmConnection, client: EkmClient) -> float | EkmUnavailable:
        try:
            if not client.connected:
                client.connect()
            return client.ping(self._timing.ping_answer)
        except EkmUnavailable as failure:
            return failure
