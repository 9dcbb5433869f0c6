"""The UART receiver: bytes, clock deviation, breaks, glitches, stop bits."""

import os
import random
from typing import Any

import cocotb
from clocked import clocks, start

CLOCKS_PER_BIT = int(os.environ["CLOCKS_PER_BIT"])
# The start bit's edge is found within one clock, at worst a quarter of a bit.
TOLERANCE = 0.02 if CLOCKS_PER_BIT == 4 else 0.035


class Line:
    """The receiver's pin, driven by times in clocks; collects received bytes."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.bytes: list[int] = []
        self.errors = 0
        self._behind = 0.0  # the fraction of a clock by which the line is late

    async def hold(self, level: int, duration: float) -> None:
        """Keep the line at a level for a time, which need not be whole clocks."""
        self.dut.pin_i.value = level
        self._behind += duration
        while self._behind >= 1:
            await clocks(self.dut)
            self._behind -= 1
            if self.dut.valid_o.value:
                self.bytes.append(int(self.dut.data_o.value))
            self.errors += int(self.dut.error_o.value)

    async def send(self, byte: int, bit: float = CLOCKS_PER_BIT, stop: int = 1) -> None:
        for level in (0, *(byte >> i & 1 for i in range(8)), stop):
            await self.hold(level, bit)

    async def quiet(self, bits: int = 12) -> None:
        await self.hold(1, bits * CLOCKS_PER_BIT)


@cocotb.test()
async def every_byte_back_to_back(dut: Any) -> None:
    await start(dut, pin_i=1)
    line = Line(dut)
    sent = [*range(256), *random.Random(1).choices(range(256), k=200)]
    for byte in sent:
        await line.send(byte)
    await line.quiet()
    assert line.bytes == sent
    assert line.errors == 0


@cocotb.test()
async def fast_and_slow_lines_are_received(dut: Any) -> None:
    """Deviate by a few percent in both directions, at any phase of the clock."""
    await start(dut, pin_i=1)
    choice = random.Random(2)
    for error in (-TOLERANCE, -TOLERANCE / 2, TOLERANCE / 2, TOLERANCE):
        line = Line(dut)
        sent = choice.choices(range(256), k=100)
        for byte in sent:
            await line.send(byte, CLOCKS_PER_BIT * (1 + error))
            await line.hold(1, choice.random() * 3)
        await line.quiet()
        assert line.bytes == sent, error
        assert line.errors == 0


@cocotb.test()
async def byte_without_stop_bit_is_dropped(dut: Any) -> None:
    await start(dut, pin_i=1)
    for bad in (0x00, 0x55, 0xFF, 0x80):
        line = Line(dut)
        await line.send(0x31)
        await line.send(bad, stop=0)
        await line.quiet(2)
        await line.send(0x32)
        await line.quiet()
        assert line.bytes == [0x31, 0x32]
        assert line.errors == 1


@cocotb.test()
async def break_is_one_error(dut: Any) -> None:
    await start(dut, pin_i=1)
    line = Line(dut)
    await line.hold(0, 100 * CLOCKS_PER_BIT)
    await line.quiet(2)
    await line.send(0xA5)
    await line.quiet()
    assert line.bytes == [0xA5]
    assert line.errors == 1


@cocotb.test()
async def short_glitch_begins_no_byte(dut: Any) -> None:
    await start(dut, pin_i=1)
    line = Line(dut)
    for width in range(1, CLOCKS_PER_BIT // 2):
        await line.hold(0, width)
        await line.quiet()
    await line.send(0x5A)
    await line.quiet()
    assert line.bytes == [0x5A]
    assert line.errors == 0
