"""Relay the messages between a drive and a key manager."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from hsm.ekm.protocol.errors import EkmUnavailable, ExchangeError


class RelayedSession(Protocol):
    """A drive's key exchange, as a relay sees it."""

    @property
    def finished(self) -> bool:
        """Whether the drive has nothing more to send or to hear."""

    @property
    def failure(self) -> ExchangeError | None:
        """Why the drive got no key, when it did not."""

    def hello(self) -> bytes:
        """Begin the exchange; return the first message."""

    def on_message(self, data: bytes) -> bytes | None:
        """Take an answer; return what to send next, if anything."""


class Relay(Protocol):
    """The way to the key managers."""

    def exchange(self, session: RelayedSession) -> None:
        """Relay a drive's exchange."""

    def each(self) -> Sequence[Relay]:
        """Return a way to each key manager alone."""

    def answering(self) -> Sequence[str]:
        """Return the names of the key managers that answered when last asked."""


class OneAtATime:
    """A relay for several drives: runs one exchange after the other."""

    def __init__(
        self, relay: Relay, answered: Callable[[], None], lock: threading.Lock | None = None
    ) -> None:
        """Call `answered` after each exchange that a key manager answered."""
        self._relay = relay
        self._answered = answered
        self._lock = lock or threading.Lock()

    def exchange(self, session: RelayedSession) -> None:
        """Relay a drive's exchange."""
        with self._lock:
            self._relay.exchange(session)
            self._answered()

    def each(self) -> Sequence[Relay]:
        """Return a way to each key manager alone."""
        return [OneAtATime(relay, self._answered, self._lock) for relay in self._relay.each()]

    def answering(self) -> Sequence[str]:
        """Return the names of the key managers that answered when last asked."""
        return self._relay.answering()


class NoKeyManager:
    """A node without key managers."""

    def exchange(self, session: RelayedSession) -> None:
        """Refuse."""
        raise EkmUnavailable("This node has no key manager; name one in the lab file.")

    def each(self) -> Sequence[Relay]:
        """Return this: it says why."""
        return [self]

    def answering(self) -> Sequence[str]:
        """Return none."""
        return ()
