"""Single bit flips in the engine while records pass, and their detection.

Each trial takes an engine fresh from reset, loads a key, sends three records back to back, flips
one bit of one register at one clock, and compares what comes out with what must.  On decrypt the
second record is a forgery, which must be refused.  Outcomes:

- benign: everything as it must be, no fault;
- tag: a good record has TAG_MISMATCH, or (encrypt) what was written fails authentication when read;
- self check: STATUS.fault, or an engine that refuses with another status;
- late: STATUS.fault too, but a frame with status OK and a wrong text had already left whole;
- framing: a frame is missing, cut or of the wrong length, which the driver sees;
- silent: a frame with status OK that holds something else, and nothing says so.  On encrypt: what
  was written authenticates and deciphers to another text.  This must not be.

FAULT_TRIALS is the number of trials a target and operation, FAULT_SEED the seed, FAULT_TARGET a
single target, FAULT_REPORT a file for the counts as JSON.
"""

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import cocotb
from clocked import find
from cocotb.triggers import ClockCycles, FallingEdge, Timer
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from engine import EngineDriver, Op, Record, Result, Status, engine_test, parse_results
from width import WORD_BYTES, WORD_CLOCKS, round_path

from hdl.registers import engine_map as regs

SELF_TEST_CLOCKS = 2600
RECORDS = 3
LENGTH = 150
FLIGHT_CLOCKS = 60 + 40 * WORD_CLOCKS  # from the first word to the last, with the cipher's latency

ROUNDS = tuple(f"u_aes_pipe.{round_path(r)}." for r in (1, 5, 9, 13, 14))
BANKS = tuple(f"u_buffer.gen_bank[{b}].u_bank." for b in (0, 1))


def below(module: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{module}.{name}_q" for name in names)


TARGETS: dict[str, tuple[str, ...]] = {
    "key schedule": below("u_key_control.u_aes_key_expand", *["rows"] * 3, "parity", "sums"),
    "hash key powers": ("u_ghash.h_q",),
    "round state": tuple(
        each + name
        for each in ROUNDS
        for name in ("rows_01_q", "rows_23_q", "gen_sub[4].u_sbox_rom.data_a_q", "parity_mix_q")
    ),
    "GHASH accumulator": ("u_ghash.lanes_q", "u_ghash.digest_q", "u_ledger.sum_q"),
    "GHASH control": below("u_ghash", "remaining", "lane", "power_sel", "fresh", "digest_valid"),
    "block counter": below("u_issue", "block", "block", "iv", "aes_block", "aes_parity"),
    "intake control": (
        *below("u_issue", "state", "data_words", "aad_words", "refused", "said", "first", "fresh"),
        *below("u_issue", "kind", "aes_valid"),
    ),
    "delay line": below("u_slot_delay", "kinds", "kinds", "place"),
    "exit control": below("u_exit", "flags", "decrypt", "hash_first", "count"),
    "text on its way": (
        *("u_issue.slot_q", "u_slot_delay.slot_q", "u_exit.text_q", BANKS[0] + "write_data_q"),
        *(f"{BANKS[0]}memory[{place}]" for place in range(0, 30, 4)),
        *(BANKS[0] + "read_q", *below("u_output", "made", "held", "spare", "out")),
    ),
    "record control": (
        *below("u_ledger", "tail", "exit", "judged", "head", "failed", "cut", "full"),
        *below("u_ledger", "verdict", "next", "next_valid", "next_ok", "exit_record"),
        *below("u_buffer", "write_place", "read_place", "promised", "read_half"),
        *(BANKS[0] + name for name in ("mark_q", "write_q", "write_index_q", "wiping_q")),
    ),
    "output control": (
        *below("u_output", "state", "words", "status", "op", "data_len", "begun"),
        *below("u_output", "fetched_valid", "fetched_data", "fetched_last", "held_valid"),
        *below("u_output", "held_last", "spare_valid", "spare_last", "out_valid", "out_last"),
    ),
    "key control": below(
        "u_key_control", "state", "load", "clear_count", "clear", "plain_locked", "key_valid"
    ),
}


if WORD_BYTES < 16:
    TARGETS["turns"] = ("u_word_phase.gen_count.phase_q",)

# Every register of these has a twin or another check: a flip is reported whenever it happens.
WATCHED = (
    "intake control",
    "delay line",
    "exit control",
    "record control",
    "output control",
    "key control",
    *(["turns"] if WORD_BYTES < 16 else []),
)


def make(key: bytes, op: Op, *, forged: bool) -> tuple[Record, bytes]:
    """Return a record and its expected result words; none for a forgery."""
    iv, aad, data = random.randbytes(12), random.randbytes(20), random.randbytes(LENGTH)
    sealed = AESGCM(key).encrypt(iv, data, aad)
    if op == Op.ENCRYPT:
        return Record(op, data, iv, aad), sealed
    if forged:
        return Record(op, sealed[:-16], iv, aad, random.randbytes(16)), b""
    return Record(op, sealed[:-16], iv, aad, sealed[-16:]), data


async def collect(engine: EngineDriver, count: int) -> list[Result | None]:
    """Return the frames that come in bounded time; None for an invalid one."""
    stream, ends = b"", []
    for _ in range(20):
        await ClockCycles(engine.dut.clk_o, 60)
        stream += engine.take()
        ends += engine.frame_ends()
        if len(ends) >= count:
            break
    frames: list[Result | None] = []
    at = 0
    for words, _ in ends:
        frame = stream[at : at + 16 * words]
        at += 16 * words
        try:
            (result,) = parse_results(frame)
            frames.append(result)
        except (AssertionError, ValueError):
            frames.append(None)
    return frames


def judge(
    key: bytes, records: list[tuple[Record, bytes]], frames: list[Result | None], fault: bool
) -> str:
    """Return the outcome; an unreported wrong result takes precedence."""
    found = set()
    for (record, expected), frame in zip(records, frames, strict=False):
        if frame is None:
            found.add("framing")
        elif frame.status == Status.TAG_MISMATCH:
            found.add("tag" if expected else "benign")
        elif frame.status != Status.OK:
            found.add("self check")
        elif (frame.op, frame.data_len) != (record.op, len(record.data)):
            found.add("framing")
        elif not expected:
            found.add("silent")
        elif frame.data + frame.tag != expected:
            found.add(read_back(key, record, frame) if record.op == Op.ENCRYPT else "silent")
    if len(frames) != len(records):
        found.add("framing")
    if fault:
        return "late" if "silent" in found else "self check"
    for outcome in ("silent", "self check", "tag", "framing"):
        if outcome in found:
            return outcome
    return "benign"


def read_back(key: bytes, record: Record, frame: Result) -> str:
    """Return what a reader with the right key gets from a wrong ciphertext."""
    try:
        clear = AESGCM(key).decrypt(record.iv, frame.data + frame.tag, record.aad)
    except InvalidTag:
        return "tag"
    return "silent" if clear != record.data else "benign"


async def trial(dut: Any, op: Op, path: str) -> str:
    engine = EngineDriver(dut)
    await engine.power_on(wait=False)
    await Timer(SELF_TEST_CLOCKS * 10, unit="ns")
    await engine.until(regs.STATUS_SELF_TEST_DONE)
    engine.drop()
    key = random.randbytes(32)
    await engine.load_plain(key)
    records = [make(key, op, forged=op == Op.DECRYPT and n == 1) for n in range(RECORDS)]
    register = find(dut.u_engine, path)
    engine.push(b"".join(record.frame() for record, _ in records))
    await ClockCycles(dut.clk_o, random.randrange(FLIGHT_CLOCKS))
    await FallingEdge(dut.clk_o)
    held = int(register.value)
    flip_bit = held ^ 1 << random.randrange(len(register))
    register.value = flip_bit
    frames = await collect(engine, RECORDS)
    fault = await engine.status(regs.STATUS_FAULT)
    outcome = judge(key, records, frames, fault)
    if outcome in ("silent", "late"):
        cocotb.log.info("%s: %s %s, flipped %x", outcome, op.name, path, held ^ flip_bit)
    return outcome


@engine_test
async def every_register_of_control_is_watched(dut: Any) -> None:
    """Flip each control register once: STATUS.fault must report it."""
    random.seed(int(os.environ.get("FAULT_SEED", "1")))
    for n, path in enumerate(path for name in WATCHED for path in TARGETS[name]):
        outcome = await trial(dut, (Op.ENCRYPT, Op.DECRYPT)[n % 2], path)
        assert outcome in ("self check", "late"), f"{path}: {outcome}"


@engine_test
async def wrong_word_in_the_buffer_does_not_leave_whole(dut: Any) -> None:
    """Flip a bit of a waiting word: its frame is cut, by a fault."""
    words = (LENGTH + 15) // 16
    for word in range(words // 2, words):  # the first ones are at the output already
        engine = EngineDriver(dut)
        await engine.power_on()
        engine.drop()
        key = random.randbytes(32)
        await engine.load_plain(key)
        record, text = make(key, Op.DECRYPT, forged=False)
        engine.stalls(256, 0)
        engine.push(record.frame())
        await ClockCycles(dut.clk_o, 2 * FLIGHT_CLOCKS)
        memory = find(dut.u_engine, f"{BANKS[0]}memory[{word}]")
        memory.value = int(memory.value) ^ 1 << random.randrange(128)
        engine.stalls(256, 256)
        (frame,) = await collect(engine, 1)
        assert frame is None or frame.data != text[: len(frame.data)], word
        assert judge(key, [(record, text)], [frame], True) == "self check", word
        assert await engine.status(regs.STATUS_FAULT), word


@engine_test
async def words_at_the_output_are_watched(dut: Any) -> None:
    """Flip a bit of each word that waits for the sink: it is a fault."""
    for path in below("u_output", "held", "spare", "out"):
        engine = EngineDriver(dut)
        await engine.power_on()
        engine.drop()
        key = random.randbytes(32)
        await engine.load_plain(key)
        engine.stalls(256, 0)
        engine.push(make(key, Op.ENCRYPT, forged=False)[0].frame())
        await ClockCycles(dut.clk_o, 2 * FLIGHT_CLOCKS)
        assert not await engine.status(regs.STATUS_FAULT)
        register = find(dut.u_engine, path)
        register.value = int(register.value) ^ 1 << random.randrange(128)
        await ClockCycles(dut.clk_o, 4)
        engine.stalls(256, 256)
        await collect(engine, 1)
        assert await engine.status(regs.STATUS_FAULT), path


@engine_test
async def slots_in_the_delay_line_are_watched(dut: Any) -> None:
    """Flip each bit beside the data of a waiting slot: it is a fault."""
    key = random.randbytes(32)
    for bit in range(128, 138):  # bytes, first, parities, check
        engine = EngineDriver(dut)
        await engine.power_on()
        engine.drop()
        await engine.load_plain(key)
        engine.push(Record(Op.ENCRYPT, random.randbytes(4000), random.randbytes(12)).frame())
        await ClockCycles(dut.clk_o, FLIGHT_CLOCKS)
        await FallingEdge(dut.clk_o)
        delay = dut.u_engine.u_slot_delay
        depth = len(delay.memory)
        while not int(delay.kinds_q.value) >> 3 * (depth - 11) & 7:  # no slot at that place
            await FallingEdge(dut.clk_o)
        place = (int(delay.place_q.value) + 10) % depth
        slot = delay.memory[place]
        slot.value = int(slot.value) ^ 1 << bit
        await ClockCycles(dut.clk_o, 500 * WORD_CLOCKS)  # until the record leaves
        assert await engine.status(regs.STATUS_FAULT), bit


@engine_test
async def results_in_the_ledger_are_watched(dut: Any) -> None:
    """Flip a bit of what is known of a record that waits behind two others."""
    key = random.randbytes(32)
    bits = range(47)  # status, op, length, words and their parity
    for bit in random.sample(bits, 6):
        engine = EngineDriver(dut)
        await engine.power_on()
        engine.drop()
        await engine.load_plain(key)
        engine.stalls(256, 0)
        begin = int(dut.u_engine.u_ledger.tail_q.value)
        record, _ = make(key, Op.ENCRYPT, forged=False)
        engine.push(record.frame() * 3)
        await ClockCycles(dut.clk_o, 3 * FLIGHT_CLOCKS)
        results = dut.u_engine.u_ledger.results
        result = results[(begin + 2) % len(results)]
        result.value = int(result.value) ^ 1 << bit
        engine.stalls(256, 256)
        await collect(engine, 3)
        assert await engine.status(regs.STATUS_FAULT), bit


@engine_test
async def self_test_compares_every_bit(dut: Any) -> None:
    """Flip two bits of a word in the buffer, which its parity does not see."""
    for piece in range(8):
        engine = EngineDriver(dut)
        await engine.power_on(wait=False)
        buffer = dut.u_engine.u_buffer
        await FallingEdge(dut.clk_o)
        while int(buffer.write_place_q.value) != 4:
            await FallingEdge(dut.clk_o)
        await ClockCycles(dut.clk_o, 2)  # the last word reaches the memory
        await FallingEdge(dut.clk_o)
        word = buffer.gen_bank[0].u_bank.memory[piece % 4]
        low = 16 * piece + random.randrange(15)
        word.value = int(word.value) ^ 3 << low
        await engine.until(regs.STATUS_SELF_TEST_DONE)
        engine.drop()
        assert not await engine.status(regs.STATUS_SELF_TEST_OK), piece


@engine_test
async def illegal_state_of_the_intake_ends_at_once(dut: Any) -> None:
    """Set states that are none: the next frame is answered, by a refusal."""
    for state in (5, 6, 7):
        engine = EngineDriver(dut)
        await engine.power_on()
        engine.drop()
        await FallingEdge(dut.clk_o)
        dut.u_engine.u_issue.state_q.value = state
        await ClockCycles(dut.clk_o, 4)
        assert await engine.status(regs.STATUS_FAULT), state
        await engine.until(regs.STATUS_ZEROIZING, 0)
        (result,) = await engine.process([Record(Op.BYPASS, b"next")])
        assert result.status == Status.NOT_READY, state


@engine_test
async def single_bit_flips(dut: Any) -> None:
    trials = int(os.environ.get("FAULT_TRIALS", "3"))
    random.seed(int(os.environ.get("FAULT_SEED", "1")))
    counts = {}
    only = os.environ.get("FAULT_TARGET")
    for name, paths in TARGETS.items():
        if only not in (None, name):
            continue
        for op in (Op.ENCRYPT, Op.DECRYPT):
            found = Counter([await trial(dut, op, random.choice(paths)) for _ in range(trials)])
            cocotb.log.info("%s, %s: %s", name, op.name, dict(found))
            counts[f"{name}/{op.name.lower()}"] = dict(found)
    if report := os.environ.get("FAULT_REPORT"):
        Path(report).write_text(json.dumps(counts, indent=2))
    silent = {name for name, found in counts.items() if "silent" in found}
    assert not silent, silent
    noticed = sum(found.get(kind, 0) for found in counts.values() for kind in ("tag", "self check"))
    assert noticed > 0, "no flip had any effect: the injection does not work"
