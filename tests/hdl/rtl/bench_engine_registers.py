"""Every bit of the counters, SCRATCH, the transport key and PACE.

The build lets the bench set the counters (engine_visible.vlt): no run is so long that they fill.
"""

import random
from typing import Any

from bench_engine_records import check, flip_bit, random_record, start_engine
from cocotb.handle import Force, Release
from cocotb.triggers import ClockCycles
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from engine import TRANSPORT_KEY, Op, Record, Status, engine_test
from width import WORD_CLOCKS

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
        assert all(0 < value < 500 * WORD_CLOCKS for value in counted[:3]), (before, counted)
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
        words = len(record.data) // 16
        least = max((words - 16) * 65536 // rate, WORD_CLOCKS * words)
        assert least - 16 <= took <= least + 600 + 40 * WORD_CLOCKS, (rate, took, least)
        await engine.write(regs.PACE, 0)  # the burst allowance is full again


@engine_test
async def pace_allows_a_burst_of_sixteen_words(dut: Any) -> None:
    """Wait for far longer than the burst takes to be allowed again."""
    engine = await start_engine(dut)
    rate = 0x0200  # a word in 128 clocks
    await engine.write(regs.PACE, rate)
    for _ in range(2):
        await ClockCycles(dut.clk_o, 50 * 65536 // rate)
        record = random_record(b"", 16 * 30, Op.BYPASS)
        start = int(dut.clocks_o.value)
        check(b"", [record], await engine.process([record]))
        took = int(dut.clocks_o.value) - start
        least = (30 - 16) * 65536 // rate
        assert least <= took <= least + 5 * 65536 // rate, took
    await engine.write(regs.PACE, 0)


@engine_test
async def byte_strobes_write_their_bytes_only(dut: Any) -> None:
    engine = await start_engine(dut)
    held = 0
    for strobes in [*range(16), *(random.randrange(16) for _ in range(16))]:
        value = random.getrandbits(32)
        await engine.access(regs.SCRATCH.address, value, strobes)
        mask = sum(0xFF << 8 * byte for byte in range(4) if strobes >> byte & 1)
        held = held & ~mask | value & mask
        assert await engine.read(regs.SCRATCH) == held, f"{strobes:04b}"
    await engine.access(regs.PACE.address, 0xFFFF_FFFF, 0b0010)
    assert await engine.read(regs.PACE) == 0xFF00
    await engine.write(regs.PACE, 0)
    # A command needs the byte that its bit is in.
    key = random.randbytes(32)
    await engine.load_plain(key)
    await engine.access(regs.CTRL.address, 0xFFFF_FFFF, 0b1110)
    assert await engine.status(regs.STATUS_KEY_VALID)
    assert not await engine.status(regs.STATUS_PLAIN_LOCKED)
    # A sealed key written byte by byte is the same key.
    blob = aes_key_wrap(TRANSPORT_KEY, key)
    for byte in range(len(blob)):
        lane = 3 - byte % 4
        address = regs.SEALED_KEY.address + byte // 4 * 4
        noise = random.getrandbits(32) & ~(0xFF << 8 * lane)
        await engine.access(address, noise | blob[byte] << 8 * lane, 1 << lane)
    await engine.command(regs.CTRL_LOAD_SEALED)
    await engine.until(regs.STATUS_KEY_LOADING, 0)
    assert await engine.status(regs.STATUS_KEY_VALID)
    record = random_record(key, 40, Op.ENCRYPT)
    check(key, [record], await engine.process([record]))


@engine_test
async def addresses_without_a_register_answer_with_an_error(dut: Any) -> None:
    engine = await start_engine(dut)
    mapped = {each.address + 4 * i for each in regs.REGISTERS for i in range(each.count)}
    for address in range(0, 256, 4):
        if address == regs.CTRL.address:
            continue
        value = await engine.access(address, None)
        assert engine.refused == (address not in mapped), hex(address)
        assert not engine.refused or value == 0, hex(address)
    for address in sorted(set(range(0, 256, 4)) - mapped):
        await engine.access(address, 0xFFFF_FFFF)
        assert engine.refused, hex(address)
    await engine.write(regs.SCRATCH, 5)
    assert not engine.refused
    assert await engine.read(regs.SCRATCH) == 5
    assert not await engine.status(regs.STATUS_KEY_VALID)


@engine_test
async def interrupt_reports_what_is_done(dut: Any) -> None:
    engine = await start_engine(dut)
    await ClockCycles(dut.clk_o, 5)
    pending = regs.INTERRUPT_DONE.put(1)
    enabled = regs.INTERRUPT_DONE_ENABLE.put(1)
    assert await engine.read(regs.INTERRUPT) == pending, "the self test is done"
    assert not dut.irq_o.value
    await engine.write(regs.INTERRUPT, enabled)
    await ClockCycles(dut.clk_o, 3)
    assert dut.irq_o.value
    await engine.write(regs.INTERRUPT, enabled | pending)
    await ClockCycles(dut.clk_o, 3)
    assert not dut.irq_o.value
    assert await engine.read(regs.INTERRUPT) == enabled
    record = random_record(b"", 300, Op.BYPASS)
    for count in (2, 1):
        engine.stalls(256, 0)
        engine.push(record.frame() * count)
        await ClockCycles(dut.clk_o, 300)
        assert not dut.irq_o.value, "a record is still inside"
        assert not await engine.status(regs.STATUS_IDLE)
        engine.stalls(256, 256)
        await engine.answers(count)
        await ClockCycles(dut.clk_o, 10)
        assert dut.irq_o.value
        await engine.write(regs.INTERRUPT, enabled | pending)
    await engine.zeroize()
    await ClockCycles(dut.clk_o, 5)
    assert dut.irq_o.value, "zeroize is done"
    assert not regs.INTERRUPT_FAULT.get(await engine.read(regs.INTERRUPT))


@engine_test
async def interrupt_reports_a_fault(dut: Any) -> None:
    engine = await start_engine(dut)
    enabled = regs.INTERRUPT_FAULT_ENABLE.put(1)
    await engine.write(regs.INTERRUPT, enabled | regs.INTERRUPT_DONE.put(1))
    await ClockCycles(dut.clk_o, 5)
    assert not dut.irq_o.value
    dut.u_engine.lost_step.value = Force(1)
    await ClockCycles(dut.clk_o, 2)
    dut.u_engine.lost_step.value = Release()
    await ClockCycles(dut.clk_o, 6)
    assert dut.irq_o.value
    await engine.write(regs.INTERRUPT, enabled | regs.INTERRUPT_FAULT.put(1))
    await ClockCycles(dut.clk_o, 4)
    assert dut.irq_o.value, "the fault lasts until reset"
    (result,) = await engine.process([Record(Op.BYPASS, b"x")])
    assert result.status == Status.NOT_READY
    await engine.power_on()
    assert await engine.read(regs.INTERRUPT) & enabled == 0
    assert not dut.irq_o.value
