"""A board behind a VISA resource: a serial port, a TCP socket; on a bench or simulated.

PyVISA's pure Python backend. Frame words are staged on the board and worked on only once their CRC
was right there; result words stay on the board until they have arrived here whole. So damage on the
link costs time and nothing else. A register write that was damaged is reported: the board may have
done something else instead.
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
"""How long an answer may take; a simulation is slow, and slower on a machine at work."""

BAUD = 1_000_000

_WORD_BYTES = 16
_BURST_WORDS = MAX_WORDS * REGISTER_BYTES // _WORD_BYTES
_STAGED_BURSTS = 4  # with all that goes with them below 4096 bytes, which are sent at once
_TRIES = 5
_DRAIN_S = 0.05

# The engine finishes any record in far fewer clocks than this many exchanges take.
_RESULT_LIMIT_S = 20.0


class VisaLine:
    """A VISA session as a byte stream."""

    def __init__(self, resource: str, *, limit_s: float = ANSWER_LIMIT_S, baud: int = BAUD) -> None:
        """Open it; a TCP connection that is refused shows only when nothing answers."""
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
                f"{resource} cannot be opened: {fault}; check the resource in the lab file, the "
                "cable, and for a virtual board that `rig board serve` runs"
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
        # pyvisa-py raises bare exceptions and whatever the port's own library does.
        except Exception as error:
            raise LinkFault(str(error) or type(error).__name__) from error
        self._session = session

    def close(self) -> None:
        """Let go of it."""
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
        """Open it, prove what it is, and clear what an earlier host may have left inside."""
        self.name = name
        self.clock_hz = clock_hz
        self._surplus = bytearray()
        self._in_count = 0
        self._out_count = 0
        self._line: VisaLine | None = VisaLine(resource, limit_s=limit_s, baud=baud)
        try:
            self._bone = UartBone(self._line)
            self.flush()
            features = self._read_register(regs.FEATURES)
            own_features = self._read_register(board.BOARD_FEATURES)
        except BaseException:
            self.close()
            raise
        # Two banks' worth: the engine is never waited for while it could work.
        self.in_flight_bytes = 2 << regs.FEATURES_BANK_LOG2.get(features)
        self.generates_traffic = bool(board.BOARD_FEATURES_TRAFFIC.get(own_features))

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
        """How many exchanges were damaged on the link, and found and mended."""
        return self._bone.faults

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
            raise BoardError(f"{len(data)} bytes are no whole number of items of {size} bytes")
        if address == regs.RECORD_IN:
            self._write_frames(memoryview(data))
        elif size == REGISTER_BYTES:
            self._write_registers(address, bytes(data))
        else:
            raise BoardError(f"Board {self.name} has no items of {size} bytes at {address:#010x}")

    def flush(self) -> None:
        """End whatever record is under way inside and empty both windows."""
        self._write_register(board.BOARD_CTRL, board.BOARD_CTRL_FLUSH.put(1))
        deadline = time.monotonic() + _RESULT_LIMIT_S
        while board.BOARD_STATUS_FLUSHING.get(self._read_register(board.BOARD_STATUS)):
            if time.monotonic() > deadline:
                raise BoardError(f"Board {self.name} does not end the record inside its engine")
        self._surplus.clear()
        self._in_count = 0
        self._out_count = 0

    def close(self) -> None:
        """Let go of the board; later calls raise BoardError."""
        if self._line is not None:
            self._line.close()
            self._line = None

    # ---- registers ----

    def _read_register(self, register: Register) -> int:
        return int.from_bytes(self._read_registers(register.address, 1), "big")

    def _write_register(self, register: Register, value: int) -> None:
        self._write_registers(register.address, value.to_bytes(REGISTER_BYTES, "big"))

    def _read_registers(self, address: int, count: int) -> bytes:
        before = self._bone.state.bus_errors
        for _ in range(_TRIES):
            try:
                answer = self._bone.exchange(read_command(address, count), count * REGISTER_BYTES)
            except LinkFault as fault:
                last = fault
                self._bone.recover(fault)
                before = self._bone.state.bus_errors
            else:
                self._check_bus(before, address)
                return answer
        raise self._hopeless(last)

    def _write_registers(self, address: int, data: bytes) -> None:
        before = self._bone.state.bus_errors
        try:
            self._bone.exchange(write_command(address, data))
        except LinkFault as fault:
            self._bone.recover(fault)
            raise BoardError(
                f"A register write to board {self.name} was damaged on its way ({fault}); what the "
                "board did instead is not known. The link is in step again: open the board anew"
            ) from fault
        self._check_bus(before, address)

    def _check_bus(self, before: int, address: int) -> None:
        if self._bone.state.bus_errors != before:
            raise BoardError(f"Board {self.name} has nothing at address {address:#010x}")

    # ---- records ----

    def _write_frames(self, data: memoryview) -> None:
        done = 0
        deadline = time.monotonic() + _RESULT_LIMIT_S
        while done < len(data):
            left = (len(data) - done) // _WORD_BYTES
            words = min(left, self._bone.state.in_free, _STAGED_BURSTS * _BURST_WORDS)
            if words:
                self._commit(data[done : done + words * _WORD_BYTES])
                done += words * _WORD_BYTES
            elif not self._fetch() and time.monotonic() > deadline:
                raise BoardError(f"The engine of board {self.name} hangs: it takes no more words")
            else:
                continue
            deadline = time.monotonic() + _RESULT_LIMIT_S

    def _commit(self, data: memoryview) -> None:
        """Stage words and commit them, as often as it takes until the board has them whole."""
        words = len(data) // _WORD_BYTES
        wanted = (self._in_count + words) & 0xFFFF_FFFF
        burst = _BURST_WORDS * _WORD_BYTES
        staging = b"".join(
            write_command(regs.RECORD_IN, data[at : at + burst], fixed=True)
            for at in range(0, len(data), burst)
        )
        last = LinkFault("it drops whole words that arrived well")
        for _ in range(_TRIES):
            # A commit that does not match drops whatever an earlier try has left staged.
            clearing = self._commitment(b"", wrong=True) if self._bone.state.in_staged else b""
            commands = clearing + staging
            try:
                self._bone.exchange(commands + self._commitment(commands))
            except LinkFault as fault:
                last = fault
                self._bone.recover(fault)
            count = self._bone.state.in_count
            if count == wanted:
                self._in_count = wanted
                return
            if count != self._in_count:
                raise self._lost(f"it counts {count} frame words instead of {wanted}")
        raise self._hopeless(last)

    def _commitment(self, before: bytes, *, wrong: bool = False) -> bytes:
        crc = zlib.crc32(before, self._bone.rx_crc) ^ (0xFFFF_FFFF if wrong else 0)
        return write_command(board.IN_COMMIT, crc.to_bytes(REGISTER_BYTES, "big"))

    def _read_results(self, size: int) -> bytes:
        deadline = time.monotonic() + _RESULT_LIMIT_S
        while len(self._surplus) < size:
            if self._fetch():
                deadline = time.monotonic() + _RESULT_LIMIT_S
            elif time.monotonic() > deadline:
                raise BoardError(
                    f"The engine of board {self.name} hangs: {size} bytes of results were awaited "
                    f"and {len(self._surplus)} came"
                )
        taken = bytes(memoryview(self._surplus)[:size])
        del self._surplus[:size]
        return taken

    def _fetch(self) -> bool:
        """Take what results there are, up to a burst; return whether there were any."""
        for _ in range(_TRIES):
            state = self._bone.state
            taken = (self._out_count - state.out_count) & 0xFFFF  # and not yet acknowledged
            words = min(state.out_level - taken, _BURST_WORDS)
            # It also takes reading back to the first word that has not arrived.
            commands = self._acknowledgement()
            if words:
                count = words * _WORD_BYTES // REGISTER_BYTES
                commands += read_command(regs.RECORD_OUT, count, fixed=True)
            try:
                answer = self._bone.exchange(commands, words * _WORD_BYTES)
            except LinkFault as fault:
                last = fault
                self._bone.recover(fault)
                self._check_place(state.out_count)
            else:
                self._check_place(self._out_count)
                self._surplus += answer
                self._out_count = (self._out_count + words) & 0xFFFF
                return words > 0
        raise self._hopeless(last)

    def _check_place(self, before: int) -> None:
        count = self._bone.state.out_count
        if count not in (before, self._out_count):
            raise self._lost(f"it counts {count} result words taken instead of {self._out_count}")

    def _acknowledgement(self) -> bytes:
        count = self._out_count
        return write_command(board.OUT_ACK, struct.pack(">HH", count, count ^ 0xFFFF))

    # ---- errors ----

    def _require_open(self) -> None:
        if self._line is None:
            raise BoardError(f"Board {self.name} is closed")

    def _lost(self, how: str) -> BoardError:
        return BoardError(
            f"Board {self.name} lost its place ({how}): it was reset or somebody else uses it; "
            "open it anew"
        )

    def _hopeless(self, fault: LinkFault) -> BoardError:
        return BoardError(
            f"The link to board {self.name} damages everything: {_TRIES} tries failed, the last "
            f"because {fault}; check the cable and the baud rate"
        )
