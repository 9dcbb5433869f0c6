"""The simulation's server: a cocotb test that executes bus requests.

It ends when its socket closes. While it waits for a request it blocks inside the simulator, so no
simulated time passes. Between two reads of results it runs ahead with the frames that it has, so
that host and simulation work at the same time.
"""

import contextlib
import ctypes
import os
import socket
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge, Timer

from hdl.registers.engine_map import RECORD_IN, RECORD_OUT
from hdl.sim.wire import HELLO, REQUEST, SOCKET_VARIABLE, AnswerOutcome, Kind, receive, send_answer

REGISTER_BYTES = 4
CLOCK_NS = 16

# An APB access that has no answer after this many clocks never gets one.
_BUS_LIMIT_CLOCKS = 1000

# A host that polls a register waits for a change: the clocks between reads double, up to this.
_POLL_LIMIT_CLOCKS = 4096


class RequestError(Exception):
    """A request failed; the error's text is the answer."""


class RecordPort:
    """The queues of record_port.cpp, which is linked into this process."""

    def __init__(self, dut: Any) -> None:
        """Look up the functions of the queues."""
        self._dut = dut
        library = ctypes.CDLL(None)
        self._push = library.record_port_push
        self._push.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._push.restype = None
        self._want = library.record_port_want
        self._want.argtypes = [ctypes.c_size_t]
        self._want.restype = ctypes.c_size_t
        self._pop = library.record_port_pop
        self._pop.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._pop.restype = ctypes.c_size_t
        self._run_ahead = library.record_port_run_ahead
        self._run_ahead.argtypes = [ctypes.c_int]
        self._run_ahead.restype = ctypes.c_size_t

    def write(self, data: bytearray) -> None:
        """Queue frame words for the engine."""
        self._push(_address(data), len(data))

    async def read(self, size: int) -> bytearray:
        """Run the clock until `size` bytes of results are ready; return all ready."""
        available = self._want(size)
        if available < size:
            await self._run()
            available = self._want(0)
            if available < size:
                limit = self._dut.CycleLimit.value.to_unsigned()
                raise RequestError(
                    f"the engine hangs: no word moved for {limit} clocks, and {available} of "
                    f"{size} bytes of results are ready"
                )
        data = bytearray(available)
        self._pop(_address(data), len(data))
        return data

    async def run_ahead(self, descriptor: int) -> None:
        """Run the clock until all results are ready or `descriptor` is readable."""
        if self._run_ahead(descriptor):
            await self._run()
        self._run_ahead(-1)

    async def _run(self) -> None:
        """Run the clock without Python; see main.cpp."""
        self._dut.record_watch_i.value = 1
        await RisingEdge(self._dut.record_wake_o)
        self._dut.record_watch_i.value = 0


class RegisterBus:
    """The APB port of the engine."""

    def __init__(self, dut: Any) -> None:
        """Set the bus idle."""
        self._dut = dut
        self._polled: int | None = None
        self._poll_clocks = 1
        for signal in (dut.psel_i, dut.penable_i, dut.pwrite_i, dut.paddr_i, dut.pwdata_i):
            signal.value = 0

    async def read(self, address: int, count: int) -> bytes:
        """Read `count` registers at rising addresses."""
        if count == 1 and address == self._polled:
            self._poll_clocks = min(2 * self._poll_clocks, _POLL_LIMIT_CLOCKS)
            await Timer(self._poll_clocks * CLOCK_NS, "ns")
        else:
            self._polled = address
            self._poll_clocks = 1
        values = [await self._access(address + REGISTER_BYTES * i, None) for i in range(count)]
        return b"".join(value.to_bytes(REGISTER_BYTES, "big") for value in values)

    async def write(self, address: int, data: bytes | bytearray) -> None:
        """Write registers at rising addresses."""
        self._polled = None
        for at in range(0, len(data), REGISTER_BYTES):
            await self._access(address + at, int.from_bytes(data[at : at + REGISTER_BYTES], "big"))

    async def _access(self, address: int, value: int | None) -> int:
        dut = self._dut
        await RisingEdge(dut.clk_i)
        dut.psel_i.value = 1
        dut.penable_i.value = 0
        dut.pwrite_i.value = value is not None
        dut.paddr_i.value = address
        dut.pwdata_i.value = value or 0
        await RisingEdge(dut.clk_i)
        dut.penable_i.value = 1
        for _ in range(_BUS_LIMIT_CLOCKS):
            await RisingEdge(dut.clk_i)
            if dut.pready_o.value:
                break
        else:
            raise RequestError(f"the register bus does not answer at address {address:#010x}")
        result = dut.prdata_o.value.to_unsigned() if value is None else 0
        refused = bool(dut.pslverr_o.value)
        dut.psel_i.value = 0
        dut.penable_i.value = 0
        dut.pwdata_i.value = 0
        if refused:
            raise RequestError(f"the engine refuses the access to address {address:#010x}")
        return result


class SimulationServer:
    """Executes requests on the record port and the register bus."""

    def __init__(self, dut: Any, connection: socket.socket) -> None:
        """Serve `connection`."""
        self._dut = dut
        self._connection = connection
        self._records = RecordPort(dut)
        self._registers = RegisterBus(dut)

    async def run(self) -> None:
        """Serve until the other side closes."""
        dut = self._dut
        dut.record_watch_i.value = 0
        await RisingEdge(dut.rst_ni)
        send_answer(self._connection, AnswerOutcome.OK, HELLO)
        reading = False
        while True:
            if reading:
                await self._records.run_ahead(self._connection.fileno())
            header = receive(self._connection, REQUEST.size)
            if header is None:
                return
            kind, size, address, count = REQUEST.unpack(header)
            # Only between reads of results does the host work meanwhile; run ahead only then.
            reading = address == RECORD_OUT or (reading and address == RECORD_IN)
            payload = bytearray()
            if kind != Kind.READ:
                received = receive(self._connection, size * count)
                if received is None:
                    return
                payload = received
            try:
                answer = await self._execute(kind, size, address, count, payload)
            except RequestError as error:
                send_answer(self._connection, AnswerOutcome.ERROR, str(error).encode())
            else:
                if answer is not None:
                    send_answer(self._connection, AnswerOutcome.OK, answer)

    async def _execute(
        self, kind: int, size: int, address: int, count: int, payload: bytearray
    ) -> bytes | bytearray | None:
        match kind, address, size:
            case Kind.WRITE, _, 4 if address < RECORD_IN:
                await self._registers.write(address, payload)
                return b""
            case Kind.READ, _, 4 if address < RECORD_IN:
                return await self._registers.read(address, count)
            case Kind.WRITE, address_, 16 if address_ == RECORD_IN:
                self._records.write(payload)
                return None
            case Kind.READ, address_, 16 if address_ == RECORD_OUT:
                return await self._records.read(size * count)
            case Kind.PEEK, _, _:
                return self._peek(payload.decode())
        raise RequestError(
            f"no access of kind {kind} with items of {size} bytes at address {address:#010x}"
        )

    def _peek(self, path: str) -> bytes:
        handle = self._dut
        try:
            for name in path.split("."):
                handle = getattr(handle, name)
            value = handle.value
        except AttributeError as error:
            raise RequestError(f"{path} cannot be seen in this build") from error
        return bytes(value.to_unsigned().to_bytes((len(value) + 7) // 8, "big"))


def _address(data: bytearray) -> Any:
    return (ctypes.c_ubyte * len(data)).from_buffer(data) if data else None


@cocotb.test()
async def serve(dut: Any) -> None:
    """Serve the socket that the parent process passed on."""
    connection = socket.socket(fileno=int(os.environ[SOCKET_VARIABLE]))
    # A host that closes while it waits for an answer is no error.
    with connection, contextlib.suppress(ConnectionError):
        await SimulationServer(dut, connection).run()
