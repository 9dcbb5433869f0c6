"""Framed messages out of a stream, whatever parts it comes in."""

from __future__ import annotations

import io

import pytest

from hsm.framing import FrameError, frame, read_frame


@pytest.mark.parametrize("part", [1, 3, 100])
def test_read_frame_returns_one_message_after_the_other(part: int) -> None:
    stream = io.BytesIO(frame(b"first", 10) + frame(b"second", 10))

    def receive(most: int) -> bytes:
        return stream.read(min(part, most))

    assert [read_frame(receive, 10) for _ in range(3)] == [b"first", b"second", None]


@pytest.mark.parametrize("kept", [1, 3, 4, 8])
def test_read_frame_refuses_a_stream_that_ends_within_a_message(kept: int) -> None:
    with pytest.raises(FrameError, match="ended within"):
        read_frame(io.BytesIO(frame(b"first", 10)[:kept]).read, 10)


def test_read_frame_refuses_a_long_message_before_it_is_read() -> None:
    stream = io.BytesIO(frame(b"x" * 11, 11))
    with pytest.raises(FrameError, match="1 to 10 bytes, not 11"):
        read_frame(stream.read, 10)
    assert stream.tell() == 4
