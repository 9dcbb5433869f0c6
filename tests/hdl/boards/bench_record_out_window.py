"""The record window to the host, against a model."""

import random
from typing import Any

import cocotb
from clocked import clocks, start
from cocotb.triggers import Timer

WORDS = 8
IDLE = {
    "clear_i": 0,
    "in_valid_i": 0,
    "in_data_i": 0,
    "read_i": 0,
    "ack_i": 0,
    "ack_data_i": 0,
}


class Window:
    """The window, with an engine that sends words at random clocks."""

    def __init__(self, dut: Any, seed: int, sending: float = 0.3) -> None:
        self.dut, self.choice, self.sending = dut, random.Random(seed), sending
        self.sent: list[int] = []

    async def tick(self) -> None:
        word = self.choice.getrandbits(128)
        valid = self.choice.random() < self.sending
        self.dut.in_valid_i.value = int(valid)
        self.dut.in_data_i.value = word
        if valid and self.dut.in_ready_o.value:
            self.sent.append(word)
        await clocks(self.dut)

    async def read(self) -> int | None:
        """Read a quarter of a word; return None when there was none."""
        self.dut.read_i.value = 1
        await self.tick()
        assert not self.dut.ready_o.value
        await self.tick()
        assert self.dut.ready_o.value
        empty = bool(self.dut.empty_o.value)
        data = int(self.dut.data_o.value)
        await self.tick()
        self.dut.read_i.value = 0
        assert not empty or data == 0
        return None if empty else data

    async def word(self) -> int | None:
        quarters = [await self.read() for _ in range(4)]
        if quarters[0] is None:
            return None
        word = 0
        for quarter in quarters:
            assert quarter is not None
            word = word << 32 | quarter
        return word

    async def acknowledge(self, number: int, damage: int = 0) -> bool:
        """Acknowledge; return whether it was refused."""
        number &= 0xFFFF
        self.dut.ack_i.value = 1
        self.dut.ack_data_i.value = (number << 16 | number ^ 0xFFFF) ^ damage
        await Timer(1, unit="ns")
        refused = bool(self.dut.bad_ack_o.value)
        await self.tick()
        self.dut.ack_i.value = 0
        return refused


@cocotb.test()
async def results_are_read_in_order_and_again(dut: Any) -> None:
    await start(dut, **IDLE)
    window = Window(dut, 1)
    acknowledged = 0
    for _ in range(400):
        at = acknowledged
        for _ in range(window.choice.randrange(WORDS + 2)):
            there = len(window.sent) > at
            word = await window.word() if there else None
            if word is None:
                break
            assert word == window.sent[at]
            at += 1
        if window.choice.random() < 0.3:
            await window.read()  # a quarter, or nothing: the acknowledgement discards it
        new = window.choice.choice((acknowledged, at, (acknowledged + at) // 2))
        assert not await window.acknowledge(new)
        acknowledged = new
        assert int(dut.count_o.value) == acknowledged & 0xFFFF
        assert int(dut.level_o.value) == len(window.sent) - acknowledged
        assert int(dut.level_o.value) <= WORDS
    assert acknowledged > 300


@cocotb.test()
async def full_window_stalls_the_engine_until_an_acknowledgement(dut: Any) -> None:
    await start(dut, **IDLE)
    window = Window(dut, 2, sending=1)
    for _ in range(3 * WORDS):
        await window.tick()
    assert len(window.sent) == WORDS
    assert not dut.in_ready_o.value
    for number in range(WORDS):
        assert await window.word() == window.sent[number]
    assert not dut.in_ready_o.value  # words that were read are kept until acknowledged
    assert not await window.acknowledge(3)
    for _ in range(10):
        await window.tick()
    assert len(window.sent) == WORDS + 3
    assert await window.word() == window.sent[3]


@cocotb.test()
async def bad_acknowledgements_only_reset_the_read_position(dut: Any) -> None:
    await start(dut, **IDLE)
    window = Window(dut, 3, sending=0)
    window.sending = 1
    for _ in range(5):
        await window.tick()
    window.sending = 0
    assert len(window.sent) == 5
    assert not await window.acknowledge(2)
    for bit in range(32):
        assert await window.acknowledge(3, damage=1 << bit)
    for byte in range(4):
        assert await window.acknowledge(3, damage=window.choice.randrange(1, 256) << 8 * byte)
    for number in (1, 6, 7, 2 + 0x8000, 0xFFFF):  # fewer than before, or more than are ready
        assert await window.acknowledge(number)
    assert (int(dut.count_o.value), int(dut.level_o.value)) == (2, 3)
    for _ in range(2):
        assert await window.word() == window.sent[2]
        assert await window.read() is not None
        assert await window.acknowledge(9)


@cocotb.test()
async def count_wraps(dut: Any) -> None:
    await start(dut, **IDLE)
    window = Window(dut, 4, sending=1)
    acknowledged = 0
    while acknowledged < 0x1_0010:
        acknowledged = len(window.sent)
        assert not await window.acknowledge(acknowledged)
        for _ in range(WORDS):
            await window.tick()
        if acknowledged < 0xFF00:  # reach this count without reading everything
            continue
        assert int(dut.count_o.value) == acknowledged & 0xFFFF
        assert await window.word() == window.sent[acknowledged]


@cocotb.test()
async def read_during_a_clear_returns_nothing(dut: Any) -> None:
    await start(dut, **IDLE)
    window = Window(dut, 5, sending=1)
    for phase in range(4):
        for _ in range(4):
            await window.tick()
        assert await window.read() is not None
        dut.read_i.value = 1
        for _ in range(phase):
            await clocks(dut)
        dut.clear_i.value = 1
        dut.in_valid_i.value = 0
        waited = 0
        await clocks(dut)
        while not dut.ready_o.value:
            await clocks(dut)
            waited += 1
            assert waited < 4, "a read is never answered"
        assert dut.empty_o.value
        assert dut.data_o.value == 0
        await clocks(dut)
        dut.read_i.value = 0
        await clocks(dut)
        dut.clear_i.value = 0
        assert (int(dut.count_o.value), int(dut.level_o.value)) == (0, 0)
        window.sent.clear()
        await window.tick()
        assert await window.word() == window.sent[0]
        dut.clear_i.value = 1
        dut.in_valid_i.value = 0
        await clocks(dut)
        dut.clear_i.value = 0
