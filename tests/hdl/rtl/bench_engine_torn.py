"""Words that are lost or come twice: one record is refused.

The build shows every register and memory (engine_visible.vlt) and has banks of 4096 bytes.
"""

import random
from typing import Any

from bench_engine_records import check, random_record, start_engine
from bench_engine_ring import text_words, used_places
from bench_engine_zeroize import values_left
from cocotb.triggers import ClockCycles, FallingEdge
from engine import WORD, EngineDriver, Op, Record, Result, Status, engine_test, parse_results

from hdl.registers import engine_map as regs


async def until_taken(dut: Any, words: int) -> None:
    """Run the clock until the engine or the bench has taken so many words."""
    for _ in range(200_000):
        if int(dut.taken_o.value) >= words:
            return
        await FallingEdge(dut.clk_o)
    raise AssertionError(f"word {words} is not taken")


class Source:
    """Sends whole frames, and frames of which a word is lost or comes twice."""

    def __init__(self, engine: EngineDriver) -> None:
        self.engine = engine
        self.words = int(engine.dut.taken_o.value)

    def push(self, frames: bytes) -> None:
        self.engine.push(frames)
        self.words += len(frames) // WORD

    async def tear(self, frame: bytes, word: int, *, lost: bool) -> None:
        dut = self.engine.dut
        at = WORD * word
        self.push(frame[:at])
        await until_taken(dut, self.words)
        (dut.lose_i if lost else dut.repeat_i).value = 1
        self.push(frame[at : at + WORD])
        await until_taken(dut, self.words)
        dut.lose_i.value = dut.repeat_i.value = 0
        if not lost:
            self.words += 1
            await until_taken(dut, self.words)
        self.push(frame[at + WORD :])


async def start_with_key(dut: Any) -> tuple[EngineDriver, Source, bytes]:
    """Start the engine and load a random key."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    return engine, Source(engine), key


def record_to_tear(key: bytes, length: int, op: Op) -> Record:
    """Return a record of which the second word is no header.

    Without its first word, some short ones would be whole frames: nobody could tell.
    """
    ops = {int(each) for each in Op}
    while (record := random_record(key, length, op)).frame()[WORD] >> 4 in ops:
        pass
    return record


async def results(engine: EngineDriver, count: int) -> list[Result]:
    """Return the results of `count` frames; none follows."""
    stream, _ = await engine.answers(count)
    await engine.until(regs.STATUS_IDLE)
    await ClockCycles(engine.dut.clk_o, 200)
    assert engine.take() == b""
    assert not await engine.status(regs.STATUS_FAULT)
    assert used_places(engine.dut) == 0
    return parse_results(stream)


@engine_test
async def word_lost_or_repeated_costs_one_record(dut: Any) -> None:
    """Lose or repeat each word but the last; all other records are good."""
    engine, source, key = await start_with_key(dut)
    for op in Op:
        for length in (1, 100):
            bad = record_to_tear(key, length, op)
            words = len(bad.frame()) // WORD
            for word in range(words - 1):
                for lost in (True, False):
                    before, after = (random_record(key, 60) for _ in range(2))
                    source.push(before.frame())
                    await source.tear(bad.frame(), word, lost=lost)
                    source.push(after.frame())
                    found = await results(engine, 3)
                    what = (op, length, word, lost)
                    assert found[1].status == Status.BAD_FRAME or word == 0, what
                    assert found[1].status != Status.OK, what
                    check(key, [before, after], [found[0], found[2]])


@engine_test
async def lost_last_word_costs_the_next_record_too(dut: Any) -> None:
    engine, source, key = await start_with_key(dut)
    for op in Op:
        bad, merged, after = (random_record(key, 90, each) for each in (op, Op.ENCRYPT, op))
        await source.tear(bad.frame(), len(bad.frame()) // WORD - 1, lost=True)
        source.push(merged.frame() + after.frame())
        found = await results(engine, 2)
        assert found[0].status == Status.BAD_FRAME
        check(key, [after], [found[1]])


@engine_test
async def last_word_that_comes_twice_is_a_frame_of_its_own(dut: Any) -> None:
    engine, source, key = await start_with_key(dut)
    first, after = (random_record(key, 160, Op.BYPASS) for _ in range(2))
    first = Record(Op.BYPASS, bytes(160), first.iv)
    await source.tear(first.frame(), len(first.frame()) // WORD - 1, lost=False)
    source.push(after.frame())
    found = await results(engine, 3)
    check(key, [first, after], [found[0], found[2]])
    assert found[1].status == Status.BAD_FRAME


@engine_test
async def frames_of_a_header_alone_are_held_to_their_end(dut: Any) -> None:
    engine, source, key = await start_with_key(dut)
    empty = Record(Op.ENCRYPT, b"", random.randbytes(12))
    await source.tear(empty.frame(), 0, lost=False)
    source.push(empty.frame())
    found = await results(engine, 3)
    # The word that came again is a frame of its own: a header alone, and right.
    check(key, [empty] * 3, found)


@engine_test
async def text_of_a_torn_record_is_zeroed(dut: Any) -> None:
    engine = await start_engine(dut)
    source = Source(engine)
    key = random.randbytes(32)
    for word in (3, 60, 100):
        await engine.load_plain(key)
        bad = random_record(key, 2000, Op.DECRYPT)
        await source.tear(bad.frame(), word, lost=True)
        (result,) = await results(engine, 1)
        assert result.status == Status.BAD_FRAME
        left = values_left(dut)
        assert not [text for text in text_words(key, bad)[:-1] if text in left]


@engine_test
async def torn_records_among_others_with_stalls(dut: Any) -> None:
    """Tear some of many records at any word; the results of all are in order."""
    engine, source, key = await start_with_key(dut)
    await engine.command(regs.CTRL_COUNTERS_CLEAR)
    sizes = (0, 16, 33, 400, 2000, 4096)
    good = 0
    for sink in (256, 60):
        engine.stalls(256, sink)
        records = [random_record(key, random.choice(sizes)) for _ in range(60)]
        torn = []
        for record in records:
            words = len(record.frame()) // WORD
            # A header that is lost or repeated may leave a frame of another op or length.
            tear = words > 2 and random.random() < 0.4
            torn.append(tear)
            if tear:
                lost = random.random() < 0.5
                word = random.randrange(1, words - 1)
                await source.tear(record.frame(), word, lost=lost)
            else:
                source.push(record.frame())
        found = await results(engine, len(records))
        assert [r.status == Status.BAD_FRAME for r in found] == torn
        pairs = zip(records, found, strict=True)
        whole = [pair for pair, bad in zip(pairs, torn, strict=True) if not bad]
        check(key, [record for record, _ in whole], [result for _, result in whole])
        good += len(whole)
    await engine.command(regs.CTRL_COUNTERS_SNAPSHOT)
    assert await engine.counter(regs.RECORDS) == good
    assert await engine.counter(regs.TAG_FAILURES) == 0


@engine_test
async def refused_record_that_is_torn_keeps_its_status(dut: Any) -> None:
    engine = await start_engine(dut)
    source = Source(engine)
    key = random.randbytes(32)
    bad = random_record(key, 300, Op.ENCRYPT)
    await source.tear(bad.frame(), 5, lost=True)
    source.push(Record(Op.BYPASS, b"next").frame())
    refused, following = await results(engine, 2)
    assert refused.status == Status.NO_KEY
    assert following.data == b"next"
