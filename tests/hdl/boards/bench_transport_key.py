"""The transport key ROM: byte 0 comes first; the key is stable once ready."""

from collections.abc import Iterator
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge

LATENCY = 34
SEED = 0x54415045


def pattern() -> Iterator[int]:
    """Yield the lowest bytes of xorshift32 (Marsaglia 2003, triple 13, 17, 5)."""
    x = SEED
    while True:
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
        yield x & 0xFF


@cocotb.test()
async def key_is_the_first_32_bytes(dut: Any) -> None:
    Clock(dut.clk_i, 10, unit="ns").start()
    bytes_of_pattern = pattern()
    expected = bytes(next(bytes_of_pattern) for _ in range(32))
    for _ in range(2):
        dut.rst_ni.value = 0
        await ClockCycles(dut.clk_i, 3)
        await FallingEdge(dut.clk_i)
        assert not dut.ready_o.value
        assert int(dut.key_o.value) == 0
        dut.rst_ni.value = 1
        for _ in range(LATENCY - 1):
            await FallingEdge(dut.clk_i)
            assert not dut.ready_o.value
        for _ in range(5):
            await FallingEdge(dut.clk_i)
            assert dut.ready_o.value
            assert int(dut.key_o.value).to_bytes(32) == expected
