"""Single bit flips inside the engine while records pass: what notices them.

Each trial takes an engine fresh from reset, loads a key, sends three records back to back, flips
one bit of one register at one clock, and compares what comes out with what must.  Outcomes:

- benign: everything as it must be, no fault;
- tag: a frame has TAG_MISMATCH, or (encrypt) its text fails authentication when it is read;
- self check: STATUS.fault, or an engine that refuses with another status;
- framing: a frame is missing, cut or of the wrong length, which the driver sees;
- silent: a frame with status OK that holds something else, and nothing says so.  On encrypt: what
  was written authenticates and deciphers to another text.  UNWATCHED says where this may be.

FAULT_TRIALS is the number of trials a target and operation, FAULT_SEED the seed, FAULT_REPORT a
file for the counts as JSON.
"""

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import cocotb
from clocked import find
from cocotb.triggers import ClockCycles, FallingEdge
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from engine import Bench, Op, Record, Result, Status, parse_results

from hdl import register_map as regs

SELF_TEST_CLOCKS = 3400
RECORDS = 3
LENGTH = 150
FLIGHT_CLOCKS = 100  # from the first word to the last, with the cipher's latency

TARGETS: dict[str, tuple[str, ...]] = {
    "key schedule": ("u_key_control.u_aes_key_expand.w_q",),
    "hash key powers": ("u_ghash.h_q",),
    "round state": tuple(
        f"u_aes_pipe.gen_round[{r}].u_round.{name}"
        for r in (1, 5, 9, 13, 14)
        for name in ("block_q", "block_q", "gen_sub[4].u_sbox_rom.data_a_q", "parity_mix_q")
    ),
    "GHASH accumulator": ("u_ghash.lanes_q", "u_ghash.digest_q"),
    "block counter": ("u_issue.block_q", "u_issue.iv_q", "u_issue.aes_block_q"),
    "intake control": (
        "u_issue.state_q",
        "u_issue.data_words_q",
        "u_issue.aad_words_q",
        "u_issue.refused_q",
        "u_slot_delay.kinds_q",
    ),
    "record control": (
        "u_ledger.tail_q",
        "u_ledger.exit_q",
        "u_ledger.judged_q",
        "u_ledger.head_q",
        "u_ledger.failed_q",
        "u_ledger.sum_q",
        "u_buffer.write_place_q",
        "u_buffer.read_place_q",
    ),
    "output control": ("u_output.state_q", "u_output.words_q", "u_output.status_q"),
    "key control": ("u_key_control.state_q", "u_key_control.clear_count_q"),
}

# What may be silent. GCM's tag is over the ciphertext: it cannot see that a block of keystream was
# made from a wrong counter. Behind the tag's check, nothing yet watches the places of the ring and
# the state of the output.
UNWATCHED = {
    f"{target}/{op}"
    for target in (
        "block counter",
        "intake control",
        "record control",
        "output control",
    )
    for op in ("encrypt", "decrypt")
}


def make(key: bytes, op: Op) -> tuple[Record, bytes]:
    """Return a record and the words that must come of it, tag included."""
    iv, aad, data = random.randbytes(12), random.randbytes(20), random.randbytes(LENGTH)
    sealed = AESGCM(key).encrypt(iv, data, aad)
    if op == Op.ENCRYPT:
        return Record(op, data, iv, aad), sealed
    return Record(op, sealed[:-16], iv, aad, sealed[-16:]), data


async def collect(bench: Bench, count: int) -> list[Result | None]:
    """Return the frames that come within a bounded time; None for one that makes no sense."""
    stream, ends = b"", []
    for _ in range(20):
        await ClockCycles(bench.dut.clk_o, 60)
        stream += bench.take()
        ends += bench.frame_ends()
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
    """Name the outcome; what is wrong and unnoticed comes first."""
    found = set()
    for (record, expected), frame in zip(records, frames, strict=False):
        if frame is None:
            found.add("framing")
        elif frame.status == Status.TAG_MISMATCH:
            found.add("tag")
        elif frame.status != Status.OK:
            found.add("self check")
        elif (frame.op, frame.data_len) != (record.op, len(record.data)):
            found.add("framing")
        elif frame.data + frame.tag != expected:
            found.add(read_back(key, record, frame) if record.op == Op.ENCRYPT else "silent")
    if len(frames) != len(records):
        found.add("framing")
    if fault:
        return "self check"
    for outcome in ("silent", "self check", "tag", "framing"):
        if outcome in found:
            return outcome
    return "benign"


def read_back(key: bytes, record: Record, frame: Result) -> str:
    """What a reader with the right key makes of a wrong result of encryption."""
    try:
        clear = AESGCM(key).decrypt(record.iv, frame.data + frame.tag, record.aad)
    except InvalidTag:
        return "tag"
    return "silent" if clear != record.data else "benign"


async def trial(dut: Any, op: Op, path: str) -> str:
    bench = Bench(dut)
    await bench.power_on(wait=False)
    await ClockCycles(dut.clk_o, SELF_TEST_CLOCKS)
    await bench.until(regs.STATUS_SELF_TEST_DONE)
    bench.drop()
    key = random.randbytes(32)
    await bench.load_plain(key)
    records = [make(key, op) for _ in range(RECORDS)]
    register = find(dut.u_engine, path)
    bench.push(b"".join(record.frame() for record, _ in records))
    await ClockCycles(dut.clk_o, random.randrange(FLIGHT_CLOCKS))
    await FallingEdge(dut.clk_o)
    held = int(register.value)
    flipped = held ^ 1 << random.randrange(len(register))
    register.value = flipped
    frames = await collect(bench, RECORDS)
    fault = await bench.status(regs.STATUS_FAULT)
    outcome = judge(key, records, frames, fault)
    if outcome == "silent":
        cocotb.log.info("silent: %s %s, flipped %x", op.name, path, held ^ flipped)
    return outcome


@cocotb.test()
async def single_bit_flips(dut: Any) -> None:
    trials = int(os.environ.get("FAULT_TRIALS", "3"))
    random.seed(int(os.environ.get("FAULT_SEED", "1")))
    counts = {}
    for name, paths in TARGETS.items():
        for op in (Op.ENCRYPT, Op.DECRYPT):
            found = Counter([await trial(dut, op, random.choice(paths)) for _ in range(trials)])
            cocotb.log.info("%s, %s: %s", name, op.name, dict(found))
            counts[f"{name}/{op.name.lower()}"] = dict(found)
    if report := os.environ.get("FAULT_REPORT"):
        Path(report).write_text(json.dumps(counts, indent=2))
    silent = {name for name, found in counts.items() if "silent" in found}
    assert silent <= UNWATCHED, silent - UNWATCHED
    noticed = sum(found.get(kind, 0) for found in counts.values() for kind in ("tag", "self check"))
    assert noticed > 0, "no flip had any effect: the injection does not work"
