"""The one way to a board, whatever is behind it."""

from typing import Protocol

from hsm.errors import TaperigError


class BoardError(TaperigError):
    """A board does not start, does not answer or has gone away."""


class Board(Protocol):
    """A bus with an engine on it."""

    name: str
    clock_hz: float
    """The engine's clock; every rate is computed from it and from counted clocks."""
    in_flight_bytes: int
    """How many bytes of frames may be written before results are read."""
    generates_traffic: bool
    """Whether it has a traffic generator: then its link is slower than its engine, and rates are
    taken with records that the board makes itself."""

    def read(self, address: int, size: int, count: int) -> bytes:
        """Read `count` items of `size` bytes: registers (4, in a row) or result words (16).

        A read of result words waits for them and raises BoardError when they do not come.
        """

    def write(self, address: int, size: int, data: bytes | bytearray | memoryview) -> None:
        """Write items of `size` bytes: registers (4, in a row) or frame words (16)."""

    def close(self) -> None:
        """Let go of the board; later calls raise BoardError."""
