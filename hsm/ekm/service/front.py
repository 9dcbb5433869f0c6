"""The front process of a key manager.

Run it as ``python -m hsm.ekm.service.front CONFIG``. The front owns the port, the audit log and the
drive table. Worker processes (``hsm.ekm.service.worker``) serve, each with a PKCS#11 context of its
own. A connection goes to the worker with the fewest connections and stays with it; the front never
reads its data. A worker that ends is replaced, and the relays repeat the requests that it had not
answered.
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

from hsm.child_process import end_with_parent
from hsm.crash_log import run_main
from hsm.ekm.admin.channel import AdminServer
from hsm.ekm.audit.log import AuditLog
from hsm.ekm.config import EkmConfig, load_config, parse_config
from hsm.ekm.drive_table import DriveTable, note_sequence
from hsm.ekm.logs import LOG
from hsm.ekm.protocol import messages
from hsm.ekm.protocol.errors import EkmError
from hsm.ekm.service.http_status import StatusServer
from hsm.ekm.service.systemd import Supervisor
from hsm.ekm.service.worker_pool import WorkerPool
from hsm.errors import TaperigError
from hsm.listener import listen_remedy, open_listener

USER_ERROR = 2
"""Exit status after an error that the user can correct."""
_ACCEPTED_AT_ONCE = 64
_WAIT_SECONDS = 4.0
"""How long new connections wait while no worker serves: less than the timeout of relays."""
_SEND_BUFFER = 2 * messages.FRAME_LIMIT
"""Bytes of unread answers that the kernel buffers for a peer."""


class EkmServer:
    """Accepts TCP connections and gives them to workers."""

    def __init__(self, config: EkmConfig, audit: AuditLog) -> None:
        """Prepare; ``run`` listens."""
        self._config = config
        self._audit = audit
        self._stop = asyncio.Event()
        self._serving: bool | None = None
        self._wait_timer: asyncio.TimerHandle | None = None

    async def run(self, on_ready: Callable[[str, int], None]) -> None:
        """Serve until SIGTERM, SIGINT or SIGHUP; pass the address to on_ready."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, self._stop.set)
        listener = _listen(self._config)
        supervisor = Supervisor()  # before workers inherit its environment variables
        pool = WorkerPool(self._config, self._audit)
        alive: asyncio.Task[None] | None = None
        try:
            async with StatusServer(self._config, pool), AdminServer(self._config):
                await pool.start(self._stop)
                if self._stop.is_set():
                    return
                host, port = listener.getsockname()[:2]

                def on_serving(serving: bool) -> None:
                    self._accept_or_wait(listener, pool, serving)
                    supervisor.status(f"serves at {host}:{port}" if serving else "no worker serves")

                pool.on_serving = on_serving
                self._accept_or_wait(listener, pool, True)
                LOG.info("listening", host=host, port=port, workers=self._config.workers)
                on_ready(host, port)
                supervisor.ready(f"{host}:{port}")
                # Not before: systemd's watchdog begins with READY=1, and a queue that is full of
                # heartbeats would not accept it.
                alive = loop.create_task(supervisor.keep_alive())
                await self._stop.wait()
                LOG.info("stopping")
                supervisor.stopping()
                pool.on_serving = lambda serving: None
                if self._wait_timer is not None:
                    self._wait_timer.cancel()
                loop.remove_reader(listener)
        finally:
            if alive is not None:
                alive.cancel()
            listener.close()
            await pool.stop()

    def _accept_or_wait(self, listener: socket.socket, pool: WorkerPool, serving: bool) -> None:
        """Hold connections in the kernel while no worker serves; then reject."""
        if serving == self._serving:
            return
        self._serving = serving
        loop = asyncio.get_running_loop()
        if self._wait_timer is not None:
            self._wait_timer.cancel()
        if serving:
            loop.add_reader(listener, self._accept, listener, pool.hand_over)
        else:
            loop.remove_reader(listener)
            self._wait_timer = loop.call_later(
                _WAIT_SECONDS, loop.add_reader, listener, self._accept, listener, pool.reject
            )

    def _accept(self, listener: socket.socket, take: Callable[[socket.socket], None]) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # the peer is gone, or there are too many open files
                LOG.warning("connection not accepted", cause=error.strerror)
                return
            with connection:
                take(connection)


def _listen(config: EkmConfig) -> socket.socket:
    """Return a listening socket; connections wait in the kernel for a worker."""
    try:
        listener = open_listener(config.host, config.port, send_buffer=_SEND_BUFFER)
    except OSError as error:
        raise EkmError(
            f"The key manager cannot listen on {config.host}:{config.port} ({error.strerror}); "
            f"{listen_remedy(error)}."
        ) from error
    listener.setblocking(False)
    return listener


def _announce(host: str, port: int) -> None:
    print(f"listening {host}:{port}", flush=True)


def serve(config: EkmConfig, on_ready: Callable[[str, int], None] = _announce) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises EkmError (port, TLS files, drive table, audit log, token) when it cannot start.
    """
    _raise_descriptor_limit()
    used: dict[str, int] = {}

    with ExitStack() as held:
        audit = held.enter_context(
            AuditLog(
                config.audit,
                on_record=partial(note_sequence, used),
                rotate_bytes=config.audit_bytes,
            )
        )
        with DriveTable(config.drive_table) as drives:
            drives.raise_sequences(used)

        def ready(host: str, port: int) -> None:
            audit.append("start", outcome="ok")
            on_ready(host, port)

        asyncio.run(_run(config, audit, ready))
        audit.append("stop", outcome="ok")


async def _run(config: EkmConfig, audit: AuditLog, ready: Callable[[str, int], None]) -> None:
    await EkmServer(config, audit).run(ready)


def _raise_descriptor_limit() -> None:
    """Raise the limit on open files to the most that the system grants."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(arguments: Sequence[str] = tuple(sys.argv[1:])) -> int:
    """Run a key manager: ``CONFIG`` is a file, or ``-`` for standard input."""
    match arguments:
        case [path]:
            pass
        case [path, "--die-with", parent]:
            end_with_parent(int(parent))
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
    sys.exit(run_main(main, "The key manager"))
