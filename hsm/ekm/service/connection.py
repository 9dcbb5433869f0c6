"""One connection of a worker: bytes in, whole messages out, each within its time and size.

A peer that has shown its certificate may be idle for ever (EKM-5). What must be quick is the rest
of a message once it has begun, and taking an answer. No more than two messages are kept for a
peer; what it sends beyond waits in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hsm.ekm.exchange import Answer, Exchange, Steps
from hsm.ekm.protocol import messages
from hsm.ekm.protocol.errors import ErrorCode
from hsm.ekm.service.event_loop import Timer
from hsm.ekm.service.tls_stream import TlsStream
from hsm.framing import LENGTH_BYTES, FrameError, frame_length

_KEPT = LENGTH_BYTES + messages.FRAME_LIMIT
"""Bytes of further messages that are kept beside the one that is answered."""


class ConnectionOwner(Protocol):
    """What a connection asks of its worker."""

    def ready(self, connection: Connection) -> None:
        """Have ``connection.answer`` called soon: there is something to answer."""

    def later(self, seconds: float, act: Callable[[], None]) -> Timer:
        """Call ``act`` once, in so many seconds."""

    def closed(self, connection: Connection) -> None:
        """The connection has ended."""


class Connection:
    """A peer that has shown its certificate, and its exchanges."""

    def __init__(
        self,
        owner: ConnectionOwner,
        stream: TlsStream,
        exchange: Exchange,
        frame_seconds: float,
    ) -> None:
        """Serve ``exchange``; ``frame_seconds`` bounds a message begun and an answer not taken."""
        self._owner = owner
        self._stream = stream
        self._frame_seconds = frame_seconds
        self._buffer = bytearray()
        self._message = b""  # that waits for its answer
        self._misfit: FrameError | None = None  # what is wrong with its length
        self._timer: Timer | None = None
        self._waiting = False  # in the owner's queue
        self._blocked = False  # the peer does not take its answers
        self._overdue = False
        self._ending = False
        self.exchange = exchange

    @property
    def busy(self) -> bool:
        """Whether an exchange is under way or a message waits for its answer."""
        return self._waiting or self.exchange.under_way

    # Called by the stream

    def data_received(self, data: bytes) -> None:
        """Take bytes of the peer."""
        self._buffer += data
        if len(self._buffer) > _KEPT:
            self._stream.pause_reading()
        self._look()

    def pause_writing(self) -> None:
        """Stop serving a peer that does not take its answers, and end it if that lasts."""
        self._blocked = True
        self._limit_time(self._stream.abort)

    def resume_writing(self) -> None:
        """Go on."""
        self._blocked = False
        self._stop_timer()
        self._look()

    def connection_lost(self) -> None:
        """Forget what was under way."""
        self._ending = True
        self._stop_timer()
        self._buffer.clear()
        self._owner.closed(self)

    # Called by the worker

    def answer(self) -> Steps[Answer | None]:
        """Begin to answer one message; the steps end with None when the connection has ended."""
        self._waiting = False
        if self._ending:
            return _ended(None)
        if self._overdue:
            return _ended(
                self.exchange.refuse_connection(
                    ErrorCode.FRAME_TIMEOUT,
                    f"A message was begun and not finished within {self._frame_seconds:g} s.",
                )
            )
        if self._misfit is not None:
            return _ended(
                self.exchange.refuse_connection(ErrorCode.FRAME_TOO_LARGE, str(self._misfit))
            )
        return self.exchange.steps(self._message)

    def send(self, answer: Answer) -> None:
        """Hand an answer to the peer and look for its next message."""
        if self._stream.closing:
            return
        if answer.frame is not None:
            self._stream.send(messages.frame(answer.frame))
        if answer.close:
            self.end()
            return
        if len(self._buffer) <= _KEPT:
            self._stream.resume_reading()
        self._look()

    def end(self) -> None:
        """Close the connection once what was sent is out."""
        self._ending = True
        self._stop_timer()
        self._stream.close()

    # Within

    def _look(self) -> None:
        """See whether there is a whole message; give one that has begun its time."""
        if not self._buffer or self._ending or self._waiting or self._blocked:
            return
        if self._take_message():
            self._stop_timer()
            self._waiting = True
            self._owner.ready(self)
        elif self._timer is None:
            self._limit_time(self._too_slow)

    def _take_message(self) -> bool:
        """Take the next message out of the buffer; say whether it is there to be answered."""
        buffer = self._buffer
        if len(buffer) < LENGTH_BYTES:
            return False
        try:
            end = LENGTH_BYTES + frame_length(buffer[:LENGTH_BYTES], messages.FRAME_LIMIT)
        except FrameError as error:
            self._misfit = error  # answered at once, unread
            return True
        if len(buffer) < end:
            return False
        self._message = bytes(buffer[LENGTH_BYTES:end])
        del buffer[:end]
        return True

    def _too_slow(self) -> None:
        self._timer = None
        self._overdue = True
        self._waiting = True
        self._owner.ready(self)

    def _limit_time(self, then: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self._owner.later(self._frame_seconds, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _ended(answer: Answer | None) -> Steps[Answer | None]:
    """Return steps of which none is left."""
    return answer
    yield
