"""The traffic generator: records, rate, counters and check value."""

import random
from typing import Any

import cocotb
from clocked import clocks, start

ENCRYPT, DECRYPT, BYPASS = 1, 2, 3
MASK = (1 << 128) - 1
IDLE = {
    "start_i": 0,
    "stop_i": 0,
    "op_i": 0,
    "bytes_i": 0,
    "aad_bytes_i": 0,
    "key_every_i": 0,
    "key_busy_i": 0,
    "records_i": 0,
    "seed_i": 0,
    "tag_i": 0,
    "out_ready_i": 0,
    "in_valid_i": 0,
    "in_data_i": 0,
    "in_last_i": 0,
}


def records(op: int, size: int, count: int, seed: int, tag: int, aad: int = 0) -> list[int]:
    """Return all words of a run, as the header of traffic.sv defines them."""
    words = []
    for record in range(count):
        number = 0 if op == DECRYPT else record
        words.append(op << 124 | aad << 116 | size << 96 | 0xFFFF_FFFF << 64 | seed << 32 | number)
        for j in range((aad + 15) // 16):
            words.append((seed << 96 | number << 64 | j << 32 | j ^ 0xFFFF_FFFF) ^ MASK)
        for j in range((size + 15) // 16):
            words.append(seed << 96 | number << 64 | j << 32 | j ^ 0xFFFF_FFFF)
        if op == DECRYPT:
            words.append(tag)
    return words


class Run:
    """A run against an engine that takes and returns words at random clocks."""

    def __init__(self, dut: Any, choice: random.Random) -> None:
        self.dut, self.choice = dut, choice
        self.sent: list[int] = []
        self.clocks = 0

    async def begin(
        self, op: int, size: int, count: int, seed: int, tag: int, aad: int = 0
    ) -> None:
        dut = self.dut
        dut.aad_bytes_i.value = aad
        dut.op_i.value, dut.bytes_i.value, dut.records_i.value = op, size, count
        dut.seed_i.value, dut.tag_i.value = seed, tag
        dut.start_i.value = 1
        await clocks(dut)
        dut.start_i.value = 0

    async def tick(self, open_share: float, answer: tuple[int, bool] | None = None) -> None:
        dut = self.dut
        ready = self.choice.random() < open_share
        dut.out_ready_i.value = int(ready)
        dut.in_valid_i.value = int(answer is not None)
        dut.in_data_i.value = answer[0] if answer else self.choice.getrandbits(128)
        dut.in_last_i.value = int(answer[1]) if answer else self.choice.randrange(2)
        if ready and dut.out_valid_o.value:
            self.sent.append(int(dut.out_data_o.value))
        await clocks(dut)
        self.clocks += 1


@cocotb.test()
async def records_match_the_model(dut: Any) -> None:
    await start(dut, **IDLE)
    choice = random.Random(1)
    for op in (ENCRYPT, DECRYPT, BYPASS):
        for size, count in ((1, 1), (16, 5), (17, 3), (4096, 2), (100, 20)):
            seed, tag = choice.getrandbits(32), choice.getrandbits(128)
            run = Run(dut, choice)
            aad = choice.choice((0, 1, 16, 17, 128))
            await run.begin(op, size, count, seed, tag, aad)
            wanted = records(op, size, count, seed, tag, aad)
            while len(run.sent) < len(wanted):
                await run.tick(0.6)
                assert run.clocks < 5 * len(wanted) + 100
            for _ in range(5):
                await run.tick(1)
            assert run.sent == wanted
            assert dut.busy_o.value  # the results are still to come
            dut.start_i.value = 1  # and no other run begins before
            await run.tick(1)
            dut.start_i.value = 0
            await run.tick(1)
            assert run.sent == wanted
            assert not dut.out_valid_o.value
            for left in range(count, 0, -1):
                assert dut.busy_o.value, left
                await run.tick(1, (0, True))
            assert not dut.busy_o.value


@cocotb.test()
async def full_rate_has_no_bubble(dut: Any) -> None:
    await start(dut, **IDLE)
    run = Run(dut, random.Random(2))
    size = 262144
    await run.begin(ENCRYPT, size, 2, 7, 0)
    for _ in range(2 * (1 + size // 16)):
        await run.tick(1)
    assert run.sent == records(ENCRYPT, size, 2, 7, 0)
    assert not dut.out_valid_o.value
    dut.stop_i.value = 1
    await clocks(dut)
    dut.stop_i.value = 0
    assert not dut.busy_o.value


@cocotb.test()
async def results_are_counted_and_checked(dut: Any) -> None:
    await start(dut, **IDLE)
    choice = random.Random(3)
    for count in (1, 2, 30):
        run = Run(dut, choice)
        await run.begin(ENCRYPT, 16, count, 1, 2)
        check = good = 0
        for record in range(count):
            status = choice.choice((0, 0, 1, 5, 255))
            good += status == 0
            frame = [status << 120 | choice.getrandbits(120)]
            frame += [choice.getrandbits(128) for _ in range(choice.randrange(4))]
            for at, word in enumerate(frame):
                while choice.random() < 0.3:
                    await run.tick(1)
                await run.tick(1, (word, at == len(frame) - 1))
                check = (check << 1 & MASK | check >> 127) ^ word
            assert int(dut.good_o.value) == good
            assert int(dut.bad_o.value) == record + 1 - good
        assert not dut.busy_o.value
        assert int(dut.check_o.value) == check
        await run.tick(1, (1, True))  # a word that belongs to no record
        assert int(dut.check_o.value) == check


@cocotb.test()
async def stop_and_start_at_any_time(dut: Any) -> None:
    """Ignore start during a run and for no records; stop ends the run."""
    await start(dut, **IDLE)
    choice = random.Random(4)
    run = Run(dut, choice)
    await run.begin(ENCRYPT, 16, 0, 1, 0)
    assert not dut.busy_o.value
    for length in range(20):
        await run.begin(DECRYPT, 33, 4, 9, 11)
        run.sent.clear()
        for _ in range(length):
            await run.tick(1)
        dut.start_i.value = 1
        await run.tick(0)
        dut.start_i.value = 0
        while len(run.sent) < length + 1:
            await run.tick(1)
            if not dut.out_valid_o.value:
                break
        wanted = records(DECRYPT, 33, 4, 9, 11)
        assert run.sent == wanted[: len(run.sent)]
        dut.stop_i.value = 1
        await run.tick(0)
        dut.stop_i.value = 0
        assert not dut.busy_o.value
        assert not dut.out_valid_o.value


@cocotb.test()
async def key_is_loaded_between_records(dut: Any) -> None:
    """Load after so many records, none in the engine, and not at the end."""
    await start(dut, **IDLE)
    choice = random.Random(5)
    for every, count in ((1, 4), (3, 9), (2, 5)):
        run = Run(dut, choice)
        dut.key_every_i.value = every
        await run.begin(ENCRYPT, 40, count, 3, 0)
        wanted = records(ENCRYPT, 40, count, 3, 0)
        words = len(wanted) // count
        answered = 0
        while answered < count:
            part = min(every, count - answered)
            for _ in range(40 + 4 * words * part):
                await run.tick(0.7)
            assert run.sent == wanted[: words * (answered + part)], "nothing before the results"
            for _ in range(part):
                assert not dut.key_start_o.value
                await run.tick(1, (0, True))
            answered += part
            if answered == count:
                break
            assert dut.key_start_o.value
            dut.key_busy_i.value = 1
            for _ in range(30):
                await run.tick(1)
                assert not dut.key_start_o.value
            assert len(run.sent) == words * answered, "nothing while the key is loaded"
            dut.key_busy_i.value = 0
        assert not dut.key_start_o.value
        assert not dut.busy_o.value
        assert int(dut.good_o.value) == count
