"""A worker process of the key manager: one token, many connections.

The front process hands over connections (``python -m hsm.ekm.service.worker SOCKET``, configuration
pickled on standard input); the worker does the TLS handshake, serves them, and reports to the
front. All of it runs in one thread, because two threads in one context break SoftHSM.

Answers that left a record in the audit log are held while there are more messages to answer, a few
milliseconds at most. Then the records are flushed to the disk, once, and the answers are sent: the
higher the load, the less the disk costs each exchange. Messages that arrive together are answered
step by step in parallel, which uses the processor's caches better.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from hsm.child_process import end_with_parent
from hsm.crash_log import run_main
from hsm.ekm.audit.log import AuditError, AuditLog
from hsm.ekm.client import tls_context
from hsm.ekm.config import EkmConfig
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.exchange import Answer, Exchange, KeyManager
from hsm.ekm.key_service import TokenKeyService
from hsm.ekm.logs import LOG
from hsm.ekm.protocol.errors import EkmError
from hsm.ekm.protocol.identities import PublicKey
from hsm.ekm.service.connection import Connection
from hsm.ekm.service.event_loop import EventLoop, Timer
from hsm.ekm.service.metrics import WorkerMetrics, counts_folder
from hsm.ekm.service.tls_stream import TlsStream
from hsm.ekm.service.worker_ipc import CONNECTION, MESSAGE_LIMIT, heartbeat_seconds
from hsm.errors import TaperigError, TokenError, TokenGoneError
from hsm.keys.data_keys import DataKeys
from hsm.keys.keystore_cache import CachedKeystore
from hsm.keys.pki import load_certificate, load_p256_key
from hsm.pkcs11.token import Token, open_token

HANDSHAKES = 256
"""TLS handshakes at a time; one more drops the oldest, since good peers are quick."""
_BATCH_MESSAGES = 64
"""Messages answered between two polls of the sockets."""
_COLLECT_SECONDS = 0.001
"""While several exchanges are under way, a message waits this long for others."""
_FULL_BATCH = 6
"""With this many messages a worker does not wait for more."""
_HELD_SECONDS = 0.005
"""An answer waits at most this long for others that share its flush."""
_TOKEN_SECONDS = 10.0
"""The longest time between two checks of the token."""
LAZY_WRITE_SECONDS = 0.02
LAZY_FLUSH_SECONDS = 0.5
"""The longest time until records that no answer waits for are written, and flushed."""
_DRAIN_SECONDS = 2.0
"""How long exchanges under way may take to end when the key manager stops."""


class _Work:
    """A message that is being answered."""

    __slots__ = ("answer", "connection", "noted", "steps")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.steps = connection.answer()
        self.answer: Answer | None = None
        self.noted = False
        """Whether the message left a record in the audit log."""


class Worker:
    """Serves the connections that the front hands over."""

    def __init__(
        self,
        config: EkmConfig,
        manager: KeyManager,
        metrics: WorkerMetrics,
        front: socket.socket,
        check_token: Callable[[], object],
    ) -> None:
        """Prepare; ``front`` is the socket to the front process.

        ``check_token`` is called at intervals; it raises TokenError when the token is unusable.
        """
        self._check_token = check_token
        self._config = config
        self._manager = manager
        self._front = front
        self._tls = tls_context(config.tls, ssl.Purpose.CLIENT_AUTH)
        self._metrics = metrics
        self._loop = EventLoop(_log_unexpected)
        self._connections: set[Connection] = set()
        self._handshakes: dict[TlsStream, Timer] = {}
        self._queue: deque[Connection] = deque()
        self._held: list[tuple[Connection, Answer]] = []
        self._held_since = 0.0
        self._lazy_write: Timer | None = None
        self._lazy_flush: Timer | None = None
        self._heartbeats = 0
        self._stop = False
        self._failure: TaperigError | None = None

    def run(self) -> None:
        """Serve until the front sends STOP or ends, or until SIGTERM."""
        self._front.setblocking(False)
        self._loop.watch(self._front.fileno(), self._on_front)
        with _wake_on_signals() as woken:
            self._loop.watch(woken.fileno(), lambda mask: self._end(woken))
            self._report(ready=True)
            self._heartbeat()
            while not self._stop:
                self._run_once()
            self._release()
            self._loop.unwatch(self._front.fileno())
            self._drain()
        self._manager.audit.sync()
        if self._failure is not None:
            raise self._failure

    def _end(self, woken: socket.socket) -> None:
        woken.recv(MESSAGE_LIMIT)
        self._stop = True

    # The front

    def _on_front(self, mask: int) -> None:
        try:
            while True:
                data, descriptors, _, _ = socket.recv_fds(self._front, MESSAGE_LIMIT, 1)
                if data == CONNECTION:
                    plain = socket.socket(fileno=descriptors[0])
                    with suppress(OSError):  # the peer is gone; the first read finds that
                        _keep_alive(plain)
                    self._accept(plain)
                else:  # STOP, or the front has ended
                    self._stop = True
                    return
        except BlockingIOError:
            return
        except OSError:
            self._stop = True

    def _report(self, **content: Any) -> None:
        with suppress(OSError):
            self._front.send(json.dumps(content).encode())

    def _heartbeat(self) -> None:
        pause = heartbeat_seconds(self._config.worker_seconds)
        each = max(1, int(min(_TOKEN_SECONDS, self._config.worker_seconds) / pause))
        if self._heartbeats % each == 0:
            try:
                self._check_token()
            except TokenError as error:
                self._fail(error)  # the worker that replaces this one logs in again
                return
        self._heartbeats += 1
        self._report(connections=len(self._connections) + len(self._handshakes))
        self.call_later(pause, self._heartbeat)

    # Connections

    def _accept(self, plain: socket.socket) -> None:
        while len(self._handshakes) >= HANDSHAKES:
            self._drop(next(iter(self._handshakes)), "too many TLS handshakes at a time")
        stream = TlsStream(self._loop, plain, self._tls, self._config.frame_seconds)
        self._handshakes[stream] = self.call_later(
            self._config.handshake_seconds, lambda: self._drop(stream, "no TLS handshake in time")
        )
        stream.start_handshake(lambda failure: self._on_handshake(stream, failure))

    def _on_handshake(self, stream: TlsStream, failure: str) -> None:
        """Serve an authenticated peer; record any other in the audit log."""
        self._handshakes.pop(stream).cancel()
        if failure:
            self._record_refused_peer(failure)
            return
        connection = Connection(self, stream, Exchange(self._manager), self._config.frame_seconds)
        stream.attach(connection)
        self._connections.add(connection)
        self._metrics.connections.set(len(self._connections))
        self._metrics.handshakes.labels("ok").inc()

    def _drop(self, stream: TlsStream, cause: str) -> None:
        self._handshakes.pop(stream).cancel()
        stream.abort()
        self._record_refused_peer(cause)

    def _record_refused_peer(self, cause: str) -> None:
        self._metrics.handshakes.labels("refused").inc()
        LOG.info("connection refused", cause=cause)
        self._manager.audit.note("connection", outcome="refused", cause=cause)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` once, after ``seconds``."""
        return self._loop.call_later(seconds, callback)

    def closed(self, connection: Connection) -> None:
        """Forget a connection that has ended, and report it to the front."""
        self._connections.discard(connection)
        self._metrics.connections.set(len(self._connections))
        self._report(closed=1)
        connection.exchange.connection_lost()

    def ready(self, connection: Connection) -> None:
        """Queue a connection whose message is to be answered."""
        self._queue.append(connection)

    # Rounds

    def _run_once(self) -> None:
        """Poll the sockets, flush and send held answers when due, then answer."""
        self._loop.run_once(wait=not (self._held or self._queue))
        if 0 < len(self._queue) < _FULL_BATCH and not self._held and self._others_expected():
            time.sleep(_COLLECT_SECONDS)
            self._loop.run_once(wait=False)
        if self._held and (not self._queue or time.monotonic() > self._held_since + _HELD_SECONDS):
            self._release()
        self._answer()

    def _others_expected(self) -> bool:
        """Return whether messages of other exchanges are expected soon."""
        return sum(each.exchange.under_way for each in self._connections) > len(self._queue)

    def _answer(self) -> None:
        """Answer messages; hold each answer until its record is on the disk."""
        batch = [
            _Work(self._queue.popleft()) for _ in range(min(_BATCH_MESSAGES, len(self._queue)))
        ]
        try:
            self._run_steps(batch)
        except TokenGoneError as error:
            self._fail(error)  # after the answers that exist were sent
        for work in batch:
            if work.answer is None:
                continue
            if work.answer.frame is None or not work.noted:
                work.connection.send(work.answer)
                continue
            if not self._held:
                self._held_since = time.monotonic()
            self._held.append((work.connection, work.answer))
        if not self._held:
            self._write()

    def _run_steps(self, batch: list[_Work]) -> None:
        """Run the first step of all, then the second, ...; raises TokenGoneError."""
        audit = self._manager.audit
        noted = audit.noted
        while batch:
            unfinished = []
            for work in batch:
                try:
                    next(work.steps)
                except StopIteration as end:
                    work.answer = end.value
                else:
                    unfinished.append(work)
                if audit.noted != noted:
                    noted, work.noted = audit.noted, True
            batch = unfinished

    def _release(self) -> None:
        """Flush the audit log once, and send all held answers."""
        if not self._held or not self._flush():
            return
        held, self._held = self._held, []
        self._metrics.flushed(time.monotonic() - self._held_since)
        for connection, answer in held:
            connection.send(answer)

    def _write(self) -> None:
        """Write records that no answer waits for, and flush them soon.

        While other exchanges are under way, wait a little: the flush that they need writes these
        records too.
        """
        if not self._manager.audit.unsynced:
            return
        if not self._others_expected():
            self._write_now()
        elif self._lazy_write is None:
            self._lazy_write = self.call_later(LAZY_WRITE_SECONDS, self._write_lazily)

    def _write_lazily(self) -> None:
        self._lazy_write = None
        self._write_now()

    def _write_now(self) -> None:
        try:
            self._manager.audit.write()
        except AuditError as error:
            self._fail(error)
            return
        if self._lazy_flush is None:
            self._lazy_flush = self.call_later(LAZY_FLUSH_SECONDS, self._flush_lazily)

    def _flush_lazily(self) -> None:
        self._lazy_flush = None
        self._flush()

    def _flush(self) -> bool:
        """Flush all records to the disk; return whether that succeeded."""
        try:
            if self._manager.audit.unsynced:
                self._manager.audit.sync()
                self._metrics.flushes.inc()
        except AuditError as error:
            self._held.clear()
            self._fail(error)
            return False
        return True

    def _fail(self, error: TaperigError) -> None:
        """End this worker: without log or token it can answer nothing."""
        self._failure = error
        self._stop = True

    def _drain(self) -> None:
        """Wait until exchanges under way have ended; then close everything."""
        for stream in list(self._handshakes):
            self._drop(stream, "the key manager stops")
        self._drain_until(lambda: not any(each.busy for each in self._connections))
        for connection in self._connections:
            connection.end()
        self._drain_until(lambda: not self._connections)

    def _drain_until(self, drained: Callable[[], bool]) -> None:
        until = time.monotonic() + _DRAIN_SECONDS
        alarm = self.call_later(_DRAIN_SECONDS, lambda: None)  # so that no poll waits longer
        while self._failure is None and not drained() and time.monotonic() < until:
            self._run_once()
        alarm.cancel()


def _keep_alive(connection: socket.socket) -> None:
    """Enable TCP keep-alive, since no idle timeout finds a vanished peer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _log_unexpected(error: Exception) -> None:
    """Log the type of an unexpected error; its text may hold a peer's bytes."""
    LOG.error("unexpected error", kind=type(error).__name__)


@contextmanager
def _wake_on_signals() -> Iterator[socket.socket]:
    """Yield a socket that is readable after SIGTERM; ignore SIGINT and SIGHUP."""
    near, far = socket.socketpair()
    with near, far:
        far.setblocking(False)
        before = signal.set_wakeup_fd(far.fileno())
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            yield near
        finally:
            signal.set_wakeup_fd(before)


def build_key_manager(
    config: EkmConfig,
    token: Token,
    drives: DriveTable,
    audit: AuditLog,
    observe: Callable[[str, str, str], None],
) -> KeyManager:
    """Build what all connections share; EkmError if it cannot."""
    certificate = load_certificate(config.certificate)
    partners = [_partner_key(path) for path in config.partners]
    signing_key = None if config.signing_key is None else load_p256_key(config.signing_key)
    data_keys = DataKeys(CachedKeystore(token), partners, signing_key)
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
    """Serve on the front's socket; send the front a message on failure."""
    front = socket.socket(fileno=int(sys.argv[1]))
    end_with_parent(int(sys.argv[2]))
    try:
        pickled = sys.stdin.buffer.read()  # the pipe is the front's alone
        if not pickled:
            return 2  # the front ended before it had a configuration
        config: EkmConfig = pickle.loads(pickled)
        LOG.configure(config.log_format, config.log_level, f"worker {os.getpid()}")
        with ExitStack() as held:
            audit = held.enter_context(
                AuditLog(config.audit, joined=True, rotate_bytes=config.audit_bytes)
            )
            drives = held.enter_context(DriveTable(config.drive_table, logged=True))
            token = held.enter_context(open_token(config.token))
            metrics = WorkerMetrics(counts_folder(config.audit))
            manager = build_key_manager(config, token, drives, audit, metrics.observe)

            gc.collect()
            gc.freeze()  # these objects live as long as the process: exclude them
            Worker(config, manager, metrics, front, token.check_present).run()
    except TaperigError as error:
        with suppress(OSError):
            front.setblocking(True)
            front.send(json.dumps({"failed": str(error)[:1000]}).encode())
        return 2
    return 0


if __name__ == "__main__":
    run_main(main, "The key manager's worker")
