"""A worker process of the key manager: one PKCS#11 context, many connections, one thread.

The front process hands over connections (``python -m hsm.ekm.service.worker SOCKET``, configuration
pickled on standard input); the worker shakes hands, serves them, and tells the front how it is.
All of it in one thread, because two threads in one context break SoftHSM.

Answers that left a record in the audit log are held while there are more messages to answer, a few
milliseconds at most. Then the records are flushed to the disk, once, and the answers go out: the
more there is to do, the less the disk costs each exchange. Messages that are there at the same time
are answered side by side, step by step, which is easier on the processor's caches.
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

from hsm.child_process import die_with
from hsm.crash_log import guarded
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
from hsm.ekm.service.event_loop import Poller, Timer
from hsm.ekm.service.metrics import WorkerMetrics
from hsm.ekm.service.tls_stream import TlsStream
from hsm.ekm.service.worker_ipc import CONNECTION, MESSAGE_LIMIT, beat_seconds
from hsm.errors import TaperigError, TokenError, TokenGoneError
from hsm.keys.data_keys import DataKeys
from hsm.keys.keystore_cache import RememberingKeystore
from hsm.keys.pki import load_certificate, load_p256_key
from hsm.pkcs11.token import Token, open_token

HANDSHAKES = 256
"""TLS handshakes at a time; one more ends the oldest, which a good peer is not."""
_ROUND = 64
"""Messages answered between two looks at the sockets."""
_GATHER_SECONDS = 0.001
"""While several exchanges are under way, messages wait this long for those of the others."""
_ENOUGH = 6
"""With so many messages in hand a worker waits for no more."""
_HELD_SECONDS = 0.005
"""An answer waits this long for others that share its flush, while there is work to do."""
_TOKEN_SECONDS = 10.0
"""The token is tried so often, at least."""
LAZY_WRITE_SECONDS = 0.02
LAZY_FLUSH_SECONDS = 0.5
"""Records that nobody waits for are written, and on the disk, after this long, if not before."""
_DRAIN_SECONDS = 2.0
"""How long an exchange that is under way may take to end when the key manager stops."""


class _Work:
    """A message that is being answered."""

    __slots__ = ("answer", "connection", "noted", "steps")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.steps = connection.answer()
        self.answer: Answer | None = None
        self.noted = False
        """Whether it left a record in the audit log."""


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
        self._poller = Poller(_tell_kind)
        self._connections: set[Connection] = set()
        self._handshakes: dict[TlsStream, Timer] = {}
        self._queue: deque[Connection] = deque()
        self._held: list[tuple[Connection, Answer]] = []
        self._held_since = 0.0
        self._lazy_write: Timer | None = None
        self._lazy_flush: Timer | None = None
        self._beats = 0
        self._stop = False
        self._failure: TaperigError | None = None

    def run(self) -> None:
        """Serve until the front says stop or is gone, or until SIGTERM."""
        self._front.setblocking(False)
        self._poller.watch(self._front.fileno(), self._on_front)
        with _wake_on_signals() as woken:
            self._poller.watch(woken.fileno(), lambda mask: self._end(woken))
            self._tell(ready=True)
            self._beat()
            while not self._stop:
                self._turn()
            self._release()
            self._poller.forget(self._front.fileno())
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
                    with suppress(OSError):  # it is gone already, and will be found so
                        _keep_alive(plain)
                    self._take(plain)
                else:  # stop, or the front is gone
                    self._stop = True
                    return
        except BlockingIOError:
            return
        except OSError:
            self._stop = True

    def _tell(self, **content: Any) -> None:
        with suppress(OSError):
            self._front.send(json.dumps(content).encode())

    def _beat(self) -> None:
        pause = beat_seconds(self._config.worker_seconds)
        each = max(1, int(min(_TOKEN_SECONDS, self._config.worker_seconds) / pause))
        if self._beats % each == 0:
            try:
                self._try_token()
            except TokenError as error:
                self._give_up(error)  # another worker logs in afresh
                return
        self._beats += 1
        self._tell(connections=len(self._connections) + len(self._handshakes))
        self.later(pause, self._beat)

    # Connections

    def _take(self, plain: socket.socket) -> None:
        while len(self._handshakes) >= HANDSHAKES:
            self._drop(next(iter(self._handshakes)), "too many TLS handshakes at a time")
        stream = TlsStream(self._poller, plain, self._tls, self._config.frame_seconds)
        self._handshakes[stream] = self.later(
            self._config.handshake_seconds, lambda: self._drop(stream, "no TLS handshake in time")
        )
        stream.shake(lambda trouble: self._shaken(stream, trouble))

    def _shaken(self, stream: TlsStream, trouble: str) -> None:
        """Serve an authenticated peer; record any other in the audit log."""
        self._handshakes.pop(stream).cancel()
        if trouble:
            self._refused_peer(trouble)
            return
        connection = Connection(self, stream, Exchange(self._manager), self._config.frame_seconds)
        stream.serve(connection)
        self._connections.add(connection)
        self._metrics.connections.set(len(self._connections))
        self._metrics.handshakes.labels("ok").inc()

    def _drop(self, stream: TlsStream, cause: str) -> None:
        self._handshakes.pop(stream).cancel()
        stream.abort()
        self._refused_peer(cause)

    def _refused_peer(self, cause: str) -> None:
        self._metrics.handshakes.labels("refused").inc()
        LOG.info("connection refused", cause=cause)
        self._manager.audit.note("connection", outcome="refused", cause=cause)

    def later(self, seconds: float, act: Callable[[], None]) -> Timer:
        """Call ``act`` once, in so many seconds."""
        return self._poller.later(seconds, act)

    def closed(self, connection: Connection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)
        self._metrics.connections.set(len(self._connections))
        self._tell(closed=1)
        connection.exchange.connection_lost()

    def ready(self, connection: Connection) -> None:
        """Answer a message of this connection soon."""
        self._queue.append(connection)

    # Rounds

    def _turn(self) -> None:
        """Take what has arrived; when nothing more has, flush and send what was held; answer."""
        self._poller.turn(wait=not (self._held or self._queue))
        if 0 < len(self._queue) < _ENOUGH and not self._held and self._others_under_way():
            time.sleep(_GATHER_SECONDS)
            self._poller.turn(wait=False)
        if self._held and (not self._queue or time.monotonic() > self._held_since + _HELD_SECONDS):
            self._release()
        self._answer()

    def _others_under_way(self) -> bool:
        """Say whether messages of further exchanges are to be expected soon."""
        return sum(each.exchange.under_way for each in self._connections) > len(self._queue)

    def _answer(self) -> None:
        """Answer messages; what left a record is held until that is on the disk."""
        batch = [_Work(self._queue.popleft()) for _ in range(min(_ROUND, len(self._queue)))]
        try:
            self._do(batch)
        except TokenGoneError as error:
            self._give_up(error)  # once the answers that there are have gone out
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

    def _do(self, batch: list[_Work]) -> None:
        """Take the first step of all, then the second of all, and so on; raises TokenGoneError."""
        audit = self._manager.audit
        noted = audit.noted
        while batch:
            going_on = []
            for work in batch:
                try:
                    next(work.steps)
                except StopIteration as end:
                    work.answer = end.value
                else:
                    going_on.append(work)
                if audit.noted != noted:
                    noted, work.noted = audit.noted, True
            batch = going_on

    def _release(self) -> None:
        """Flush once for all that is held, and send it."""
        if not self._held or not self._flush():
            return
        held, self._held = self._held, []
        self._metrics.flushed(time.monotonic() - self._held_since)
        for connection, answer in held:
            connection.send(answer)

    def _write(self) -> None:
        """Have what was noted written, and flushed soon, though nobody waits for it.

        While other exchanges are under way, the flush that they will need writes it too, if it
        comes soon.
        """
        if not self._manager.audit.unsynced:
            return
        if not self._others_under_way():
            self._write_now()
        elif self._lazy_write is None:
            self._lazy_write = self.later(LAZY_WRITE_SECONDS, self._write_lazily)

    def _write_lazily(self) -> None:
        self._lazy_write = None
        self._write_now()

    def _write_now(self) -> None:
        try:
            self._manager.audit.write()
        except AuditError as error:
            self._give_up(error)
            return
        if self._lazy_flush is None:
            self._lazy_flush = self.later(LAZY_FLUSH_SECONDS, self._flush_lazily)

    def _flush_lazily(self) -> None:
        self._lazy_flush = None
        self._flush()

    def _flush(self) -> bool:
        """Have what was noted on the disk; say whether it is."""
        try:
            if self._manager.audit.unsynced:
                self._manager.audit.sync()
                self._metrics.flushes.inc()
        except AuditError as error:
            self._held.clear()
            self._give_up(error)
            return False
        return True

    def _give_up(self, error: TaperigError) -> None:
        """End this worker: without the log no answer may go out, without the token none can."""
        self._failure = error
        self._stop = True

    def _drain(self) -> None:
        """Let exchanges that are under way end, for a while; then close everything."""
        for stream in list(self._handshakes):
            self._drop(stream, "the key manager stops")
        self._drain_until(lambda: not any(each.busy for each in self._connections))
        for connection in self._connections:
            connection.end()
        self._drain_until(lambda: not self._connections)

    def _drain_until(self, drained: Callable[[], bool]) -> None:
        until = time.monotonic() + _DRAIN_SECONDS
        alarm = self.later(_DRAIN_SECONDS, lambda: None)  # so that no turn waits for longer
        while self._failure is None and not drained() and time.monotonic() < until:
            self._turn()
        alarm.cancel()


def _keep_alive(connection: socket.socket) -> None:
    """Have the kernel notice a peer that vanished, since no idle timeout does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _tell_kind(error: Exception) -> None:
    """Log what nobody foresaw; its text may hold a peer's bytes."""
    LOG.error("unforeseen", kind=type(error).__name__)


@contextmanager
def _wake_on_signals() -> Iterator[socket.socket]:
    """Give a socket that can be read once SIGTERM came; Ctrl-C and SIGHUP are the front's."""
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
            audit = held.enter_context(
                AuditLog(config.audit, joined=True, rotate_bytes=config.audit_bytes)
            )
            drives = held.enter_context(DriveTable(config.drive_table, logged=True))
            token = held.enter_context(open_token(config.token))
            metrics = WorkerMetrics()
            manager = manager_of(config, token, drives, audit, metrics.observe)

            gc.collect()
            gc.freeze()  # what is there now stays: no need to walk through it again and again
            Worker(config, manager, metrics, front, token.check_present).run()
    except TaperigError as error:
        with suppress(OSError):
            front.setblocking(True)
            front.send(json.dumps({"failed": str(error)[:1000]}).encode())
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, "The key manager's worker"))
