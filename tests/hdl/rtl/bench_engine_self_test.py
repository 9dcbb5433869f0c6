"""An engine that is broken, wherever, fails its power-on self test and refuses all work."""

from typing import Any

import cocotb
from cocotb.handle import Force, Release
from engine import POLL_LIMIT, Bench, Op, Record, Status

from hdl.registers import engine_map as regs

AES_STUCK_BIT = 1 << 77


def breaks(dut: Any) -> dict[str, tuple[Any, int]]:
    """What is broken: the signal and what it is stuck at."""
    engine = dut.u_engine
    return {
        "cipher stuck at one value": (engine.u_aes_pipe.block_o, AES_STUCK_BIT),
        "GHASH stuck at zero": (engine.u_ghash.digest_o, 0),
        "powers of H never ready": (engine.u_ghash.h_ready_o, 0),
        "any sealed key accepted": (engine.u_key_control.u_key_unwrap.ok_o, 1),
        "no sealed key accepted": (engine.u_key_control.u_key_unwrap.ok_o, 0),
        "any tag accepted": (engine.u_ledger.result_status_o, 0),
    }


@cocotb.test()
async def broken_engines_refuse_work(dut: Any) -> None:
    bench = Bench(dut)
    await bench.power_on()  # a force before the first clock is lost
    for name, (signal, value) in breaks(dut).items():
        signal.value = Force(value)
        try:
            await bench.power_on()
        finally:
            signal.value = Release()  # mended too late: the verdict stands until reset
        assert await bench.status(regs.STATUS_FAULT), name
        assert not await bench.status(regs.STATUS_SELF_TEST_OK), name
        assert not await bench.status(regs.STATUS_READY), name
        await bench.load_plain(bytes(32))
        assert not await bench.status(regs.STATUS_KEY_VALID), name
        records = [Record(op, b"work", tag=bytes(16)) for op in Op]
        results = await bench.process(records)
        assert [r.status for r in results] == [Status.NOT_READY] * len(Op), name
        await bench.power_on()
        assert await bench.status(regs.STATUS_READY), name


@cocotb.test()
async def no_record_is_taken_before_the_verdict(dut: Any) -> None:
    bench = Bench(dut)
    await bench.power_on(wait=False)
    bench.push(Record(Op.BYPASS, b"early").frame())
    for _ in range(POLL_LIMIT):
        status = await bench.read(regs.STATUS)
        if regs.STATUS_SELF_TEST_DONE.get(status):
            break
        assert not regs.STATUS_READY.get(status)
        assert bench.take() == b""
    stream, _ = await bench.answers(1)
    assert stream[16:21] == b"early"
    await bench.command(regs.CTRL_COUNTERS_SNAPSHOT)
    assert await bench.counter(regs.RECORDS) == 1, "the self test's records are counted"
