"""Messages over a byte stream, each after its length (4 bytes big endian)."""

from __future__ import annotations

from collections.abc import Callable

from hsm.errors import TaperigError

LENGTH_BYTES = 4


class FrameError(TaperigError):
    """A message is empty, too long, or cut off by the stream's end."""


def frame(data: bytes, limit: int) -> bytes:
    """Return a message with its length in front; raises FrameError."""
    _check(len(data), limit)
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def frame_length(header: bytes | bytearray, limit: int) -> int:
    """Return the length in four bytes; raise FrameError if out of range."""
    length = int.from_bytes(header, "big")
    _check(length, limit)
    return length


def read_frame(receive: Callable[[int], bytes], limit: int) -> bytes | None:
    """Return the next message of a stream, or None at the stream's end.

    ``receive`` returns at least one byte and at most as many as it is asked for, none at the end.
    Raises FrameError, and what ``receive`` raises.
    """
    header = _read(receive, LENGTH_BYTES)
    if not header:
        return None
    if len(header) == LENGTH_BYTES:
        length = frame_length(header, limit)
        data = _read(receive, length)
        if len(data) == length:
            return data
    raise FrameError("the stream ended within a message")


def _check(length: int, limit: int) -> None:
    if not 0 < length <= limit:
        raise FrameError(f"a message is 1 to {limit} bytes, not {length}")


def _read(receive: Callable[[int], bytes], size: int) -> bytes:
    received = bytearray()
    while len(received) < size and (part := receive(size - len(received))):
        received += part
    return bytes(received)
