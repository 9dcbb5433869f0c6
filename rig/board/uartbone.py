"""UARTBone over a byte stream; the board's CRCs verify every exchange.

    command(1) count(1) word address(4, big endian) data(4 x count, writes only)

Commands: 1 write and 2 read at rising addresses, 3 write and 4 read at one address. A read answers
4 x count bytes, big endian; a write is not answered.

UARTBone itself detects no error. So every exchange ends with a read of the board's link state,
which holds CRCs of all bytes that the board received and sent. When they differ from the CRCs of
the bytes that the host sent and received, the exchange raises LinkFault and its data is discarded.
`recover` then synchronizes again: it sends nothing until the board has dropped an incomplete
command, discards everything that still arrives, and reads identity and CRCs. If that fails, it
opens the connection again.
"""

import struct
import time
import zlib
from dataclasses import dataclass
from typing import Protocol

import hdl.registers.board_map as board
from rig.board.protocol import BoardError

MAX_WORDS = 255
REGISTER_BYTES = 4

_COMMAND = struct.Struct(">BBI")
_WRITE, _READ, _WRITE_FIXED, _READ_FIXED = 1, 2, 3, 4
_BOARD_ID = 0x424F5244  # "BORD"

_STATE = struct.Struct(">7I")
_STATE_REGISTERS = (
    board.IN_COUNT,
    board.IN_STATE,
    board.OUT_COUNT,
    board.OUT_LEVEL,
    board.LINK_ERRORS,
    board.LINK_RX_CRC,
    board.LINK_TX_CRC,
)

_OWN_CRC_BYTES = 4  # LINK_TX_CRC comes last and does not cover itself

_RECOVERY_ATTEMPTS = 4


class LinkFault(BoardError):  # noqa: N818 - a fault to recover from, not yet an error
    """Bytes were lost, damaged or late on the link."""


class Line(Protocol):
    """A serial line or another byte stream."""

    name: str

    def send(self, data: bytes) -> None:
        """Send all bytes; raise LinkFault when that fails."""

    def receive(self, size: int) -> bytes:
        """Return exactly `size` bytes; raise LinkFault if they come too late."""

    def drain(self) -> None:
        """Discard received bytes until no more arrive."""

    def reopen(self) -> None:
        """Close the connection and open it again; raise LinkFault on failure."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """The state of a board's record windows and link at one time."""

    in_count: int
    """Frame words committed since the last flush."""
    in_free: int
    in_staged: int
    out_count: int
    """Result words acknowledged since the last flush, modulo 65536."""
    out_level: int
    """Result words that are ready and not yet acknowledged."""
    errors: int
    rx_crc: int
    tx_crc: int

    @property
    def bus_errors(self) -> int:
        """Return the number of accesses to unmapped addresses, up to 255."""
        return board.LINK_ERRORS_BUS.get(self.errors)

    @classmethod
    def from_bytes(cls, data: bytes) -> "LinkState":
        """Decode the state from the bytes of its registers."""
        in_count, in_state, out_count, level, errors, rx_crc, tx_crc = _STATE.unpack(data)
        return cls(
            in_count=in_count,
            in_free=board.IN_STATE_FREE.get(in_state),
            in_staged=board.IN_STATE_STAGED.get(in_state),
            out_count=out_count,
            out_level=level,
            errors=errors,
            rx_crc=rx_crc,
            tx_crc=tx_crc,
        )


def read_command(address: int, count: int, *, fixed: bool = False) -> bytes:
    """Return the command that reads words (1 to 255) at a byte address."""
    return _COMMAND.pack(_READ_FIXED if fixed else _READ, count, _word_address(address, count))


def write_command(address: int, data: bytes | memoryview, *, fixed: bool = False) -> bytes:
    """Return the command that writes words (1 to 255) at a byte address."""
    count, rest = divmod(len(data), REGISTER_BYTES)
    if rest:
        raise BoardError(f"{len(data)} bytes are not a whole number of words")
    command = _COMMAND.pack(_WRITE_FIXED if fixed else _WRITE, count, _word_address(address, count))
    return command + bytes(data)


def _word_address(address: int, count: int) -> int:
    if address % REGISTER_BYTES or not 0 < count <= MAX_WORDS:
        raise BoardError(f"UARTBone cannot take {count} words at address {address:#010x}")
    return address // REGISTER_BYTES


READ_STATE = read_command(board.IN_COUNT.address, len(_STATE_REGISTERS))


class UartBone:
    """The bus behind `line`; every exchange is verified.

    `quiet_s` is how long nothing is sent, so that the board drops an incomplete command. It must
    exceed the board's own time-out.
    """

    def __init__(self, line: Line, *, quiet_s: float = 0.3) -> None:
        """Synchronize with the board; raise BoardError when it does not answer."""
        self._line = line
        self._quiet_s = quiet_s
        self._rx_crc = 0
        self._tx_crc = 0
        self.faults = 0
        """Faults that were recovered from, or could not be."""
        line.drain()
        try:
            self.state = self._synchronize()
        except LinkFault as fault:
            self.recover(fault)

    @property
    def rx_crc(self) -> int:
        """Return the CRC of all bytes that the board has received."""
        return self._rx_crc

    def exchange(self, commands: bytes, answer_bytes: int = 0) -> bytes:
        """Send commands and return their answer; raise LinkFault on any damage.

        The board accepts at most one command while it answers another.
        """
        sent = commands + READ_STATE
        self._line.send(sent)
        received = self._line.receive(answer_bytes + _STATE.size)
        state = LinkState.from_bytes(received[-_STATE.size :])
        rx_crc = zlib.crc32(sent, self._rx_crc)
        if state.rx_crc != rx_crc:
            raise LinkFault("bytes to the board were damaged on the link")
        tx_crc = zlib.crc32(received[:-_OWN_CRC_BYTES], self._tx_crc)
        if state.tx_crc != tx_crc:
            raise LinkFault("bytes from the board were damaged on the link")
        self._rx_crc = rx_crc
        self._tx_crc = zlib.crc32(received[-_OWN_CRC_BYTES:], tx_crc)
        self.state = state
        return received[:answer_bytes]

    def recover(self, fault: LinkFault) -> None:
        """Synchronize again after `fault`; raise BoardError when that fails."""
        self.faults += 1
        quiet = self._quiet_s
        for attempt in range(_RECOVERY_ATTEMPTS):
            try:
                if attempt:
                    self._line.reopen()
                time.sleep(quiet)
                self._line.drain()
                self.state = self._synchronize()
                return
            except LinkFault as again:
                fault = again
                quiet *= 2
        raise BoardError(
            f"The board at {self._line.name} does not answer any more ({fault}); check its power "
            "and cable; for a virtual board, check that `rig board serve` still runs"
        ) from fault

    def _synchronize(self) -> LinkState:
        """Check the board's identity and start from the CRCs that it has."""
        identity = read_command(board.BOARD_ID.address, 2)
        self._line.send(identity)
        found, map_hash = struct.unpack(">II", self._line.receive(2 * REGISTER_BYTES))
        if found != _BOARD_ID:
            raise LinkFault(
                f"the answer is not from a Taperig board: its ID reads {found:#010x} instead of "
                f"{_BOARD_ID:#010x}"
            )
        if map_hash != board.MAP_HASH_EXPECTED:
            raise BoardError(
                f"The board at {self._line.name} has another register map (hash {map_hash:#010x}) "
                f"than this driver (hash {board.MAP_HASH_EXPECTED:#010x}): build both from the "
                "same sources"
            )
        self._line.send(READ_STATE)
        received = self._line.receive(_STATE.size)
        state = LinkState.from_bytes(received)
        self._rx_crc = state.rx_crc
        self._tx_crc = zlib.crc32(received[-_OWN_CRC_BYTES:], state.tx_crc)
        self.exchange(b"", 0)
        return self.state
