"""The relay's connection to a key manager: permanent, with mutual TLS.

The client passes messages on as bytes and decodes none of them.
"""

from __future__ import annotations

import hashlib
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from hsm.configuration.tls_files import TlsFiles
from hsm.ekm import openssl_errors
from hsm.ekm.protocol import messages
from hsm.ekm.protocol.errors import EkmError, EkmUnavailable
from hsm.framing import FrameError, read_frame

ANSWER_SECONDS = 30.0
"""The longest time for an answer; then the key manager counts as lost."""
CONNECT_SECONDS = 5.0
PING_SECONDS = 5.0

Resolve = Callable[[str], Sequence[str]]
"""Returns the addresses of a host name or address, best first; raises EkmUnavailable."""


@dataclass(frozen=True, slots=True)
class EkmEndpoint:
    """Address and TLS files of a key manager; ``name`` is that in the lab."""

    host: str
    port: int
    tls: TlsFiles
    name: str = ""
    how_it_ended: Callable[[], str | None] = field(default=lambda: None, compare=False, repr=False)
    """Says how its process ended; None while it runs, and for one that others started."""

    def __str__(self) -> str:
        """Return ``host:port``, for messages."""
        return f"{self.host}:{self.port}"


def tls_context(files: TlsFiles, purpose: ssl.Purpose) -> ssl.SSLContext:
    """Return a TLS 1.3 context that requires a certificate of the same CA.

    ``files`` is the own identity; ``purpose`` is the peer's role, as in
    ``ssl.create_default_context``.
    """
    server_side = purpose is ssl.Purpose.CLIENT_AUTH
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    if server_side:
        context.num_tickets = 0  # connections are permanent, so none is resumed
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(files.ca)
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise EkmError(
            f"Cannot use the TLS files {files.ca}, {files.certificate}, {files.key}: {error}; "
            "restore them, or run `rig hsm init` for new ones."
        ) from error
    return context


class EkmClient:
    """A permanent connection to one key manager, opened when first needed."""

    def __init__(
        self,
        endpoint: EkmEndpoint,
        answer_seconds: float = ANSWER_SECONDS,
        resolve: Resolve | None = None,
    ) -> None:
        """Read the TLS files; ``answer_seconds`` is the timeout for an answer.

        ``resolve`` finds the addresses of the endpoint's host whenever a connection is opened; by
        default the system does.
        """
        self.endpoint = endpoint
        self._answer_seconds = answer_seconds
        self._resolve: Resolve = resolve or (lambda host: (host,))
        self._context = tls_context(endpoint.tls, ssl.Purpose.SERVER_AUTH)
        self._connection: ssl.SSLSocket | None = None
        self._heard = False
        self.certificate_sha256: str | None = None
        """SHA-256 of the certificate that it showed last; None before the first connection."""

    @property
    def connected(self) -> bool:
        """Whether the connection is open as far as is known; ``ping`` checks it."""
        return self._connection is not None

    def connect(self, seconds: float = CONNECT_SECONDS) -> None:
        """Open the connection unless it is open; ``seconds`` limits each step."""
        if self._connection is not None and _is_idle(self._connection):
            return
        self.close()
        with self._as_unavailable("Cannot reach"):
            plain = self._open_socket(seconds)
            try:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                self._connection = self._context.wrap_socket(
                    plain, server_hostname=self.endpoint.host
                )
                self._heard = False
                shown = self._connection.getpeercert(binary_form=True)
                self.certificate_sha256 = hashlib.sha256(shown or b"").hexdigest()
            except BaseException:
                plain.close()
                raise

    def _open_socket(self, seconds: float) -> socket.socket:
        """Return a TCP connection to the first address that accepts one."""
        failure: OSError | None = None
        for address in self._resolve(self.endpoint.host):
            try:
                return socket.create_connection((address, self.endpoint.port), seconds)
            except OSError as error:
                failure = failure or error
        raise failure or OSError("its host name has no address")

    def ensure_connected(self, seconds: float = PING_SECONDS) -> None:
        """Check the connection with a ping; open another one if it is lost.

        A permanent connection may have been lost unnoticed since its last use. ``seconds`` limits
        each wait; raises EkmUnavailable.
        """
        if self.connected:
            try:
                self.ping(seconds)
                return
            except EkmUnavailable:
                self.close()
        self.connect(min(seconds, CONNECT_SECONDS))

    def request(self, frame: bytes, *, begins: bool = True) -> bytes:
        """Send a message and return its answer, both undecoded."""
        self.send(frame, begins=begins)
        return self.receive()

    def send(self, frame: bytes, *, begins: bool = True) -> None:
        """Send a message without waiting for an answer.

        A message that begins an exchange opens the connection if needed. One that continues an
        exchange does not: it would be refused on another connection.
        """
        if begins:
            self.connect()
        with self._as_unavailable("Lost contact with") as connection:
            if connection is None:
                raise ConnectionError("the connection was lost earlier")
            connection.settimeout(self._answer_seconds)
            connection.sendall(messages.frame(frame))

    def receive(self, seconds: float | None = None) -> bytes:
        """Return the next message of the key manager; ``seconds`` is the timeout."""
        deadline = time.monotonic() + (self._answer_seconds if seconds is None else seconds)
        with self._as_unavailable("Lost contact with") as connection:

            def part(most: int) -> bytes:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                connection.settimeout(left)
                return connection.recv(most)

            data = read_frame(part, messages.FRAME_LIMIT)
            if data is None:
                raise ConnectionError("it closed the connection")
            self._heard = True
            return data

    def ping(self, seconds: float | None = None) -> float:
        """Send a Ping; return the seconds until its answer."""
        started = time.perf_counter()
        ping = messages.Ping().encode()
        self.send(ping)
        answer = self.receive(seconds)
        if answer != ping:
            self.close()
            raise EkmUnavailable(
                f"The key manager at {self.endpoint} answered a ping with another message."
            )
        return time.perf_counter() - started

    def close(self) -> None:
        """Close the connection; the next message opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    @contextmanager
    def _as_unavailable(self, what: str) -> Iterator[ssl.SSLSocket]:
        """Turn every connection error into EkmUnavailable; close the connection."""
        openssl_errors.clear()
        try:
            yield self._connection  # type: ignore[misc]  # None only in connect(), which ignores it
        except (OSError, FrameError) as error:
            never_heard = self._connection is not None and not self._heard
            self.close()
            reason = _reason(error)
            if never_heard and isinstance(error, ConnectionError | ssl.SSLEOFError):
                # In TLS 1.3 a client learns only now whether its certificate was accepted.
                reason = (
                    "it ended the connection at once, as it does when it does not trust the "
                    f"certificate {self.endpoint.tls.certificate}; its audit log says why"
                )
            if isinstance(error, ConnectionError | ssl.SSLEOFError | FrameError):
                reason = self.endpoint.how_it_ended() or reason
            raise EkmUnavailable(f"{what} the key manager at {self.endpoint}: {reason}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not acceptable ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there; start it with `rig ekm serve`, or correct the address"
    return str(error)


def _is_idle(connection: ssl.SSLSocket) -> bool:
    """Return whether neither the connection's end nor any data has arrived."""
    arrived = select.poll()  # select() fails for descriptors above 1023
    arrived.register(connection, select.POLLIN)
    return not connection.pending() and not arrived.poll(0)
