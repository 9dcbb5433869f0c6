"""The frame tracker: it passes every word; a flush ends the open record."""

import random
from typing import Any

import cocotb
from clocked import clocks, start
from cocotb.triggers import Timer

ENCRYPT, DECRYPT, BYPASS = 1, 2, 3
IDLE = {
    "flush_i": 0,
    "in_valid_i": 0,
    "in_data_i": 0,
    "engine_in_ready_i": 0,
    "engine_out_valid_i": 0,
    "engine_out_last_i": 0,
    "out_ready_i": 0,
}


def header(op: int, aad: int, data: int) -> int:
    return op << 124 | aad << 116 | data << 96 | random.getrandbits(96)


def words(head: int) -> int:
    """Return how many words follow a header: AAD, data, tag when decrypting."""
    op, aad, data = head >> 124, head >> 116 & 255, head >> 96 & 0x7FFFF
    return (aad + 15) // 16 + (data + 15) // 16 + (op == DECRYPT)


class Engine:
    """An engine that takes frames at random clocks and answers with two words."""

    def __init__(self, dut: Any, seed: int) -> None:
        self.dut, self.choice = dut, random.Random(seed)
        self.frames: list[list[int]] = []
        self.answers: list[
            tuple[int, bool]
        ] = []  # words still to come, and whether each is the last
        self.passed_on = 0

    def whole(self, frame: list[int]) -> bool:
        return len(frame) == 1 + words(frame[0])

    @property
    def inside(self) -> bool:
        return bool(self.frames) and not self.whole(self.frames[-1])

    async def tick(self, open_share: float = 0.7) -> bool:
        """Run one clock; return whether a word from the board was taken."""
        dut = self.dut
        ready = self.choice.random() < open_share
        valid = bool(self.answers) and self.choice.random() < 0.5
        dut.engine_in_ready_i.value = int(ready)
        dut.engine_out_valid_i.value = int(valid)
        dut.engine_out_last_i.value = int(self.answers[0][1]) if valid else 0
        await Timer(1, unit="ns")
        taken = bool(dut.in_ready_o.value) and bool(dut.in_valid_i.value)
        if ready and dut.engine_in_valid_o.value:
            word = int(dut.engine_in_data_o.value)
            if not self.inside:
                self.frames.append([])
            self.frames[-1].append(word)
            if not self.inside:
                self.answers += [(0, False), (1, True)]
        if valid and dut.engine_out_ready_o.value:
            self.answers.pop(0)
            self.passed_on += bool(dut.out_valid_o.value) and bool(dut.out_ready_i.value)
        await clocks(dut)
        return taken


async def send(engine: Engine, sent: list[int]) -> None:
    for word in sent:
        engine.dut.in_valid_i.value = 1
        engine.dut.in_data_i.value = word
        while not await engine.tick():
            pass
    engine.dut.in_valid_i.value = 0


def random_frame(choice: random.Random) -> list[int]:
    op = choice.choice((ENCRYPT, DECRYPT, BYPASS))
    head = header(op, choice.choice((0, 1, 16, 17, 64)), choice.choice((0, 1, 15, 16, 17, 90)))
    return [head, *(choice.getrandbits(128) for _ in range(words(head)))]


@cocotb.test()
async def every_word_passes_without_a_flush(dut: Any) -> None:
    await start(dut, **IDLE)
    engine = Engine(dut, 1)
    dut.out_ready_i.value = 1
    frames = [random_frame(engine.choice) for _ in range(60)]
    for frame in frames:
        await send(engine, frame)
    for _ in range(600):
        await engine.tick()
    assert engine.frames == frames
    assert engine.passed_on == 2 * len(frames)
    assert not dut.flushing_o.value


@cocotb.test()
async def flush_pads_the_open_record_and_drops_its_results(dut: Any) -> None:
    """Flush at any word; the board's side waits, then a new record passes."""
    await start(dut, **IDLE)
    engine = Engine(dut, 2)
    for cut in range(24):
        engine.frames.clear()
        frame = [header(DECRYPT, 33, 290)]
        frame += [engine.choice.getrandbits(128) for _ in range(words(frame[0]))]
        assert len(frame) == 24
        dut.out_ready_i.value = 0  # results that nobody takes must not stop the flush
        await send(engine, random_frame(engine.choice))
        await send(engine, frame[:cut])
        passed_on = engine.passed_on
        dut.flush_i.value = 1
        await engine.tick()
        dut.flush_i.value = 0
        dut.in_valid_i.value = 1
        dut.in_data_i.value = (1 << 128) - 1
        for _ in range(500):
            if not dut.flushing_o.value:
                break
            assert not dut.in_ready_o.value
            dut.out_ready_i.value = engine.choice.randrange(2)
            await engine.tick()
        assert not dut.flushing_o.value, cut
        dut.in_valid_i.value = 0
        assert engine.passed_on == passed_on
        assert not engine.answers
        assert all(map(engine.whole, engine.frames))
        assert len(engine.frames) == (2 if cut else 1)
        if cut:
            assert engine.frames[1] == frame[:cut] + [0] * (24 - cut)
        dut.out_ready_i.value = 1
        new = random_frame(engine.choice)
        await send(engine, new)
        for _ in range(40):
            await engine.tick()
        assert engine.frames[-1] == new
        assert engine.passed_on == passed_on + 2
