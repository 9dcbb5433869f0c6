"""Helpers for tests on simulated boards."""

from collections.abc import Callable
from pathlib import Path

from hdl.sim.wire import Kind
from rig.board.sim import SimBoard

StartBoard = Callable[..., SimBoard]


def write_transport_key(path: Path, key: bytes) -> Path:
    """Write a transport key as provisioning does.

    It is one line of hex digits, mode 0600.
    """
    path.touch(mode=0o600)
    path.write_text(key.hex() + "\n")
    return path


def peek(board: SimBoard, path: str) -> bytes:
    """Return the value of a signal in the gates, big endian.

    Below the top this works only in a build with probes.
    """
    name = path.encode()
    return bytes(board._request(Kind.PEEK, 1, 0, len(name), name))


class BoardWrapper:
    """A board that forwards every access; tests override some."""

    def __init__(self, board: SimBoard) -> None:
        """Pass accesses to `board`."""
        self._board = board
        self.name = board.name
        self.clock_hz = board.clock_hz
        self.in_flight_bytes = board.in_flight_bytes
        self.generates_traffic = board.generates_traffic
        self.port_counters = board.port_counters
        self.link_faults = board.link_faults

    def read(self, address: int, size: int, count: int) -> bytes:
        """See Board.read."""
        return self._board.read(address, size, count)

    def write(self, address: int, size: int, data: bytes | bytearray | memoryview) -> None:
        """See Board.write."""
        self._board.write(address, size, data)

    def close(self) -> None:
        """See Board.close."""
        self._board.close()
