"""A board that is a simulation of the engine, in a child process."""

import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hdl.errors import HdlError
from hdl.files import read_end
from hdl.registers.engine_map import RECORD_OUT
from hdl.sim import wire
from hdl.sim.launch import build_simulation, start_simulation
from hdl.sim.wire import AnswerOutcome, Kind
from hdl.widths import DEFAULT_WIDTH
from hsm.child_process import wait_for_end
from rig.board.protocol import BoardError

# The clock of sim_top.sv. It is below the maximum that place and route reports for the engine.
CLOCK_HZ = 62.5e6

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 10.0
_LOG_TAIL_LINES = 15


def announce(text: str) -> None:
    """Print a notice to standard error."""
    print(text, file=sys.stderr, flush=True)


class SimBoard:
    """The simulated board, built when needed; its process ends at `close`.

    `word_bytes` is the width of the engine's data path. `transport_key` is a file of mode 0600 that
    only the simulation reads. `waves` is the path of an FST waveform; it is complete after `close`.
    `log` is the path of the simulator's output. With `wait` false the constructor does not wait for
    the start; if the start fails, the first access raises BoardError.
    """

    def __init__(
        self,
        *,
        transport_key: Path | None = None,
        waves: Path | None = None,
        log: Path | None = None,
        probes: Sequence[Path] = (),
        clock_hz: float = CLOCK_HZ,
        word_bytes: int = DEFAULT_WIDTH,
        wait: bool = True,
        on_build: Callable[[str], None] | None = announce,
    ) -> None:
        """Build the simulation if needed, start it and, with `wait`, wait for it."""
        self.name = "sim"
        self.clock_hz = clock_hz
        self.in_flight_bytes = 4 << 20
        self.generates_traffic = False
        self.port_counters: int | None = wire.PORT_COUNTERS
        self.link_faults: int | None = None
        self._surplus = bytearray()
        self._scratch: Path | None = None
        if log is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="taperig-sim-"))
            log = self._scratch / "simulation.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        if waves is not None:
            waves.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        try:
            built = build_simulation(
                variant="plain" if waves is None else "waves",
                word_bytes=word_bytes,
                probes=probes,
                on_build=on_build,
            )
        except HdlError as error:
            self._remove_scratch()
            raise BoardError(str(error)) from error
        self._build_directory = built.directory
        connection, simulation_end = socket.socketpair()
        self._connection: socket.socket | None = connection
        try:
            with simulation_end:
                self._process = start_simulation(
                    built, simulation_end.fileno(), log, transport_key=transport_key, waves=waves
                )
        except (OSError, HdlError) as error:
            connection.close()
            self._remove_scratch()
            raise BoardError(f"The simulation cannot be started: {error}") from error
        self._started = False
        if wait:
            self._await_start(connection)

    @property
    def pid(self) -> int:
        """Return the process id of the simulation."""
        return self._process.pid

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

    def read(self, address: int, size: int, count: int) -> bytes:
        """See Board.read."""
        if address != RECORD_OUT:
            return bytes(self._request(Kind.READ, size, address, count))
        wanted = size * count
        if len(self._surplus) < wanted:
            missing = -(-(wanted - len(self._surplus)) // size)
            self._surplus += self._request(Kind.READ, size, address, missing)
        taken = bytes(memoryview(self._surplus)[:wanted])
        del self._surplus[:wanted]
        return taken

    def write(self, address: int, size: int, data: bytes | bytearray | memoryview) -> None:
        """See Board.write."""
        count, rest = divmod(len(data), size)
        if rest:
            raise BoardError(f"{len(data)} bytes are not a whole number of items of {size} bytes")
        self._send(Kind.WRITE, size, address, count, data)
        if (address, size) != wire.UNANSWERED_WRITE:
            self._answer()

    def close(self) -> None:
        """End the simulation, so that waves are complete; kill it if it hangs."""
        if self._connection is None:
            return
        self._connection.close()
        self._connection = None
        if wait_for_end(self._process, _STOP_LIMIT_S) is None:
            self._process.kill()
            self._process.wait()
        self._remove_scratch()

    def _await_start(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(_START_LIMIT_S)
            if self._answer() != wire.HELLO:
                raise BoardError(
                    f"The simulation in {self._build_directory} is of another version; remove "
                    "this folder and start again"
                )
            connection.settimeout(None)
        except BaseException:
            self._kill()
            raise
        self._started = True

    def _request(
        self,
        kind: Kind,
        size: int,
        address: int,
        count: int,
        data: bytes | bytearray | memoryview = b"",
    ) -> bytearray:
        self._send(kind, size, address, count, data)
        return self._answer()

    def _send(
        self, kind: Kind, size: int, address: int, count: int, data: bytes | bytearray | memoryview
    ) -> None:
        if self._connection is None:
            raise BoardError("The simulated board is closed")
        if not self._started:
            self._await_start(self._connection)
        try:
            self._connection.sendall(wire.REQUEST.pack(kind, size, address, count))
            if data:
                self._connection.sendall(data)
        except OSError:
            raise self._crash() from None

    def _answer(self) -> bytearray:
        assert self._connection is not None
        try:
            header = wire.receive(self._connection, wire.ANSWER.size)
            if header is None:
                raise self._crash()
            outcome, length = wire.ANSWER.unpack(header)
            data = wire.receive(self._connection, length)
        except TimeoutError:
            lines = self._log_lines()
            self._kill()
            raise BoardError(
                f"The simulation did not start within {_START_LIMIT_S:.0f} s; "
                f"its log ends:\n{_tail(lines)}"
            ) from None
        except OSError:
            raise self._crash() from None
        if data is None:
            raise self._crash()
        if outcome != AnswerOutcome.OK:
            raise BoardError(f"The simulated board reports: {data.decode(errors='replace')}")
        return data

    def _crash(self) -> BoardError:
        """Close the board, whose process ended; return an error with the cause."""
        wait_for_end(self._process, _STOP_LIMIT_S)
        lines = self._log_lines()
        self._kill()
        messages = [line for line in lines if line.startswith("taperig: ")]
        if messages:
            sentence = messages[-1].removeprefix("taperig: ")
            return BoardError(sentence[:1].upper() + sentence[1:])
        code = self._process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return BoardError(
            f"The simulation stopped by itself ({how}); its log ends:\n{_tail(lines)}"
        )

    def _kill(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._process.kill()
        self._process.wait()
        self._remove_scratch()

    def _log_lines(self) -> list[str]:
        try:
            return read_end(self.log).splitlines()
        except OSError:
            return ["(no log)"]

    def _remove_scratch(self) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _tail(lines: list[str]) -> str:
    return "\n".join(lines[-_LOG_TAIL_LINES:])
