"""Every bit of the counters, SCRATCH, the transport key and PACE.

The build lets the bench set the counters (engine_visible.vlt): no run is so long that they fill.
"""

import random
from typing import Any

from bench_engine_records import check, flip_bit, random_record, start_engine
from cocotb.triggers import ClockCycles
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from engine import Op, engine_test

from hdl.registers import engine_map as regs

COUNTERS = (
    regs.CYCLES_BUSY,
    regs.CYCLES_STALL_SOURCE,
    regs.CYCLES_STALL_SINK,
    regs.RECORDS,
    regs.BYTES,
    regs.TAG_FAILURES,
)
ALL_ONES = (1 << 64) - 1


def live(dut: Any, place: int) -> Any:
    return dut.u_engine.u_counters.gen_counter[place].live_q


@engine_test
async def scratch_keeps_every_bit(dut: Any) -> None:
    engine = await start_engine(dut)
    for value in (0, 0xFFFF_FFFF, 0x5555_5555, 0xAAAA_AAAA, *(1 << i for i in range(32))):
        await engine.write(regs.SCRATCH, value)
        assert await engine.read(regs.SCRATCH) == value


@engine_test
async def counters_are_read_whole_and_from_one_clock(dut: Any) -> None:
    """Read each counter whole; none changes between two snapshots."""
    engine = await start_engine(dut)
    for _ in range(12):
        values = [random.getrandbits(64) for _ in COUNTERS]
        for place, value in enumerate(values):
            live(dut, place).value = value
        await engine.command(regs.CTRL_COUNTERS_SNAPSHOT)
        await ClockCycles(dut.clk_o, 2)
        for place in range(len(COUNTERS)):
            live(dut, place).value = random.getrandbits(64)
        assert [await engine.counter(each) for each in COUNTERS] == values
    await engine.command(regs.CTRL_COUNTERS_CLEAR)
    await engine.command(regs.CTRL_COUNTERS_SNAPSHOT)
    assert [await engine.counter(each) for each in COUNTERS] == [0] * len(COUNTERS)


@engine_test
async def counters_carry_into_every_bit(dut: Any) -> None:
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    for before in (*((1 << bits) - 1 for bits in range(1, 64, 3)), (1 << 32) - 1, ALL_ONES):
        for place in range(len(COUNTERS)):
            live(dut, place).value = before
        engine.stalls(100, 100)
        record = random_record(key, 200, Op.DECRYPT)
        spoiled = type(record)(record.op, record.data, record.iv, record.aad, flip_bit(record.tag))
        good, bad = await engine.process([record, spoiled])
        check(key, [record], [good])
        assert bad.status == 1
        await engine.command(regs.CTRL_COUNTERS_SNAPSHOT)
        found = [await engine.counter(each) for each in COUNTERS]
        counted = [(value - before) & ALL_ONES for value in found]
        assert all(0 < value < 500 for value in counted[:3]), (before, counted)
        assert counted[3:] == [1, 200, 1], (before, counted)


@engine_test
async def the_transport_key_is_what_is_at_the_port(dut: Any) -> None:
    engine = await start_engine(dut)
    keys = [random.randbytes(32) for _ in range(10)]
    for transport, other in zip(keys, keys[1:] + keys[:1], strict=True):
        dut.transport_key_i.value = int.from_bytes(transport, "big")
        key = random.randbytes(32)
        await engine.load_sealed(aes_key_wrap(other, key))
        assert await engine.status(regs.STATUS_UNWRAP_FAILED)
        assert not await engine.status(regs.STATUS_KEY_VALID)
        await engine.load_sealed(aes_key_wrap(transport, key))
        assert not await engine.status(regs.STATUS_UNWRAP_FAILED)
        record = random_record(key, 40, Op.ENCRYPT)
        check(key, [record], await engine.process([record]))


@engine_test
async def every_bit_of_the_pace_counts(dut: Any) -> None:
    """Compute the pace: words beyond the initial burst each wait their time."""
    engine = await start_engine(dut)
    for bit in range(4, 16):
        rate = 1 << bit | 1 << 15 - bit
        await engine.write(regs.PACE, rate)
        assert await engine.read(regs.PACE) == rate
        record = random_record(b"", 16 * (17 + rate // 2048), Op.BYPASS)
        start = int(dut.clocks_o.value)
        check(b"", [record], await engine.process([record]))
        took = int(dut.clocks_o.value) - start
        least = (len(record.data) // 16 - 16) * 65536 // rate
        assert least - 16 <= took <= least + 600, (rate, took, least)
        await engine.write(regs.PACE, 0)  # the burst allowance is full again
