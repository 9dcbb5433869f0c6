"""A TCP relay between a host and a board that injects link faults."""

import contextlib
import socket
import threading
import time
from enum import Enum


class Fault(Enum):
    LOST = "a byte lost"
    GARBLED = "a byte garbled"
    STALLED = "a stall in the middle"
    CUT = "the connection cut"


class Direction(Enum):
    TO_BOARD = "to the board"
    FROM_BOARD = "from the board"


class FaultyLink:
    """A relay to a local TCP port; `arm` plans one fault."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.faults_done = 0
        self.refusing = False
        self._lock = threading.Lock()
        self._plan: tuple[Direction, Fault, float] | None = None
        self._bytes_left = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def resource(self) -> str:
        return f"TCPIP::127.0.0.1::{self._listener.getsockname()[1]}::SOCKET"

    def arm(
        self, direction: Direction, fault: Fault, after_bytes: int, stall_s: float = 3.0
    ) -> None:
        """Inject `fault` once, after `after_bytes` more bytes in that direction."""
        with self._lock:
            self._plan = (direction, fault, stall_s)
            self._bytes_left = after_bytes

    def close(self) -> None:
        self.refusing = True
        self._listener.close()
        self._cut()

    def _accept(self) -> None:
        while True:
            try:
                host, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                host.close()
                continue
            board = socket.create_connection(("127.0.0.1", self.port))
            host.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            board.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.append((host, board))
            for source, target, direction in (
                (host, board, Direction.TO_BOARD),
                (board, host, Direction.FROM_BOARD),
            ):
                threading.Thread(
                    target=self._pump, args=(source, target, direction), daemon=True
                ).start()

    def _pump(self, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(512):
                passing = self._damaged(direction, data)
                if passing:
                    target.sendall(passing)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _damaged(self, direction: Direction, data: bytes) -> bytes:
        with self._lock:
            if self._plan is None or self._plan[0] is not direction:
                return data
            if len(data) <= self._bytes_left:
                self._bytes_left -= len(data)
                return data
            at, (_, fault, stall_s) = self._bytes_left, self._plan
            self._plan = None
            self.faults_done += 1
        match fault:
            case Fault.LOST:
                return data[:at] + data[at + 1 :]
            case Fault.GARBLED:
                return data[:at] + bytes([data[at] ^ 0x11]) + data[at + 1 :]
            case Fault.STALLED:
                time.sleep(stall_s)
                return data
        self._cut()
        return b""

    def _cut(self) -> None:
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
