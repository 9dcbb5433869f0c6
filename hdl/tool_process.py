"""Run a tool that starts processes of its own, and end them all with it."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn


def run_with_children(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    output: IO[str] | None = None,
    timeout: float | None = None,
) -> tuple[int, str]:
    """Run a command; return its exit code and what it printed.

    What it prints goes to `output` when that is given, and is not returned. When this is
    interrupted, or the command takes longer than `timeout` seconds (subprocess.TimeoutExpired), the
    command and all processes that it started are killed.
    """
    # In a thread, because an interruption comes to the main one: never while the process starts.
    with ThreadPoolExecutor(1, thread_name_prefix="start") as starter:
        starting = starter.submit(
            subprocess.Popen,
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if output is None else output,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        )
        try:
            process: subprocess.Popen[str] = starting.result()
            text, _ = process.communicate(timeout=timeout)
        except BaseException:
            if starting.exception() is None:
                _kill_group(starting.result())
            raise
    return process.returncode, text or ""


def _kill_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@contextmanager
def ends_by_signal() -> Iterator[None]:
    """Raise SystemExit at SIGTERM and SIGHUP, so that tools end as well."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is not signal.SIG_IGN:  # nohup
            signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])
