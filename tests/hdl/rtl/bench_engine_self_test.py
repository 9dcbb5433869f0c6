"""The self test: an engine with a stuck signal fails it and refuses work."""

from typing import Any

from cocotb.handle import Force, Release
from cocotb.triggers import FallingEdge
from engine import POLL_LIMIT, EngineDriver, Op, Record, Status, engine_test
from width import WORD_BYTES

from hdl.registers import engine_map as regs

AES_STUCK_BIT = 1 << 77
# The hash key is the first block through the cipher. The narrowest engine needs no powers of it, so
# its key is valid before the cipher's parity has raised the fault.
AES_STUCK_STEP = "LOAD_KEY" if WORD_BYTES > 1 else "ENCRYPT"
ZEROIZE_WAIT = 9  # state of self_test


def stuck_signals(dut: Any) -> dict[str, tuple[Any, int, str]]:
    """Return the stuck signals, their values and the step that fails, by name."""
    engine = dut.u_engine
    return {
        "cipher stuck at one value": (engine.u_aes_pipe.block_o, AES_STUCK_BIT, AES_STUCK_STEP),
        "GHASH stuck at zero": (engine.u_ghash.digest_o, 0, "ENCRYPT"),
        "powers of H never ready": (engine.u_ghash.h_ready_o, 0, "LOAD_KEY"),
        "any sealed key accepted": (engine.u_key_control.u_key_unwrap.ok_o, 1, "REFUSE_KEY"),
        "no sealed key accepted": (engine.u_key_control.u_key_unwrap.ok_o, 0, "LOAD_KEY"),
        "any tag accepted": (engine.u_ledger.result_status_o, 0, "REFUSE_TAG"),
        "results end at their first word": (engine.u_output.out_last_o, 1, "ENCRYPT"),
        "results never end": (engine.u_output.out_last_o, 0, "ENCRYPT"),
    }


async def failed_step(engine: EngineDriver) -> str:
    field = regs.STATUS_SELF_TEST_STEP
    return field.values[field.get(await engine.read(regs.STATUS))]


@engine_test
async def broken_engines_refuse_work(dut: Any) -> None:
    engine = EngineDriver(dut)
    await engine.power_on()  # a force before the first clock is lost
    for name, (signal, value, step) in stuck_signals(dut).items():
        signal.value = Force(value)
        try:
            await engine.power_on()
        finally:
            signal.value = Release()  # repaired too late: the verdict stays until reset
        assert await engine.status(regs.STATUS_FAULT), name
        assert not await engine.status(regs.STATUS_SELF_TEST_OK), name
        assert not await engine.status(regs.STATUS_READY), name
        assert await failed_step(engine) == step, name
        await engine.load_plain(bytes(32))
        assert not await engine.status(regs.STATUS_KEY_VALID), name
        records = [Record(op, b"work", tag=bytes(16)) for op in Op]
        results = await engine.process(records)
        assert [r.status for r in results] == [Status.NOT_READY] * len(Op), name
        await engine.power_on()
        assert await engine.status(regs.STATUS_READY), name


@engine_test
async def key_that_outlives_zeroize_fails_the_self_test(dut: Any) -> None:
    engine = EngineDriver(dut)
    await engine.power_on(wait=False)
    state = dut.u_engine.u_self_test.state_q
    while int(state.value) != ZEROIZE_WAIT:
        await FallingEdge(dut.clk_o)
        assert not int(dut.u_engine.fault_q.value)
    key_valid = dut.u_engine.u_key_control.key_valid_o
    key_valid.value = Force(1)
    await engine.until(regs.STATUS_SELF_TEST_DONE)
    key_valid.value = Release()
    assert await engine.status(regs.STATUS_FAULT)
    assert not await engine.status(regs.STATUS_SELF_TEST_OK)
    assert await failed_step(engine) == "ZEROIZE"
    await engine.power_on()
    assert await engine.status(regs.STATUS_READY)
    assert await failed_step(engine) == "NONE"


@engine_test
async def no_record_is_taken_before_the_verdict(dut: Any) -> None:
    engine = EngineDriver(dut)
    await engine.power_on(wait=False)
    engine.push(Record(Op.BYPASS, b"early").frame())
    for _ in range(POLL_LIMIT):
        status = await engine.read(regs.STATUS)
        if regs.STATUS_SELF_TEST_DONE.get(status):
            break
        assert not regs.STATUS_READY.get(status)
        assert engine.take() == b""
    stream, _ = await engine.answers(1)
    assert stream[16:21] == b"early"
    await engine.command(regs.CTRL_COUNTERS_SNAPSHOT)
    assert await engine.counter(regs.RECORDS) == 1, "the self test's records are counted"
