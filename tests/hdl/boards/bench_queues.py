"""The byte FIFO, the register slices and the error counters of a board."""

import random
from collections import deque
from typing import Any

import cocotb
from clocked import clocks, start
from cocotb.triggers import Timer

DEPTH = 16
IDLE = {
    "fifo_valid_i": 0,
    "fifo_data_i": 0,
    "fifo_ready_i": 0,
    "skid_valid_i": 0,
    "skid_data_i": 0,
    "skid_ready_i": 0,
    "stage_clear_i": 0,
    "stage_valid_i": 0,
    "stage_data_i": 0,
    "stage_ready_i": 0,
    "event_i": 0,
}


@cocotb.test()
async def fifo_keeps_order_and_reports_losses(dut: Any) -> None:
    await start(dut, **IDLE)
    choice = random.Random(1)
    inside: deque[int] = deque()
    lost = filled = 0
    for come, go in ((0.9, 0.1), (0.1, 0.9), (0.5, 0.5), (1, 1), (1, 0), (0, 1)):
        for _ in range(200):
            valid, ready = choice.random() < come, choice.random() < go
            byte = choice.randrange(256)
            dut.fifo_valid_i.value = int(valid)
            dut.fifo_data_i.value = byte
            dut.fifo_ready_i.value = int(ready)
            assert bool(dut.fifo_valid_o.value) == bool(inside)
            if inside:
                assert dut.fifo_data_o.value == inside[0]
            full = len(inside) == DEPTH
            filled += full
            await clocks(dut)
            if ready and inside:
                inside.popleft()
            if valid and not full:
                inside.append(byte)
            if valid and len(inside) == DEPTH:  # the same byte, offered once more, would be lost
                assert dut.fifo_lost_o.value
                lost += 1
            elif not valid:
                assert not dut.fifo_lost_o.value
    assert filled > 50
    assert lost > 50


@cocotb.test()
async def slice_passes_every_word_once_in_order(dut: Any) -> None:
    await start(dut, **IDLE)
    choice = random.Random(2)
    for come, go in ((1, 1), (0.9, 0.2), (0.2, 0.9), (0.5, 0.5)):
        sent: list[int] = []
        seen: list[int] = []
        offered: int | None = None
        for clock in range(400):
            if offered is None and choice.random() < come and clock < 390:
                offered = choice.getrandbits(32)
            ready = choice.random() < go or clock >= 390
            dut.skid_valid_i.value = int(offered is not None)
            dut.skid_data_i.value = choice.getrandbits(32) if offered is None else offered
            dut.skid_ready_i.value = int(ready)
            # The outputs of both sides come directly from registers.
            taken = offered is not None and bool(dut.skid_ready_o.value)
            if ready and dut.skid_valid_o.value:
                seen.append(int(dut.skid_data_o.value))
            await clocks(dut)
            if taken and offered is not None:
                sent.append(offered)
                offered = None
        assert seen == sent
        if come == go == 1:
            assert len(sent) == 390  # no bubble


@cocotb.test()
async def stage_passes_every_word_once_until_cleared(dut: Any) -> None:
    await start(dut, **IDLE)
    choice = random.Random(6)
    for come, go, clear in ((1, 1, 0), (0.9, 0.2, 0), (0.2, 0.9, 0.05), (0.6, 0.6, 0.1)):
        due: deque[int] = deque()
        passed = 0
        for clock in range(400):
            word = choice.getrandbits(32)
            offers = choice.random() < come and clock < 390
            ready = choice.random() < go or clock >= 390
            clears = choice.random() < clear
            dut.stage_valid_i.value = int(offers)
            dut.stage_data_i.value = word
            dut.stage_ready_i.value = int(ready)
            dut.stage_clear_i.value = int(clears)
            await Timer(1, unit="ns")  # ready is combinational
            assert bool(dut.stage_valid_o.value) == bool(due)
            if due and ready:
                assert int(dut.stage_data_o.value) == due.popleft()
                passed += 1
            if offers and dut.stage_ready_o.value:
                due.append(word)
            if clears:
                due.clear()
            await clocks(dut)
        assert not due
        if come == go == 1:
            assert passed == 390  # no bubble


@cocotb.test()
async def counters_stop_at_255(dut: Any) -> None:
    await start(dut, **IDLE)
    wanted = [0, 0, 0, 0]
    for clock in range(600):
        event = clock % 2 | 2 | (clock < 7) << 2
        dut.event_i.value = event
        await clocks(dut)
        counts = int(dut.count_o.value)  # of the events up to the clock before
        assert [counts >> 8 * i & 255 for i in range(4)] == wanted
        wanted = [min(n + (event >> i & 1), 255) for i, n in enumerate(wanted)]
    assert wanted == [255, 255, 7, 0]
