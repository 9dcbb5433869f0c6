"""A stream driven from cocotb by cocotbext-axi agents on every clock.

Encrypts the frames of the file $AXI_FRAMES one after the other, writes the results to $AXI_RESULTS
and to $AXI_SECONDS how many seconds the records took, by the clock on the wall and of processor
time, key and reset apart.
"""

import os
import time
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge
from cocotbext.axi import AxiStreamBus, AxiStreamSink, AxiStreamSource  # type: ignore[import-untyped]

from hdl.registers import engine_map as regs


async def access(dut: Any, address: int, value: int | None = None) -> int:
    """One APB access: a write of `value`, or a read without one."""
    await FallingEdge(dut.clk_i)
    dut.psel_i.value = 1
    dut.pwrite_i.value = int(value is not None)
    dut.paddr_i.value = address
    dut.pwdata_i.value = value or 0
    await FallingEdge(dut.clk_i)
    dut.penable_i.value = 1
    while True:
        await RisingEdge(dut.clk_i)
        if dut.pready_o.value:
            break
    result = 0 if value is not None else int(dut.prdata_o.value)
    await FallingEdge(dut.clk_i)
    dut.psel_i.value = 0
    dut.penable_i.value = 0
    return result


@cocotb.test()
async def records(dut: Any) -> None:
    source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), dut.clk_i)
    sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), dut.clk_i)
    for signal in (dut.psel_i, dut.penable_i, dut.rst_ni):
        signal.value = 0
    Clock(dut.clk_i, 16, unit="ns").start()
    await ClockCycles(dut.clk_i, 4)
    dut.rst_ni.value = 1
    while not regs.STATUS_SELF_TEST_DONE.get(await access(dut, regs.STATUS.address)):
        pass
    key = bytes.fromhex(os.environ["AXI_KEY"])
    for at in range(0, len(key), 4):
        await access(dut, regs.PLAIN_KEY.address + at, int.from_bytes(key[at : at + 4], "big"))
    await access(dut, regs.CTRL.address, regs.CTRL_LOAD_PLAIN.put(1))
    while not regs.STATUS_KEY_VALID.get(await access(dut, regs.STATUS.address)):
        pass
    frames = Path(os.environ["AXI_FRAMES"]).read_bytes()
    begin, processor_begin = time.perf_counter(), time.process_time()
    count = int(os.environ["AXI_COUNT"])
    size = len(frames) // count  # of each frame: all are as long
    for at in range(0, len(frames), size):
        await source.send(frames[at : at + size])
    results = [bytes((await sink.recv()).tdata) for _ in range(count)]
    seconds = time.perf_counter() - begin
    processor = time.process_time() - processor_begin
    Path(os.environ["AXI_RESULTS"]).write_bytes(b"".join(results))
    Path(os.environ["AXI_SECONDS"]).write_text(f"{seconds} {processor}")
