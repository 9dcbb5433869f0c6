"""The front process of a key manager, which gives connections to workers.

The front owns the port, the audit log and the drive table. Worker processes
(``hsm.ekm.service.worker``) serve, each with a PKCS#11 context of its own. A connection goes to the
worker with the fewest connections and stays with it; the front never reads its data. A worker that
ends is replaced, and the relays repeat the requests that it had not answered.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from hsm.ekm.admin.channel import AdminServer
from hsm.ekm.audit.log import AuditLog
from hsm.ekm.config import EkmConfig
from hsm.ekm.drive_table import DriveTable, note_sequence
from hsm.ekm.logs import LOG
from hsm.ekm.protocol import messages
from hsm.ekm.protocol.errors import EkmError
from hsm.ekm.service.http_status import StatusServer
from hsm.ekm.service.systemd import Supervisor
from hsm.ekm.service.worker_pool import WorkerPool
from hsm.ekm.service.worker_process import WorkerProcess, raise_descriptor_limit
from hsm.listener import listen_remedy, open_listener

_ACCEPTED_AT_ONCE = 64
_WAIT_SECONDS = 4.0
"""How long new connections wait while no worker serves: less than the timeout of relays."""
_SEND_BUFFER = 2 * messages.FRAME_LIMIT
"""Bytes of unread answers that the kernel buffers for a peer."""


class EkmServer:
    """Accepts TCP connections and gives them to workers."""

    def __init__(
        self, config: EkmConfig, audit: AuditLog, first_worker: WorkerProcess | None = None
    ) -> None:
        """Prepare; ``run`` listens. ``first_worker`` has been started already."""
        self._first_worker = first_worker
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
        supervisor = Supervisor()
        pool = WorkerPool(self._config, self._audit, self._first_worker)
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


def serve(
    config: EkmConfig,
    on_ready: Callable[[str, int], None] = _announce,
    first_worker: WorkerProcess | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    ``first_worker``, when started already, becomes one of the workers.

    Raises EkmError (port, TLS files, drive table, audit log, token) when it cannot start.
    """
    raise_descriptor_limit()
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

        asyncio.run(_run(config, audit, ready, first_worker))
        audit.append("stop", outcome="ok")


async def _run(
    config: EkmConfig,
    audit: AuditLog,
    ready: Callable[[str, int], None],
    first_worker: WorkerProcess | None,
) -> None:
    await EkmServer(config, audit, first_worker).run(ready)
