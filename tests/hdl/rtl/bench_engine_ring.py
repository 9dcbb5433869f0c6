"""The record buffer's ring: every alignment, a full ring, failed records among good ones.

The build shows every register and memory (engine_visible.vlt) and has halves of 4096 bytes.
"""

import random
from typing import Any

import cocotb
from bench_engine_records import check, flipped, powered, random_record
from bench_engine_zeroize import BANK_BYTES, BANK_WORDS, LEDGER_ENTRIES, judge_cut, left, load
from cocotb.triggers import ClockCycles, FallingEdge
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from engine import Bench, Op, Record, Status, parse_results

from hdl.registers import engine_map as regs

RING_WORDS = 2 * BANK_WORDS
# States of record_issue, record_output and key_control.
ISSUE_END = 3
OUTPUT_DISCARD = 4
KEYS_CLEAR, KEYS_EXPAND, KEYS_HASH = 0, 4, 5
CLEAR_CLOCKS = 32
EXPAND_CLOCKS = 105


def words(record: Record) -> int:
    return (len(record.data) + 15) // 16


def promised(dut: Any) -> int:
    """Places of the ring that are taken."""
    return int(dut.u_engine.u_buffer.promised_q.value)


def oldest_place(dut: Any) -> int:
    return int(dut.u_engine.u_buffer.read_place_q.value) % RING_WORDS


def place(dut: Any, number: int) -> int:
    """The word at a place of the ring, without its parity bits."""
    half, index = divmod(number % RING_WORDS, BANK_WORDS)
    word = int(dut.u_engine.u_buffer.gen_bank[half].u_bank.memory[index].value)
    return word & ((1 << 128) - 1)


def spoiled(record: Record) -> Record:
    return Record(record.op, record.data, record.iv, record.aad, flipped(record.tag))


def text_words(key: bytes, record: Record) -> list[int]:
    """The clear words of a record to decrypt, as the ring holds them."""
    text = AESGCM(key).decrypt(record.iv, record.data + record.tag, record.aad)
    text += bytes(-len(text) % 16)
    return [int.from_bytes(text[i : i + 16], "big") for i in range(0, len(text), 16)]


async def forgotten(bench: Bench, key: bytes) -> None:
    """Load a key: records to come lie in the ring from place 0 on, and all else is zero."""
    bench.stalls(256, 256)
    await load(bench, key, sealed=False)
    assert oldest_place(bench.dut) == promised(bench.dut) == 0


@cocotb.test()
async def at_every_alignment(dut: Any) -> None:
    """Records begin and end at every place, with and without stalls."""
    bench = await powered(dut)
    key = random.randbytes(32)
    for length, count in ((73, RING_WORDS), (16 * (BANK_WORDS - 1), 64), (BANK_BYTES, 8)):
        await forgotten(bench, key)
        begins = set()
        begin = 0
        for stall in (256, 128):
            bench.stalls(stall, 256 - stall // 3 if stall < 256 else 256)
            records = [random_record(key, length) for _ in range(count)]
            check(key, records, await bench.process(records))
            for record in records:
                begins.add(begin % RING_WORDS)
                begin += words(record)
        assert length != 73 or len(begins) == RING_WORDS
        assert oldest_place(dut) == begin % RING_WORDS
        assert promised(dut) == 0
        await bench.until(regs.STATUS_IDLE)


@cocotb.test()
async def mixed_sizes_with_a_slow_sink(dut: Any) -> None:
    bench = await powered(dut)
    key = random.randbytes(32)
    await bench.load_plain(key)
    for sink in (200, 100, 40, 12):
        bench.stalls(256, sink)
        lengths = [random.choice((1, 60, 180, BANK_BYTES, 2500)) for _ in range(40)]
        records = [random_record(key, length) for length in lengths]
        check(key, records, await bench.process(records))
    assert not await bench.status(regs.STATUS_FAULT)


@cocotb.test()
async def a_full_ring_takes_no_word_more(dut: Any) -> None:
    """With a sink that takes nothing, every place is filled, and input waits; nothing is lost."""
    bench = await powered(dut)
    key = random.randbytes(32)
    for first in (60, BANK_BYTES, 1000):
        await forgotten(bench, key)
        bench.stalls(256, 0)
        lengths = [first, *(random.randrange(900, BANK_BYTES) for _ in range(10))]
        records = [random_record(key, length) for length in lengths]
        bench.push(b"".join(record.frame() for record in records))
        await ClockCycles(dut.clk_o, RING_WORDS + 200)
        assert promised(dut) == RING_WORDS
        await bench.command(regs.CTRL_COUNTERS_CLEAR)
        await ClockCycles(dut.clk_o, 500)
        await bench.command(regs.CTRL_COUNTERS_SNAPSHOT)
        assert promised(dut) == RING_WORDS
        busy = await bench.counter(regs.CYCLES_BUSY)
        assert busy > 500
        assert await bench.counter(regs.CYCLES_STALL_SINK) == busy
        assert await bench.counter(regs.CYCLES_STALL_SOURCE) == 0
        bench.stalls(256, 150)
        stream, _ = await bench.answers(len(records))
        check(key, records, parse_results(stream))


@cocotb.test()
async def a_full_ledger_takes_no_record_more(dut: Any) -> None:
    bench = await powered(dut)
    key = random.randbytes(32)
    await forgotten(bench, key)
    bench.stalls(256, 0)
    records = [random_record(key, 16) for _ in range(3 * LEDGER_ENTRIES)]
    bench.push(b"".join(record.frame() for record in records))
    await ClockCycles(dut.clk_o, 1000)
    ledger = dut.u_engine.u_ledger
    inside = (int(ledger.tail_q.value) - int(ledger.head_q.value)) % (2 * LEDGER_ENTRIES)
    assert inside == LEDGER_ENTRIES
    assert not await bench.status(regs.STATUS_IDLE)
    bench.stalls(256, 100)
    stream, _ = await bench.answers(len(records))
    check(key, records, parse_results(stream))


async def watch_wipes(dut: Any, failed: set[int], total: int) -> int:
    """Until `total` words have left: one of a failed one is zero a clock after its place is free.

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


@cocotb.test()
async def failed_records_between_good_ones(dut: Any) -> None:
    """Zeroed word by word before their places are used again; those around them are well."""
    bench = await powered(dut)
    key = random.randbytes(32)
    # Words before the failed record: it lies in one half, over the middle, over the end.
    for before, length in ((1, 16), (100, 1600), (200, BANK_BYTES), (450, 2000), (511, 33)):
        for source, sink in ((256, 256), (256, 90), (100, 256)):
            await forgotten(bench, key)
            bench.stalls(source, sink)
            good = [random_record(key, 16 * min(before, BANK_WORDS), Op.BYPASS)]
            if before > BANK_WORDS:
                good.append(random_record(key, 16 * (before - BANK_WORDS), Op.DECRYPT))
            untouched = random_record(key, length, Op.DECRYPT)
            bad = spoiled(untouched)
            more = [random_record(key, n) for n in (60, BANK_BYTES, 180, 0, 2000, BANK_BYTES)]
            records = [*good, bad, *more, bad, bad, more[0]]
            failed: set[int] = set()
            total = 0
            for record in records:
                if record is bad:
                    failed |= set(range(total, total + words(record)))
                total += words(record)
            watch = cocotb.start_soon(watch_wipes(dut, failed, total))
            bench.push(b"".join(record.frame() for record in records))
            stream, _ = await bench.answers(len(records))
            assert await watch == len(failed) == 3 * words(bad)
            for record, result in zip(records, parse_results(stream), strict=True):
                if record is bad:
                    assert result.status == Status.TAG_MISMATCH
                else:
                    check(key, [record], [result])
            await bench.until(regs.STATUS_IDLE)
            assert promised(dut) == 0
            held = set(left(dut).values())
            assert not held & set(text_words(key, untouched)), "text of a failed record stays"


@cocotb.test()
async def a_failed_record_is_seen_then_gone(dut: Any) -> None:
    """Its text is in the ring until its turn comes, then only zeros; its neighbours' text stays."""
    bench = await powered(dut)
    key = random.randbytes(32)
    records = [random_record(key, n, Op.DECRYPT) for n in (500, 1700, 300, 40)]
    await forgotten(bench, key)
    bench.stalls(256, 0)
    bench.push(b"".join((spoiled(r) if r is records[1] else r).frame() for r in records))
    await ClockCycles(dut.clk_o, 400)
    texts = [text_words(key, record) for record in records]
    begins = [sum(map(len, texts[:i])) for i in range(4)]

    def held(i: int) -> list[int]:
        return [place(dut, begins[i] + w) for w in range(len(texts[i]))]

    assert [held(i) for i in range(4)] == texts
    bench.stalls(256, 256)
    results = parse_results((await bench.answers(4))[0])
    assert [r.status for r in results] == [
        Status.OK,
        Status.TAG_MISMATCH,
        Status.OK,
        Status.OK,
    ]
    await bench.until(regs.STATUS_IDLE)
    assert not any(held(1))
    assert [held(i) for i in (0, 2, 3)] == [texts[i] for i in (0, 2, 3)]


@cocotb.test()
async def zeroize_among_failed_records(dut: Any) -> None:
    """At any clock, also of a wipe: nothing stays, every frame is answered, the next are well."""
    bench = await powered(dut)
    wiping = 0
    for trial in range(40):
        key = random.randbytes(32)
        await forgotten(bench, key)
        bench.stalls(256, random.choice((256, 256, 60, 8)))
        records = [random_record(key, random.choice((16, 500, 3000)), Op.DECRYPT) for _ in range(6)]
        bad = [i % 2 == trial % 2 for i in range(6)]
        frames = [spoiled(r) if wrong else r for r, wrong in zip(records, bad, strict=True)]
        bench.push(b"".join(record.frame() for record in frames))
        await ClockCycles(dut.clk_o, random.randrange(30, 800))
        wiping += int(dut.u_engine.u_output.state_q.value) == OUTPUT_DISCARD
        await bench.command(regs.CTRL_ZEROIZE)
        await bench.until(regs.STATUS_ZEROIZING, 0)
        assert left(dut) == {}, trial
        stream, ends = await bench.answers(6)
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
        assert left(dut) == {}, trial
        assert promised(dut) == 0
        assert not await bench.status(regs.STATUS_FAULT)
    assert wiping > 2, "zeroize never came while a failed record was wiped"


async def ends_in_last_clock_of(dut: Any, state: int) -> bool:
    """At the last clock of a state of the keys: is a frame at its end?"""
    engine = dut.u_engine
    at_end = False
    while int(engine.u_key_control.state_q.value) != state:
        await FallingEdge(dut.clk_o)
    while int(engine.u_key_control.state_q.value) == state:
        at_end = int(engine.u_issue.state_q.value) == ISSUE_END
        await FallingEdge(dut.clk_o)
    return at_end


@cocotb.test()
async def a_cut_frame_ends_at_a_turn_of_the_keys(dut: Any) -> None:
    """With the end of zeroize, or when the hash key wants its slot: both come through."""
    bench = await powered(dut)
    for turn, begin, delays in (
        (KEYS_CLEAR, KEYS_CLEAR, range(CLEAR_CLOCKS - 8, CLEAR_CLOCKS + 4)),
        (KEYS_HASH, KEYS_EXPAND, range(EXPAND_CLOCKS - 8, EXPAND_CLOCKS + 4)),
    ):
        for op in Op:
            met = 0
            for delay in delays:
                old, new = random.randbytes(32), random.randbytes(32)
                await forgotten(bench, old)
                frame = random_record(old, 100, op).frame()
                bench.push(frame[:-16])
                await bench.write_key(regs.PLAIN_KEY, new)
                command = cocotb.start_soon(bench.command(regs.CTRL_LOAD_PLAIN))
                meeting = cocotb.start_soon(ends_in_last_clock_of(dut, turn))
                while int(dut.u_engine.u_key_control.state_q.value) != begin:
                    await FallingEdge(dut.clk_o)
                await ClockCycles(dut.clk_o, delay)
                bench.push(frame[-16:])
                met += await meeting
                await command
                stream, _ = await bench.answers(1)
                assert parse_results(stream)[0].status == Status.ZEROIZED
                await bench.until(regs.STATUS_KEY_LOADING, 0)
                records = [random_record(new, 100, each) for each in Op]
                check(new, records, await bench.process(records))
            assert met > 0, (turn, op)
