"""Power-up with random initial values, and reset after a fault.

The build lets the bench write the registers of control (engine_flippable.vlt).
"""

import os
import random
from typing import Any

from bench_engine_faults import TARGETS, WATCHED
from bench_engine_records import check, random_record, start_engine
from clocked import flip
from cocotb.triggers import ClockCycles, FallingEdge
from engine import Op, engine_test
from width import WORD_CLOCKS

from hdl.registers import engine_map as regs

LEDGER_ENTRIES = 16
PLACES = LEDGER_ENTRIES + 2  # every place is used, some of them again
MEMORIES = ("u_ledger.exits", "u_ledger.results")


def memory_words(dut: Any) -> list[int]:
    """Return all words of the ledger's memories and of the delay line."""
    engine = dut.u_engine
    memories = (engine.u_ledger.exits, engine.u_ledger.results, engine.u_slot_delay.memory)
    return [int(word.value) for memory in memories for word in memory]


@engine_test
async def initial_values_are_random(dut: Any) -> None:
    """Start with filled memories; otherwise the next tests prove nothing."""
    if "POWER_UP" in os.environ:
        await FallingEdge(dut.clk_o)
        assert sum(map(bool, memory_words(dut))) > LEDGER_ENTRIES


@engine_test
async def engine_is_ready_whatever_its_memories_hold(dut: Any) -> None:
    engine = await start_engine(dut)
    key = random.randbytes(32)
    await engine.load_plain(key)
    for _ in range(3):
        records = [random_record(key, 40, list(Op)[n % 3]) for n in range(PLACES)]
        check(key, records, await engine.process(records))
        assert not await engine.status(regs.STATUS_FAULT)
        await engine.zeroize()
        await engine.load_plain(key)


@engine_test
async def reset_cures_every_fault(dut: Any) -> None:
    """Flip a control register while records pass; one reset cures it."""
    engine = await start_engine(dut)
    choice = random.Random(3)
    paths = [path for name in WATCHED for path in TARGETS[name]]
    for path in choice.sample(paths, 12):
        key = random.randbytes(32)
        await engine.load_plain(key)
        records = [random_record(key, 400, Op.ENCRYPT) for _ in range(4)]
        engine.push(b"".join(record.frame() for record in records))
        await ClockCycles(dut.clk_o, choice.randrange(20, 90) * WORD_CLOCKS)
        await FallingEdge(dut.clk_o)
        flip(dut.u_engine, path, choice)
        await ClockCycles(
            dut.clk_o, 500 * WORD_CLOCKS
        )  # no word of these records is left in the queue
        assert await engine.status(regs.STATUS_FAULT), path
        await engine.power_on()
        assert await engine.status(regs.STATUS_READY), path
        await engine.load_plain(key)
        records = [random_record(key, 40) for _ in range(PLACES)]
        check(key, records, await engine.process(records))


@engine_test
async def reset_cures_a_damaged_memory(dut: Any) -> None:
    """Damage the ledger's memories: after reset no check looks at them."""
    engine = await start_engine(dut)
    for path in MEMORIES:
        for value in (1, random.getrandbits(30)):
            for word in getattr(dut.u_engine.u_ledger, path.rpartition(".")[2]):
                word.value = value
            await engine.power_on()
            assert await engine.status(regs.STATUS_READY), path
            key = random.randbytes(32)
            await engine.load_plain(key)
            records = [random_record(key, 40) for _ in range(PLACES)]
            check(key, records, await engine.process(records))
