"""The UARTBone bridge between bytes and bus, with random delays."""

import binascii
import random
import struct
from typing import Any

import cocotb
from clocked import clocks, start

TIMEOUT = 100
WRITE, READ, WRITE_FIXED, READ_FIXED = 1, 2, 3, 4


class Host:
    """A host that sends bytes and collects answers, and a bus with a memory."""

    def __init__(self, dut: Any, seed: int, slow: float = 0.3) -> None:
        self.dut, self.choice, self.slow = dut, random.Random(seed), slow
        self.memory: dict[int, int] = {}
        self.accesses: list[tuple[str, int]] = []
        self.answer = bytearray()
        self.timeouts = self.bad_commands = 0

    async def tick(self) -> None:
        """Run one clock; the transmitter and the bus answer after random delays."""
        dut = self.dut
        tx_ready = self.choice.random() > self.slow
        dut.tx_ready_i.value = int(tx_ready)
        ready = bool(dut.bus_valid_o.value) and self.choice.random() > self.slow
        dut.bus_ready_i.value = int(ready)
        address = int(dut.bus_address_o.value)
        dut.bus_rdata_i.value = self.memory.get(address, 0) if ready else 0xDEADDEAD
        if ready:
            if dut.bus_write_o.value:
                self.memory[address] = int(dut.bus_wdata_o.value)
                self.accesses.append(("w", address))
            else:
                self.accesses.append(("r", address))
        self.timeouts += int(dut.timeout_o.value)
        if tx_ready and dut.tx_valid_o.value:
            self.answer.append(int(dut.tx_data_o.value))
        await clocks(dut)

    async def send(self, data: bytes, pause: float = 0.0) -> None:
        for byte in data:
            while self.choice.random() < pause:
                await self.tick()
            self.dut.rx_valid_i.value = 1
            self.dut.rx_data_i.value = byte
            while not self.dut.rx_ready_o.value:
                await self.tick()
            await self.tick()
            self.dut.rx_valid_i.value = 0

    async def wait(self, count: int) -> None:
        self.dut.rx_valid_i.value = 0
        for _ in range(count):
            await self.tick()

    async def answered(self, count: int) -> bytes:
        for _ in range(3000):
            if len(self.answer) >= count:
                break
            await self.tick()
        got, self.answer = bytes(self.answer), bytearray()
        assert len(got) == count
        return got


def command(code: int, address: int, words: list[int] | int) -> bytes:
    if isinstance(words, int):
        return struct.pack(">BBI", code, words, address >> 2)
    return struct.pack(">BBI", code, len(words), address >> 2) + struct.pack(
        f">{len(words)}I", *words
    )


async def begin(dut: Any, seed: int, slow: float = 0.3) -> Host:
    await start(dut, rx_valid_i=0, rx_data_i=0, tx_ready_i=0, bus_ready_i=0, bus_rdata_i=0)
    return Host(dut, seed, slow)


@cocotb.test()
async def writes_and_reads_at_rising_and_fixed_addresses(dut: Any) -> None:
    host = await begin(dut, 1)
    choice = host.choice
    for _ in range(60):
        words = [choice.getrandbits(32) for _ in range(choice.choice((1, 2, 5, 17)))]
        address = choice.choice((0, 0x1_0000, 0x1000_0000, 0xFFFF_FF00)) + 4 * choice.randrange(16)
        fixed = choice.random() < 0.4
        places = [address if fixed else address + 4 * i for i in range(len(words))]
        host.accesses.clear()
        await host.send(command(WRITE_FIXED if fixed else WRITE, address, words), 0.2)
        await host.wait(30)
        assert host.accesses == [("w", place) for place in places]
        wanted = [host.memory[place] for place in places]
        assert wanted == ([words[-1]] * len(words) if fixed else words)
        await host.send(command(READ_FIXED if fixed else READ, address, len(words)), 0.2)
        assert struct.unpack(f">{len(words)}I", await host.answered(4 * len(words))) == tuple(
            wanted
        )
    assert host.timeouts == 0


@cocotb.test()
async def longest_and_empty_commands(dut: Any) -> None:
    host = await begin(dut, 2, slow=0)
    words = [host.choice.getrandbits(32) for _ in range(255)]
    await host.send(command(WRITE, 0x400, words))
    for code in (WRITE, READ, WRITE_FIXED, READ_FIXED):
        await host.send(command(code, 0x400, 0))
    await host.send(command(READ, 0x400, 255))
    assert struct.unpack(">255I", await host.answered(1020)) == tuple(words)
    await host.wait(50)
    assert not host.answer


@cocotb.test()
async def addresses_wrap_at_the_end(dut: Any) -> None:
    host = await begin(dut, 3)
    await host.send(command(WRITE, 0xFFFF_FFFC, [1, 2]))
    await host.wait(20)
    assert host.memory == {0xFFFF_FFFC: 1, 0: 2}


@cocotb.test()
async def incomplete_command_is_dropped_after_the_timeout(dut: Any) -> None:
    """Cut a command at any byte: its complete words are done, the next works."""
    host = await begin(dut, 4, slow=0)
    whole = command(WRITE, 0x100, [0x11111111, 0x22222222])
    for length in range(1, len(whole)):
        host.memory.clear()
        host.timeouts = 0
        await host.send(whole[:length])
        await host.wait(TIMEOUT - 5)
        assert host.timeouts == 0, length
        await host.wait(10)
        assert host.timeouts == 1, length
        done = {0x100: 0x11111111} if length >= 10 else {}
        assert host.memory == done, length
        await host.send(command(READ, 0x100, 1))
        assert await host.answered(4) == struct.pack(">I", done.get(0x100, 0)), length
    # Bytes that arrive just before the time-out keep the command alive.
    host.timeouts = 0
    for byte in whole:
        await host.send(bytes([byte]))
        await host.wait(TIMEOUT - 5)
    assert host.timeouts == 0
    assert host.memory == {0x100: 0x11111111, 0x104: 0x22222222}


@cocotb.test()
async def invalid_command_bytes_are_dropped(dut: Any) -> None:
    host = await begin(dut, 5, slow=0)
    for byte in (0, *range(5, 256)):
        dut.rx_valid_i.value = 1
        dut.rx_data_i.value = byte
        await clocks(dut)
        assert dut.bad_command_o.value, byte
    dut.rx_valid_i.value = 0
    host.memory[8] = 0xCAFE
    await host.send(command(READ, 8, 1))
    assert await host.answered(4) == b"\0\0\xca\xfe"
    assert not host.timeouts


@cocotb.test()
async def checksums_cover_every_byte(dut: Any) -> None:
    host = await begin(dut, 6)
    sent = answered = b""
    for _ in range(20):
        code = host.choice.choice((WRITE, READ))
        count = host.choice.randrange(1, 6)
        words = [host.choice.getrandbits(32) for _ in range(count)]
        next_command = command(code, 0x40, words if code == WRITE else count)
        before = binascii.crc32(sent)
        await host.send(next_command[:6], 0.2)
        assert int(dut.rx_before_o.value) == before
        await host.send(next_command[6:], 0.2)
        sent += next_command
        if code == READ:
            answered += await host.answered(4 * count)
        await host.wait(10)
        assert int(dut.rx_crc_o.value) == binascii.crc32(sent)
        assert int(dut.tx_crc_o.value) == binascii.crc32(answered)
