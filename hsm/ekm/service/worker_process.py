"""A worker's process, which imports while its configuration is read.

This module imports nothing that takes long, so that the front can start its first worker before
its own imports.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Self

_SUPERVISOR_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Environment variables of sd_notify(3), which are for the front alone."""


class WorkerProcess:
    """A worker that waits for its configuration; as a context, it is ended."""

    def __init__(self) -> None:
        """Start the process, with as many open files as the system grants."""
        raise_descriptor_limit()
        self.link, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "hsm.ekm.service.worker",
                    str(far.fileno()),
                    str(os.getpid()),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[far.fileno()],
                process_group=0,  # Ctrl-C comes to the parent, which stops this one
                env={
                    name: value
                    for name, value in os.environ.items()
                    if name not in _SUPERVISOR_VARIABLES
                },
            )
        self.link.setblocking(False)

    def configure(self, config: bytes) -> None:
        """Send the pickled configuration, with which the worker begins."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError), self.process.stdin as pipe:
            pipe.write(config)

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process if it still runs."""
        self.process.kill()
        self.link.close()


def raise_descriptor_limit() -> None:
    """Raise the limit on open files to the most that the system grants."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
