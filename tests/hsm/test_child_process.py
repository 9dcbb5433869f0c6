"""Waiting for a child process."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from hsm.child_process import wait_for_end


def test_wait_for_end_returns_the_exit_status_of_a_child() -> None:
    child = subprocess.Popen(["/bin/sh", "-c", "read line; exit 3"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    assert wait_for_end(child, 0.05) is None
    child.stdin.close()
    assert wait_for_end(child, 20.0) == 3
    assert wait_for_end(child, 0.0) == 3, "once more, when it is no process any longer"


def test_wait_for_end_closes_its_descriptors() -> None:
    child = subprocess.Popen(["/bin/sleep", "60"])
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        assert wait_for_end(child, 0.0) is None
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        child.kill()
        assert wait_for_end(child, 20.0) == -9


def test_wait_for_end_takes_no_processor_time() -> None:
    child = subprocess.Popen(["/bin/sleep", "0.5"])
    before = time.process_time()
    assert wait_for_end(child, 20.0) == 0
    assert time.process_time() - before < 0.1
