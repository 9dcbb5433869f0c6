"""Child processes: they end with their parent, which waits for them."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends for any reason."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was asked
        sys.exit(2)


def wait_for_end(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Return the exit status of a child process; None if it still runs then.

    Unlike ``Popen.wait(seconds)``, which looks every 50 ms, it returns at once when the child ends.
    """
    if process.poll() is None:
        descriptor = os.pidfd_open(process.pid)
        try:
            poll = select.poll()  # unlike select, it takes any descriptor number
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(seconds * 1000):
                return None
        finally:
            os.close(descriptor)
    return process.wait()
