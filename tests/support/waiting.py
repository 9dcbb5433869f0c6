"""Waiting for conditions and for processes, instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_SECONDS = 60.0
"""Longer than anything takes on a busy machine; a condition that holds ends the wait at once."""


def wait_until(holds: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for a condition; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.02)


def process_state(pid: int) -> str:
    """Return a process's state as /proc has it; empty when it is gone.

    The states are R, S, T, Z and others.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def has_ended(pid: int) -> bool:
    """Say whether a process is gone, or only its parent has not noticed."""
    return process_state(pid) in ("", "Z")
