"""Zeroize: after every cause, at any clock, nothing is left, and the engine works again.

The build shows every register and memory (engine_visible.vlt) and has banks of 4096 bytes.
"""

import random
import re
from collections.abc import Sequence
from typing import Any

import cocotb
from bench_engine_records import check, flipped, powered, random_record
from clocked import registers
from cocotb.handle import Force, Release
from cocotb.triggers import ClockCycles, FallingEdge
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from engine import TRANSPORT_KEY, Bench, Op, Record, Status, header

from hdl.registers import engine_map as regs
from tests.support.key_rows import in_rows

BANK_BYTES = 4096
BANK_WORDS = BANK_BYTES // 16
AES_LATENCY = 29
LEDGER_ENTRIES = 16

# As hdl/rtl/README.md has it: clocks in which STATUS.zeroizing can be seen.
ZEROIZE_LEAST = AES_LATENCY + 3
ZEROIZE_MOST = BANK_WORDS + 4

# State that holds neither key nor text: lengths, places, states, counters.
HARMLESS = re.compile(
    r"""u_counters\..* | .*\.wipe_q | u_pace_limiter\..* | u_self_test\..*
      | u_slot_delay\.place_q
      | u_buffer\.read_half_q
      | u_issue\.(state|fresh|first|bad|refused|op|is_gcm|is_decrypt|has_data|block|said)_q
      | u_issue\.(aad|data)_(len|words)_q | u_issue\.last_(aad|data)_q
      | u_key_control\.(state|clear_count|load|fault|plain_locked|unwrap_failed)_q
      | u_key_control\.(sealed_test|plain|take|key_valid|key_loading)_q
      | u_key_control\.((expand|unwrap)_clear|clear|clear_starts)_q
      | fault_q | issue_usable_q | lost_step_q
      | u_ledger\.(tail|exit|judged|head|full|exit_record|failed|cut|wipe_place|ends)_q
      | u_ledger\.(sum_valid|judge|verdict|exit_parity)_q | u_exit\.(end|flags)_q
      | u_ledger\.next_q | u_buffer\.gen_bank\[.\]\.u_bank\.write_index_q
      | u_ledger\.next_(valid|ok|failed)_q | u_ledger\.opened(_place|_result)?_q
      | u_output\.(state|status|op|data_len|begun|forgotten)_q
      | u_output\.(fetched|held|spare|out)_(valid|data|last)_q
      | u_output\.(made|held|spare|out)_parity_q | .*\.u_twin\w*\.(twin|armed)_q
    """,
    re.VERBOSE,
)
# These may hold the header of a refusal, whose lower 96 bits are zero and whose status is not.
HEADERS = tuple(f"u_output.{name}_q" for name in ("made", "held", "spare", "out"))
# A record that was cut ends by one slot without data, which may be on its way.
KINDS = ("u_issue.kind_q", "u_slot_delay.kinds_q")
SLOT_REFUSED = 4
# Header and first word of a record.
FIRST_OF_A_RECORD = tuple(
    f"u_issue.{name}_q" for name in ("iv", "iv_parity", "slot", "aes_block", "aes_parity")
)


def left(dut: Any) -> dict[str, int]:
    """What the engine still holds, apart from harmless state, by path."""
    engine = dut.u_engine
    found = dict(registers(engine))
    assert len(found) > 400, "the registers are not visible in this build"
    found |= {child._path: int(child.value) for child in engine.u_regs if _is_entry(child._name)}
    assert len([path for path in found if "field_storage" in path]) == 18
    memories = {
        "u_slot_delay": (engine.u_slot_delay.memory, AES_LATENCY - 1),
        "tags": (engine.u_ledger.tags, LEDGER_ENTRIES),
        "bank 0": (engine.u_buffer.gen_bank[0].u_bank.memory, BANK_WORDS),
        "bank 1": (engine.u_buffer.gen_bank[1].u_bank.memory, BANK_WORDS),
    }
    for name, (memory, size) in memories.items():
        words = [int(word.value) for word in memory]
        assert len(words) == size
        found |= {f"{name}[{i}]": word for i, word in enumerate(words)}
    # Of a record whose header came a clock or two ago: without a key it is dropped then.
    recent = int(engine.u_issue.fresh_q.value) or int(engine.u_ledger.opened_q.value)
    fresh = FIRST_OF_A_RECORD if recent else ()
    rest = {}
    for path, value in found.items():
        name = path.removeprefix("engine_top.u_engine.")
        is_refusal = name in HEADERS and value >> 120 and not value & ((1 << 96) - 1)
        is_refused_end = name in KINDS and set(_kinds(value)) <= {0, SLOT_REFUSED}
        spared = name in fresh or is_refusal or is_refused_end
        if value and not (HARMLESS.fullmatch(name) or spared):
            rest[name] = value
    return rest


def _kinds(value: int) -> list[int]:
    return [value >> shift & 7 for shift in range(0, value.bit_length(), 3)]


def values_left(dut: Any) -> set[int]:
    """The values of what is left, and the words among them without the parity bits above them."""
    values = set(left(dut).values())
    return values | {value & ((1 << 128) - 1) for value in values}


def _is_entry(name: str) -> bool:
    return name.startswith(("field_storage_sealed", "field_storage_plain"))


def secrets(key: bytes, texts: Sequence[bytes]) -> list[int]:
    """Key halves, hash key, and text blocks, as a register would show them."""
    hash_key = Cipher(AES(key), modes.ECB()).encryptor().update(bytes(16))
    blocks = [text[i : i + 16] for text in texts for i in range(0, len(text) - 15, 16)]
    return [int.from_bytes(b, "big") for b in (key[:16], key[16:], hash_key, *blocks)]


async def load(bench: Bench, key: bytes, sealed: bool) -> None:
    if sealed:
        await bench.load_sealed(aes_key_wrap(TRANSPORT_KEY, key))
    else:
        await bench.load_plain(key)
    assert await bench.status(regs.STATUS_KEY_VALID)


async def zeroizing_clocks(dut: Any) -> int:
    """Count the clocks from the next one in which the engine zeroizes until it has done so."""
    state = dut.u_engine.u_key_control.state_q
    for _ in range(20):
        if int(state.value) == 0:
            break
        await FallingEdge(dut.clk_o)
    else:
        raise AssertionError("the engine does not zeroize")
    count = 0
    while int(state.value) == 0:
        await FallingEdge(dut.clk_o)
        count += 1
        assert count < 2 * ZEROIZE_MOST
    return count


def judge_cut(
    key: bytes, records: Sequence[Record], stream: bytes, lengths: list[int]
) -> dict[str, int]:
    """Each record has one frame: whole and right, or cut, or refused; in this order."""
    counts = {"whole": 0, "cut": 0, "zeroized": 0, "no key": 0}
    at = 0
    rank = 0
    for record, words in zip(records, lengths, strict=True):
        frame = stream[at : at + 16 * words]
        at += 16 * words
        whole = b""
        if record.op == Op.ENCRYPT:
            whole = AESGCM(key).encrypt(record.iv, record.data, record.aad)
            text, tag = whole[:-16], whole[-16:]
            whole = text + bytes(-len(text) % 16) + tag
        elif record.op == Op.DECRYPT:
            whole = AESGCM(key).decrypt(record.iv, record.data + record.tag, record.aad)
            whole += bytes(-len(whole) % 16)
        first = int.from_bytes(header(0, 0, len(record.data))[:4], "big") | record.op << 20
        good = first.to_bytes(4, "big") + bytes(12)
        cut = bytes([Status.ZEROIZED]) + good[1:]
        no_key = bytes([Status.NO_KEY]) + good[1:]
        if frame == good + whole:
            kind = "whole"
        elif frame == cut:
            kind = "zeroized"
        elif frame == no_key:
            kind = "no key"
        else:
            kind = "cut"
            assert frame[:16] == good
            assert frame[-16:] == cut
            assert words != 1 + len(whole) // 16, "a cut frame has the length of a whole one"
            between = frame[16:-16]
            if words > 1 + len(whole) // 16:
                assert not any(between[-16:])
                between = between[:-16]
            assert whole.startswith(between)
        counts[kind] += 1
        assert list(counts).index(kind) >= rank, "a record after zeroize was not refused"
        rank = list(counts).index(kind)
    assert counts["cut"] <= 1
    return counts


@cocotb.test()
async def the_search_finds_what_is_there(dut: Any) -> None:
    """Before zeroize the same search must show the key and the text: else it proves nothing."""
    bench = await powered(dut)
    assert left(dut) == {}, "the self test leaves something behind"
    key = random.randbytes(32)
    record = random_record(key, BANK_BYTES, Op.ENCRYPT)
    await load(bench, key, sealed=True)
    (result,) = await bench.process([record])
    values = values_left(dut)
    hidden = secrets(key, [result.data])[2:]
    assert all(secret in values for secret in hidden), "H or a ciphertext block is not seen"
    shown = " ".join(f"{value:0480x}" for value in values)
    assert all(in_rows(half).hex() in shown for half in (key[:16], key[16:])), "the key is not seen"
    await bench.zeroize()
    assert left(dut) == {}


@cocotb.test()
async def at_random_clocks(dut: Any) -> None:
    """By command, in the middle of anything: bounded, complete, and the streams stay in step."""
    bench = await powered(dut)
    totals: dict[str, int] = {}
    for trial in range(40):
        key = random.randbytes(32)
        await load(bench, key, sealed=trial % 4 == 0)
        bench.stalls(random.choice((256, 256, 90)), random.choice((256, 256, 60, 8)))
        ops = (Op.ENCRYPT, Op.DECRYPT)
        lengths = [random.choice((0, 16, 100, 2000, BANK_BYTES)) for _ in range(5)]
        records = [random_record(key, n, random.choice(ops)) for n in lengths]
        bench.push(b"".join(record.frame(0xEE) for record in records))
        await ClockCycles(
            dut.clk_o, random.choice((random.randrange(1, 120), random.randrange(1500)))
        )
        command = cocotb.start_soon(bench.command(regs.CTRL_ZEROIZE))
        clocks = await zeroizing_clocks(dut)
        assert left(dut) == {}, trial
        await command
        assert ZEROIZE_LEAST <= clocks <= ZEROIZE_MOST, clocks
        assert not await bench.status(regs.STATUS_KEY_VALID)
        stream, ends = await bench.answers(len(records))
        assert left(dut) == {}, trial
        for kind, count in judge_cut(key, records, stream, [n for n, _ in ends]).items():
            totals[kind] = totals.get(kind, 0) + count
        bench.stalls(256, 256)
        await load(bench, key, sealed=trial % 3 == 0)
        again = [random_record(key, n) for n in (300, BANK_BYTES)]
        check(key, again, await bench.process(again))
    cocotb.log.info("frames %s", totals)
    assert min(totals[kind] for kind in ("whole", "zeroized", "no key")) > 0


@cocotb.test()
async def at_every_clock_of_a_short_frame(dut: Any) -> None:
    """A frame that leaves while zeroize comes is never mistaken for a whole one."""
    bench = await powered(dut)
    key = random.randbytes(32)
    met: dict[str, int] = {}
    for length, op in ((0, Op.DECRYPT), (0, Op.ENCRYPT), (16, Op.DECRYPT), (40, Op.ENCRYPT)):
        for sink in (256, 100):
            for delay in range(0, 30):
                bench.stalls(256, sink)
                await load(bench, key, sealed=False)
                records = [random_record(key, length, op) for _ in range(2)]
                bench.push(b"".join(record.frame() for record in records))
                await ClockCycles(dut.clk_o, 30 + delay)
                await bench.command(regs.CTRL_ZEROIZE)
                stream, ends = await bench.answers(len(records))
                counts = judge_cut(key, records, stream, [n for n, _ in ends])
                for kind, count in counts.items():
                    met[kind] = met.get(kind, 0) + count
                await bench.until(regs.STATUS_ZEROIZING, 0)
    cocotb.log.info("frames %s", met)
    assert met["cut"] > 0


@cocotb.test()
async def while_a_key_is_loading(dut: Any) -> None:
    bench = await powered(dut)
    for trial in range(25):
        key = random.randbytes(32)
        if trial % 2:
            await bench.write_key(regs.SEALED_KEY, aes_key_wrap(TRANSPORT_KEY, key))
            await bench.command(regs.CTRL_LOAD_SEALED)
        else:
            await bench.write_key(regs.PLAIN_KEY, key)
            await bench.command(regs.CTRL_LOAD_PLAIN)
        await ClockCycles(dut.clk_o, random.randrange(1000 if trial % 2 else 200))
        await bench.zeroize()
        assert left(dut) == {}, trial
        assert not await bench.status(regs.STATUS_KEY_VALID)
        assert not await bench.status(regs.STATUS_KEY_LOADING)
        await load(bench, key, sealed=bool(trial % 2))


@cocotb.test()
async def a_new_key_forgets_the_old_one_first(dut: Any) -> None:
    bench = await powered(dut)
    old, new = random.randbytes(32), random.randbytes(32)
    await load(bench, old, sealed=True)
    check(old, [r := random_record(old, 4000, Op.ENCRYPT)], await bench.process([r]))
    await bench.write_key(regs.PLAIN_KEY, new)
    command = cocotb.start_soon(bench.command(regs.CTRL_LOAD_PLAIN))
    assert ZEROIZE_LEAST <= await zeroizing_clocks(dut) <= ZEROIZE_MOST
    held = left(dut)
    assert all("u_regs.field_storage_plain" in name for name in held), held
    await command
    await bench.until(regs.STATUS_KEY_LOADING, 0)
    assert not any("u_regs" in name for name in left(dut)), "the entry registers keep the key"
    assert not any("u_key_unwrap" in name for name in left(dut))
    records = [random_record(new) for _ in range(3)]
    check(new, records, await bench.process(records))


@cocotb.test()
async def by_a_failed_unwrap(dut: Any) -> None:
    bench = await powered(dut)
    old, new = random.randbytes(32), random.randbytes(32)
    await load(bench, old, sealed=False)
    check(old, [r := random_record(old, 4000, Op.ENCRYPT)], await bench.process([r]))
    await bench.load_sealed(flipped(aes_key_wrap(TRANSPORT_KEY, new)))
    await bench.until(regs.STATUS_ZEROIZING, 0)
    assert await bench.status(regs.STATUS_UNWRAP_FAILED)
    assert left(dut) == {}


@cocotb.test()
async def a_sealed_key_leaves_no_trace_but_round_keys(dut: Any) -> None:
    bench = await powered(dut)
    key = random.randbytes(32)
    await load(bench, key, sealed=True)
    held = left(dut)
    expected = ("u_key_control.u_aes_key_expand.", "u_aes_pipe.", "u_ghash.", "u_exit.")
    assert [name for name in held if not name.startswith(expected)] == []


@cocotb.test()
async def a_failed_record_is_wiped(dut: Any) -> None:
    """Nothing of its text is left, with any stalls."""
    bench = await powered(dut)
    for sink in (256, 100):
        bench.stalls(256, sink)
        key = random.randbytes(32)
        await load(bench, key, sealed=False)
        good = random_record(key, 4000, Op.DECRYPT)
        bad = [random_record(key, n, Op.DECRYPT) for n in (4096, 16, 3000)]
        tampered = [Record(r.op, r.data, r.iv, r.aad, flipped(r.tag)) for r in bad]
        records = [good, *tampered, good]
        results = await bench.process(records)
        check(key, [good, good], [results[0], results[-1]])
        assert [r.status for r in results[1:-1]] == [Status.TAG_MISMATCH] * 3
        (last,) = await bench.process(tampered[:1])
        assert last.status == Status.TAG_MISMATCH
        await bench.until(regs.STATUS_IDLE)
        texts = [AESGCM(key).decrypt(r.iv, r.data + r.tag, r.aad) for r in bad]
        held = values_left(dut)
        found = [text for text in secrets(key, texts)[3:] if text in held]
        assert not found, "text of a failed record is still there"


@cocotb.test()
async def by_a_fault(dut: Any) -> None:
    """An inner check that fails: all is forgotten and refused until reset."""
    engine = dut.u_engine
    checks = {
        "cipher and delay line out of step": engine.lost_step,
        "a digest nobody waits for": engine.u_ghash.digest_valid_o,
        "a word that is not there leaves": engine.u_buffer.discarded_o,
    }
    for what, signal in checks.items():
        bench = await powered(dut)
        key = random.randbytes(32)
        await load(bench, key, sealed=True)
        records = [random_record(key, 2000, Op.ENCRYPT) for _ in range(3)]
        bench.push(b"".join(record.frame() for record in records))
        await ClockCycles(dut.clk_o, 20)  # no word has reached the buffer
        signal.value = Force(1)
        await ClockCycles(dut.clk_o, 1)
        signal.value = Release()
        assert ZEROIZE_LEAST <= await zeroizing_clocks(dut) <= ZEROIZE_MOST, what
        assert left(dut) == {}, what
        await bench.answers(3)
        assert await bench.status(regs.STATUS_FAULT), what
        assert not await bench.status(regs.STATUS_READY)
        await bench.load_plain(key)
        assert not await bench.status(regs.STATUS_KEY_VALID)
        (result,) = await bench.process([Record(Op.BYPASS, b"anything")])
        assert result.status == Status.NOT_READY
    await bench.power_on()
    assert await bench.status(regs.STATUS_READY)


@cocotb.test()
async def by_reset(dut: Any) -> None:
    """Registers at once, memories before the self test begins."""
    bench = await powered(dut)
    key = random.randbytes(32)
    await load(bench, key, sealed=True)
    await bench.process([random_record(key, 4096, op) for op in Op])
    await bench.write_key(regs.PLAIN_KEY, key)
    assert left(dut) != {}
    await bench.power_on(wait=False)
    memories = ("bank", "delay", "tags")
    registers_left = [n for n in left(dut) if not any(memory in n for memory in memories)]
    assert registers_left == []
    assert await zeroizing_clocks(dut) <= ZEROIZE_MOST + 1  # counted from before the first clock
    assert left(dut) == {}
    await bench.until(regs.STATUS_SELF_TEST_DONE)
    assert await bench.status(regs.STATUS_READY)
