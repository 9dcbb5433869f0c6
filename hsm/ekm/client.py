"""The relay's side of a connection to a key manager: permanent, mutual TLS, one frame at a time.

The client carries messages as bytes and never looks into them, but for its own Ping.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from hsm.ekm import openssl_errors
from hsm.ekm.protocol import messages
from hsm.ekm.protocol.errors import EkmError, EkmUnavailable
from hsm.framing import FrameError, read_frame
from hsm.keys.pki import TlsFiles

ANSWER_SECONDS = 30.0
"""A token that needs longer than this for one exchange counts as lost."""
CONNECT_SECONDS = 5.0
PING_SECONDS = 5.0

Resolve = Callable[[str], Sequence[str]]
"""Returns the addresses of a host name, the best first; raises EkmUnavailable. Addresses pass."""


@dataclass(frozen=True, slots=True)
class EkmEndpoint:
    """Where a key manager is, and with which certificate to go there; ``name`` is the lab's."""

    host: str
    port: int
    tls: TlsFiles
    name: str = ""

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

    def __init__(
        self,
        endpoint: EkmEndpoint,
        answer_seconds: float = ANSWER_SECONDS,
        resolve: Resolve | None = None,
    ) -> None:
        """Read the TLS files; ``answer_seconds`` is how long to wait for an answer.

        ``resolve`` finds the addresses of the endpoint's host whenever a connection is opened; by
        default the system does.
        """
        self.endpoint = endpoint
        self._answer_seconds = answer_seconds
        self._resolve: Resolve = resolve or (lambda host: (host,))
        self._context = tls_context(endpoint.tls, ssl.Purpose.SERVER_AUTH)
        self._connection: ssl.SSLSocket | None = None
        self._heard = False

    @property
    def connected(self) -> bool:
        """Whether the connection is open as far as is known here; ``ping`` proves it."""
        return self._connection is not None

    def connect(self, seconds: float = CONNECT_SECONDS) -> None:
        """Open the connection, each step of it within ``seconds``, unless a usable one is open."""
        if self._connection is not None and _is_quiet(self._connection):
            return
        self.close()
        with self._failures("Cannot reach"):
            plain = self._reach(seconds)
            try:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                self._connection = self._context.wrap_socket(
                    plain, server_hostname=self.endpoint.host
                )
                self._heard = False
            except BaseException:
                plain.close()
                raise

    def _reach(self, seconds: float) -> socket.socket:
        """Return a connection to the first address of the host that takes one."""
        failure: OSError | None = None
        for address in self._resolve(self.endpoint.host):
            try:
                return socket.create_connection((address, self.endpoint.port), seconds)
            except OSError as error:
                failure = failure or error
        raise failure or OSError("its name has no address")

    def revive(self, seconds: float = PING_SECONDS) -> None:
        """See that the connection works, by a ping, and open another one if it does not.

        A permanent connection may have died unnoticed since it was used last. ``seconds`` limits
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
        """Send a message and return the one that answers it; both unopened."""
        self.send(frame, begins=begins)
        return self.receive()

    def send(self, frame: bytes, *, begins: bool = True) -> None:
        """Send a message that gets no answer.

        One that begins something opens the connection when it must. One that goes on with what was
        begun does not: on another connection it would mean nothing.
        """
        if begins:
            self.connect()
        with self._failures("Lost contact with") as connection:
            if connection is None:
                raise ConnectionError("the connection was lost before")
            connection.settimeout(self._answer_seconds)
            connection.sendall(messages.frame(frame))

    def receive(self, seconds: float | None = None) -> bytes:
        """Return the next message of the key manager, whole within ``seconds`` from now."""
        deadline = time.monotonic() + (self._answer_seconds if seconds is None else seconds)
        with self._failures("Lost contact with") as connection:

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
        """Ask for a sign of life; return how long it took, in seconds."""
        started = time.perf_counter()
        ping = messages.Ping().encode()
        self.send(ping)
        answer = self.receive(seconds)
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
        openssl_errors.forget()
        try:
            yield self._connection  # type: ignore[misc]  # None only in connect(), which ignores it
        except (OSError, FrameError) as error:
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


def _is_quiet(connection: ssl.SSLSocket) -> bool:
    """Return whether nothing has arrived unasked: neither the connection's end nor stray bytes."""
    arrived = select.poll()  # not select(), which knows no descriptor above 1023
    arrived.register(connection, select.POLLIN)
    return not connection.pending() and not arrived.poll(0)
