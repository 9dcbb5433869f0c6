"""A key manager as a child process, which ends with its parent."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self

from hsm.ekm.config import EkmConfig, dump_config
from hsm.ekm.protocol.errors import EkmError

READY_SECONDS = 60.0
STOP_SECONDS = 10.0
_READY = re.compile(rb"listening (\S+):(\d+)\n")


@dataclass
class EkmProcess:
    """A running key manager; a context manager that stops it."""

    host: str
    port: int
    _process: subprocess.Popen[bytes]
    _errors: IO[bytes]

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child still runs."""
        return self._process.poll() is None

    def error_output(self) -> str:
        """Return the end of the child's standard error, at most 4 KiB."""
        return _error_output(self._errors)

    def stop(self) -> int:
        """Stop the child with SIGTERM, then SIGKILL; return its exit status."""
        if self.alive:
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        status = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return status

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

    The kernel kills it when the calling thread ends, so call it from the main thread. Raises
    EkmError, with the child's own message, when it ends early, and when it is not ready within
    ``ready_seconds``.
    """
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
    process = subprocess.Popen(
        [sys.executable, "-m", "hsm.ekm.service.front", "-", "--die-with", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        process_group=0,  # Ctrl-C comes to the parent, which stops this one
    )
    try:
        _send_config(process, config)
        host, port = _await_ready(process, errors, ready_seconds)
    except BaseException:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        raise
    return EkmProcess(host, port, process, errors)


def _send_config(process: subprocess.Popen[bytes], config: EkmConfig) -> None:
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            token = config.token.replace(so_pin=None)  # it needs no officer's PIN
            pipe.write(dump_config(config.replace(token=token)).encode())
    except BrokenPipeError:
        pass  # it ended early; its standard error says why


def _await_ready(
    process: subprocess.Popen[bytes], errors: IO[bytes], ready_seconds: float
) -> tuple[str, int]:
    assert process.stdout is not None
    deadline = time.monotonic() + ready_seconds
    output = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not (found := _READY.match(output)):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise EkmError(f"The key manager is not ready after {ready_seconds:g} s.")
            part = os.read(process.stdout.fileno(), 4096)
            output += part
            if not part:
                status = process.wait()
                words = _error_output(errors) or f"it ended with status {status} without a message"
                raise EkmError(f"The key manager did not start: {words}")
    return found[1].decode(), int(found[2])


def _error_output(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 4096))
    return errors.read().decode(errors="replace").strip()
