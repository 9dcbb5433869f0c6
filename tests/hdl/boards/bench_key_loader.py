"""The key loader: its writes, and the host's accesses beside them."""

import random
from typing import Any

import cocotb
from clocked import start
from cocotb.triggers import FallingEdge, Timer

from hdl.registers import engine_map as regs

IDLE = {
    "start_i": 0,
    "sealed_key_i": 0,
    "host_psel_i": 0,
    "host_penable_i": 0,
    "host_pwrite_i": 0,
    "host_paddr_i": 0,
    "host_pwdata_i": 0,
    "apb_pready_i": 0,
}


class Registers:
    """The engine's register block: it answers a clock after its selection."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.writes: list[tuple[int, int]] = []
        self._active = False

    async def clock(self) -> bool:
        """Run one clock; return whether the host's access ended in it."""
        dut = self.dut
        await Timer(1, unit="ns")  # what was set for this clock has reached the outputs
        ended = bool(dut.host_pready_o.value)
        if self._active:
            self._active = False
        elif dut.apb_psel_o.value:
            self._active = True
            assert dut.apb_pwrite_o.value
            self.writes.append((int(dut.apb_paddr_o.value), int(dut.apb_pwdata_o.value)))
        await FallingEdge(dut.clk_i)
        dut.apb_pready_i.value = int(self._active)
        return ended


@cocotb.test()
async def key_is_written_beside_the_host(dut: Any) -> None:
    """Load a key while the host writes SCRATCH: neither loses a write."""
    await start(dut, **IDLE)
    choice = random.Random(1)
    for share in (0.0, 0.3, 1.0):
        key = choice.getrandbits(320)
        wanted = [
            (regs.SEALED_KEY.address + 4 * i, key >> 32 * (9 - i) & 0xFFFF_FFFF) for i in range(10)
        ]
        wanted.append((regs.CTRL.address, regs.CTRL_LOAD_SEALED.put(1)))
        block = Registers(dut)
        dut.sealed_key_i.value = key
        dut.start_i.value = 1
        await block.clock()
        dut.start_i.value = 0
        assert dut.busy_o.value
        host: list[tuple[int, int]] = []
        waited = 0
        for _ in range(400):
            if not dut.busy_o.value and not waited:
                break
            if not waited and choice.random() < share:
                waited = 1
                host.append((regs.SCRATCH.address, choice.getrandbits(32)))
                dut.host_psel_i.value = dut.host_pwrite_i.value = 1
                dut.host_paddr_i.value, dut.host_pwdata_i.value = host[-1]
            ended = await block.clock()
            if waited and ended:
                dut.host_psel_i.value = dut.host_penable_i.value = 0
                waited = 0
            elif waited:
                dut.host_penable_i.value = 1
                waited += 1
                assert waited <= 6, "the host waits for more than one write"
        else:
            raise AssertionError("the load does not end")
        own = [each for each in block.writes if each[0] != regs.SCRATCH.address]
        assert own == wanted
        assert [each for each in block.writes if each[0] == regs.SCRATCH.address] == host
        assert share == 0 or len(host) > 2
