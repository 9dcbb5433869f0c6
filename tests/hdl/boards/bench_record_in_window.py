"""The record window to the engine, against a model."""

import random
from collections import deque
from typing import Any

import cocotb
from clocked import clocks, start

WORDS = 8
IDLE = {
    "clear_i": 0,
    "write_i": 0,
    "data_i": 0,
    "commit_i": 0,
    "match_i": 0,
    "out_ready_i": 0,
}


class Window:
    """The window, with an engine that takes words at random clocks."""

    def __init__(self, dut: Any, seed: int, taking: float = 0.4) -> None:
        self.dut, self.choice, self.taking = dut, random.Random(seed), taking
        self.seen: list[int] = []

    async def tick(self) -> None:
        ready = self.choice.random() < self.taking
        self.dut.out_ready_i.value = int(ready)
        if ready and self.dut.out_valid_o.value:
            self.seen.append(int(self.dut.out_data_o.value))
        await clocks(self.dut)

    async def write(self, quarter: int) -> None:
        self.dut.write_i.value = 1
        self.dut.data_i.value = quarter
        await self.tick()
        self.dut.write_i.value = 0
        self.dut.data_i.value = self.choice.getrandbits(32)

    async def word(self, word: int) -> None:
        for shift in (96, 64, 32, 0):
            await self.write(word >> shift & 0xFFFF_FFFF)
            while self.choice.random() < 0.2:
                await self.tick()

    async def commit(self, match: bool) -> None:
        self.dut.commit_i.value = 1
        self.dut.match_i.value = int(match)
        await self.tick()
        self.dut.commit_i.value = 0
        self.dut.match_i.value = 0

    def numbers(self) -> tuple[int, int, int]:
        dut = self.dut
        return int(dut.count_o.value), int(dut.free_o.value), int(dut.staged_o.value)


@cocotb.test()
async def only_committed_words_come_out(dut: Any) -> None:
    await start(dut, **IDLE)
    window = Window(dut, 1)
    committed: list[int] = []
    dropped = 0
    for _ in range(300):
        batch = [window.choice.getrandbits(128) for _ in range(window.choice.randrange(WORDS + 1))]
        room = int(dut.free_o.value)
        for word in batch:
            await window.word(word)
        # More words may be free by now, but a word that found no room must not be forgotten.
        fits = len(batch) <= room
        part = window.choice.random() < 0.15
        if part:
            await window.write(window.choice.getrandbits(32))
        match = window.choice.random() < 0.8
        before = window.numbers()[0]
        await window.commit(match)
        after, _, staged = window.numbers()
        assert staged == 0
        if match and fits and not part:
            assert after == before + len(batch)
        if after != before:
            assert match
            assert not part
            assert after == before + len(batch)
            committed += batch
        else:
            dropped += bool(batch)
    for _ in range(100):
        await window.tick()
    assert window.seen == committed
    assert dropped > 20
    assert window.numbers() == (len(committed), WORDS, 0)


@cocotb.test()
async def full_window_drops_the_whole_batch(dut: Any) -> None:
    await start(dut, **IDLE)
    window = Window(dut, 2, taking=0)
    # One word moves on to the register in front of the engine, which takes nothing.
    await window.word(1)
    await window.commit(match=True)
    for _ in range(4):
        await window.tick()
    assert window.numbers() == (1, WORDS, 0)
    for number in range(WORDS):
        await window.word(100 + number)
        assert window.numbers() == (1, WORDS - 1 - number, number + 1)
    await window.word(999)
    await window.commit(match=True)
    assert window.numbers() == (1, WORDS, 0)
    for number in range(WORDS):
        await window.word(200 + number)
    await window.commit(match=True)
    assert window.numbers() == (1 + WORDS, 0, 0)
    window.taking = 1
    for _ in range(20):
        await window.tick()
    assert window.seen == [1, *range(200, 200 + WORDS)]


@cocotb.test()
async def words_stay_inside_before_their_commit(dut: Any) -> None:
    await start(dut, **IDLE)
    window = Window(dut, 3, taking=1)
    for number in range(3):
        await window.word(number)
    for _ in range(20):
        await window.tick()
        assert not dut.out_valid_o.value
    await window.commit(match=True)
    for _ in range(6):
        await window.tick()
    assert window.seen == [0, 1, 2]


@cocotb.test()
async def clear_empties_the_window_at_any_time(dut: Any) -> None:
    await start(dut, **IDLE)
    window = Window(dut, 4, taking=0.1)
    for trial in range(30):
        for _ in range(trial % 4):
            await window.word(window.choice.getrandbits(128))
        if trial % 2:
            await window.commit(match=True)
        await window.word(window.choice.getrandbits(128))
        await window.write(5)
        dut.clear_i.value = 1
        await window.tick()
        dut.clear_i.value = 0
        assert window.numbers() == (0, WORDS, 0)
        window.seen.clear()
        batch = deque(window.choice.getrandbits(128) for _ in range(3))
        for word in batch:
            await window.word(word)
        await window.commit(match=True)
        for _ in range(150):
            await window.tick()
        assert window.seen == list(batch)
