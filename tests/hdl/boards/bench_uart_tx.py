"""The UART transmitter: the level of its pin in every clock."""

import random
from typing import Any

import cocotb
from clocked import clocks, start

CLOCKS_PER_BIT = 4


def frame(byte: int) -> list[int]:
    bits = [0, *(byte >> i & 1 for i in range(8)), 1]
    return [bit for bit in bits for _ in range(CLOCKS_PER_BIT)]


async def send_byte(dut: Any, byte: int) -> list[int]:
    """Send a byte; return the pin at each clock until the next can be taken."""
    assert dut.ready_o.value
    dut.valid_i.value = 1
    dut.data_i.value = byte
    await clocks(dut)
    dut.valid_i.value = 0
    dut.data_i.value = byte ^ 0xFF  # the input must not matter any more
    pin = []
    while not dut.ready_o.value:
        pin.append(int(dut.pin_o.value))
        await clocks(dut)
        assert len(pin) < 200
    return pin


@cocotb.test()
async def idle_line_is_high(dut: Any) -> None:
    await start(dut, valid_i=0, data_i=0)
    for _ in range(100):
        assert dut.pin_o.value
        assert dut.ready_o.value
        await clocks(dut)


@cocotb.test()
async def every_byte(dut: Any) -> None:
    await start(dut, valid_i=0, data_i=0)
    for byte in range(256):
        assert await send_byte(dut, byte) == frame(byte)
        assert dut.pin_o.value


@cocotb.test()
async def back_to_back_and_with_pauses(dut: Any) -> None:
    """Offer a byte all the time: it is taken only after the one before."""
    await start(dut, valid_i=0, data_i=0)
    choice = random.Random(3)
    for _ in range(50):
        byte = choice.randrange(256)
        assert await send_byte(dut, byte) == frame(byte)
        for _ in range(choice.choice((0, 0, 1, 7))):
            assert dut.pin_o.value
            await clocks(dut)
