"""The key manager as a process: ``python -m hsm.ekm.service.front CONFIG``.

This front process owns the port, the audit log and the drive table; worker processes serve
(``hsm.ekm.service.worker``), each with a PKCS#11 context of its own. A connection goes to the
worker that has the fewest, and stays with it; the front never sees what passes over it. A worker
that ends is replaced, and what it had not answered is asked again by the relays.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from hsm.child_process import die_with
from hsm.crash_log import guarded
from hsm.ekm.admin.channel import AdminServer
from hsm.ekm.audit.log import AuditLog
from hsm.ekm.config import EkmConfig, load_config, parse_config
from hsm.ekm.drive_table import DriveTable, note_use
from hsm.ekm.logs import LOG
from hsm.ekm.protocol import messages
from hsm.ekm.protocol.errors import EkmError
from hsm.ekm.service.http_status import StatusServer
from hsm.ekm.service.systemd import Supervisor
from hsm.ekm.service.worker_pool import WorkerPool
from hsm.errors import TaperigError
from hsm.listener import listen_cure, open_listener

USER_ERROR = 2
"""Exit status when the user has something to mend."""
_ACCEPTED_AT_ONCE = 64
_WAIT_SECONDS = 4.0
"""So long new connections wait for a worker, when none serves: less than relays have patience."""
_SEND_BUFFER = 2 * messages.FRAME_LIMIT
"""Bytes of unread answers that the kernel keeps for a peer."""


class EkmServer:
    """Takes connections on a TCP port and hands them to workers, until told to stop."""

    def __init__(self, config: EkmConfig, audit: AuditLog) -> None:
        """Prepare; nothing listens yet."""
        self._config = config
        self._audit = audit
        self._stop = asyncio.Event()
        self._serving: bool | None = None
        self._patience: asyncio.TimerHandle | None = None

    async def run(self, on_ready: Callable[[str, int], None]) -> None:
        """Serve until SIGTERM, SIGINT or SIGHUP; call ``on_ready`` with the address."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, self._stop.set)
        listener = _listen(self._config)
        supervisor = Supervisor()  # before the workers inherit what it is told by
        pool = WorkerPool(self._config, self._audit)
        alive: asyncio.Task[None] | None = None
        try:
            async with StatusServer(self._config, pool), AdminServer(self._config):
                await pool.start(self._stop)
                if self._stop.is_set():
                    return
                host, port = listener.getsockname()[:2]

                def on_serving(serving: bool) -> None:
                    self._take_or_wait(listener, pool, serving)
                    supervisor.status(f"serves at {host}:{port}" if serving else "no worker serves")

                pool.on_serving = on_serving
                self._take_or_wait(listener, pool, True)
                LOG.info("listening", host=host, port=port, workers=self._config.workers)
                on_ready(host, port)
                supervisor.ready(f"{host}:{port}")
                # Not before: systemd's watchdog begins with READY=1, which a queue that is full
                # of signs of life would not take.
                alive = loop.create_task(supervisor.keep_alive())
                await self._stop.wait()
                LOG.info("stopping")
                supervisor.stopping()
                pool.on_serving = lambda serving: None
                if self._patience is not None:
                    self._patience.cancel()
                loop.remove_reader(listener)
        finally:
            if alive is not None:
                alive.cancel()
            listener.close()
            await pool.stop()

    def _take_or_wait(self, listener: socket.socket, pool: WorkerPool, serving: bool) -> None:
        """Leave connections with the kernel while no worker serves; end them if that lasts."""
        if serving == self._serving:
            return
        self._serving = serving
        loop = asyncio.get_running_loop()
        if self._patience is not None:
            self._patience.cancel()
        if serving:
            loop.add_reader(listener, self._accept, listener, pool.hand_over)
        else:
            loop.remove_reader(listener)
            self._patience = loop.call_later(
                _WAIT_SECONDS, loop.add_reader, listener, self._accept, listener, pool.turn_away
            )

    def _accept(self, listener: socket.socket, take: Callable[[socket.socket], None]) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # the peer is gone already, or descriptors are short
                LOG.warning("connection not taken", cause=error.strerror)
                return
            with connection:
                take(connection)


def _listen(config: EkmConfig) -> socket.socket:
    """Return a socket that listens; what connects before a worker serves waits in the kernel."""
    try:
        listener = open_listener(config.host, config.port, send_buffer=_SEND_BUFFER)
    except OSError as error:
        raise EkmError(
            f"The key manager cannot listen on {config.host}:{config.port} ({error.strerror}); "
            f"{listen_cure(error)}."
        ) from error
    listener.setblocking(False)
    return listener


def _announce(host: str, port: int) -> None:
    print(f"listening {host}:{port}", flush=True)


def serve(config: EkmConfig, on_ready: Callable[[str, int], None] = _announce) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises EkmError (port, TLS files, drive table, audit log, token) when it cannot begin.
    """
    _raise_descriptor_limit()
    used: dict[str, int] = {}

    with ExitStack() as held:
        audit = held.enter_context(
            AuditLog(
                config.audit,
                on_record=partial(note_use, used),
                rotate_bytes=config.audit_bytes,
            )
        )
        with DriveTable(config.drive_table) as drives:
            drives.catch_up(used)

        def ready(host: str, port: int) -> None:
            audit.append("start", outcome="ok")
            on_ready(host, port)

        asyncio.run(_run(config, audit, ready))
        audit.append("stop", outcome="ok")


async def _run(config: EkmConfig, audit: AuditLog, ready: Callable[[str, int], None]) -> None:
    await EkmServer(config, audit).run(ready)


def _raise_descriptor_limit() -> None:
    """Let this process and its workers have as many connections as the system grants them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(arguments: Sequence[str] = tuple(sys.argv[1:])) -> int:
    """Run from the command line: ``CONFIG`` (a file, or ``-`` for standard input)."""
    match arguments:
        case [path]:
            pass
        case [path, "--die-with", parent]:
            die_with(int(parent))
        case _:
            print("usage: python -m hsm.ekm.service.front CONFIG", file=sys.stderr)
            return USER_ERROR
    try:
        config = (
            parse_config(sys.stdin.read(), "standard input")
            if path == "-"
            else load_config(Path(path))
        )
        LOG.configure(config.log_format, config.log_level, f"front {os.getpid()}")
        with suppress(KeyboardInterrupt):
            serve(config)
    except TaperigError as error:
        print(error, file=sys.stderr)
        return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, "The key manager"))
