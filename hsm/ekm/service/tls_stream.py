"""The bytes of one TLS connection, without ever waiting for it.

The stream shakes hands, gives what the peer says to its ``StreamUser``, and takes what is to be
said. What the kernel does not take at once is kept, and the user is asked to say no more.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from hsm.ekm import openssl_errors
from hsm.ekm.service.event_loop import READ, WRITE, Poller, Timer

_PART = 16 * 1024 + 512
"""Bytes that are read at a time: a little more than a TLS record."""


class StreamUser(Protocol):
    """Who uses a stream. ``connection_lost`` is the last that is called, and comes once."""

    def data_received(self, data: bytes) -> None:
        """Take bytes of the peer."""

    def pause_writing(self) -> None:
        """The peer does not take what was sent: send no more for now."""

    def resume_writing(self) -> None:
        """The peer has taken all."""

    def connection_lost(self) -> None:
        """There is no connection any more."""


class TlsStream:
    """The server's end of a TLS connection; nothing here blocks."""

    def __init__(
        self, poller: Poller, plain: socket.socket, context: ssl.SSLContext, linger_seconds: float
    ) -> None:
        """Take over the connected socket ``plain``.

        ``linger_seconds`` is how long a peer may take to see that the connection was closed.
        """
        self._poller, self._plain = poller, plain
        self._linger_seconds = linger_seconds
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._user: StreamUser | None = None
        self._shaken: Callable[[str], None] | None = None
        self._unsent = b""
        self._paused = False  # reading
        self._closing = False
        self._said_all = False
        self._dead = False
        self._timer: Timer | None = None

    def shake(self, shaken: Callable[[str], None]) -> None:
        """Begin the handshake; call ``shaken`` at its end, with nothing or what was wrong."""
        self._shaken = shaken
        self._plain.setblocking(False)
        self._poller.watch(self._plain.fileno(), self._on_ready)

    def serve(self, user: StreamUser) -> None:
        """Have ``user`` told what comes; called from ``shaken``."""
        self._user = user

    @property
    def closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._closing or self._dead

    def send(self, data: bytes) -> None:
        """Send data, or keep what cannot be sent yet."""
        if self._closing or self._dead:
            return
        openssl_errors.forget()
        try:
            self._tls.write(data)
            self._push()
        except OSError:
            self.abort()

    def pause_reading(self) -> None:
        """Leave what the peer sends with the kernel."""
        if not self._paused:
            self._paused = True
            self._choose()

    def resume_reading(self) -> None:
        """Take what the peer sends again."""
        if self._paused:
            self._paused = False
            self._choose()

    def close(self) -> None:
        """Close the connection once all is sent; what the peer still says is thrown away."""
        if not self.closing:
            self._closing = True
            self._paused = False
            self._timer = self._poller.later(self._linger_seconds, self.abort)
            self._choose()
            if not self._unsent:
                self._say_all()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._dead:
            return
        self._dead = True
        if self._timer is not None:
            self._timer.cancel()
        self._poller.forget(self._plain.fileno())
        self._plain.close()
        if self._user is not None:
            self._user.connection_lost()

    # Within

    def _on_ready(self, mask: int) -> None:
        openssl_errors.forget()
        try:
            if mask & WRITE:
                self._push()
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
            data = self._plain.recv(_PART)
        except BlockingIOError:
            return
        if not data:
            if not self._end_handshake(ConnectionResetError()):
                self.abort()
        elif not self._closing:
            self._incoming.write(data)
            if self._shaken is not None:
                self._go_on_shaking()
            if self._user is not None:
                self._deliver(self._user)

    def _deliver(self, user: StreamUser) -> None:
        """Hand over what is whole. A record that has but begun leaves nothing pending."""
        while self._incoming.pending and not (self._closing or self._dead):
            try:
                data = self._tls.read(_PART)
            except ssl.SSLWantReadError:
                return
            if not data:  # the peer closes
                self.close()
                return
            user.data_received(data)

    def _go_on_shaking(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._push()
            return
        self._push()
        self._end_handshake(None)

    def _end_handshake(self, error: OSError | None) -> bool:
        """Tell how the handshake ended; False when it had ended before."""
        shaken, self._shaken = self._shaken, None
        if shaken is None:
            return False
        if error is not None:
            self.abort()
            # OpenSSL's own word, not the peer's.
            shaken(str(getattr(error, "reason", None) or type(error).__name__))
        else:
            shaken("")
        return True

    def _push(self) -> None:
        """Send what there is, as far as the kernel takes it."""
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
            self._choose()
            if self._user is not None and not self._closing:
                (self._user.resume_writing if kept else self._user.pause_writing)()
        if self._closing and not self._unsent:
            self._say_all()

    def _say_all(self) -> None:
        """Tell the peer that nothing more will come; its own end is waited for, so that it reads.

        A socket that is closed with something unread resets the connection, and what was sent
        last is lost.
        """
        if self._said_all:
            return
        self._said_all = True
        with suppress(ssl.SSLError):  # it wants to read the peer's own close
            self._tls.unwrap()
        with suppress(OSError):
            self._plain.send(self._outgoing.read())
            self._plain.shutdown(socket.SHUT_WR)

    def _choose(self) -> None:
        if not self._dead:
            mask = (0 if self._paused else READ) | (WRITE if self._unsent else 0)
            self._poller.want(self._plain.fileno(), mask)
