"""A worker process of the key manager: one PKCS#11 context, many connections, one thread.

The front process hands over connections (``python -m hsm.ekm.worker SOCKET``, configuration
pickled on standard input); the worker shakes hands, serves them, and tells the front how it is.
Token operations run on the event loop itself, because two threads in one context break SoftHSM.

Messages that have arrived are answered in rounds. What a round noted in the audit log is flushed to
the disk once, before its answers go out: the more there is to do, the less the disk costs
each exchange.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import pickle
import signal
import socket
import ssl
import sys
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from hsm.datakeys import DataKeys
from hsm.ekm.audit import AuditError, AuditLog
from hsm.ekm.certificates import PublicKey
from hsm.ekm.client import tls_context
from hsm.ekm.connection import Connection
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.errors import EkmError
from hsm.ekm.exchange import Answer, Exchange, KeyManager
from hsm.ekm.key_service import TokenKeyService
from hsm.ekm.link import CONNECTION, MESSAGE_LIMIT, beat_seconds
from hsm.ekm.logs import LOG
from hsm.ekm.metrics import WorkerMetrics
from hsm.ekm.settings import EkmConfig
from hsm.errors import TaperigError, TokenError, TokenGoneError
from hsm.key_cache import RememberingKeystore
from hsm.parentage import die_with
from hsm.pki import load_certificate, load_p256_key
from hsm.token import Token, open_token

HANDSHAKES = 256
"""TLS handshakes at a time; one more ends the oldest, which a good peer is not."""
_ROUND = 64
"""Messages answered between two looks at the sockets."""
_TOKEN_SECONDS = 10.0
"""The token is tried so often, at least."""
LAZY_FLUSH_SECONDS = 0.5
"""Records that nobody waits for are on the disk after this long."""
_DRAIN_SECONDS = 2.0
"""How long an exchange that is under way may take to end when the key manager stops."""


class Worker:
    """Serves the connections that the front hands over."""

    def __init__(
        self,
        config: EkmConfig,
        manager: KeyManager,
        metrics: WorkerMetrics,
        front: socket.socket,
        try_token: Callable[[], object],
    ) -> None:
        """Prepare; ``front`` is the socket to the front process.

        ``try_token`` is called now and then, and raises TokenError when the token is of no use.
        """
        self._try_token = try_token
        self._config = config
        self._manager = manager
        self._front = front
        self._tls = tls_context(config.tls, ssl.Purpose.CLIENT_AUTH)
        self._metrics = metrics
        self._connections: set[Connection] = set()
        self._handshakes: dict[asyncio.Task[None], None] = {}
        self._queue: deque[Connection] = deque()
        self._lazy_flush: asyncio.TimerHandle | None = None
        self._stop = asyncio.Event()
        self._failure: TaperigError | None = None

    async def run(self) -> None:
        """Serve until the front says stop or is gone."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_tell_kind)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C is the front's to obey
        self._front.setblocking(False)
        loop.add_reader(self._front, self._on_front)
        beating = asyncio.create_task(self._beat())
        self._tell(ready=True)
        await self._stop.wait()
        beating.cancel()
        loop.remove_reader(self._front)
        await self._drain()
        self._manager.audit.sync()
        if self._failure is not None:
            raise self._failure

    # The front

    def _on_front(self) -> None:
        try:
            while True:
                data, descriptors, _, _ = socket.recv_fds(self._front, MESSAGE_LIMIT, 1)
                if data == CONNECTION:
                    self._take(socket.socket(fileno=descriptors[0]))
                else:  # stop, or the front is gone
                    self._stop.set()
                    return
        except BlockingIOError:
            return
        except OSError:
            self._stop.set()

    def _tell(self, **content: Any) -> None:
        with suppress(OSError):
            self._front.send(json.dumps(content).encode())

    async def _beat(self) -> None:
        pause = beat_seconds(self._config.worker_seconds)
        each = max(1, int(min(_TOKEN_SECONDS, self._config.worker_seconds) / pause))
        for beat in itertools.count():
            if beat % each == 0:
                try:
                    self._try_token()
                except TokenError as error:
                    self._give_up(error)  # another worker logs in afresh
                    return
            self._tell(connections=len(self._connections) + len(self._handshakes))
            await asyncio.sleep(pause)

    # Connections

    def _take(self, plain: socket.socket) -> None:
        while len(self._handshakes) >= HANDSHAKES:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()
        task = asyncio.create_task(self._secure(plain))
        self._handshakes[task] = None
        task.add_done_callback(self._shaken)

    def _shaken(self, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            LOG.error("handshake failed in an unforeseen way", kind=type(error).__name__)

    async def _secure(self, plain: socket.socket) -> None:
        """Shake hands; a peer that is not one of ours is told of in the audit log."""
        try:
            plain.setblocking(False)
            _keep_alive(plain)
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connection,
                plain,
                ssl=self._tls,
                ssl_handshake_timeout=self._config.handshake_seconds,
                ssl_shutdown_timeout=self._config.frame_seconds,
            )
        except (OSError, EOFError) as error:
            # An SSLError is an OSError; its reason is OpenSSL's own word, not the peer's.
            late = isinstance(error, ConnectionAbortedError)
            reason = getattr(error, "reason", None) or type(error).__name__
            self._refused_peer("no TLS handshake in time" if late else str(reason))
            plain.close()
        except asyncio.CancelledError:
            self._refused_peer("too many TLS handshakes at a time")
            plain.close()
            raise
        else:
            self._metrics.handshakes.labels("ok").inc()

    def _refused_peer(self, cause: str) -> None:
        self._metrics.handshakes.labels("refused").inc()
        LOG.info("connection refused", cause=cause)
        self._note_lazily("connection", outcome="refused", cause=cause)

    def _connection(self) -> Connection:
        return Connection(self, Exchange(self._manager), self._config.frame_seconds)

    def opened(self, connection: Connection) -> None:
        """A peer has shown its certificate."""
        self._connections.add(connection)
        self._metrics.connections.set(len(self._connections))

    def closed(self, connection: Connection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)
        self._metrics.connections.set(len(self._connections))
        self._tell(closed=1)
        try:
            connection.exchange.connection_lost()
        except AuditError as error:
            self._give_up(error)
        self._flush_soon()

    def ready(self, connection: Connection) -> None:
        """Answer a message of this connection in the next round."""
        if not self._queue:
            asyncio.get_running_loop().call_soon(self._round)
        self._queue.append(connection)

    # Rounds

    def _round(self) -> None:
        """Answer what has arrived, a message of each connection; flush once; send all answers."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        answers: list[tuple[Connection, Answer]] = []
        audit = self._manager.audit
        for _ in range(min(_ROUND, len(self._queue))):
            connection = self._queue.popleft()
            clean = not audit.unsynced
            try:
                answer = connection.step()
            except TokenGoneError as error:
                self._give_up(error)  # once the answers that there are have gone out
                break
            if answer is None:
                continue
            if clean and not audit.unsynced:
                connection.send(answer)  # nothing was noted: a ping, a challenge
            else:
                answers.append((connection, answer))
        try:
            if any(answer.frame is not None for _, answer in answers):
                self._flush()
        except AuditError as error:
            self._give_up(error)
            return
        for connection, answer in answers:
            connection.send(answer)
            self._metrics.frame_seconds.observe(loop.time() - began)
        self._flush_soon()
        if self._queue and self._failure is None:
            loop.call_soon(self._round)

    def _flush(self) -> None:
        if self._manager.audit.unsynced:
            self._manager.audit.sync()
            self._metrics.flushes.inc()

    def _flush_soon(self) -> None:
        if self._manager.audit.unsynced and self._lazy_flush is None:
            self._lazy_flush = asyncio.get_running_loop().call_later(
                LAZY_FLUSH_SECONDS, self._flush_lazily
            )

    def _flush_lazily(self) -> None:
        self._lazy_flush = None
        try:
            self._flush()
        except AuditError as error:
            self._give_up(error)

    def _note_lazily(self, event: str, **details: str | int | list[str]) -> None:
        try:
            self._manager.audit.note(event, **details)
        except AuditError as error:
            self._give_up(error)
            return
        self._flush_soon()

    def _give_up(self, error: TaperigError) -> None:
        """End this worker: without the log no answer may go out, without the token none can."""
        self._failure = error
        self._stop.set()

    async def _drain(self) -> None:
        """Let exchanges that are under way end, for a while; then close everything."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _DRAIN_SECONDS
        for task in list(self._handshakes):
            task.cancel()
        while self._connections and self._failure is None:
            busy = [connection for connection in self._connections if connection.busy]
            for connection in self._connections - set(busy):
                connection.end()
            if not busy or loop.time() > until:
                break
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.end()
        until = loop.time() + _DRAIN_SECONDS
        while self._connections and loop.time() < until:
            await asyncio.sleep(0.01)


def _keep_alive(connection: socket.socket) -> None:
    """Have the kernel notice a peer that vanished, since no idle timeout does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _tell_kind(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what the event loop could not tell anybody; its text may hold a peer's bytes."""
    error = context.get("exception")
    LOG.error("unforeseen", kind=type(error).__name__, where=str(context.get("message", "")))


def manager_of(
    config: EkmConfig,
    token: Token,
    drives: DriveTable,
    audit: AuditLog,
    observe: Callable[[str, str, str], None],
) -> KeyManager:
    """Return what all connections share; raises EkmError when certificate and token disagree."""
    certificate = load_certificate(config.certificate)
    partners = [_partner_key(path) for path in config.partners]
    signing_key = None if config.signing_key is None else load_p256_key(config.signing_key)
    data_keys = DataKeys(RememberingKeystore(token), partners, signing_key)
    if certificate.public_key() != data_keys.public_key:
        where = f"the token {token.label}" if signing_key is None else f"{config.signing_key}"
        raise EkmError(
            f"The certificate {config.certificate} does not belong to the signing key in {where}; "
            "configure the one that was issued for it."
        )
    return KeyManager(
        certificate_der=certificate.public_bytes(Encoding.DER),
        sign=data_keys.sign,
        drive_ca=load_certificate(config.drive_ca),
        drives=drives,
        audit=audit,
        keys=TokenKeyService(data_keys, drives.is_retiring),
        observe=observe,
    )


def _partner_key(path: Path) -> PublicKey:
    key = load_certificate(path).public_key()
    if not isinstance(key, PublicKey):
        raise EkmError(f"The partner's certificate {path} holds no P-256 key.")
    return key


def main() -> int:
    """Serve on the front's socket; a sentence goes to the front if that cannot be."""
    front = socket.socket(fileno=int(sys.argv[1]))
    die_with(int(sys.argv[2]))
    try:
        config: EkmConfig = pickle.load(sys.stdin.buffer)  # from the front, nobody else
        LOG.configure(config.log_format, config.log_level, f"worker {os.getpid()}")
        with ExitStack() as held:
            audit = held.enter_context(AuditLog(config.audit, joined=True))
            drives = held.enter_context(DriveTable(config.drive_table, logged=True))
            token = held.enter_context(open_token(config.token))
            metrics = WorkerMetrics()
            manager = manager_of(config, token, drives, audit, metrics.observe)

            gc.collect()
            gc.freeze()  # what is there now stays: no need to walk through it again and again

            async def run() -> None:
                await Worker(config, manager, metrics, front, token.try_out).run()

            asyncio.run(run())
    except TaperigError as error:
        with suppress(OSError):
            front.setblocking(True)
            front.send(json.dumps({"failed": str(error)[:1000]}).encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
