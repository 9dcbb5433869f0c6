"""Processes that write to one audit log and are killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hsm.ekm.audit import log as audit_log
from hsm.ekm.audit.log import AuditLog

_WRITER = """
import sys
from pathlib import Path
from hsm.ekm.audit.log import AuditLog
path, name, rotate_bytes, longest, every = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
log = AuditLog(path, joined=True, rotate_bytes=rotate_bytes or None)
print(flush=True)
number = 0
while True:
    number += 1
    log.note("key-reply", writer=name, step=number, filler="x" * (number * 37 % longest))
    if number % every == 0:
        log.write()
"""


def write_and_kill(
    path: Path, *, pause: Callable[[int], float], longest: int, every: int, rotate_bytes: int = 0
) -> None:
    """Run two writers; kill the older and start a new one, six times.

    They write to the file after ``every`` records of up to ``longest`` bytes; ``pause`` returns the
    seconds before each kill, by its number.
    """

    def writer(name: int) -> subprocess.Popen[str]:
        settings = map(str, (name, rotate_bytes, longest, every))
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), *settings], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    with AuditLog(path, rotate_bytes=rotate_bytes or None) as owner:
        writers = [writer(0), writer(1)]
        for number in range(2, 8):
            time.sleep(pause(number))
            killed = writers.pop(0)
            killed.kill()
            killed.communicate()
            owner.append("worker-lost", writer=str(number))
            writers.append(writer(number))
        for each in writers:
            each.kill()
            each.communicate()
    with AuditLog(path):
        pass


def assert_one_chain(path: Path) -> None:
    """Check that the log verifies and has all records of each writer."""
    steps: dict[str, list[int]] = {}
    for record in audit_log.records(path):
        if record["event"] == "key-reply":
            steps.setdefault(record["writer"], []).append(record["step"])
    assert len(steps) >= 6
    for written in steps.values():
        assert written == list(range(1, len(written) + 1))
