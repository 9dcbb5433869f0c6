"""The engine's records, keys, counters and rates, against `cryptography`."""

import random
from collections.abc import Sequence
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from engine import TRANSPORT_KEY, Bench, Op, Record, Result, Status, header, parse_results

from hdl.registers import engine_map as regs

BOUNDARIES = (0, 1, 15, 16, 17, 2047, 2048, 2049)
LONGEST = 262144
MOST_AAD = 128


async def powered(dut: Any) -> Bench:
    bench = Bench(dut)
    await bench.power_on()
    assert await bench.status(regs.STATUS_READY)
    return bench


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


@cocotb.test()
async def identity(dut: Any) -> None:
    bench = await powered(dut)
    assert await bench.read(regs.ID) == 0x54415045
    assert await bench.read(regs.MAP_HASH) == regs.MAP_HASH_EXPECTED
    assert await bench.read(regs.BUILD_HASH) == 0x0BADCAFE
    features = await bench.read(regs.FEATURES)
    assert 1 << regs.FEATURES_BANK_LOG2.get(features) == LONGEST
    assert regs.FEATURES_AAD_MAX.get(features) == MOST_AAD
    await bench.write(regs.SCRATCH, 0x12345678)
    assert await bench.read(regs.SCRATCH) == 0x12345678
    status = await bench.read(regs.STATUS)
    wanted = (
        regs.STATUS_READY,
        regs.STATUS_IDLE,
        regs.STATUS_SELF_TEST_DONE,
        regs.STATUS_SELF_TEST_OK,
    )
    assert status == sum(field.put(1) for field in wanted)


@cocotb.test()
async def every_boundary_without_stalls(dut: Any) -> None:
    bench = await powered(dut)
    key = random.randbytes(32)
    await bench.load_plain(key)
    records = [random_record(key, n, op) for op in Op for n in BOUNDARIES]
    random.shuffle(records)
    check(key, records, await bench.process(records, pad=0xFF))
    records = [random_record(key, LONGEST - less, op) for op in Op for less in (0, 1, 15, 16, 17)]
    check(key, records, await bench.process(records, pad=0xFF))


@cocotb.test()
async def random_records_with_stalls(dut: Any) -> None:
    bench = await powered(dut)
    for source, sink in ((128, 256), (256, 128), (40, 200), (200, 40), (100, 100), (250, 250)):
        key = random.randbytes(32)
        await bench.load_plain(key)
        bench.stalls(source, sink)
        records = [random_record(key) for _ in range(40)]
        check(key, records, await bench.process(records, pad=random.randrange(256)))
    bench.stalls(170, 150)
    records = [random_record(key, n) for n in (5, LONGEST, 16, LONGEST, 1)]
    check(key, records, await bench.process(records))


@cocotb.test()
async def keys_change_between_records(dut: Any) -> None:
    bench = await powered(dut)
    for _ in range(6):
        key = random.randbytes(32)
        if random.random() < 0.5:
            await bench.load_plain(key)
        else:
            await bench.load_sealed(aes_key_wrap(TRANSPORT_KEY, key))
        assert await bench.status(regs.STATUS_KEY_VALID)
        records = [random_record(key) for _ in range(5)]
        check(key, records, await bench.process(records))


@cocotb.test()
async def records_wait_for_the_key_being_loaded(dut: Any) -> None:
    bench = await powered(dut)
    await bench.load_plain(random.randbytes(32))
    key = random.randbytes(32)
    await bench.write_key(regs.SEALED_KEY, aes_key_wrap(TRANSPORT_KEY, key))
    await bench.command(regs.CTRL_LOAD_SEALED)
    records = [random_record(key, op=Op.ENCRYPT)]
    check(key, records, await bench.process(records))


@cocotb.test()
async def failed_unwrap(dut: Any) -> None:
    bench = await powered(dut)
    old, key = random.randbytes(32), random.randbytes(32)
    blob = aes_key_wrap(TRANSPORT_KEY, key)
    for bit in random.sample(range(320), 4):
        await bench.load_plain(old)
        wrong = (int.from_bytes(blob, "big") ^ 1 << bit).to_bytes(40, "big")
        await bench.load_sealed(wrong)
        assert await bench.status(regs.STATUS_UNWRAP_FAILED)
        assert not await bench.status(regs.STATUS_KEY_VALID)
        (result,) = await bench.process([Record(Op.ENCRYPT, b"data", bytes(12))])
        assert result.status == Status.NO_KEY
    await bench.load_sealed(blob)
    assert not await bench.status(regs.STATUS_UNWRAP_FAILED)
    records = [random_record(key) for _ in range(3)]
    check(key, records, await bench.process(records))
    # Under another transport key than the engine's.
    await bench.load_sealed(aes_key_wrap(random.randbytes(32), key))
    assert await bench.status(regs.STATUS_UNWRAP_FAILED)


@cocotb.test()
async def entry_registers_are_spent_by_a_load(dut: Any) -> None:
    bench = await powered(dut)
    key = random.randbytes(32)
    await bench.load_sealed(aes_key_wrap(TRANSPORT_KEY, key))
    await bench.command(regs.CTRL_LOAD_SEALED)  # nothing was written for this one
    await bench.until(regs.STATUS_KEY_LOADING, 0)
    assert await bench.status(regs.STATUS_UNWRAP_FAILED)
    for register in (regs.SEALED_KEY, regs.PLAIN_KEY):
        for i in range(register.count):
            await bench.write(register, random.getrandbits(32), i)
            assert await bench.read(register, i) == 0, "a key register reads back"


@cocotb.test()
async def plain_key_port_locks_until_reset(dut: Any) -> None:
    bench = await powered(dut)
    old, new = random.randbytes(32), random.randbytes(32)
    await bench.load_plain(old)
    await bench.command(regs.CTRL_LOCK_PLAIN)
    assert await bench.status(regs.STATUS_PLAIN_LOCKED)
    await bench.load_plain(new)
    records = [random_record(old) for _ in range(2)]
    check(old, records, await bench.process(records))  # the load did nothing at all
    await bench.zeroize()
    assert await bench.status(regs.STATUS_PLAIN_LOCKED)
    await bench.load_plain(new)
    assert not await bench.status(regs.STATUS_KEY_VALID)
    await bench.load_sealed(aes_key_wrap(TRANSPORT_KEY, new))
    records = [random_record(new) for _ in range(2)]
    check(new, records, await bench.process(records))
    await bench.power_on()
    assert not await bench.status(regs.STATUS_PLAIN_LOCKED)
    await bench.load_plain(new)
    check(new, records, await bench.process(records))


@cocotb.test()
async def lock_and_load_in_one_write_locks(dut: Any) -> None:
    bench = await powered(dut)
    await bench.write_key(regs.PLAIN_KEY, random.randbytes(32))
    await bench.command(regs.CTRL_LOAD_PLAIN, regs.CTRL_LOCK_PLAIN)
    await bench.until(regs.STATUS_KEY_LOADING, 0)
    assert not await bench.status(regs.STATUS_KEY_VALID)


def flipped(data: bytes, bit: int | None = None) -> bytes:
    bit = random.randrange(8 * len(data)) if bit is None else bit
    return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")


@cocotb.test()
async def tampered_records(dut: Any) -> None:
    """One bit wrong anywhere: nothing but the refusal comes out, and the next record is well."""
    bench = await powered(dut)
    key = random.randbytes(32)
    await bench.load_plain(key)
    await bench.command(regs.CTRL_COUNTERS_CLEAR)
    records: list[Record] = []
    tampered: list[bool] = []
    good = random_record(key, 100, Op.DECRYPT)
    for bit in range(128):
        records.append(Record(Op.DECRYPT, good.data, good.iv, good.aad, flipped(good.tag, bit)))
        tampered.append(True)
    for n in (1, 16, 17, 2048):
        good = Record(Op.DECRYPT, b"", random.randbytes(12), random.randbytes(33))
        sealed = AESGCM(key).encrypt(good.iv, random.randbytes(n), good.aad)
        data, tag = sealed[:-16], sealed[-16:]
        for _ in range(3):
            records += [
                Record(Op.DECRYPT, flipped(data), good.iv, good.aad, tag),
                Record(Op.DECRYPT, data, flipped(good.iv), good.aad, tag),
                Record(Op.DECRYPT, data, good.iv, flipped(good.aad), tag),
                Record(Op.DECRYPT, data, good.iv, good.aad[:-1], tag),
                Record(Op.DECRYPT, data + b"\0", good.iv, good.aad, tag),
                Record(Op.DECRYPT, data, good.iv, good.aad, tag),
            ]
            tampered += [True] * 5 + [False]
    for stall in (256, 150):
        bench.stalls(stall, 256 - stall // 4 if stall < 256 else 256)
        results = await bench.process(records)
        for record, wrong, result in zip(records, tampered, results, strict=True):
            if wrong:
                assert result.status == Status.TAG_MISMATCH, record
            else:
                check(key, [record], [result])
    await bench.command(regs.CTRL_COUNTERS_SNAPSHOT)
    assert await bench.counter(regs.TAG_FAILURES) == 2 * sum(tampered)
    assert await bench.counter(regs.RECORDS) == 2 * (len(tampered) - sum(tampered))


@cocotb.test()
async def nothing_leaves_before_the_tag(dut: Any) -> None:
    bench = await powered(dut)
    key = random.randbytes(32)
    await bench.load_plain(key)
    record = random_record(key, 5000, Op.DECRYPT)
    frame = record.frame()
    bench.push(frame[:-16])
    await ClockCycles(dut.clk_o, 1000)
    assert bench.take() == b""
    bench.push(flipped(frame[-16:]))
    assert parse_results(await bench.wait(16))[0].status == Status.TAG_MISMATCH
    await ClockCycles(dut.clk_o, 1000)
    assert bench.take() == b""
    bench.drop()
    check(key, [record], await bench.process([record]))


@cocotb.test()
async def bad_frames_are_refused_whole(dut: Any) -> None:
    """Every refused frame is taken in to its end: the record behind it is found and well."""
    bench = await powered(dut)
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
            await bench.load_plain(key)
            bench.stalls(128, 256)
        bench.push(b"".join(each + good.frame() for each in bad))
        stream, _ = await bench.answers(2 * len(bad))
        results = parse_results(stream)
        assert {r.status for r in results[0::2]} == {Status.BAD_FRAME}
        if has_key:
            check(key, [good] * len(bad), results[1::2])
        else:
            assert {r.status for r in results[1::2]} == {Status.NO_KEY}


@cocotb.test()
async def bypass_needs_no_key(dut: Any) -> None:
    bench = await powered(dut)
    records = [random_record(b"", n, Op.BYPASS) for n in (1, 16, 17, 4000)]
    check(b"", records, await bench.process(records))
    (result,) = await bench.process([Record(Op.ENCRYPT, b"x")])
    assert result.status == Status.NO_KEY


@cocotb.test()
async def throughput(dut: Any) -> None:
    """Bytes a clock, by the engine's own counters and by a clock counter outside of it."""
    bench = await powered(dut)
    key = random.randbytes(32)
    await bench.load_plain(key)
    for length, count, least in ((LONGEST, 6, 0.99), (2048, 100, 0.90)):
        for op in Op:
            data, iv = random.randbytes(length), random.randbytes(12)
            aad = b"" if op == Op.BYPASS else random.randbytes(64)
            record = Record(op, data, iv, aad)
            if op == Op.DECRYPT:
                sealed = AESGCM(key).encrypt(iv, data, aad)
                record = Record(op, sealed[:-16], iv, aad, sealed[-16:])
            await bench.command(regs.CTRL_COUNTERS_CLEAR)
            bench.push(record.frame() * count)
            stream, ends = await bench.answers(count)
            assert {r.status for r in parse_results(stream)} == {Status.OK}
            await bench.command(regs.CTRL_COUNTERS_SNAPSHOT)
            size = await bench.counter(regs.BYTES)
            assert size == length * count
            assert await bench.counter(regs.RECORDS) == count
            own = size / (16 * await bench.counter(regs.CYCLES_BUSY))
            # The first two records find both banks empty: steady state is what follows.
            steady = length * (count - 2) / (16 * (ends[-1][1] - ends[1][1]))
            cocotb.log.info(
                "throughput %s %d bytes: %.4f by counters, %.4f outside",
                op.name,
                length,
                own,
                steady,
            )
            assert own >= least
            assert steady >= least


@cocotb.test()
async def throughput_of_a_mix(dut: Any) -> None:
    """A volume on tape: a header label, a large block, a trailer label, over and over."""
    bench = await powered(dut)
    key = random.randbytes(32)
    await bench.load_plain(key)
    lengths = (180, 50 * 1024, 60) * 8
    for op in Op:
        records = [random_record(key, length, op) for length in lengths]
        await bench.command(regs.CTRL_COUNTERS_CLEAR)
        bench.push(b"".join(record.frame() for record in records))
        stream, ends = await bench.answers(len(records))
        check(key, records, parse_results(stream))
        await bench.command(regs.CTRL_COUNTERS_SNAPSHOT)
        assert await bench.counter(regs.BYTES) == sum(lengths)
        words = [(length + 15) // 16 for length in lengths]
        own = sum(words) / await bench.counter(regs.CYCLES_BUSY)
        # The first three records find the buffer empty: steady state is what follows.
        steady = sum(words[3:]) / (ends[-1][1] - ends[2][1])
        cocotb.log.info("throughput %s mix: %.4f by counters, %.4f outside", op.name, own, steady)
        assert own >= 0.97
        assert steady >= 0.97


@cocotb.test()
async def pace_limits_the_data_words(dut: Any) -> None:
    bench = await powered(dut)
    key = random.randbytes(32)
    await bench.load_plain(key)
    for rate in (0x4000, 0x1000, 0xF000):
        await bench.write(regs.PACE, rate)
        records = [random_record(key, 4096, op) for op in (Op.ENCRYPT, Op.BYPASS, Op.DECRYPT) * 2]
        start = int(dut.clocks_o.value)
        check(key, records, await bench.process(records))
        took = int(dut.clocks_o.value) - start
        words = sum(len(record.data) // 16 for record in records)
        least = (words - 16) * 65536 // rate
        assert least <= took <= least + 600, (rate, took, least)
    await bench.write(regs.PACE, 0)


@cocotb.test()
async def stalls_are_counted(dut: Any) -> None:
    bench = await powered(dut)
    key = random.randbytes(32)
    await bench.load_plain(key)
    records = [random_record(key, 8192, Op.ENCRYPT) for _ in range(4)]
    counts = {}
    for name, source, sink in (("none", 256, 256), ("source", 128, 256), ("sink", 256, 128)):
        bench.stalls(source, sink)
        await bench.command(regs.CTRL_COUNTERS_CLEAR)
        check(key, records, await bench.process(records))
        await bench.command(regs.CTRL_COUNTERS_SNAPSHOT)
        counts[name] = [
            await bench.counter(each)
            for each in (regs.CYCLES_STALL_SOURCE, regs.CYCLES_STALL_SINK, regs.CYCLES_BUSY)
        ]
    words = 4 * 512
    cocotb.log.info("stalls %s", counts)
    assert counts["none"][0] == 0
    assert counts["none"][1] < 0.01 * words
    assert 0.8 * words < counts["source"][0] < 1.2 * words
    assert counts["sink"][0] == 0
    assert counts["sink"][1] > 0.8 * words
    assert counts["none"][2] < 1.01 * words + 40
    await bench.command(regs.CTRL_COUNTERS_CLEAR)
    for counter in (regs.CYCLES_BUSY, regs.BYTES, regs.RECORDS, regs.CYCLES_STALL_SINK):
        assert await bench.counter(counter) == 0


@cocotb.test()
async def time_tells_nothing_of_key_and_data(dut: Any) -> None:
    """From the load command to the end of each result: the same clocks for any key and data."""
    bench = await powered(dut)
    for sealed in (False, True):
        seen = set()
        for key in (bytes(32), b"\xff" * 32, *(random.randbytes(32) for _ in range(3))):
            await bench.zeroize()
            if sealed:
                await bench.write_key(regs.SEALED_KEY, aes_key_wrap(TRANSPORT_KEY, key))
            else:
                await bench.write_key(regs.PLAIN_KEY, key)
            records = []
            for op in Op:
                data = random.choice((bytes(999), random.randbytes(999)))
                aad = b"" if op == Op.BYPASS else random.randbytes(30)
                record = Record(op, data, random.randbytes(12), aad)
                if op == Op.DECRYPT:
                    text = AESGCM(key).encrypt(record.iv, data, aad)
                    record = Record(op, text[:-16], record.iv, aad, text[-16:])
                records.append(record)
            start = int(dut.clocks_o.value)
            await bench.command(regs.CTRL_LOAD_SEALED if sealed else regs.CTRL_LOAD_PLAIN)
            bench.push(b"".join(record.frame() for record in records))
            stream, ends = await bench.answers(len(records))
            check(key, records, parse_results(stream))
            seen.add(tuple(clock - start for _, clock in ends))
        cocotb.log.info("clocks %s", seen)
        assert len(seen) == 1
