"""The board's bus: address decoding, latency, refused accesses."""

import random
from typing import Any

import cocotb
from clocked import clocks, start
from cocotb.triggers import Timer

ENGINE, BOARD = 0x0000_0000, 0x0001_0000
IN_WINDOW, IN_COMMIT, OUT_WINDOW, OUT_ACK = 0x1000_0000, 0x1000_0010, 0x2000_0000, 0x2000_0010
IDLE = {
    "bus_valid_i": 0,
    "bus_write_i": 0,
    "bus_address_i": 0,
    "bus_wdata_i": 0,
    "pready_i": 0,
    "pslverr_i": 0,
    "engine_rdata_i": 0x45454545,
    "board_rdata_i": 0x42424242,
    "out_ready_i": 0,
    "out_rdata_i": 0x4F4F4F4F,
}


class Access:
    """The outcome of one access: data, clocks, strobes seen, error."""

    def __init__(self) -> None:
        self.data = 0
        self.clocks = 0
        self.strobes: list[str] = []
        self.error = False


async def access(
    dut: Any, address: int, write: bool, *, wait: int = 0, slave_error: bool = False
) -> Access:
    """Run one access; register blocks and window answer `wait` clocks late."""
    got = Access()
    dut.bus_valid_i.value = 1
    dut.bus_write_i.value = int(write)
    dut.bus_address_i.value = address
    dut.bus_wdata_i.value = random.getrandbits(32)
    dut.pready_i.value = 0
    dut.out_ready_i.value = 0
    # Outputs follow inputs within the clock: sample in its middle, before the rising edge.
    while True:
        penable = bool(dut.penable_o.value)
        if got.clocks == wait + 2:
            dut.pready_i.value = int(dut.psel_o.value) if penable else 0
            dut.pslverr_i.value = 3 if slave_error else 0
            dut.out_ready_i.value = 1
        await Timer(1, unit="ns")
        for name in ("in_write_o", "in_commit_o", "out_read_o", "out_ack_o"):
            if getattr(dut, name).value:
                got.strobes.append(name)
        psel = int(dut.psel_o.value)
        if psel:
            got.strobes.append(("", "engine", "board", "both")[psel])
        ready = bool(dut.bus_ready_o.value)
        got.data = int(dut.bus_rdata_o.value)
        got.error = bool(dut.error_o.value)
        got.clocks += 1
        await clocks(dut)
        if ready:
            break
        assert got.clocks < 20, "the bus hangs"
    dut.bus_valid_i.value = 0
    dut.pready_i.value = 0
    dut.pslverr_i.value = 0
    dut.out_ready_i.value = 0
    await clocks(dut)
    return got


@cocotb.test()
async def every_address_reaches_only_its_target(dut: Any) -> None:
    await start(dut, **IDLE)
    for base, size, name, data in (
        (ENGINE, 0x100, "engine", 0x45454545),
        (BOARD, 0x100, "board", 0x42424242),
    ):
        for address in (base, base + 4, base + size - 4):
            for write in (False, True):
                got = await access(dut, address, write)
                assert set(got.strobes) == {name}
                assert got.clocks == 4
                assert not got.error
                assert write or got.data == data
    for address, write, strobe in (
        (IN_WINDOW, True, "in_write_o"),
        (IN_WINDOW + 12, True, "in_write_o"),
        (IN_COMMIT, True, "in_commit_o"),
        (OUT_ACK, True, "out_ack_o"),
    ):
        got = await access(dut, address, write)
        assert (got.strobes, got.clocks, got.error) == ([strobe], 3, False)
    for offset in (0, 4, 12):
        got = await access(dut, OUT_WINDOW + offset, False)
        assert set(got.strobes) == {"out_read_o"}
        assert (got.clocks, got.data, got.error) == (5, 0x4F4F4F4F, False)


@cocotb.test()
async def unmapped_address_reads_zero_and_is_reported(dut: Any) -> None:
    await start(dut, **IDLE)
    choice = random.Random(4)
    nowhere = [
        0x100, 0xFFFC, BOARD + 0x100, IN_COMMIT + 4, OUT_ACK + 4, 0x3000_0000, 0xFFFF_FFFC,
        *(choice.getrandbits(30) * 4 | 0x4000_0000 for _ in range(20)),
    ]  # fmt: skip
    wrong_way = [(IN_WINDOW, False), (IN_COMMIT, False), (OUT_WINDOW, True), (OUT_ACK, False)]
    for address, write in [(a, w) for a in nowhere for w in (False, True)] + wrong_way:
        got = await access(dut, address, write)
        assert (got.strobes, got.clocks, got.data, got.error) == ([], 3, 0, True), hex(address)


@cocotb.test()
async def bus_waits_for_slow_answers_and_passes_errors(dut: Any) -> None:
    await start(dut, **IDLE)
    for wait in (0, 1, 5):
        for address in (ENGINE + 8, BOARD + 8, OUT_WINDOW):
            got = await access(dut, address, False, wait=wait)
            assert got.clocks == 4 + wait + (address == OUT_WINDOW)
        for address in (ENGINE + 8, BOARD + 8):
            got = await access(dut, address, True, wait=wait, slave_error=True)
            assert (got.clocks, got.error) == (4 + wait, True)


@cocotb.test()
async def strobes_are_low_without_an_access(dut: Any) -> None:
    await start(dut, **IDLE)
    for address in (ENGINE, BOARD, IN_WINDOW, IN_COMMIT, OUT_WINDOW, OUT_ACK, 0x5000_0000):
        for write in (0, 1):
            dut.bus_address_i.value = address
            dut.bus_write_i.value = write
            await clocks(dut)
            await clocks(dut)
            outputs = ("in_write_o", "in_commit_o", "out_read_o", "out_ack_o", "psel_o", "error_o")
            assert not any(int(getattr(dut, name).value) for name in outputs)
            assert not dut.penable_o.value
