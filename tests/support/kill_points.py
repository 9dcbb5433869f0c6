"""Kill a process at a chosen call that changes what is on disk."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy.engine.default import DefaultDialect

CALLS = ("pwrite", "ftruncate", "fsync", "replace", "unlink", "link")


class KillPoints:
    """Counts calls that change the disk; kills the process at one of them.

    The kill comes before or after the call.
    """

    def __init__(self, at: int, *, after: bool, note: Callable[[str], None]) -> None:
        """Kill at call number `at`; `note` gets its name before."""
        self._left = at
        self._lock = threading.Lock()
        self._after = after
        self._note = note

    def install(self) -> None:
        """Watch this process's calls from now on."""
        for name in CALLS:
            setattr(os, name, self._watched(name, getattr(os, name)))
        commit = DefaultDialect.do_commit
        DefaultDialect.do_commit = self._watched("commit", commit)  # type: ignore[method-assign]

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def watched(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self._left -= 1
                chosen = self._left == 0
            if not chosen:
                return call(*arguments, **options)
            when = ("in" if name == "pwrite" else "after") if self._after else "before"
            self._note(f"{when} {name}")
            try:
                if self._after and name == "pwrite":  # torn: half of it, as in a power cut
                    fd, data, offset = arguments
                    call(fd, bytes(data)[: len(data) // 2], offset)
                elif self._after:
                    call(*arguments, **options)
            finally:  # also when there was nothing to unlink
                os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        return watched
