"""An event loop of one thread: sockets on the kernel's epoll, and timers.

asyncio is not used, because its TLS costs several times the processor time of a message.
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
    """A callback that is due at a time, unless it is cancelled."""

    __slots__ = ("_callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` at ``when``, in seconds of ``time.monotonic``."""
        self.when = when
        self._callback: Callable[[], None] | None = callback

    @property
    def cancelled(self) -> bool:
        """Whether the callback was cancelled or called."""
        return self._callback is None

    def cancel(self) -> None:
        """Cancel the callback."""
        self._callback = None

    def fire(self) -> None:
        """Call the callback, once."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def __lt__(self, other: Timer) -> bool:
        """Return whether this timer is due before another."""
        return self.when < other.when


class EventLoop:
    """Calls back when a descriptor is readable or writable, or a timer is due."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        """Begin empty; ``on_error`` is called with what a callback raised."""
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._on_error = on_error

    def watch(self, descriptor: int, callback: Callable[[int], None]) -> None:
        """Call ``callback`` with epoll's mask whenever a descriptor is readable."""
        self._epoll.register(descriptor, READ)
        self._callbacks[descriptor] = callback

    def set_events(self, descriptor: int, mask: int) -> None:
        """Set the events of a watched descriptor: READ, WRITE, both or 0."""
        self._epoll.modify(descriptor, mask)

    def unwatch(self, descriptor: int) -> None:
        """Stop watching a descriptor; call this before it is closed."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` once, after ``seconds``."""
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def run_once(self, *, wait: bool) -> None:
        """Run the callbacks that are due; with ``wait``, wait for the first one."""
        for descriptor, mask in self._epoll.poll(self._wait_seconds() if wait else 0):
            callback = self._callbacks.get(descriptor)  # a callback before may have unwatched it
            if callback is not None:
                try:
                    callback(mask)
                except Exception as error:
                    self._on_error(error)
        timers = self._timers
        while timers and (timers[0].cancelled or timers[0].when <= time.monotonic()):
            try:
                heapq.heappop(timers).fire()
            except Exception as error:
                self._on_error(error)

    def _wait_seconds(self) -> float:
        """Return the seconds until the next timer is due; -1 when there is none."""
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0].when - time.monotonic()) if self._timers else -1

    def close(self) -> None:
        """Close the epoll descriptor."""
        self._epoll.close()
