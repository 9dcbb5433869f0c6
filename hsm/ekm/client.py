"""The relay's side of a connection to a key manager: permanent, mutual TLS, one frame at a time.

The client carries messages as bytes and never looks into them, but for its own Ping.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from hsm.ekm import messages
from hsm.ekm.errors import EkmError, EkmUnavailable, MessageError
from hsm.pki import TlsFiles

DEFAULT_PORT = 3801
ANSWER_SECONDS = 30.0
"""A token that needs longer than this for one exchange counts as lost."""
CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class EkmEndpoint:
    """Where a key manager is, and with which certificate to go there."""

    host: str
    port: int
    tls: TlsFiles

    def __str__(self) -> str:
        """Return ``host:port``, as messages name it."""
        return f"{self.host}:{self.port}"


def tls_context(files: TlsFiles, purpose: ssl.Purpose) -> ssl.SSLContext:
    """Return a TLS 1.3 context that shows ``files`` and demands a certificate of the same CA.

    ``purpose`` is the other side's role, as in ``ssl.create_default_context``.
    """
    server_side = purpose is ssl.Purpose.CLIENT_AUTH
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    if server_side:
        context.num_tickets = 0  # connections are permanent: nothing to resume, nothing unasked
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(files.ca)
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise EkmError(
            f"Cannot use the TLS files {files.ca}, {files.certificate}, {files.key}: {error}."
        ) from error
    return context


class EkmClient:
    """A connection to one key manager, opened when first needed and kept open."""

    def __init__(self, endpoint: EkmEndpoint, answer_seconds: float = ANSWER_SECONDS) -> None:
        """Read the TLS files; ``answer_seconds`` is how long to wait for an answer."""
        self.endpoint = endpoint
        self._answer_seconds = answer_seconds
        self._context = tls_context(endpoint.tls, ssl.Purpose.SERVER_AUTH)
        self._connection: ssl.SSLSocket | None = None
        self._heard = False

    @property
    def connected(self) -> bool:
        """Whether the connection is open as far as is known here; ``ping`` proves it."""
        return self._connection is not None

    def connect(self) -> None:
        """Open the connection unless a usable one is open."""
        if self._connection is not None and _is_quiet(self._connection):
            return
        self.close()
        with self._failures("Cannot reach"):
            plain = socket.create_connection(
                (self.endpoint.host, self.endpoint.port), CONNECT_SECONDS
            )
            try:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                self._connection = self._context.wrap_socket(
                    plain, server_hostname=self.endpoint.host
                )
                self._connection.settimeout(self._answer_seconds)
                self._heard = False
            except BaseException:
                plain.close()
                raise

    def revive(self) -> None:
        """See that the connection works, by a ping, and open another one if it does not.

        A permanent connection may have died unnoticed since it was used last.
        """
        if self.connected:
            try:
                self.ping()
            except EkmUnavailable:
                self.close()
        self.connect()

    def request(self, frame: bytes) -> bytes:
        """Send a message and return the one that answers it; both unopened."""
        self.send(frame)
        return self.receive()

    def send(self, frame: bytes) -> None:
        """Send a message that gets no answer."""
        self.connect()
        with self._failures("Lost contact with") as connection:
            connection.sendall(messages.frame(frame))

    def receive(self) -> bytes:
        """Return the next message of the key manager."""
        with self._failures("Lost contact with") as connection:
            length = messages.frame_length(_read(connection, messages.LENGTH_BYTES))
            data = _read(connection, length)
            self._heard = True
            return data

    def ping(self) -> float:
        """Ask for a sign of life; return how long it took, in seconds."""
        started = time.perf_counter()
        ping = messages.Ping().encode()
        answer = self.request(ping)
        if answer != ping:
            self.close()
            raise EkmUnavailable(
                f"The key manager at {self.endpoint} answered a ping with something else."
            )
        return time.perf_counter() - started

    def close(self) -> None:
        """Close the connection; the next message opens another."""
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
    def _failures(self, what: str) -> Iterator[ssl.SSLSocket]:
        """Turn every way a connection fails into one sentence, and drop the connection."""
        try:
            yield self._connection  # type: ignore[misc]  # None only in connect(), which ignores it
        except (OSError, MessageError) as error:
            never_heard = self._connection is not None and not self._heard
            self.close()
            reason = _reason(error)
            if never_heard and isinstance(error, ConnectionError | ssl.SSLEOFError):
                # In TLS 1.3 a client hears only now whether its certificate was accepted.
                reason = (
                    "it ended the connection at once, as it does when it does not trust the "
                    f"certificate {self.endpoint.tls.certificate}; its audit log tells why"
                )
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


def _read(connection: ssl.SSLSocket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionError("it closed the connection")
        received += part
    return bytes(received)


def _is_quiet(connection: ssl.SSLSocket) -> bool:
    """Return whether nothing has arrived unasked: neither the connection's end nor stray bytes."""
    arrived = select.poll()  # not select(), which knows no descriptor above 1023
    arrived.register(connection, select.POLLIN)
    return not connection.pending() and not arrived.poll(0)
