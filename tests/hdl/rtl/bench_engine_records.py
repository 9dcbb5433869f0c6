"""The engine's records, keys, counters and rates, against `cryptography`."""

import random
from collections.abc import Sequence
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from engine import (
    TRANSPORT_KEY,
    EngineDriver,
    Op,
    Record,
    Result,
    Status,
    engine_test,
    header,
    parse_results,
)
from width import WORD_BYTES, WORD_CLOCKS

from hdl.registers import engine_map as regs

BOUNDARIES = (0, 1, 15, 16, 17, 2047, 2048, 2049)
LONGEST = 262144
MOST_AAD = 128


async def start_engine(dut: Any) -> EngineDriver:
    engine = EngineDriver(dut)
    await engine.power_on()
    assert await engine.status(regs.STATUS_READY)
    return engine


def random_record(key: bytes, length: int | None = None, op: Op | None = None) -> Record:
    op = op or random.choice(list(Op))
    if length is None:
        length = random.choice((*BOUNDARIES, random.randrange(1, 3000), random.randrange(1, 64)))
    if op == Op.BYPASS:
        return Record(op, random.randbytes(max(length, 1)), random.randbytes(12))
    aad = random.randbytes(random.choice((0, 1, 15, 16, 17, 64, 127, MOST_AAD)))
    iv, data = random.randbytes(12), random.randbytes(length)
    if op == Op.DECRYPT:
        sealed = AESGCM(key).encrypt(iv, data, aad)
        return Record(op, sealed[:-16], iv, aad, sealed[-16:])
    return Record(op, data, iv, aad)


def check(key: bytes, records: Sequence[Record], results: Sequence[Result]) -> None:
    for record, result in zip(records, results, strict=True):
        assert result.status == Status.OK, (record, result)
        assert (result.op, result.data_len) == (record.op, len(record.data))
        assert not any(result.pad), "bytes that fill up the last word are not zero"
        if record.op == Op.BYPASS:
            assert result.data == record.data
        elif record.op == Op.ENCRYPT:
            sealed = AESGCM(key).encrypt(record.iv, record.data, record.aad)
            assert result.data + result.tag == sealed, len(record.data)
        else:
            clear = AESGCM(key).decrypt(record.iv, record.data + record.tag, record.aad)
            assert result.data == clear, len(record.data)


@engine_test
async def identity(dut: Any) -> None:
    engine = await start_engine(dut)
    assert await engine.read(regs.ID) == 0x54415045
    assert await engine.read(regs.MAP_HASH) == regs.MAP_HASH_EXPECTED
    assert await engine.read(regs.BUILD_HASH) == 0x0BADCAFE
    features = await engine.read(regs.FEATURES)
    assert 1 << regs.FEATURES_BANK_LOG2.get(features) == LONGEST
    assert regs.FEATURES_AAD_MAX.get(features) == MOST_AAD
    assert regs.FEATURES_SIMULATED.get(features) == 1
    await engine.write(regs.SCRATCH, 0x12345678)
    assert await engine.read(regs.SCRATCH) == 0x12345678
    status = await engine.read(regs.STATUS)
    wanted = (
        regs.STATUS_READY,
        regs.STATUS_IDLE,
        regs.STATUS_SELF_TEST_DONE,
        regs.STATUS_SELF_TEST_OK,
    )
    assert status == sum(field.put(1) for field in wanted)


@engine_test
async def every_boundary_without_stalls(dut: Any) -> None:
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    records = [random_record(key, n, op) for op in Op for n in BOUNDARIES]
    random.shuffle(records)
    check(key, records, await engine.process(records, pad=0xFF))
    records = [random_record(key, LONGEST - less, op) for op in Op for less in (0, 1, 15, 16, 17)]
    check(key, records, await engine.process(records, pad=0xFF))


@engine_test
async def largest_records_each_have_their_own_iv(dut: Any) -> None:
    """Send records of the largest size back to back, with fresh IVs."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    for op in (Op.ENCRYPT, Op.DECRYPT):
        records = [random_record(key, LONGEST, op) for _ in range(3)]
        assert len({record.iv for record in records}) == len(records)
        check(key, records, await engine.process(records))


@engine_test
async def random_records_with_stalls(dut: Any) -> None:
    engine = await start_engine(dut)
    for source, sink in ((128, 256), (256, 128), (40, 200), (200, 40), (100, 100), (250, 250)):
        key = random.randbytes(32)
        await engine.load_plain(key)
        engine.stalls(source, sink)
        records = [random_record(key) for _ in range(40)]
        check(key, records, await engine.process(records, pad=random.randrange(256)))
    engine.stalls(170, 150)
    records = [random_record(key, n) for n in (5, LONGEST, 16, LONGEST, 1)]
    check(key, records, await engine.process(records))


@engine_test
async def keys_change_between_records(dut: Any) -> None:
    engine = await start_engine(dut)
    for _ in range(6):
        key = random.randbytes(32)
        if random.random() < 0.5:
            await engine.load_plain(key)
        else:
            await engine.load_sealed(aes_key_wrap(TRANSPORT_KEY, key))
        assert await engine.status(regs.STATUS_KEY_VALID)
        records = [random_record(key) for _ in range(5)]
        check(key, records, await engine.process(records))


@engine_test
async def records_wait_for_the_key_being_loaded(dut: Any) -> None:
    engine = await start_engine(dut)
    await engine.load_plain(random.randbytes(32))
    key = random.randbytes(32)
    await engine.write_key(regs.SEALED_KEY, aes_key_wrap(TRANSPORT_KEY, key))
    await engine.command(regs.CTRL_LOAD_SEALED)
    records = [random_record(key, op=Op.ENCRYPT)]
    check(key, records, await engine.process(records))


@engine_test
async def failed_unwrap(dut: Any) -> None:
    engine = await start_engine(dut)
    old, key = random.randbytes(32), random.randbytes(32)
    blob = aes_key_wrap(TRANSPORT_KEY, key)
    for bit in random.sample(range(320), 4):
        await engine.load_plain(old)
        wrong = (int.from_bytes(blob, "big") ^ 1 << bit).to_bytes(40, "big")
        await engine.load_sealed(wrong)
        assert await engine.status(regs.STATUS_UNWRAP_FAILED)
        assert not await engine.status(regs.STATUS_KEY_VALID)
        (result,) = await engine.process([Record(Op.ENCRYPT, b"data", bytes(12))])
        assert result.status == Status.NO_KEY
    await engine.load_sealed(blob)
    assert not await engine.status(regs.STATUS_UNWRAP_FAILED)
    records = [random_record(key) for _ in range(3)]
    check(key, records, await engine.process(records))
    # Under a transport key that is not the engine's.
    await engine.load_sealed(aes_key_wrap(random.randbytes(32), key))
    assert await engine.status(regs.STATUS_UNWRAP_FAILED)


@engine_test
async def load_clears_the_entry_registers(dut: Any) -> None:
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_sealed(aes_key_wrap(TRANSPORT_KEY, key))
    await engine.command(regs.CTRL_LOAD_SEALED)  # no words were written for this load
    await engine.until(regs.STATUS_KEY_LOADING, 0)
    assert await engine.status(regs.STATUS_UNWRAP_FAILED)
    for register in (regs.SEALED_KEY, regs.PLAIN_KEY):
        for i in range(register.count):
            await engine.write(register, random.getrandbits(32), i)
            assert await engine.read(register, i) == 0, "a key register reads back"


@engine_test
async def plain_key_port_locks_until_reset(dut: Any) -> None:
    engine = await start_engine(dut)
    old, new = random.randbytes(32), random.randbytes(32)
    await engine.load_plain(old)
    await engine.command(regs.CTRL_LOCK_PLAIN)
    assert await engine.status(regs.STATUS_PLAIN_LOCKED)
    await engine.load_plain(new)
    records = [random_record(old) for _ in range(2)]
    check(old, records, await engine.process(records))  # the load had no effect
    await engine.zeroize()
    assert await engine.status(regs.STATUS_PLAIN_LOCKED)
    await engine.load_plain(new)
    assert not await engine.status(regs.STATUS_KEY_VALID)
    await engine.load_sealed(aes_key_wrap(TRANSPORT_KEY, new))
    records = [random_record(new) for _ in range(2)]
    check(new, records, await engine.process(records))
    await engine.power_on()
    assert not await engine.status(regs.STATUS_PLAIN_LOCKED)
    await engine.load_plain(new)
    check(new, records, await engine.process(records))


@engine_test
async def lock_and_load_in_one_write_locks(dut: Any) -> None:
    engine = await start_engine(dut)
    await engine.write_key(regs.PLAIN_KEY, random.randbytes(32))
    await engine.command(regs.CTRL_LOAD_PLAIN, regs.CTRL_LOCK_PLAIN)
    await engine.until(regs.STATUS_KEY_LOADING, 0)
    assert not await engine.status(regs.STATUS_KEY_VALID)


@engine_test
async def plain_key_is_loaded_only_when_written_whole(dut: Any) -> None:
    """Refuse a load without all words since the last load, zeroize or reset."""
    engine = await start_engine(dut)
    old, new = random.randbytes(32), random.randbytes(32)
    count = regs.PLAIN_KEY.count

    async def is_refused() -> bool:
        await engine.command(regs.CTRL_LOAD_PLAIN)
        await engine.until(regs.STATUS_KEY_LOADING, 0)
        return await engine.status(regs.STATUS_LOAD_REFUSED)

    assert await is_refused(), "nothing was written since reset"
    assert not await engine.status(regs.STATUS_KEY_VALID)
    await engine.load_plain(old)
    assert not await engine.status(regs.STATUS_LOAD_REFUSED)
    assert await is_refused(), "nothing was written since the last load"
    words = [int.from_bytes(new[4 * i : 4 * i + 4], "big") for i in range(count)]
    for missing in range(count):
        for i in range(count):
            if i != missing:
                await engine.write(regs.PLAIN_KEY, words[i], i)
        assert await is_refused(), missing
        records = [random_record(old, 40)]
        check(old, records, await engine.process(records))  # it holds the key that it held
        # A write without all its byte strobes does not complete the entry.
        address = regs.PLAIN_KEY.address + 4 * missing
        for strobes in (0, 1, 0b0111):
            await engine.access(address, words[missing], strobes)
            assert await is_refused(), (missing, strobes)
        await engine.access(address, words[missing])
        assert not await is_refused(), missing
        records = [random_record(new, 40)]
        check(new, records, await engine.process(records))
        await engine.load_plain(old)
    await engine.write_key(regs.PLAIN_KEY, new)
    await engine.zeroize()
    assert await is_refused(), "zeroize wiped the entry"
    await engine.write_key(regs.PLAIN_KEY, new)
    await engine.load_sealed(aes_key_wrap(TRANSPORT_KEY, old))
    assert await is_refused(), "the load of another key wiped the entry"
    # Zeroize and load in one write: no key is loaded, and the host can see it.
    await engine.write_key(regs.PLAIN_KEY, new)
    await engine.command(regs.CTRL_LOAD_PLAIN, regs.CTRL_ZEROIZE)
    await engine.until(regs.STATUS_ZEROIZING, 0)
    assert await engine.status(regs.STATUS_LOAD_REFUSED)
    assert not await engine.status(regs.STATUS_KEY_VALID)
    await engine.command(regs.CTRL_LOCK_PLAIN)
    await engine.load_sealed(aes_key_wrap(TRANSPORT_KEY, old))
    assert not await engine.status(regs.STATUS_LOAD_REFUSED)
    await engine.load_plain(new)
    assert await engine.status(regs.STATUS_LOAD_REFUSED), "the port is locked"


def flip_bit(data: bytes, bit: int | None = None) -> bytes:
    bit = random.randrange(8 * len(data)) if bit is None else bit
    return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")


@engine_test
async def tampered_records(dut: Any) -> None:
    """Flip one bit anywhere: only a refusal comes out; the next is good."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    await engine.command(regs.CTRL_COUNTERS_CLEAR)
    records: list[Record] = []
    tampered: list[bool] = []
    good = random_record(key, 100, Op.DECRYPT)
    for bit in range(128):
        records.append(Record(Op.DECRYPT, good.data, good.iv, good.aad, flip_bit(good.tag, bit)))
        tampered.append(True)
    for n in (1, 16, 17, 2048):
        good = Record(Op.DECRYPT, b"", random.randbytes(12), random.randbytes(33))
        sealed = AESGCM(key).encrypt(good.iv, random.randbytes(n), good.aad)
        data, tag = sealed[:-16], sealed[-16:]
        for _ in range(3):
            records += [
                Record(Op.DECRYPT, flip_bit(data), good.iv, good.aad, tag),
                Record(Op.DECRYPT, data, flip_bit(good.iv), good.aad, tag),
                Record(Op.DECRYPT, data, good.iv, flip_bit(good.aad), tag),
                Record(Op.DECRYPT, data, good.iv, good.aad[:-1], tag),
                Record(Op.DECRYPT, data + b"\0", good.iv, good.aad, tag),
                Record(Op.DECRYPT, data, good.iv, good.aad, tag),
            ]
            tampered += [True] * 5 + [False]
    for stall in (256, 150):
        engine.stalls(stall, 256 - stall // 4 if stall < 256 else 256)
        results = await engine.process(records)
        for record, wrong, result in zip(records, tampered, results, strict=True):
            if wrong:
                assert result.status == Status.TAG_MISMATCH, record
            else:
                check(key, [record], [result])
    await engine.command(regs.CTRL_COUNTERS_SNAPSHOT)
    assert await engine.counter(regs.TAG_FAILURES) == 2 * sum(tampered)
    assert await engine.counter(regs.RECORDS) == 2 * (len(tampered) - sum(tampered))


@engine_test
async def nothing_leaves_before_the_tag(dut: Any) -> None:
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    record = random_record(key, 5000, Op.DECRYPT)
    frame = record.frame()
    engine.push(frame[:-16])
    await ClockCycles(dut.clk_o, 1000)
    assert engine.take() == b""
    engine.push(flip_bit(frame[-16:]))
    assert parse_results(await engine.wait(16))[0].status == Status.TAG_MISMATCH
    await ClockCycles(dut.clk_o, 1000)
    assert engine.take() == b""
    engine.drop()
    check(key, [record], await engine.process([record]))


@engine_test
async def bad_frames_are_refused_whole(dut: Any) -> None:
    """Refuse bad frames and take them in whole: the next record is good."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    good = random_record(key, 40, Op.ENCRYPT)

    def frame(op: int, aad_len: int, data_len: int, rsvd: int = 0) -> bytes:
        words = (aad_len + 15) // 16 + (data_len + 15) // 16 + (op == Op.DECRYPT)
        return header(op, aad_len, data_len, rsvd=rsvd) + random.randbytes(16 * words)

    bad = [frame(op, 20, 50) for op in range(16) if op not in list(Op)]
    bad += [frame(0, 0, 0), frame(15, 0, 1), frame(15, 1, 0)]
    bad += [frame(op, 129, 50) for op in Op] + [frame(op, 255, 0) for op in Op]
    bad += [frame(op, 0, LONGEST + 1) for op in Op] + [frame(2, 7, (1 << 19) - 1)]
    bad += [frame(Op.BYPASS, 1, 50), frame(Op.BYPASS, 0, 0), frame(Op.ENCRYPT, 0, 50, rsvd=1)]
    for has_key in (False, True):
        if has_key:
            await engine.load_plain(key)
            engine.stalls(128, 256)
        engine.push(b"".join(each + good.frame() for each in bad))
        stream, _ = await engine.answers(2 * len(bad))
        results = parse_results(stream)
        assert {r.status for r in results[0::2]} == {Status.BAD_FRAME}
        if has_key:
            check(key, [good] * len(bad), results[1::2])
        else:
            assert {r.status for r in results[1::2]} == {Status.NO_KEY}


@engine_test
async def bypass_needs_no_key(dut: Any) -> None:
    engine = await start_engine(dut)
    records = [random_record(b"", n, Op.BYPASS) for n in (1, 16, 17, 4000)]
    check(b"", records, await engine.process(records))
    (result,) = await engine.process([Record(Op.ENCRYPT, b"x")])
    assert result.status == Status.NO_KEY


@engine_test
async def throughput(dut: Any) -> None:
    """Measure bytes a clock by the engine's counters and an outside counter."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    for length, count, least in ((LONGEST, 6, 0.99), (2048, 100, 0.90)):
        for op in Op:
            data, iv = random.randbytes(length), random.randbytes(12)
            aad = b"" if op == Op.BYPASS else random.randbytes(64)
            record = Record(op, data, iv, aad)
            if op == Op.DECRYPT:
                sealed = AESGCM(key).encrypt(iv, data, aad)
                record = Record(op, sealed[:-16], iv, aad, sealed[-16:])
            await engine.command(regs.CTRL_COUNTERS_CLEAR)
            engine.push(record.frame() * count)
            stream, ends = await engine.answers(count)
            assert {r.status for r in parse_results(stream)} == {Status.OK}
            await engine.command(regs.CTRL_COUNTERS_SNAPSHOT)
            size = await engine.counter(regs.BYTES)
            assert size == length * count
            assert await engine.counter(regs.RECORDS) == count
            own = size / (WORD_BYTES * await engine.counter(regs.CYCLES_BUSY))
            # The first two records find both banks empty: measure the steady state after them.
            steady = length * (count - 2) / (WORD_BYTES * (ends[-1][1] - ends[1][1]))
            cocotb.log.info(
                "throughput %s %d bytes: %.4f by counters, %.4f outside",
                op.name,
                length,
                own,
                steady,
            )
            assert own >= least
            assert steady >= least


@engine_test
async def throughput_of_a_mix(dut: Any) -> None:
    """Repeat the records of a volume: header label, block, trailer label."""
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    lengths = (180, 50 * 1024, 60) * 8
    for op in Op:
        records = [random_record(key, length, op) for length in lengths]
        await engine.command(regs.CTRL_COUNTERS_CLEAR)
        engine.push(b"".join(record.frame() for record in records))
        stream, ends = await engine.answers(len(records))
        check(key, records, parse_results(stream))
        await engine.command(regs.CTRL_COUNTERS_SNAPSHOT)
        assert await engine.counter(regs.BYTES) == sum(lengths)
        words = [(length + 15) // 16 for length in lengths]
        own = WORD_CLOCKS * sum(words) / await engine.counter(regs.CYCLES_BUSY)
        # The first three records find the buffer empty: measure the steady state after them.
        steady = WORD_CLOCKS * sum(words[3:]) / (ends[-1][1] - ends[2][1])
        cocotb.log.info("throughput %s mix: %.4f by counters, %.4f outside", op.name, own, steady)
        assert own >= 0.97
        assert steady >= 0.97


@engine_test
async def pace_limits_the_data_words(dut: Any) -> None:
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    for rate in (0x4000, 0x1000, 0xF000):
        await engine.write(regs.PACE, rate)
        records = [random_record(key, 4096, op) for op in (Op.ENCRYPT, Op.BYPASS, Op.DECRYPT) * 2]
        start = int(dut.clocks_o.value)
        check(key, records, await engine.process(records))
        took = int(dut.clocks_o.value) - start
        words = sum(len(record.data) // 16 for record in records)
        least = (words - 16) * 65536 // rate
        if WORD_CLOCKS > 1:
            least = max(least, WORD_CLOCKS * words)
        # The last record leaves later where words are apart.
        most = least + 600 + 40 * (WORD_CLOCKS - 1)
        assert least <= took <= most, (rate, took, least)
    await engine.write(regs.PACE, 0)


@engine_test
async def stalls_are_counted(dut: Any) -> None:
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    records = [random_record(key, 8192, Op.ENCRYPT) for _ in range(4)]
    counts = {}
    for name, source, sink in (("none", 256, 256), ("source", 128, 256), ("sink", 256, 128)):
        engine.stalls(source, sink)
        await engine.command(regs.CTRL_COUNTERS_CLEAR)
        check(key, records, await engine.process(records))
        await engine.command(regs.CTRL_COUNTERS_SNAPSHOT)
        counts[name] = [
            await engine.counter(each)
            for each in (regs.CYCLES_STALL_SOURCE, regs.CYCLES_STALL_SINK, regs.CYCLES_BUSY)
        ]
    words = 4 * 512
    cocotb.log.info("stalls %s", counts)
    assert counts["none"][0] == 0
    assert counts["none"][1] < 0.01 * words
    assert 0.8 * words < counts["source"][0] < 1.2 * words
    assert counts["sink"][0] == 0
    assert counts["sink"][1] > 0.8 * words
    assert counts["none"][2] < WORD_CLOCKS * (1.01 * words + 40)
    await engine.command(regs.CTRL_COUNTERS_CLEAR)
    for counter in (regs.CYCLES_BUSY, regs.BYTES, regs.RECORDS, regs.CYCLES_STALL_SINK):
        assert await engine.counter(counter) == 0


@engine_test
async def time_does_not_depend_on_key_and_data(dut: Any) -> None:
    """Measure the same clocks for any key and data, from load to last result."""
    engine = await start_engine(dut)
    for sealed in (False, True):
        seen = set()
        for key in (bytes(32), b"\xff" * 32, *(random.randbytes(32) for _ in range(3))):
            await engine.zeroize()
            if sealed:
                await engine.write_key(regs.SEALED_KEY, aes_key_wrap(TRANSPORT_KEY, key))
            else:
                await engine.write_key(regs.PLAIN_KEY, key)
            records = []
            for op in Op:
                data = random.choice((bytes(999), random.randbytes(999)))
                aad = b"" if op == Op.BYPASS else random.randbytes(30)
                record = Record(op, data, random.randbytes(12), aad)
                if op == Op.DECRYPT:
                    text = AESGCM(key).encrypt(record.iv, data, aad)
                    record = Record(op, text[:-16], record.iv, aad, text[-16:])
                records.append(record)
            await ClockCycles(dut.clk_o, -int(dut.clocks_o.value) % 16 + 1)  # the same turn
            start = int(dut.clocks_o.value)
            await engine.command(regs.CTRL_LOAD_SEALED if sealed else regs.CTRL_LOAD_PLAIN)
            engine.push(b"".join(record.frame() for record in records))
            stream, ends = await engine.answers(len(records))
            check(key, records, parse_results(stream))
            seen.add(tuple(clock - start for _, clock in ends))
        cocotb.log.info("clocks %s", seen)
        assert len(seen) == 1
