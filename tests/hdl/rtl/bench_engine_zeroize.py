"""Zeroize: after any cause, at any clock, nothing is left.

The build shows every register and memory (engine_visible.vlt) and has banks of 4096 bytes.
"""

import random
import re
from collections.abc import Sequence
from typing import Any

import cocotb
from bench_engine_records import check, flip_bit, random_record, start_engine
from clocked import registers
from cocotb.handle import Force, Release
from cocotb.triggers import ClockCycles, FallingEdge
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from engine import TRANSPORT_KEY, EngineDriver, Op, Record, Status, engine_test, header
from width import AES_LATENCY, RECORD_LATENCY, WORD_BYTES, WORD_CLOCKS

from hdl.registers import engine_map as regs
from tests.support.key_rows import in_rows

BANK_BYTES = 4096
BANK_WORDS = BANK_BYTES // 16
LEDGER_ENTRIES = 16

# As hdl/rtl/README.md has it: clocks in which STATUS.zeroizing can be seen.
ZEROIZE_LEAST = AES_LATENCY + 3
ZEROIZE_MOST = BANK_WORDS + 4

# State that holds neither key nor text: lengths, places, states, counters.
HARMLESS = re.compile(
    r"""u_counters\..* | u_gap_counters\..* | .*\.wipe_q | u_pace_limiter\..* | u_self_test\..*
      | u_slot_delay\.place_q | u_word_phase\..*
      | u_buffer\.read_half_q
      | u_issue\.(state|fresh|first|torn|bad|refused|op|is_gcm|is_decrypt|has_data|block|said)_q
      | u_issue\.(aad|data)_(len|words)_q | u_issue\.last_(aad|data)_q
      | u_key_control\.(state|clear_count|load|fault|plain_locked|unwrap_failed)_q
      | u_key_control\.(load_refused|plain_written)_q
      | u_key_control\.(sealed_test|plain|take|key_valid|key_loading)_q
      | u_key_control\.((expand|unwrap)_clear|clear|clear_starts)_q
      | fault_q | issue_usable_q | lost_step_q | idle_q | irq_q
      | u_ledger\.(tail|exit|judged|head|full|exit_record|failed|cut|wipe_place|ends)_q
      | u_ledger\.(sum_valid|judge|verdict|exit_parity)_q | u_exit\.(end|flags)_q
      | u_ledger\.next_q | u_buffer\.gen_bank\[.\]\.u_bank\.write_index_q
      | u_ledger\.next_(valid|ok|failed)_q | u_ledger\.opened(_place|_result)?_q
      | u_output\.(state|status|op|data_len|begun|zeroized)_q
      | u_output\.(fetched|held|spare|out)_(valid|data|last)_q
      | u_output\.(made|held|spare|out)_parity_q | .*\.u_twin\w*\.(twin|armed)_q
    """,
    re.VERBOSE,
)
# These may hold the header of a refusal: its lower 96 bits are zero, its status is not.
HEADERS = tuple(f"u_output.{name}_q" for name in ("made", "held", "spare", "out"))
# A record that was cut ends with one slot without data, which may still be in the pipeline.
KINDS = ("u_issue.kind_q", "u_slot_delay.kinds_q")
SLOT_REFUSED = 4
# Header and first word of a record.
FIRST_OF_A_RECORD = tuple(
    f"u_issue.{name}_q" for name in ("iv", "iv_parity", "slot", "aes_block", "aes_parity")
)


def remaining_state(dut: Any) -> dict[str, int]:
    """Return what the engine still holds, without harmless state, by path."""
    engine = dut.u_engine
    found = dict(registers(engine))
    assert len(found) > (400 if WORD_BYTES == 16 else 150), "the registers are not visible"
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
    # The header of a record came a clock or two ago; without a key the record is dropped then.
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
    """Return the values that are left, also without their parity bits."""
    values = set(remaining_state(dut).values())
    return values | {value & ((1 << 128) - 1) for value in values}


def _number(block: bytes) -> int:
    return int.from_bytes(block, "big")


def _is_entry(name: str) -> bool:
    return name.startswith(("field_storage_sealed", "field_storage_plain"))


def secrets(key: bytes, texts: Sequence[bytes]) -> list[int]:
    """Return key halves, hash key and text blocks as registers show them."""
    hash_key = Cipher(AES(key), modes.ECB()).encryptor().update(bytes(16))
    blocks = [text[i : i + 16] for text in texts for i in range(0, len(text) - 15, 16)]
    return [_number(block) for block in (key[:16], key[16:], hash_key, *blocks)]


async def load(engine: EngineDriver, key: bytes, sealed: bool) -> None:
    if sealed:
        await engine.load_sealed(aes_key_wrap(TRANSPORT_KEY, key))
    else:
        await engine.load_plain(key)
    assert await engine.status(regs.STATUS_KEY_VALID)


async def zeroizing_clocks(dut: Any) -> int:
    """Count the clocks from now until the engine has zeroized."""
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


async def first_frame_taken(dut: Any) -> None:
    """Wait until the frame that comes next was taken in whole."""
    state = dut.u_engine.u_issue.state_q
    for inside in (True, False):
        for _ in range(1000 * WORD_CLOCKS):
            if bool(int(state.value)) == inside:
                break
            await FallingEdge(dut.clk_o)
        else:
            raise AssertionError("the engine takes no frame")


def judge_cut(
    key: bytes, records: Sequence[Record], stream: bytes, lengths: list[int]
) -> dict[str, int]:
    """Check that each record has one frame, in order: whole, cut or refused."""
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


@engine_test
async def search_finds_key_and_text_before_zeroize(dut: Any) -> None:
    """Find key and text before zeroize; otherwise the search proves nothing."""
    engine = await start_engine(dut)
    assert remaining_state(dut) == {}, "the self test leaves something behind"
    key = random.randbytes(32)
    record = random_record(key, BANK_BYTES, Op.ENCRYPT)
    await load(engine, key, sealed=True)
    (result,) = await engine.process([record])
    values = values_left(dut)
    hidden = secrets(key, [result.data])[2:]
    assert all(secret in values for secret in hidden), "H or a ciphertext block is not seen"
    shown = " ".join(f"{value:0480x}" for value in values)
    assert all(in_rows(half).hex() in shown for half in (key[:16], key[16:])), "the key is not seen"
    await engine.zeroize()
    assert remaining_state(dut) == {}


@engine_test
async def zeroize_at_random_clocks(dut: Any) -> None:
    """Zeroize by command at random clocks: bounded, complete, streams in step."""
    engine = await start_engine(dut)
    totals: dict[str, int] = {}
    for trial in range(40):
        key = random.randbytes(32)
        await load(engine, key, sealed=trial % 4 == 0)
        engine.stalls(random.choice((256, 256, 90)), random.choice((256, 256, 60, 8)))
        ops = (Op.ENCRYPT, Op.DECRYPT)
        lengths = [random.choice((0, 16, 100, 2000, BANK_BYTES)) for _ in range(5)]
        records = [random_record(key, n, random.choice(ops)) for n in lengths]
        engine.push(b"".join(record.frame(0xEE) for record in records))
        await ClockCycles(
            dut.clk_o,
            random.choice((random.randrange(1, 120), random.randrange(1500 * WORD_CLOCKS))),
        )
        command = cocotb.start_soon(engine.command(regs.CTRL_ZEROIZE))
        clocks = await zeroizing_clocks(dut)
        assert remaining_state(dut) == {}, trial
        await command
        assert ZEROIZE_LEAST <= clocks <= ZEROIZE_MOST, clocks
        assert not await engine.status(regs.STATUS_KEY_VALID)
        stream, ends = await engine.answers(len(records))
        assert remaining_state(dut) == {}, trial
        for kind, count in judge_cut(key, records, stream, [n for n, _ in ends]).items():
            totals[kind] = totals.get(kind, 0) + count
        engine.stalls(256, 256)
        await load(engine, key, sealed=trial % 3 == 0)
        again = [random_record(key, n) for n in (300, BANK_BYTES)]
        check(key, again, await engine.process(again))
    cocotb.log.info("frames %s", totals)
    assert min(totals[kind] for kind in ("whole", "zeroized", "no key")) > 0


@engine_test
async def zeroize_at_every_clock_of_a_short_frame(dut: Any) -> None:
    """Zeroize while a frame leaves: no cut frame looks whole."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    met: dict[str, int] = {}
    for length, op in ((0, Op.DECRYPT), (0, Op.ENCRYPT), (16, Op.DECRYPT), (40, Op.ENCRYPT)):
        for sink in (256, 100):
            for delay in range(0, 30):
                engine.stalls(256, sink)
                await load(engine, key, sealed=False)
                records = [random_record(key, length, op) for _ in range(2)]
                engine.push(b"".join(record.frame() for record in records))
                await first_frame_taken(dut)
                await ClockCycles(dut.clk_o, RECORD_LATENCY - 14 + delay)
                await engine.command(regs.CTRL_ZEROIZE)
                stream, ends = await engine.answers(len(records))
                counts = judge_cut(key, records, stream, [n for n, _ in ends])
                for kind, count in counts.items():
                    met[kind] = met.get(kind, 0) + count
                await engine.until(regs.STATUS_ZEROIZING, 0)
    cocotb.log.info("frames %s", met)
    assert met["cut"] > 0


@engine_test
async def zeroize_while_a_key_is_loading(dut: Any) -> None:
    engine = await start_engine(dut)
    for trial in range(25):
        key = random.randbytes(32)
        if trial % 2:
            await engine.write_key(regs.SEALED_KEY, aes_key_wrap(TRANSPORT_KEY, key))
            await engine.command(regs.CTRL_LOAD_SEALED)
        else:
            await engine.write_key(regs.PLAIN_KEY, key)
            await engine.command(regs.CTRL_LOAD_PLAIN)
        await ClockCycles(dut.clk_o, random.randrange(1000 if trial % 2 else 200))
        await engine.zeroize()
        assert remaining_state(dut) == {}, trial
        assert not await engine.status(regs.STATUS_KEY_VALID)
        assert not await engine.status(regs.STATUS_KEY_LOADING)
        await load(engine, key, sealed=bool(trial % 2))


@engine_test
async def new_key_zeroizes_the_old_one(dut: Any) -> None:
    engine = await start_engine(dut)
    old, new = random.randbytes(32), random.randbytes(32)
    await load(engine, old, sealed=True)
    check(old, [r := random_record(old, 4000, Op.ENCRYPT)], await engine.process([r]))
    await engine.write_key(regs.PLAIN_KEY, new)
    command = cocotb.start_soon(engine.command(regs.CTRL_LOAD_PLAIN))
    assert ZEROIZE_LEAST <= await zeroizing_clocks(dut) <= ZEROIZE_MOST
    held = remaining_state(dut)
    assert all("u_regs.field_storage_plain" in name for name in held), held
    await command
    await engine.until(regs.STATUS_KEY_LOADING, 0)
    assert not any("u_regs" in name for name in remaining_state(dut)), (
        "the entry registers keep the key"
    )
    assert not any("u_key_unwrap" in name for name in remaining_state(dut))
    records = [random_record(new) for _ in range(3)]
    check(new, records, await engine.process(records))


@engine_test
async def failed_unwrap_zeroizes(dut: Any) -> None:
    engine = await start_engine(dut)
    old, new = random.randbytes(32), random.randbytes(32)
    await load(engine, old, sealed=False)
    check(old, [r := random_record(old, 4000, Op.ENCRYPT)], await engine.process([r]))
    await engine.load_sealed(flip_bit(aes_key_wrap(TRANSPORT_KEY, new)))
    await engine.until(regs.STATUS_ZEROIZING, 0)
    assert await engine.status(regs.STATUS_UNWRAP_FAILED)
    assert remaining_state(dut) == {}


@engine_test
async def sealed_key_leaves_only_round_keys(dut: Any) -> None:
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await load(engine, key, sealed=True)
    held = remaining_state(dut)
    expected = ("u_key_control.u_aes_key_expand.", "u_aes_pipe.", "u_ghash.", "u_exit.")
    assert [name for name in held if not name.startswith(expected)] == []


@engine_test
async def failed_record_is_zeroized(dut: Any) -> None:
    """Leave nothing of a failed record's text, with any stalls."""
    engine = await start_engine(dut)
    for sink in (256, 100):
        engine.stalls(256, sink)
        key = random.randbytes(32)
        await load(engine, key, sealed=False)
        good = random_record(key, 4000, Op.DECRYPT)
        bad = [random_record(key, n, Op.DECRYPT) for n in (4096, 16, 3000)]
        tampered = [Record(r.op, r.data, r.iv, r.aad, random.randbytes(16)) for r in bad]
        records = [good, *tampered, good]
        results = await engine.process(records)
        check(key, [good, good], [results[0], results[-1]])
        assert [r.status for r in results[1:-1]] == [Status.TAG_MISMATCH] * 3
        (last,) = await engine.process(tampered[:1])
        assert last.status == Status.TAG_MISMATCH
        await engine.until(regs.STATUS_IDLE)
        texts = [AESGCM(key).decrypt(r.iv, r.data + r.tag, r.aad) for r in bad]
        held = values_left(dut)
        found = [text for text in secrets(key, texts)[3:] if text in held]
        assert not found, "text of a failed record is still there"
        # With these a forger, who knows what he sent, has the right tags.
        sums = {_number(r.tag) ^ _number(t.tag) for r, t in zip(bad, tampered, strict=True)}
        assert not sums & held, "the right tag of a forgery is still there"


@engine_test
async def fault_zeroizes(dut: Any) -> None:
    """Fail an internal check: all is zeroized and refused until reset."""
    engine = dut.u_engine
    checks = {
        "cipher and delay line out of step": (engine.lost_step, 1),
        "a digest nobody waits for": (engine.u_ghash.digest_valid_o, 1),
        "a digest that does not come": (engine.u_ghash.digest_valid_o, 0),
        "a word that is not there leaves": (engine.u_buffer.discarded_o, 1),
    }
    for what, (signal, value) in checks.items():
        engine = await start_engine(dut)
        key = random.randbytes(32)
        await load(engine, key, sealed=True)
        records = [random_record(key, 2000, Op.ENCRYPT) for _ in range(3)]
        engine.push(b"".join(record.frame() for record in records))
        await ClockCycles(dut.clk_o, 20)  # no word has reached the buffer yet
        signal.value = Force(value)
        # A digest is due when its record is through.
        for _ in range(1 if value else 400 * WORD_CLOCKS):
            await ClockCycles(dut.clk_o, 1)
            if int(dut.u_engine.fault_q.value):
                break
        signal.value = Release()
        assert ZEROIZE_LEAST <= await zeroizing_clocks(dut) <= ZEROIZE_MOST, what
        assert remaining_state(dut) == {}, what
        await engine.answers(3)
        assert await engine.status(regs.STATUS_FAULT), what
        assert not await engine.status(regs.STATUS_READY)
        await engine.load_plain(key)
        assert not await engine.status(regs.STATUS_KEY_VALID)
        await engine.zeroize()
        # More than the buffer holds: none of it is kept.
        offered = [Record(Op.BYPASS, random.randbytes(BANK_BYTES)) for _ in range(4)]
        results = await engine.process(offered)
        assert {result.status for result in results} == {Status.NOT_READY}
        assert remaining_state(dut) == {}, what
    await engine.power_on()
    assert await engine.status(regs.STATUS_READY)


@engine_test
async def overrun_of_the_buffer_is_a_fault(dut: Any) -> None:
    """Let words in though every place is taken: it is a fault."""
    engine = await start_engine(dut)
    engine.stalls(256, 0)
    room = dut.u_engine.u_buffer.room_o
    room.value = Force(1)
    record = Record(Op.BYPASS, random.randbytes(BANK_BYTES))
    engine.push(record.frame() * 2)
    await ClockCycles(dut.clk_o, WORD_CLOCKS * (2 * BANK_WORDS - 20))
    assert not await engine.status(regs.STATUS_FAULT)
    engine.push(record.frame())
    await ClockCycles(dut.clk_o, 200 * WORD_CLOCKS)
    room.value = Release()
    assert await engine.status(regs.STATUS_FAULT)
    engine.stalls(256, 256)
    await ClockCycles(dut.clk_o, 4 * BANK_WORDS * WORD_CLOCKS)
    engine.drop()


@engine_test
async def faulted_engine_takes_no_key(dut: Any) -> None:
    """Refuse sealed and plain keys while the fault lasts; none stays."""
    for sealed in (True, False):
        engine = await start_engine(dut)
        key = random.randbytes(32)
        await load(engine, key, sealed=True)
        dut.u_engine.lost_step.value = Force(1)
        await ClockCycles(dut.clk_o, 2)
        dut.u_engine.lost_step.value = Release()
        await engine.until(regs.STATUS_FAULT)
        await engine.until(regs.STATUS_ZEROIZING, 0)
        for _ in range(2):
            if sealed:
                await engine.load_sealed(aes_key_wrap(TRANSPORT_KEY, key))
            else:
                await engine.load_plain(key)
            assert await engine.status(regs.STATUS_LOAD_REFUSED)
            assert not await engine.status(regs.STATUS_KEY_VALID)
            assert not await engine.status(regs.STATUS_KEY_LOADING)
            held = remaining_state(dut)
            assert all("u_regs.field_storage" in name for name in held), held
        await engine.zeroize()
        assert remaining_state(dut) == {}
        (result,) = await engine.process([Record(Op.ENCRYPT, b"anything", bytes(12))])
        assert result.status == Status.NOT_READY
        await engine.power_on()
        await load(engine, key, sealed=sealed)
        records = [random_record(key, 40)]
        check(key, records, await engine.process(records))


# What the first clock of zeroize clears; memories and delay line take longer.
CLEARED_AT_ONCE = re.compile(
    r"""u_key_control\.u_(aes_key_expand|key_unwrap)\..* | u_aes_pipe\..* | u_ghash\..* | u_exit\..*
      | u_issue\.(iv|iv_parity|aes_block|aes_parity|slot)_q
      | u_ledger\.(seeds|sum|sealed|next_tag)_q | u_output\.(tag|made|held|spare|out)_q
    """,
    re.VERBOSE,
)


@engine_test
async def zeroize_clears_at_its_first_clock(dut: Any) -> None:
    """Look one clock after clear is high: no register holds key or text.

    Every part must have held some before. In a narrow engine, where records take longer, what is
    kept for a few clocks only is there more rarely.
    """
    engine = await start_engine(dut)
    held_before: set[str] = set()
    parts = ("u_aes_pipe", "u_ghash", "u_exit", "u_issue", "u_ledger.seeds", "u_output.tag")

    def held(module: str) -> bool:
        names = (name for name in held_before if name.startswith(module))
        return any(map(CLEARED_AT_ONCE.fullmatch, names))

    for trial in range(16 * WORD_CLOCKS):
        if trial >= 16 and all(map(held, parts)):
            break
        key = random.randbytes(32)
        await load(engine, key, sealed=bool(trial % 2))
        engine.stalls(256, random.choice((256, 60)))
        ops = (Op.ENCRYPT, Op.DECRYPT)
        # Records end all the time: what is kept of an end for a few clocks only is there, too.
        lengths = [random.choice((16, 16, 40, 700)) for _ in range(20)]
        records = [random_record(key, length, random.choice(ops)) for length in lengths]
        engine.push(b"".join(record.frame(0xEE) for record in records))
        await ClockCycles(dut.clk_o, random.randrange(50, 200) * WORD_CLOCKS)
        if trial % 4 == 0:  # a seed is rare where words are far apart
            for _ in range(200 * WORD_CLOCKS):
                if int(dut.u_engine.u_ledger.seeds_q.value):
                    break
                await FallingEdge(dut.clk_o)
        command = cocotb.start_soon(engine.command(regs.CTRL_ZEROIZE))
        while not int(dut.u_engine.u_key_control.clear_q.value):
            before = remaining_state(dut)
            await FallingEdge(dut.clk_o)
        held_before |= {name.removeprefix("engine_top.u_engine.") for name in before}
        await FallingEdge(dut.clk_o)
        names = (name.removeprefix("engine_top.u_engine.") for name in remaining_state(dut))
        assert not [name for name in names if CLEARED_AT_ONCE.fullmatch(name)], trial
        await command
        await engine.answers(len(records))
    for module in parts:
        assert held(module), f"{module} held nothing that could be cleared"


@engine_test
async def reset_zeroizes(dut: Any) -> None:
    """Reset: registers are zero at once, memories before the self test begins."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await load(engine, key, sealed=True)
    await engine.process([random_record(key, 4096, op) for op in Op])
    await engine.write_key(regs.PLAIN_KEY, key)
    assert remaining_state(dut) != {}
    await engine.power_on(wait=False)
    memories = ("bank", "delay", "tags")
    registers_left = [
        n for n in remaining_state(dut) if not any(memory in n for memory in memories)
    ]
    assert registers_left == []
    assert await zeroizing_clocks(dut) <= ZEROIZE_MOST + 1  # counted from before the first clock
    assert remaining_state(dut) == {}
    await engine.until(regs.STATUS_SELF_TEST_DONE)
    assert await engine.status(regs.STATUS_READY)
