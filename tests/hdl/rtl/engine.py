"""The engine's driver for benches: registers by APB, records by queues."""

import ctypes
import functools
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge, SimTimeoutError, with_timeout

from hdl.registers import engine_map as regs
from hdl.registers.describe import describe
from hdl.registers.types import Counter, Register, RegisterField

WORD = 16
TRANSPORT_KEY = bytes.fromhex("a5" * 16 + "3c" * 16)
POLL_LIMIT = 20_000
STATE_LIMIT_NS = 10_000


def engine_test(bench: Callable[[Any], Coroutine[Any, Any, None]]) -> Any:
    """Make a cocotb test of a bench; its failure says what STATUS was."""

    @cocotb.test()
    @functools.wraps(bench)
    async def test(dut: Any) -> None:
        try:
            await bench(dut)
        except Exception as error:
            try:
                state = await with_timeout(EngineDriver(dut).state(), STATE_LIMIT_NS, "ns")
            except SimTimeoutError:
                state = "STATUS cannot be read"
            raise AssertionError(f"{error or type(error).__name__}\n{state}") from error

    return test


class Op(IntEnum):
    ENCRYPT = 1
    DECRYPT = 2
    BYPASS = 3


class Status(IntEnum):
    OK = 0
    TAG_MISMATCH = 1
    NO_KEY = 2
    BAD_FRAME = 3
    NOT_READY = 4
    ZEROIZED = 5


@dataclass(frozen=True)
class Record:
    op: int
    data: bytes
    iv: bytes = bytes(12)
    aad: bytes = b""
    tag: bytes = b""

    def frame(self, pad: int = 0) -> bytes:
        """Return the frame of this record; padding bytes are `pad`."""
        return b"".join(
            (
                header(self.op, len(self.aad), len(self.data), self.iv),
                _padded(self.aad, pad),
                _padded(self.data, pad),
                self.tag if self.op == Op.DECRYPT else b"",
            )
        )


@dataclass(frozen=True)
class Result:
    status: Status
    op: int
    data_len: int
    data: bytes
    tag: bytes
    pad: bytes


def header(op: int, aad_len: int, data_len: int, iv: bytes = bytes(12), rsvd: int = 0) -> bytes:
    first = op << 28 | aad_len << 20 | rsvd << 19 | data_len
    return first.to_bytes(4, "big") + iv


def _padded(data: bytes, pad: int) -> bytes:
    return data + bytes([pad]) * (-len(data) % WORD)


def parse_results(stream: bytes) -> list[Result]:
    """Parse complete result frames."""
    results = []
    at = 0
    while at < len(stream):
        first = int.from_bytes(stream[at : at + 4], "big")
        assert not any(stream[at + 4 : at + WORD]), "the header's lower bits are not zero"
        status, op, length = Status(first >> 24), first >> 20 & 0xF, first & 0x7FFFF
        at += WORD
        data = tag = pad = b""
        if status == Status.OK:
            data = stream[at : at + length]
            pad = stream[at + length : at + length + -length % WORD]
            at += length + -length % WORD
            if op == Op.ENCRYPT:
                tag = stream[at : at + WORD]
                at += WORD
        results.append(Result(status, op, length, data, tag, pad))
    assert at == len(stream), "the last frame is too short"
    return results


class EngineDriver:
    """The driver of engine_top."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.refused = False
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
        self._drop = library.record_port_drop
        self._drop.argtypes = []
        self._drop.restype = None
        self._frame_ends = library.frame_ends_take
        self._frame_ends.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._frame_ends.restype = ctypes.c_size_t

    async def power_on(self, *, wait: bool = True) -> None:
        """Reset the engine and wait until its self test has ended."""
        dut = self.dut
        for name in ("psel_i", "penable_i", "pwrite_i", "paddr_i", "pwdata_i", "record_watch_i"):
            getattr(dut, name).value = 0
        for name in ("lose_i", "repeat_i"):
            getattr(dut, name).value = 0
        dut.source_open_i.value = 256
        dut.sink_open_i.value = 256
        dut.transport_key_i.value = int.from_bytes(TRANSPORT_KEY, "big")
        dut.rst_ni.value = 0
        await ClockCycles(dut.clk_o, 3)
        self._drop()  # also frames that a failed test has left: reset loses a word of them
        dut.rst_ni.value = 1
        self.drop()
        if wait:
            await self.until(regs.STATUS_SELF_TEST_DONE)

    def stalls(self, source: int, sink: int) -> None:
        """Open the source and the sink in this many of 256 clocks."""
        self.dut.source_open_i.value = source
        self.dut.sink_open_i.value = sink

    # ---- registers ----

    async def access(self, address: int, value: int | None, strobes: int = 0b1111) -> int:
        """Read, or write with byte strobes; `refused` says what pslverr was."""
        dut = self.dut
        await FallingEdge(dut.clk_o)
        dut.psel_i.value = 1
        dut.penable_i.value = 0
        dut.pwrite_i.value = int(value is not None)
        dut.paddr_i.value = address
        dut.pwdata_i.value = value or 0
        dut.pstrb_i.value = strobes
        await FallingEdge(dut.clk_o)
        dut.penable_i.value = 1
        while True:
            await RisingEdge(dut.clk_o)
            if dut.pready_o.value:
                break
        result = int(dut.prdata_o.value)
        self.refused = bool(dut.pslverr_o.value)
        await FallingEdge(dut.clk_o)
        dut.psel_i.value = 0
        dut.penable_i.value = 0
        dut.pwdata_i.value = 0
        return result

    async def read(self, register: Register, index: int = 0) -> int:
        return await self.access(register.address + 4 * index, None)

    async def write(self, register: Register, value: int, index: int = 0) -> None:
        await self.access(register.address + 4 * index, value)

    async def command(self, *fields: RegisterField) -> None:
        await self.write(regs.CTRL, sum(field.put(1) for field in fields))

    async def status(self, field: RegisterField) -> bool:
        return bool(field.get(await self.read(regs.STATUS)))

    async def until(self, field: RegisterField, value: int = 1) -> None:
        for _ in range(POLL_LIMIT):
            if field.get(await self.read(regs.STATUS)) == value:
                return
        raise AssertionError(f"{field.name} does not become {value}")

    async def state(self) -> str:
        """Return STATUS in words."""
        return describe(regs.STATUS, await self.read(regs.STATUS))

    async def write_key(self, register: Register, key: bytes) -> None:
        assert len(key) == 4 * register.count
        for i in range(register.count):
            await self.write(register, int.from_bytes(key[4 * i : 4 * i + 4], "big"), i)

    async def load_plain(self, key: bytes) -> None:
        await self.write_key(regs.PLAIN_KEY, key)
        await self.command(regs.CTRL_LOAD_PLAIN)
        await self.until(regs.STATUS_KEY_LOADING, 0)

    async def load_sealed(self, blob: bytes) -> None:
        await self.write_key(regs.SEALED_KEY, blob)
        await self.command(regs.CTRL_LOAD_SEALED)
        await self.until(regs.STATUS_KEY_LOADING, 0)

    async def zeroize(self) -> None:
        await self.command(regs.CTRL_ZEROIZE)
        await self.until(regs.STATUS_ZEROIZING, 0)

    async def counter(self, counter: Counter) -> int:
        low = await self.read(counter.low)
        return await self.read(counter.high) << 32 | low

    # ---- records ----

    def push(self, frames: bytes) -> None:
        """Queue frames."""
        buffer = bytearray(frames)
        self._push(_address(buffer), len(buffer))

    def take(self) -> bytes:
        """Return the result bytes that are ready."""
        buffer = bytearray(self._want(0))
        self._pop(_address(buffer), len(buffer))
        return bytes(buffer)

    def drop(self) -> None:
        """Discard the results that are ready."""
        self.take()
        self.frame_ends()

    def frame_ends(self) -> list[tuple[int, int]]:
        """Return (words, end clock) of each frame since the last call."""
        count = 1 << 16
        numbers = (ctypes.c_int32 * count)()
        had = self._frame_ends(ctypes.addressof(numbers), count)
        assert had <= count
        return [(numbers[i], numbers[i + 1]) for i in range(0, had, 2)]

    async def wait(self, size: int) -> bytes:
        """Run the clock until `size` bytes are ready; return all result bytes."""
        if self._want(size) < size:
            self.dut.record_watch_i.value = 1
            await RisingEdge(self.dut.record_wake_o)
            self.dut.record_watch_i.value = 0
        return self.take()

    async def answers(self, count: int) -> tuple[bytes, list[tuple[int, int]]]:
        """Wait for `count` frames; return their bytes, and words and end of each."""
        stream = b""
        ends: list[tuple[int, int]] = []
        while len(ends) < count:
            words = await self.wait(WORD)
            stream += words
            more = self.frame_ends()
            ends += more
            assert words or more, f"the engine hangs after {len(ends)} of {count} frames"
            if not more:  # a frame is still incomplete
                await ClockCycles(self.dut.clk_o, 100)
        return stream, ends

    async def process(self, records: Sequence[Record], pad: int = 0) -> list[Result]:
        """Send records back to back and return their results."""
        self.push(b"".join(record.frame(pad) for record in records))
        stream, _ = await self.answers(len(records))
        results = parse_results(stream)
        assert len(results) == len(records)
        return results


def _address(data: bytearray) -> Any:
    return (ctypes.c_ubyte * len(data)).from_buffer(data) if data else None
