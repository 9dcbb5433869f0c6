"""Locks on cartridges: a cartridge is in one drive at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CartridgeLocks:
    """The VOLSERs in use by drives, within one process."""

    def __init__(self) -> None:
        """Begin with none."""
        self._condition = threading.Condition()
        self._locked: set[str] = set()

    @contextmanager
    def choosing(self) -> Iterator[set[str]]:
        """Hold off all others: choose a VOLSER that is not in the set, and add it."""
        with self._condition:
            yield self._locked

    @contextmanager
    def locked(self, volser: str) -> Iterator[None]:
        """Lock a cartridge, once it is free, for as long as the context lasts."""
        with self._condition:
            self._condition.wait_for(lambda: volser not in self._locked)
            self._locked.add(volser)
        try:
            yield
        finally:
            self.release(volser)

    def release(self, volser: str) -> None:
        """Unlock a cartridge."""
        with self._condition:
            self._locked.discard(volser)
            self._condition.notify_all()
