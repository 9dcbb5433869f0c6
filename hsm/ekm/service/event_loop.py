"""Sockets and timers of one thread, on the kernel's epoll: what a worker waits for.

asyncio would do, but for its price: its TLS costs several times what a message needs.
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable
from typing import Final

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT


class Timer:
    """Something to do later, unless it is cancelled."""

    __slots__ = ("_act", "when")

    def __init__(self, when: float, act: Callable[[], None]) -> None:
        """Call ``act`` at ``when``, in seconds of ``time.monotonic``."""
        self.when = when
        self._act: Callable[[], None] | None = act

    @property
    def cancelled(self) -> bool:
        """Whether there is nothing left to do."""
        return self._act is None

    def cancel(self) -> None:
        """Do nothing after all."""
        self._act = None

    def fire(self) -> None:
        """Do it, once."""
        act, self._act = self._act, None
        if act is not None:
            act()

    def __lt__(self, other: Timer) -> bool:
        """Order by time."""
        return self.when < other.when


class Poller:
    """Calls back when a descriptor can be read or written, and when a time has come."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        """Begin with nothing to wait for; ``on_error`` is told what a callback raised."""
        self._epoll = select.epoll()
        self._acts: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._on_error = on_error

    def watch(self, descriptor: int, act: Callable[[int], None]) -> None:
        """Call ``act`` with what can be done (a mask of epoll's) whenever there is to read."""
        self._epoll.register(descriptor, READ)
        self._acts[descriptor] = act

    def want(self, descriptor: int, mask: int) -> None:
        """Say for what a watched descriptor is watched from now on: READ, WRITE, both or 0."""
        self._epoll.modify(descriptor, mask)

    def forget(self, descriptor: int) -> None:
        """Watch a descriptor no longer; call this before it is closed."""
        if self._acts.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def later(self, seconds: float, act: Callable[[], None]) -> Timer:
        """Call ``act`` once, in so many seconds."""
        timer = Timer(time.monotonic() + seconds, act)
        heapq.heappush(self._timers, timer)
        return timer

    def turn(self, *, wait: bool) -> None:
        """Do what can be done now; with ``wait``, let the first thing to do come about."""
        for descriptor, mask in self._epoll.poll(self._patience() if wait else 0):
            act = self._acts.get(descriptor)  # forgotten, perhaps, by one of those before
            if act is not None:
                try:
                    act(mask)
                except Exception as error:
                    self._on_error(error)
        timers = self._timers
        while timers and (timers[0].cancelled or timers[0].when <= time.monotonic()):
            try:
                heapq.heappop(timers).fire()
            except Exception as error:
                self._on_error(error)

    def _patience(self) -> float:
        """Return how long nothing needs to be done, in seconds; -1 for as long as it takes."""
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0].when - time.monotonic()) if self._timers else -1

    def close(self) -> None:
        """Give up the kernel's part."""
        self._epoll.close()
