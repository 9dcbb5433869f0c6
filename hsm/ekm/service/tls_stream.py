"""A non-blocking TLS stream over one socket, server side.

The stream does the handshake, passes received data to its ``StreamOwner`` and encrypts what the
owner sends. Data that the kernel does not accept at once is kept, and the owner is asked to pause.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from hsm.ekm import openssl_errors
from hsm.ekm.service.event_loop import READ, WRITE, EventLoop, Timer

_READ_BYTES = 16 * 1024 + 512
"""Bytes read at a time: a little more than a TLS record."""


class StreamOwner(Protocol):
    """The owner of a stream; ``connection_lost`` is called once, as the last."""

    def data_received(self, data: bytes) -> None:
        """Process bytes of the peer."""

    def pause_writing(self) -> None:
        """Stop sending: the peer does not read what was sent."""

    def resume_writing(self) -> None:
        """Send again: the kernel has accepted all data."""

    def connection_lost(self) -> None:
        """Release what belongs to the connection, which has ended."""


class TlsStream:
    """The server's end of a TLS connection; no method blocks."""

    def __init__(
        self, loop: EventLoop, plain: socket.socket, context: ssl.SSLContext, linger_seconds: float
    ) -> None:
        """Take over the connected socket ``plain``.

        ``linger_seconds`` is how long to wait for the peer's close after ours.
        """
        self._loop, self._plain = loop, plain
        self._linger_seconds = linger_seconds
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._owner: StreamOwner | None = None
        self._on_handshake: Callable[[str], None] | None = None
        self._unsent = b""
        self._paused = False  # reading
        self._closing = False
        self._close_sent = False
        self._dead = False
        self._timer: Timer | None = None

    def start_handshake(self, on_end: Callable[[str], None]) -> None:
        """Begin the handshake; call ``on_end`` with "" or the failure's cause."""
        self._on_handshake = on_end
        self._plain.setblocking(False)
        self._loop.watch(self._plain.fileno(), self._on_ready)

    def attach(self, owner: StreamOwner) -> None:
        """Pass received data to ``owner`` from now on; called from ``on_end``."""
        self._owner = owner

    @property
    def closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._closing or self._dead

    def send(self, data: bytes) -> None:
        """Send data; keep what the kernel does not accept yet."""
        if self._closing or self._dead:
            return
        openssl_errors.clear()
        try:
            self._tls.write(data)
            self._flush()
        except OSError:
            self.abort()

    def pause_reading(self) -> None:
        """Leave what the peer sends in the kernel."""
        if not self._paused:
            self._paused = True
            self._update_events()

    def resume_reading(self) -> None:
        """Read what the peer sends again."""
        if self._paused:
            self._paused = False
            self._update_events()

    def close(self) -> None:
        """Close the connection after all is sent; discard what the peer sends."""
        if not self.closing:
            self._closing = True
            self._paused = False
            self._timer = self._loop.call_later(self._linger_seconds, self.abort)
            self._update_events()
            if not self._unsent:
                self._send_close()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._dead:
            return
        self._dead = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.unwatch(self._plain.fileno())
        self._plain.close()
        if self._owner is not None:
            self._owner.connection_lost()

    # Private

    def _on_ready(self, mask: int) -> None:
        openssl_errors.clear()
        try:
            if mask & WRITE:
                self._flush()
            if mask & ~WRITE and not self._dead:
                self._read()
        except OSError as error:  # TLS errors among them
            if not self._end_handshake(error):
                self.abort()
        except BaseException:
            self.abort()
            raise

    def _read(self) -> None:
        try:
            data = self._plain.recv(_READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            if not self._end_handshake(ConnectionResetError()):
                self.abort()
        elif not self._closing:
            self._incoming.write(data)
            if self._on_handshake is not None:
                self._continue_handshake()
            if self._owner is not None:
                self._deliver(self._owner)

    def _deliver(self, owner: StreamOwner) -> None:
        """Pass decrypted data to the owner, as far as TLS records are whole."""
        while self._incoming.pending and not (self._closing or self._dead):
            try:
                data = self._tls.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                return
            if not data:  # the peer closes
                self.close()
                return
            owner.data_received(data)

    def _continue_handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        self._flush()
        self._end_handshake(None)

    def _end_handshake(self, error: OSError | None) -> bool:
        """Report how the handshake ended; return False if it had ended before."""
        on_end, self._on_handshake = self._on_handshake, None
        if on_end is None:
            return False
        if error is not None:
            self.abort()
            # OpenSSL's own reason, never the peer's bytes.
            on_end(str(getattr(error, "reason", None) or type(error).__name__))
        else:
            on_end("")
        return True

    def _flush(self) -> None:
        """Send encrypted data as far as the kernel accepts it."""
        kept = bool(self._unsent)
        data = self._unsent + self._outgoing.read() if kept else self._outgoing.read()
        try:
            sent = self._plain.send(data) if data else 0
        except BlockingIOError:
            sent = 0
        if sent == len(data) and not (kept or self._closing):
            return
        self._unsent = data[sent:]
        if bool(self._unsent) != kept:
            self._update_events()
            if self._owner is not None and not self._closing:
                (self._owner.resume_writing if kept else self._owner.pause_writing)()
        if self._closing and not self._unsent:
            self._send_close()

    def _send_close(self) -> None:
        """Send TLS close_notify and FIN; the socket stays open for the peer's.

        Closing a socket with unread data resets the connection, and the peer loses what was sent
        last.
        """
        if self._close_sent:
            return
        self._close_sent = True
        with suppress(ssl.SSLError):  # it wants to read the peer's close_notify
            self._tls.unwrap()
        with suppress(OSError):
            self._plain.send(self._outgoing.read())
            self._plain.shutdown(socket.SHUT_WR)

    def _update_events(self) -> None:
        if not self._dead:
            mask = (0 if self._paused else READ) | (WRITE if self._unsent else 0)
            self._loop.set_events(self._plain.fileno(), mask)
