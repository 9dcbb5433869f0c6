"""The interface that every board offers, simulated or real."""

from typing import Protocol

from hsm.errors import TaperigError


class BoardError(TaperigError):
    """A board does not start or does not answer."""


class Board(Protocol):
    """A bus with an engine on it."""

    name: str
    clock_hz: float
    """The engine's clock; every rate is computed from it and from counted clocks."""
    in_flight_bytes: int
    """How many bytes of frames may be written before results are read."""
    generates_traffic: bool
    """Whether it has a traffic generator. If so, its link is slower than its engine, and rates
    are measured with records that the board generates."""
    port_counters: int | None
    """The address of counters that watch the engine's record port from outside its gates.

    None where there are none."""

    @property
    def link_faults(self) -> int | None:
        """Return how many exchanges were damaged or late, and repeated.

        None where there is no link.
        """

    def read(self, address: int, size: int, count: int) -> bytes:
        """Read `count` items of `size` bytes each.

        `size` is 4 for registers at rising addresses, 16 for result words. A read of result words
        waits for them and raises BoardError when they do not come.
        """

    def write(self, address: int, size: int, data: bytes | bytearray | memoryview) -> None:
        """Write items of `size` bytes each.

        `size` is 4 for registers at rising addresses, 16 for frame words.
        """

    def close(self) -> None:
        """Close the board; later calls raise BoardError."""
