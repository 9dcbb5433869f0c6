"""UARTBone over any byte stream, every exchange proved by the board's own CRCs.

    command(1) count(1) word address(4, big endian) data(4 x count, writes only)

Commands: 1 write and 2 read at rising addresses, 3 write and 4 read at one address. A read answers
4 x count bytes, big endian; a write is not answered.

UARTBone itself finds no error. So every exchange ends with a read of the board's link state: CRCs
of all bytes that the board received and sent. When they are not those of what was sent and received
here, the exchange is a LinkFault, and nothing of it is believed. `recover` then gets into step
again: silence until the board has dropped half a command, everything that still arrives thrown
away, identity and CRCs read anew; the connection is opened again when that does not help.
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


class LinkFault(BoardError):  # noqa: N818 - what happened, not yet what is to be reported
    """Bytes were lost, damaged or late on their way."""


class Line(Protocol):
    """A serial line, or what stands for one."""

    name: str

    def send(self, data: bytes) -> None:
        """Send all; raise LinkFault when that cannot be."""

    def receive(self, size: int) -> bytes:
        """Return exactly `size` bytes; raise LinkFault when they do not come in time."""

    def drain(self) -> None:
        """Throw away what has arrived, until nothing more comes."""

    def reopen(self) -> None:
        """Close the connection and make it anew; raise LinkFault when that cannot be."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """What the board says of its record windows and its link, all at one time."""

    in_count: int
    """Frame words committed since the last flush."""
    in_free: int
    in_staged: int
    out_count: int
    """Result words acknowledged since the last flush, modulo 65536."""
    out_level: int
    """Result words there beyond those."""
    errors: int
    rx_crc: int
    tx_crc: int

    @property
    def bus_errors(self) -> int:
        """How many accesses went where nothing is, up to 255."""
        return board.LINK_ERRORS_BUS.get(self.errors)

    @classmethod
    def of(cls, data: bytes) -> "LinkState":
        """Take the state out of the registers' bytes."""
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
    """The command that reads `count` words (1 to 255) at a byte address."""
    return _COMMAND.pack(_READ_FIXED if fixed else _READ, count, _word(address, count))


def write_command(address: int, data: bytes | memoryview, *, fixed: bool = False) -> bytes:
    """The command that writes whole words (1 to 255 of them) at a byte address."""
    count, rest = divmod(len(data), REGISTER_BYTES)
    if rest:
        raise BoardError(f"{len(data)} bytes are no whole number of words")
    command = _COMMAND.pack(_WRITE_FIXED if fixed else _WRITE, count, _word(address, count))
    return command + bytes(data)


def _word(address: int, count: int) -> int:
    if address % REGISTER_BYTES or not 0 < count <= MAX_WORDS:
        raise BoardError(f"UARTBone cannot take {count} words at address {address:#010x}")
    return address // REGISTER_BYTES


READ_STATE = read_command(board.IN_COUNT.address, len(_STATE_REGISTERS))


class UartBone:
    """The bus behind `line`, with proof of every exchange.

    `quiet_s` is for how long nothing is sent when the board shall drop half a command: more than
    its own time-out.
    """

    def __init__(self, line: Line, *, quiet_s: float = 0.3) -> None:
        """Get into step with the board; raise BoardError when there is none."""
        self.faults = 0
        """How many exchanges were damaged since opening."""
        self._line = line
        self._quiet_s = quiet_s
        self._rx_crc = 0
        self._tx_crc = 0
        line.drain()
        try:
            self.state = self._get_into_step()
        except LinkFault as fault:
            self.faults += 1
            self.recover(fault)

    @property
    def rx_crc(self) -> int:
        """The CRC of everything that the board has received."""
        return self._rx_crc

    def exchange(self, commands: bytes, answer_bytes: int = 0) -> bytes:
        """Send commands, return their answer; both have arrived whole, or LinkFault is raised.

        The board takes at most one command while it answers another.
        """
        try:
            return self._exchange(commands, answer_bytes)
        except LinkFault:
            self.faults += 1
            raise

    def recover(self, fault: LinkFault) -> None:
        """Get into step again after `fault`; raise BoardError when the board cannot be reached."""
        quiet = self._quiet_s
        for attempt in range(_RECOVERY_ATTEMPTS):
            try:
                if attempt:
                    self._line.reopen()
                time.sleep(quiet)
                self._line.drain()
                self.state = self._get_into_step()
                return
            except LinkFault as again:
                fault = again
                quiet *= 2
        raise BoardError(
            f"The board at {self._line.name} does not answer any more ({fault}); check its power "
            "and its cable, or that `rig board serve` still runs"
        ) from fault

    def _exchange(self, commands: bytes, answer_bytes: int) -> bytes:
        sent = commands + READ_STATE
        self._line.send(sent)
        received = self._line.receive(answer_bytes + _STATE.size)
        state = LinkState.of(received[-_STATE.size :])
        rx_crc = zlib.crc32(sent, self._rx_crc)
        if state.rx_crc != rx_crc:
            raise LinkFault("bytes to the board were damaged on their way")
        tx_crc = zlib.crc32(received[:-_OWN_CRC_BYTES], self._tx_crc)
        if state.tx_crc != tx_crc:
            raise LinkFault("bytes from the board were damaged on their way")
        self._rx_crc = rx_crc
        self._tx_crc = zlib.crc32(received[-_OWN_CRC_BYTES:], tx_crc)
        self.state = state
        return received[:answer_bytes]

    def _get_into_step(self) -> LinkState:
        """Take over the board's CRCs as they stand, and prove identity and CRCs."""
        identity = read_command(board.BOARD_ID.address, 2)
        self._line.send(identity)
        found, map_hash = struct.unpack(">II", self._line.receive(2 * REGISTER_BYTES))
        if found != _BOARD_ID:
            raise LinkFault(
                f"what answers is no board of this kind: its ID reads {found:#010x} instead of "
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
        state = LinkState.of(received)
        self._rx_crc = state.rx_crc
        self._tx_crc = zlib.crc32(received[-_OWN_CRC_BYTES:], state.tx_crc)
        self._exchange(b"", 0)
        return self.state
