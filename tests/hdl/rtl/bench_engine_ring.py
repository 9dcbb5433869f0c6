"""The record buffer's ring: alignments, a full ring, failed records.

The build shows every register and memory (engine_visible.vlt) and has halves of 4096 bytes.
"""

import random
from typing import Any

import cocotb
from bench_engine_records import check, flip_bit, random_record, start_engine
from bench_engine_zeroize import (
    BANK_BYTES,
    BANK_WORDS,
    LEDGER_ENTRIES,
    judge_cut,
    load,
    remaining_state,
)
from cocotb.triggers import ClockCycles, FallingEdge
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from engine import EngineDriver, Op, Record, Status, engine_test, parse_results
from width import AES_LATENCY, WORD_CLOCKS

from hdl.registers import engine_map as regs

RING_WORDS = 2 * BANK_WORDS
SPARE_PLACES = 4  # of the ring, for words that were let in and are not yet counted
# States of record_issue, record_output and key_control.
ISSUE_END = 3
OUTPUT_DISCARD = 4
KEYS_CLEAR, KEYS_EXPAND, KEYS_HASH = 0, 4, 5
CLEAR_CLOCKS = AES_LATENCY + 3
EXPAND_CLOCKS = 105


def words(record: Record) -> int:
    return (len(record.data) + 15) // 16


def used_places(dut: Any) -> int:
    """Return how many places of the ring are reserved."""
    return int(dut.u_engine.u_buffer.promised_q.value)


def oldest_place(dut: Any) -> int:
    return int(dut.u_engine.u_buffer.read_place_q.value) % RING_WORDS


def place(dut: Any, number: int) -> int:
    """Return the word at a place of the ring, without its parity bits."""
    half, index = divmod(number % RING_WORDS, BANK_WORDS)
    word = int(dut.u_engine.u_buffer.gen_bank[half].u_bank.memory[index].value)
    return word & ((1 << 128) - 1)


def forge(record: Record) -> Record:
    return Record(record.op, record.data, record.iv, record.aad, flip_bit(record.tag))


def text_words(key: bytes, record: Record) -> list[int]:
    """Return the plaintext words of a record to decrypt, as in the ring."""
    text = AESGCM(key).decrypt(record.iv, record.data + record.tag, record.aad)
    text += bytes(-len(text) % 16)
    return [int.from_bytes(text[i : i + 16], "big") for i in range(0, len(text), 16)]


async def load_fresh_key(engine: EngineDriver, key: bytes) -> None:
    """Load a key: the next records start at place 0, and all else is zero."""
    engine.stalls(256, 256)
    await load(engine, key, sealed=False)
    assert oldest_place(engine.dut) == used_places(engine.dut) == 0


@engine_test
async def records_at_every_alignment(dut: Any) -> None:
    """Begin and end records at every place, with and without stalls."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    for length, count in ((73, RING_WORDS), (16 * (BANK_WORDS - 1), 64), (BANK_BYTES, 8)):
        await load_fresh_key(engine, key)
        begins = set()
        begin = 0
        for stall in (256, 128):
            engine.stalls(stall, 256 - stall // 3 if stall < 256 else 256)
            records = [random_record(key, length) for _ in range(count)]
            check(key, records, await engine.process(records))
            for record in records:
                begins.add(begin % RING_WORDS)
                begin += words(record)
        assert length != 73 or len(begins) == RING_WORDS
        assert oldest_place(dut) == begin % RING_WORDS
        assert used_places(dut) == 0
        await engine.until(regs.STATUS_IDLE)


@engine_test
async def mixed_sizes_with_a_slow_sink(dut: Any) -> None:
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    for sink in (200, 100, 40, 12):
        engine.stalls(256, sink)
        lengths = [random.choice((1, 60, 180, BANK_BYTES, 2500)) for _ in range(40)]
        records = [random_record(key, length) for length in lengths]
        check(key, records, await engine.process(records))
    assert not await engine.status(regs.STATUS_FAULT)


@engine_test
async def full_ring_takes_no_word(dut: Any) -> None:
    """Fill the ring with a stopped sink: input waits, nothing is lost."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    for first in (60, BANK_BYTES, 1000):
        await load_fresh_key(engine, key)
        engine.stalls(256, 0)
        lengths = [first, *(random.randrange(900, BANK_BYTES) for _ in range(10))]
        records = [random_record(key, length) for length in lengths]
        engine.push(b"".join(record.frame() for record in records))
        await ClockCycles(dut.clk_o, WORD_CLOCKS * (RING_WORDS + 200))
        full = used_places(dut)
        assert RING_WORDS - SPARE_PLACES <= full <= RING_WORDS
        await engine.command(regs.CTRL_COUNTERS_CLEAR)
        await ClockCycles(dut.clk_o, 500)
        await engine.command(regs.CTRL_COUNTERS_SNAPSHOT)
        assert used_places(dut) == full
        busy = await engine.counter(regs.CYCLES_BUSY)
        assert busy > 500
        assert await engine.counter(regs.CYCLES_STALL_SINK) == busy
        assert await engine.counter(regs.CYCLES_STALL_SOURCE) == 0
        engine.stalls(256, 150)
        stream, _ = await engine.answers(len(records))
        check(key, records, parse_results(stream))


@engine_test
async def full_ledger_takes_no_record(dut: Any) -> None:
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await load_fresh_key(engine, key)
    engine.stalls(256, 0)
    records = [random_record(key, 16) for _ in range(3 * LEDGER_ENTRIES)]
    engine.push(b"".join(record.frame() for record in records))
    await ClockCycles(dut.clk_o, 1000 * WORD_CLOCKS)
    ledger = dut.u_engine.u_ledger
    inside = (int(ledger.tail_q.value) - int(ledger.head_q.value)) % (2 * LEDGER_ENTRIES)
    assert inside == LEDGER_ENTRIES
    assert not await engine.status(regs.STATUS_IDLE)
    engine.stalls(256, 100)
    stream, _ = await engine.answers(len(records))
    check(key, records, parse_results(stream))


async def check_wipes(dut: Any, failed: set[int], total: int) -> int:
    """Check that words of failed records are zeroed a clock after they left.

    So long the zero stands in the write register; a new word cannot come sooner. `failed` counts
    words from the first one behind place 0. Returns how many it has looked at.
    """
    left_words = seen = 0
    at = oldest_place(dut)
    freed: int | None = None
    while left_words < total or freed is not None:
        await FallingEdge(dut.clk_o)
        if freed is not None:
            assert place(dut, freed) == 0, "a free place holds text of a failed record"
            seen += 1
            freed = None
        now = oldest_place(dut)
        if now != at:
            assert (now - at) % RING_WORDS == 1
            if left_words in failed:
                freed = at
            at = now
            left_words += 1
    return seen


@engine_test
async def failed_records_between_good_ones(dut: Any) -> None:
    """Zero failed records before their places are reused; others are good."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    # Words before the failed record: it lies in one half, across the middle, across the end.
    for before, length in ((1, 16), (100, 1600), (200, BANK_BYTES), (450, 2000), (511, 33)):
        for source, sink in ((256, 256), (256, 90), (100, 256)):
            await load_fresh_key(engine, key)
            engine.stalls(source, sink)
            good = [random_record(key, 16 * min(before, BANK_WORDS), Op.BYPASS)]
            if before > BANK_WORDS:
                good.append(random_record(key, 16 * (before - BANK_WORDS), Op.DECRYPT))
            untouched = random_record(key, length, Op.DECRYPT)
            bad = forge(untouched)
            more = [random_record(key, n) for n in (60, BANK_BYTES, 180, 0, 2000, BANK_BYTES)]
            records = [*good, bad, *more, bad, bad, more[0]]
            failed: set[int] = set()
            total = 0
            for record in records:
                if record is bad:
                    failed |= set(range(total, total + words(record)))
                total += words(record)
            watch = cocotb.start_soon(check_wipes(dut, failed, total))
            engine.push(b"".join(record.frame() for record in records))
            stream, _ = await engine.answers(len(records))
            assert await watch == len(failed) == 3 * words(bad)
            for record, result in zip(records, parse_results(stream), strict=True):
                if record is bad:
                    assert result.status == Status.TAG_MISMATCH
                else:
                    check(key, [record], [result])
            await engine.until(regs.STATUS_IDLE)
            assert used_places(dut) == 0
            held = set(remaining_state(dut).values())
            assert not held & set(text_words(key, untouched)), "text of a failed record stays"


@engine_test
async def failed_record_is_zeroed(dut: Any) -> None:
    """Find a failed record's text before its result, and only zeros after it."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    records = [random_record(key, n, Op.DECRYPT) for n in (500, 1700, 300, 40)]
    await load_fresh_key(engine, key)
    engine.stalls(256, 0)
    engine.push(b"".join((forge(r) if r is records[1] else r).frame() for r in records))
    await ClockCycles(dut.clk_o, 400 * WORD_CLOCKS)
    texts = [text_words(key, record) for record in records]
    begins = [sum(map(len, texts[:i])) for i in range(4)]

    def held(i: int) -> list[int]:
        return [place(dut, begins[i] + w) for w in range(len(texts[i]))]

    assert [held(i) for i in range(4)] == texts
    engine.stalls(256, 256)
    results = parse_results((await engine.answers(4))[0])
    assert [r.status for r in results] == [
        Status.OK,
        Status.TAG_MISMATCH,
        Status.OK,
        Status.OK,
    ]
    await engine.until(regs.STATUS_IDLE)
    assert not any(held(1))
    assert [held(i) for i in (0, 2, 3)] == [texts[i] for i in (0, 2, 3)]


@engine_test
async def zeroize_among_failed_records(dut: Any) -> None:
    """Zeroize at any clock, also in a wipe: nothing stays, the next are good."""
    engine = await start_engine(dut)
    wiping = 0
    for trial in range(40):
        key = random.randbytes(32)
        await load_fresh_key(engine, key)
        engine.stalls(256, random.choice((256, 256, 60, 8)))
        records = [random_record(key, random.choice((16, 500, 3000)), Op.DECRYPT) for _ in range(6)]
        bad = [i % 2 == trial % 2 for i in range(6)]
        frames = [forge(r) if wrong else r for r, wrong in zip(records, bad, strict=True)]
        engine.push(b"".join(record.frame() for record in frames))
        await ClockCycles(dut.clk_o, random.randrange(30, 800 * WORD_CLOCKS))
        if trial % 4 == 0:  # a wipe is short where words are far apart
            for _ in range(1000 * WORD_CLOCKS):
                if int(dut.u_engine.u_output.state_q.value) == OUTPUT_DISCARD:
                    break
                await FallingEdge(dut.clk_o)
        wiping += int(dut.u_engine.u_output.state_q.value) == OUTPUT_DISCARD
        await engine.command(regs.CTRL_ZEROIZE)
        await engine.until(regs.STATUS_ZEROIZING, 0)
        assert remaining_state(dut) == {}, trial
        stream, ends = await engine.answers(6)
        lengths = [n for n, _ in ends]
        good_stream = b""
        at = 0
        for wrong, length in zip(bad, lengths, strict=True):
            frame = stream[16 * at : 16 * (at + length)]
            at += length
            if wrong:
                assert length == 1
                assert frame[0] in (Status.TAG_MISMATCH, Status.ZEROIZED, Status.NO_KEY)
            else:
                good_stream += frame
        judge_cut(
            key,
            [r for r, wrong in zip(records, bad, strict=True) if not wrong],
            good_stream,
            [n for n, wrong in zip(lengths, bad, strict=True) if not wrong],
        )
        assert remaining_state(dut) == {}, trial
        assert used_places(dut) == 0
        assert not await engine.status(regs.STATUS_FAULT)
    assert wiping > 2, "zeroize never came while a failed record was wiped"


async def ends_in_last_clock_of(dut: Any, state: int) -> bool:
    """Return whether a frame ends in the last clock of a key state."""
    engine = dut.u_engine
    at_end = False
    while int(engine.u_key_control.state_q.value) != state:
        await FallingEdge(dut.clk_o)
    while int(engine.u_key_control.state_q.value) == state:
        at_end = int(engine.u_issue.state_q.value) == ISSUE_END
        await FallingEdge(dut.clk_o)
    return at_end


@engine_test
async def cut_frame_ends_with_a_key_change(dut: Any) -> None:
    """End a frame with the end of zeroize or with the hash key's slot."""
    engine = await start_engine(dut)
    for turn, begin, delays in (
        (KEYS_CLEAR, KEYS_CLEAR, range(CLEAR_CLOCKS - 8, CLEAR_CLOCKS + 4)),
        (KEYS_HASH, KEYS_EXPAND, range(EXPAND_CLOCKS - 8, EXPAND_CLOCKS + 4)),
    ):
        for op in Op:
            met = 0
            for delay in delays:
                old, new = random.randbytes(32), random.randbytes(32)
                await load_fresh_key(engine, old)
                frame = random_record(old, 100, op).frame()
                engine.push(frame[:-16])
                await ClockCycles(dut.clk_o, WORD_CLOCKS * len(frame) // 16)
                await engine.write_key(regs.PLAIN_KEY, new)
                command = cocotb.start_soon(engine.command(regs.CTRL_LOAD_PLAIN))
                meeting = cocotb.start_soon(ends_in_last_clock_of(dut, turn))
                while int(dut.u_engine.u_key_control.state_q.value) != begin:
                    await FallingEdge(dut.clk_o)
                await ClockCycles(dut.clk_o, delay)
                engine.push(frame[-16:])
                met += await meeting
                await command
                stream, _ = await engine.answers(1)
                assert parse_results(stream)[0].status == Status.ZEROIZED
                await engine.until(regs.STATUS_KEY_LOADING, 0)
                records = [random_record(new, 100, each) for each in Op]
                check(new, records, await engine.process(records))
            assert met > 0, (turn, op)


@engine_test
async def frame_cut_at_any_word_is_zeroized(dut: Any) -> None:
    """Load a key while a frame comes in: it gets ZEROIZED, wherever it was."""
    engine = await start_engine(dut)
    control, issue = dut.u_engine.u_key_control, dut.u_engine.u_issue
    places: set[int] = set()
    for trial in range(60):
        old, new = random.randbytes(32), random.randbytes(32)
        await load_fresh_key(engine, old)
        frame = random_record(old, 100, list(Op)[trial % 3]).frame()
        wait = random.randrange(WORD_CLOCKS * len(frame) // 16)
        if trial % 2:
            await engine.write_key(regs.PLAIN_KEY, new)
            engine.push(frame[:-16])
            await ClockCycles(dut.clk_o, wait)
        else:  # words come in while the key is written
            engine.push(frame[:-16])
            await engine.write_key(regs.PLAIN_KEY, new)
        command = cocotb.start_soon(engine.command(regs.CTRL_LOAD_PLAIN))
        while int(control.state_q.value) != KEYS_CLEAR:
            await FallingEdge(dut.clk_o)
        assert int(issue.state_q.value) != 0, "the frame is not under way"
        places.add(int(issue.state_q.value))
        await ClockCycles(dut.clk_o, random.randrange(CLEAR_CLOCKS + EXPAND_CLOCKS))
        engine.push(frame[-16:])
        await command
        stream, _ = await engine.answers(1)
        assert [each.status for each in parse_results(stream)] == [Status.ZEROIZED], (trial, wait)
        await engine.until(regs.STATUS_KEY_LOADING, 0)
        records = [random_record(new, 100, each) for each in Op]
        check(new, records, await engine.process(records))
    assert len(places) > 1, places
