"""A board behind a VISA resource: a serial port or a TCP socket.

Uses PyVISA's pure Python backend. Frame words are staged on the board and processed only after
their CRC was verified there. Result words stay on the board until the host acknowledges them. So
damage on the link costs only time. A damaged register write is reported, because the board may
have executed another command instead.
"""

import contextlib
import struct
import time
import zlib
from types import TracebackType
from typing import Any, Self

import pyvisa
from pyvisa.constants import SerialTermination

import hdl.registers.board_map as board
import hdl.registers.engine_map as regs
from hdl.registers.types import Register
from hdl.widths import WORD_BYTES
from rig.board.protocol import BoardError
from rig.board.uartbone import (
    MAX_WORDS,
    REGISTER_BYTES,
    LinkFault,
    UartBone,
    read_command,
    write_command,
)

ANSWER_LIMIT_S = 10.0
"""How long an answer may take; a simulation is slow, and slower on a busy machine."""

BAUD = 1_000_000

_BURST_WORDS = MAX_WORDS * REGISTER_BYTES // WORD_BYTES
_STAGED_BURSTS = 4  # with their commands below 4096 bytes, which are sent at once
_TRIES = 5
_DRAIN_S = 0.05

# The engine finishes any record in far fewer clocks than this many exchanges take.
_RESULT_LIMIT_S = 20.0


class VisaLine:
    """A VISA session as a byte stream."""

    def __init__(self, resource: str, *, limit_s: float = ANSWER_LIMIT_S, baud: int = BAUD) -> None:
        """Open the resource.

        PyVISA reports no refused TCP connection; it shows only when nothing answers.
        """
        self.name = resource
        self._limit_s = limit_s
        self._baud = baud
        self._manager = pyvisa.ResourceManager("@py")
        self._session: Any = None
        try:
            self.reopen()
        except LinkFault as fault:
            self._manager.close()
            raise BoardError(
                f"{resource} cannot be opened: {fault}; check the resource in the lab file and the "
                "cable; for a virtual board, check that `rig board serve` runs"
            ) from fault

    def send(self, data: bytes) -> None:
        """See Line.send."""
        try:
            self._session.write_raw(data)
        except (OSError, pyvisa.Error) as error:
            raise LinkFault(f"nothing can be sent ({error})") from error

    def receive(self, size: int) -> bytes:
        """See Line.receive."""
        try:
            return bytes(self._session.read_bytes(size))
        except pyvisa.errors.VisaIOError as error:
            raise LinkFault(f"no whole answer within {self._limit_s:g} s") from error
        except (OSError, pyvisa.Error) as error:
            raise LinkFault(f"nothing can be received ({error})") from error

    def drain(self) -> None:
        """See Line.drain."""
        with contextlib.suppress(OSError, pyvisa.Error):
            self._session.timeout = _DRAIN_S * 1e3
            try:
                while True:
                    self._session.read_bytes(1)
            finally:
                self._session.timeout = self._limit_s * 1e3

    def reopen(self) -> None:
        """See Line.reopen."""
        self._close_session()
        try:
            session: Any = self._manager.open_resource(self.name)
            session.read_termination = None
            session.write_termination = None
            session.timeout = self._limit_s * 1e3
            if session.resource_name.startswith("ASRL"):
                session.baud_rate = self._baud
                session.end_input = SerialTermination.none
        # pyvisa-py raises bare Exception, and passes on those of the serial library.
        except Exception as error:
            raise LinkFault(str(error) or type(error).__name__) from error
        self._session = session

    def close(self) -> None:
        """Close the session and its resource manager."""
        self._close_session()
        self._manager.close()

    def _close_session(self) -> None:
        if self._session is not None:
            with contextlib.suppress(OSError, pyvisa.Error):
                self._session.close()
            self._session = None


class VisaBoard:
    """The board at a VISA resource."""

    def __init__(
        self,
        name: str,
        resource: str,
        *,
        clock_hz: float,
        limit_s: float = ANSWER_LIMIT_S,
        baud: int = BAUD,
    ) -> None:
        """Open the board, check its identity, and flush an earlier host's data."""
        self.name = name
        self.clock_hz = clock_hz
        self._surplus = bytearray()
        self._in_count = 0
        self._out_count = 0
        self._line: VisaLine | None = VisaLine(resource, limit_s=limit_s, baud=baud)
        try:
            self._uartbone = UartBone(self._line)
            self.flush()
            features = self._read_register(regs.FEATURES)
            board_features = self._read_register(board.BOARD_FEATURES)
        except BaseException:
            self.close()
            raise
        # Two banks: while the engine works on one record, the next is on its way.
        self.in_flight_bytes = 2 << regs.FEATURES_BANK_LOG2.get(features)
        self.port_counters: int | None = None
        self.generates_traffic = bool(board.BOARD_FEATURES_TRAFFIC.get(board_features))

    def __enter__(self) -> Self:
        """Return the board; it closes at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    @property
    def link_faults(self) -> int:
        """See Board.link_faults."""
        return self._uartbone.faults

    def read(self, address: int, size: int, count: int) -> bytes:
        """See Board.read."""
        self._require_open()
        if address == regs.RECORD_OUT:
            return self._read_results(size * count)
        if size != REGISTER_BYTES:
            raise BoardError(f"Board {self.name} has no items of {size} bytes at {address:#010x}")
        return self._read_registers(address, count)

    def write(self, address: int, size: int, data: bytes | bytearray | memoryview) -> None:
        """See Board.write."""
        self._require_open()
        if len(data) % size:
            raise BoardError(f"{len(data)} bytes are not a whole number of items of {size} bytes")
        if address == regs.RECORD_IN:
            self._write_frames(memoryview(data))
        elif size == REGISTER_BYTES:
            self._write_registers(address, bytes(data))
        else:
            raise BoardError(f"Board {self.name} has no items of {size} bytes at {address:#010x}")

    def flush(self) -> None:
        """End the record in the engine and empty both record windows."""
        self._write_register(board.BOARD_CTRL, board.BOARD_CTRL_FLUSH.put(1))
        deadline = time.monotonic() + _RESULT_LIMIT_S
        while board.BOARD_STATUS_FLUSHING.get(self._read_register(board.BOARD_STATUS)):
            if time.monotonic() > deadline:
                raise BoardError(
                    f"Board {self.name} does not end the record in its engine within "
                    f"{_RESULT_LIMIT_S:g} s; reset the board"
                )
        self._surplus.clear()
        self._in_count = 0
        self._out_count = 0

    def close(self) -> None:
        """Close the board; later calls raise BoardError."""
        if self._line is not None:
            self._line.close()
            self._line = None

    # ---- registers ----

    def _read_register(self, register: Register) -> int:
        return int.from_bytes(self._read_registers(register.address, 1), "big")

    def _write_register(self, register: Register, value: int) -> None:
        self._write_registers(register.address, value.to_bytes(REGISTER_BYTES, "big"))

    def _read_registers(self, address: int, count: int) -> bytes:
        before = self._uartbone.state.bus_errors
        for _ in range(_TRIES):
            try:
                answer = self._uartbone.exchange(
                    read_command(address, count), count * REGISTER_BYTES
                )
            except LinkFault as fault:
                last = fault
                self._uartbone.recover(fault)
                before = self._uartbone.state.bus_errors
            else:
                self._check_bus(before, address)
                return answer
        raise self._link_failed(last)

    def _write_registers(self, address: int, data: bytes) -> None:
        before = self._uartbone.state.bus_errors
        try:
            self._uartbone.exchange(write_command(address, data))
        except LinkFault as fault:
            self._uartbone.recover(fault)
            raise BoardError(
                f"A register write to board {self.name} was damaged on the link ({fault}); what "
                "the board did instead is unknown. The link works again: open the board again"
            ) from fault
        self._check_bus(before, address)

    def _check_bus(self, before: int, address: int) -> None:
        if self._uartbone.state.bus_errors != before:
            raise BoardError(f"Board {self.name} has nothing at address {address:#010x}")

    # ---- records ----

    def _write_frames(self, data: memoryview) -> None:
        done = 0
        deadline = time.monotonic() + _RESULT_LIMIT_S
        while done < len(data):
            left = (len(data) - done) // WORD_BYTES
            words = min(left, self._uartbone.state.in_free, _STAGED_BURSTS * _BURST_WORDS)
            if words:
                self._commit(data[done : done + words * WORD_BYTES])
                done += words * WORD_BYTES
            elif not self._fetch_results() and time.monotonic() > deadline:
                raise BoardError(
                    f"The engine of board {self.name} hangs: it took no frame word for "
                    f"{_RESULT_LIMIT_S:g} s; reset the board"
                )
            else:
                continue
            deadline = time.monotonic() + _RESULT_LIMIT_S

    def _commit(self, data: memoryview) -> None:
        """Stage words and commit them; repeat until the board has all of them."""
        words = len(data) // WORD_BYTES
        wanted = (self._in_count + words) & 0xFFFF_FFFF
        burst = _BURST_WORDS * WORD_BYTES
        staging = b"".join(
            write_command(regs.RECORD_IN, data[at : at + burst], fixed=True)
            for at in range(0, len(data), burst)
        )
        last = LinkFault("the board dropped words that arrived undamaged")
        for _ in range(_TRIES):
            # A commit with a wrong CRC drops the words that an earlier try has left staged.
            clearing = (
                self._commit_command(b"", wrong=True) if self._uartbone.state.in_staged else b""
            )
            commands = clearing + staging
            try:
                self._uartbone.exchange(commands + self._commit_command(commands))
            except LinkFault as fault:
                last = fault
                self._uartbone.recover(fault)
            count = self._uartbone.state.in_count
            if count == wanted:
                self._in_count = wanted
                return
            if count != self._in_count:
                raise self._out_of_step(f"it counts {count} frame words instead of {wanted}")
        raise self._link_failed(last)

    def _commit_command(self, before: bytes, *, wrong: bool = False) -> bytes:
        crc = zlib.crc32(before, self._uartbone.rx_crc) ^ (0xFFFF_FFFF if wrong else 0)
        return write_command(board.IN_COMMIT, crc.to_bytes(REGISTER_BYTES, "big"))

    def _read_results(self, size: int) -> bytes:
        deadline = time.monotonic() + _RESULT_LIMIT_S
        while len(self._surplus) < size:
            if self._fetch_results():
                deadline = time.monotonic() + _RESULT_LIMIT_S
            elif time.monotonic() > deadline:
                raise BoardError(
                    f"The engine of board {self.name} hangs: {len(self._surplus)} of {size} bytes "
                    "of results arrived; reset the board"
                )
        taken = bytes(memoryview(self._surplus)[:size])
        del self._surplus[:size]
        return taken

    def _fetch_results(self) -> bool:
        """Read the results that are ready, up to a burst; return whether any were."""
        for _ in range(_TRIES):
            state = self._uartbone.state
            unacknowledged = (self._out_count - state.out_count) & 0xFFFF
            words = min(state.out_level - unacknowledged, _BURST_WORDS)
            # The acknowledgement also sets the board's read position to the first missing word.
            commands = self._acknowledge_command()
            if words:
                count = words * WORD_BYTES // REGISTER_BYTES
                commands += read_command(regs.RECORD_OUT, count, fixed=True)
            try:
                answer = self._uartbone.exchange(commands, words * WORD_BYTES)
            except LinkFault as fault:
                last = fault
                self._uartbone.recover(fault)
                self._check_result_count(state.out_count)
            else:
                self._check_result_count(self._out_count)
                self._surplus += answer
                self._out_count = (self._out_count + words) & 0xFFFF
                return words > 0
        raise self._link_failed(last)

    def _check_result_count(self, before: int) -> None:
        count = self._uartbone.state.out_count
        if count not in (before, self._out_count):
            raise self._out_of_step(
                f"it counts {count} result words taken instead of {self._out_count}"
            )

    def _acknowledge_command(self) -> bytes:
        count = self._out_count
        return write_command(board.OUT_ACK, struct.pack(">HH", count, count ^ 0xFFFF))

    # ---- errors ----

    def _require_open(self) -> None:
        if self._line is None:
            raise BoardError(f"Board {self.name} is closed")

    def _out_of_step(self, how: str) -> BoardError:
        return BoardError(
            f"Board {self.name} is out of step with this host ({how}): it was reset or another "
            "host uses it; open it again"
        )

    def _link_failed(self, fault: LinkFault) -> BoardError:
        return BoardError(
            f"The link to board {self.name} failed {_TRIES} times in a row, the last time because "
            f"{fault}; check the cable and the baud rate"
        )
