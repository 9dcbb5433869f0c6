"""A worker's connection: splits bytes into messages and limits their time.

An authenticated peer may be idle without limit (EKM-5). Two things have a time limit: the rest of
a message that has begun, and reading an answer. At most two messages of a peer are buffered; what
it sends beyond that waits in the kernel.
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

_BUFFER_LIMIT = LENGTH_BYTES + messages.FRAME_LIMIT
"""Bytes that are buffered beside the message that is being answered."""


class ConnectionOwner(Protocol):
    """What a connection needs of its worker."""

    def ready(self, connection: Connection) -> None:
        """Queue a connection that has something to answer."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` once, after ``seconds``."""

    def closed(self, connection: Connection) -> None:
        """Forget a connection that has ended."""


class Connection:
    """The connection of an authenticated peer, and its exchange."""

    def __init__(
        self,
        owner: ConnectionOwner,
        stream: TlsStream,
        exchange: Exchange,
        frame_seconds: float,
    ) -> None:
        """Serve ``exchange``; ``frame_seconds`` limits receiving and sending."""
        self._owner = owner
        self._stream = stream
        self._frame_seconds = frame_seconds
        self._buffer = bytearray()
        self._message = b""  # waits for its answer
        self._frame_error: FrameError | None = None
        self._timer: Timer | None = None
        self._waiting = False  # in the owner's queue
        self._blocked = False  # the peer does not read its answers
        self._overdue = False
        self._ending = False
        self.exchange = exchange

    @property
    def busy(self) -> bool:
        """Whether an exchange is under way or a message waits for its answer."""
        return self._waiting or self.exchange.under_way

    # Called by the stream

    def data_received(self, data: bytes) -> None:
        """Buffer bytes of the peer."""
        self._buffer += data
        if len(self._buffer) > _BUFFER_LIMIT:
            self._stream.pause_reading()
        self._process_input()

    def pause_writing(self) -> None:
        """Stop serving a peer that does not read answers; abort it on timeout."""
        self._blocked = True
        self._start_timer(self._stream.abort)

    def resume_writing(self) -> None:
        """Serve the peer again: it has read its answers."""
        self._blocked = False
        self._stop_timer()
        self._process_input()

    def connection_lost(self) -> None:
        """Drop what was buffered, and tell the owner."""
        self._ending = True
        self._stop_timer()
        self._buffer.clear()
        self._owner.closed(self)

    # Called by the worker

    def answer(self) -> Steps[Answer | None]:
        """Return the steps that answer one message, None for a closed connection."""
        self._waiting = False
        if self._ending:
            return _finished_steps(None)
        if self._overdue:
            return _finished_steps(
                self.exchange.refuse_connection(
                    ErrorCode.FRAME_TIMEOUT,
                    f"A message was not complete {self._frame_seconds:g} s after it began.",
                )
            )
        if self._frame_error is not None:
            return _finished_steps(
                self.exchange.refuse_connection(ErrorCode.FRAME_TOO_LARGE, str(self._frame_error))
            )
        return self.exchange.steps(self._message)

    def send(self, answer: Answer) -> None:
        """Send an answer to the peer and process its next message."""
        if self._stream.closing:
            return
        if answer.frame is not None:
            self._stream.send(messages.frame(answer.frame))
        if answer.close:
            self.end()
            return
        if len(self._buffer) <= _BUFFER_LIMIT:
            self._stream.resume_reading()
        self._process_input()

    def end(self) -> None:
        """Close the connection after everything was sent."""
        self._ending = True
        self._stop_timer()
        self._stream.close()

    # Private

    def _process_input(self) -> None:
        """Queue a whole message for its answer; start the timer of a partial one."""
        if not self._buffer or self._ending or self._waiting or self._blocked:
            return
        if self._take_message():
            self._stop_timer()
            self._waiting = True
            self._owner.ready(self)
        elif self._timer is None:
            self._start_timer(self._on_frame_timeout)

    def _take_message(self) -> bool:
        """Take the next message out of the buffer; return whether there is one."""
        buffer = self._buffer
        if len(buffer) < LENGTH_BYTES:
            return False
        try:
            end = LENGTH_BYTES + frame_length(buffer[:LENGTH_BYTES], messages.FRAME_LIMIT)
        except FrameError as error:
            self._frame_error = error  # refused without reading it
            return True
        if len(buffer) < end:
            return False
        self._message = bytes(buffer[LENGTH_BYTES:end])
        del buffer[:end]
        return True

    def _on_frame_timeout(self) -> None:
        self._timer = None
        self._overdue = True
        self._waiting = True
        self._owner.ready(self)

    def _start_timer(self, then: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self._owner.call_later(self._frame_seconds, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _finished_steps(answer: Answer | None) -> Steps[Answer | None]:
    """Return steps that are finished, with their result."""
    return answer
    yield
