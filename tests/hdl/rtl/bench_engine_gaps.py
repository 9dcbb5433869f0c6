"""LONGEST_GAP, LONGEST_LATENCY and PROMISE, against known delays.

The build lets the bench force signals (engine_visible.vlt) and has banks of 4096 bytes.
"""

import random
from typing import Any

from bench_engine_records import check, flip_bit, random_record, start_engine
from cocotb.handle import Force, Release
from cocotb.triggers import ClockCycles, FallingEdge
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from engine import WORD, EngineDriver, Op, Record, Status, engine_test, parse_results
from width import RECORD_LATENCY, RECORD_OVERHEAD, WORD_BYTES, WORD_CLOCKS

from hdl.registers import engine_map as regs

LATENCY = RECORD_LATENCY  # as hdl/rtl/README.md has it
STOPPED = 500 * WORD_CLOCKS
# The most in a stream without gaps that the bench makes: between two records, or two words.
SMALL_GAP = WORD_CLOCKS + 3  # clocks


async def longest(engine: EngineDriver) -> tuple[int, int]:
    """Return the longest gap and the longest latency since they were cleared."""
    await engine.command(regs.CTRL_COUNTERS_SNAPSHOT)
    return await engine.read(regs.LONGEST_GAP), await engine.read(regs.LONGEST_LATENCY)


async def process(engine: EngineDriver, key: bytes, records: list[Record]) -> tuple[int, int]:
    """Process records and return the longest gap and latency among them."""
    await engine.command(regs.CTRL_COUNTERS_CLEAR)
    check(key, records, await engine.process(records))
    await engine.until(regs.STATUS_IDLE)
    return await longest(engine)


@engine_test
async def stalls_and_pace_are_no_gap(dut: Any) -> None:
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    assert await longest(engine) == (0, 0), "the self test is counted"
    for source, sink in ((256, 256), (20, 256), (256, 20), (30, 30)):
        engine.stalls(source, sink)
        gap, _ = await process(engine, key, [random_record(key, 2000, op) for op in Op] * 4)
        assert gap <= SMALL_GAP, (source, sink, gap)
    engine.stalls(256, 256)
    await engine.write(regs.PACE, 0x0300)
    gap, _ = await process(engine, key, [random_record(key, 800, op) for op in Op])
    assert gap <= SMALL_GAP, gap
    await engine.write(regs.PACE, 0)


@engine_test
async def gap_is_the_longest_one_that_the_bench_makes(dut: Any) -> None:
    """Close the buffer for a known number of clocks while a record comes in."""
    engine = await start_engine(dut)
    room = dut.u_engine.u_buffer.room_o
    for gaps in ((5,), (6, 31, 12), (300, 299), (1000,)):
        await engine.command(regs.CTRL_COUNTERS_CLEAR)
        record = random_record(b"", 3000, Op.BYPASS)
        engine.push(record.frame())
        for clocks in gaps:
            await ClockCycles(dut.clk_o, 20)
            await FallingEdge(dut.clk_o)
            room.value = Force(0)
            for _ in range(clocks):
                await FallingEdge(dut.clk_o)
            room.value = Release()
        stream, _ = await engine.answers(1)
        check(b"", [record], parse_results(stream))
        # A word waits for its turn before and after.
        assert 0 <= (await longest(engine))[0] - max(gaps) <= 2 * (WORD_CLOCKS - 1)


@engine_test
async def discarding_a_failed_record_is_no_gap(dut: Any) -> None:
    """Zero the words of a failed record while the input is open."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    good = random_record(key, 4096, Op.DECRYPT)
    bad = Record(good.op, good.data, good.iv, good.aad, flip_bit(good.tag))
    await engine.command(regs.CTRL_COUNTERS_CLEAR)
    engine.push(bad.frame())
    await engine.answers(1)
    await engine.until(regs.STATUS_IDLE)
    assert (await longest(engine))[0] <= SMALL_GAP, "input was open all the time"


@engine_test
async def latency_of_a_single_record_is_that_of_the_documentation(dut: Any) -> None:
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    for op in Op:
        for length in (1, 16, 1000, 4096):
            assert await process(engine, key, [random_record(key, length, op)]) == (
                WORD_CLOCKS if op != Op.DECRYPT else WORD_CLOCKS - 1,
                LATENCY,
            ), (op, length)
    # A sink that does not take the header that is offered adds nothing.
    engine.stalls(256, 0)
    await engine.command(regs.CTRL_COUNTERS_CLEAR)
    engine.push(random_record(key, 100, Op.ENCRYPT).frame())
    await ClockCycles(dut.clk_o, STOPPED)
    assert (await longest(engine))[1] == LATENCY
    # One that does not take a record delays the next.
    engine.push(random_record(key, 100, Op.ENCRYPT).frame())
    await ClockCycles(dut.clk_o, STOPPED)
    engine.stalls(256, 256)
    await engine.answers(2)
    await engine.until(regs.STATUS_IDLE)
    # The second frame, of up to 17 words, has to come in first.
    taken = LATENCY + 17 * (WORD_CLOCKS - 1)
    assert STOPPED - taken < (await longest(engine))[1] < STOPPED + 200


@engine_test
async def latency_counts_every_clock_of_a_delay(dut: Any) -> None:
    """Hold the ledger's result back for a known number of clocks."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    sealed = AESGCM(key).encrypt(bytes(12), b"", b"")
    empty = Record(Op.DECRYPT, b"", bytes(12), b"", sealed)
    result = dut.u_engine.u_ledger.result_valid_o

    async def took(held: int) -> tuple[int, int]:
        """Return the clocks from the push to the result's header, and the latency."""
        await engine.command(regs.CTRL_COUNTERS_CLEAR)
        await FallingEdge(dut.clk_o)
        begin = int(dut.clocks_o.value)
        engine.push(empty.frame())
        if held:
            result.value = Force(0)
            await ClockCycles(dut.clk_o, held)
            await FallingEdge(dut.clk_o)
            result.value = Release()
        stream, ends = await engine.answers(1)
        assert parse_results(stream)[0].status == Status.OK
        return ends[0][1] - begin, (await longest(engine))[1]

    base, latency = await took(0)
    assert latency == LATENCY
    for held in (100, 101, 777):
        clocks, latency = await took(held)
        # Each frame waits up to a word's clocks for its turn.
        assert clocks - base > held - LATENCY - (WORD_CLOCKS - 1)
        assert abs(latency - LATENCY - (clocks - base)) < WORD_CLOCKS


@engine_test
async def latency_stays_in_step_with_the_records(dut: Any) -> None:
    """Match each result with its own frame, after records of any status."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    for trial in range(12):
        await engine.load_plain(key)
        engine.stalls(256, random.choice((256, 40)))
        records = [random_record(key, random.choice((0, 16, 500))) for _ in range(50)]
        bad = [Record(each.op, each.data, each.iv, b"x" * 129, each.tag) for each in records[:7]]
        engine.push(b"".join(each.frame() for each in records + bad))
        if trial % 2:
            await ClockCycles(dut.clk_o, random.randrange(600))
            await engine.zeroize()
        await engine.answers(len(records) + len(bad))
        await engine.load_plain(key)
        engine.stalls(256, 256)
        await engine.until(regs.STATUS_IDLE)
        _, latency = await process(engine, key, [random_record(key, 40, Op.ENCRYPT)])
        assert latency == LATENCY, trial


@engine_test
async def longest_values_change_with_a_snapshot_or_clear_only(dut: Any) -> None:
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    await process(engine, key, [random_record(key, 40, Op.ENCRYPT)])
    before = [await engine.read(each) for each in (regs.LONGEST_GAP, regs.LONGEST_LATENCY)]
    assert before == [WORD_CLOCKS, LATENCY]
    engine.stalls(256, 10)
    check(key, records := [random_record(key, 40) for _ in range(9)], await engine.process(records))
    assert await engine.read(regs.LONGEST_LATENCY) == LATENCY
    assert (await longest(engine))[1] > LATENCY
    await engine.command(regs.CTRL_COUNTERS_CLEAR)
    assert await engine.read(regs.LONGEST_GAP) == await engine.read(regs.LONGEST_LATENCY) == 0
    assert await longest(engine) == (0, 0)


@engine_test
async def promised_rate_is_reached_at_every_size(dut: Any) -> None:
    """Measure clocks a record in the steady state: the promise is exact."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    promise = await engine.read(regs.PROMISE)
    assert regs.PROMISE_WORD_BYTES.get(promise) == WORD_BYTES
    overhead = regs.PROMISE_OVERHEAD.get(promise)
    assert overhead == RECORD_OVERHEAD
    worst = 0.0
    for op in Op:
        for words in (1, 2, 3, 4, 5, 8, 16, 40, 256):
            for aad in (0, 128) if op != Op.BYPASS else (0,):
                record = random_record(key, WORD * words, op)
                if op != Op.BYPASS:
                    text, extra = random.randbytes(WORD * words), random.randbytes(aad)
                    sealed = AESGCM(key).encrypt(record.iv, text, extra)
                    record = Record(op, text, record.iv, extra)
                    if op == Op.DECRYPT:
                        record = Record(op, sealed[:-16], record.iv, extra, sealed[-16:])
                count = max(60, 3000 // words)
                engine.push(record.frame() * count)
                _, ends = await engine.answers(count)
                half = count // 2
                clocks = (ends[-1][1] - ends[half][1]) / (count - 1 - half)
                took = clocks - WORD_CLOCKS * (words + aad // WORD)
                assert took <= overhead + 0.1, (op, words, aad, took)
                worst = max(worst, took)
    assert worst > overhead - 1, worst
