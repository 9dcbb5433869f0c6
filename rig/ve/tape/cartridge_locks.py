"""Which cartridges are in use by a drive now; no cartridge is in two drives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Claims:
    """The VOLSERs in use, within one process."""

    def __init__(self) -> None:
        """Begin with none."""
        self._condition = threading.Condition()
        self._claimed: set[str] = set()

    @contextmanager
    def choosing(self) -> Iterator[set[str]]:
        """Nobody else claims meanwhile: choose one that is not in the set, and add it."""
        with self._condition:
            yield self._claimed

    @contextmanager
    def claimed(self, volser: str) -> Iterator[None]:
        """Claim a cartridge, once it is free, for as long as the context lasts."""
        with self._condition:
            self._condition.wait_for(lambda: volser not in self._claimed)
            self._claimed.add(volser)
        try:
            yield
        finally:
            self.release(volser)

    def release(self, volser: str) -> None:
        """Let a cartridge go."""
        with self._condition:
            self._claimed.discard(volser)
            self._condition.notify_all()
