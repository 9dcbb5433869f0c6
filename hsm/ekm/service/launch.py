"""A key manager as a child process, which ends with its parent."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from hsm.child_process import wait_for_end
from hsm.ekm.config import EkmConfig, dump_config
from hsm.ekm.protocol.errors import EkmError
from hsm.ekm.service.front_process import ChildLog, FrontProcess

READY_SECONDS = 60.0
STOP_SECONDS = 10.0
_DYING_SECONDS = 0.2
"""Between the end of a process's connections and its own end."""
_READY = re.compile(rb"listening (\S+):(\d+)\n")


@dataclass
class EkmProcess:
    """A running key manager; a context manager that stops it."""

    _process: subprocess.Popen[bytes]
    _log: ChildLog
    host: str = ""
    port: int = 0
    """The address, known after ``await_ready``."""
    _stopped: bool = False

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child still runs."""
        return self._process.poll() is None

    def await_ready(self, ready_seconds: float = READY_SECONDS) -> None:
        """Wait until it listens; raises EkmError as ``spawn_ekm`` does."""
        try:
            self.host, self.port = _await_ready(self._process, self._log, ready_seconds)
        except BaseException:
            self._kill()
            raise

    def how_it_ended(self) -> str | None:
        """Say how the child ended by itself; None if it runs or was stopped.

        It is called when contact is lost, so one that is about to end gets a moment to do so.
        """
        if self._stopped:
            return None
        status = wait_for_end(self._process, _DYING_SECONDS)
        if status is None:
            return None
        return (
            f"{_ending(status)}; {self._log.where()}; run the command again, which starts it anew"
        )

    def stop(self) -> int:
        """Stop the child with SIGTERM, then SIGKILL; return its exit status."""
        self._stopped = True
        if self.alive:
            self._process.terminate()
        if wait_for_end(self._process, STOP_SECONDS) is None:
            self._process.kill()
        status = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return status

    def _kill(self) -> None:
        self._process.kill()
        self.stop()

    def __enter__(self) -> Self:
        """Return the running process."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the child."""
        self.stop()


def spawn_ekm(config: EkmConfig, ready_seconds: float = READY_SECONDS) -> EkmProcess:
    """Start a key manager and return once it listens.

    Raises EkmError, with the child's own message, when it ends early, and when it is not ready
    within ``ready_seconds``.
    """
    process = start_ekm(config)
    process.await_ready(ready_seconds)
    return process


def start_ekm(config: EkmConfig, front: FrontProcess | None = None) -> EkmProcess:
    """Start a key manager; call ``await_ready`` before any use.

    ``front`` is its process, when that has been started already.
    """
    front = front or FrontProcess(config.audit)
    started = EkmProcess(front.process, front.log)
    try:
        _send_config(front.process, config)
    except BaseException:
        started._kill()
        raise
    return started


def _ending(status: int) -> str:
    if status >= 0:
        return f"its process ended by itself with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = f"signal {-status}"
    return f"its process was ended by {name}"


def _send_config(process: subprocess.Popen[bytes], config: EkmConfig) -> None:
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            token = config.token.replace(so_pin=None)  # it needs no officer's PIN
            pipe.write(dump_config(config.replace(token=token)).encode())
    except BrokenPipeError:
        pass  # it ended early; its standard error says why


def _await_ready(
    process: subprocess.Popen[bytes], log: ChildLog, ready_seconds: float
) -> tuple[str, int]:
    assert process.stdout is not None
    deadline = time.monotonic() + ready_seconds
    output = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not (found := _READY.match(output)):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise EkmError(
                    f"The key manager is not ready after {ready_seconds:g} s; {log.where()}."
                )
            part = os.read(process.stdout.fileno(), 4096)
            output += part
            if not part:
                status = process.wait()
                words = log.end() or f"{_ending(status)}; {log.where()}."
                raise EkmError(f"The key manager did not start: {words}")
    return found[1].decode(), int(found[2])
