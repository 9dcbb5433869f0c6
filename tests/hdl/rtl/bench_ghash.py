"""GHASH, against SP 800-38D and the AES-GCM tags of `cryptography`."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cocotb
from clocked import clocks, nonzero_registers, start
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from width import GHASH_LATENCY, POWERS_LATENCY, WORD_CLOCKS

LATENCY = GHASH_LATENCY
H_LATENCY = POWERS_LATENCY
IDLE = {"clear_i": 0, "h_load_i": 0, "h_i": 0}
NO_BLOCK = {"valid_i": 0, "block_i": 0, "count_i": 0, "first_i": 0, "last_i": 0}


def multiply(x: int, y: int) -> int:
    """Multiply as algorithm 1 of SP 800-38D 6.3; its bit 0 is bit 127 here."""
    z, v = 0, y
    for i in range(128):
        if x >> (127 - i) & 1:
            z ^= v
        v = v >> 1 ^ (0xE1 << 120 if v & 1 else 0)
    return z


def ghash(h: int, blocks: Sequence[int]) -> int:
    """Hash blocks as algorithm 2 of SP 800-38D 6.4."""
    y = 0
    for block in blocks:
        y = multiply(y ^ block, h)
    return y


@dataclass
class Digest:
    """A digest, and the clocks from its record's last block."""

    digest: int
    latency: int


async def load_h(dut: Any, h: int) -> int:
    """Load H; return the clocks until its powers are ready."""
    dut.h_i.value = h
    dut.h_load_i.value = 1
    await clocks(dut)
    dut.h_load_i.value = 0
    dut.h_i.value = 0
    waited = 1
    while not dut.h_ready_o.value:
        await clocks(dut)
        waited += 1
        assert waited < 100
    return waited


async def run(
    dut: Any, records: Sequence[Sequence[int]], choice: random.Random, bubbles: float
) -> list[Digest]:
    """Send records, with random bubbles on request; collect the digests."""
    seen: list[Digest] = []
    ends: list[int] = []
    clock = 0

    async def tick() -> None:
        nonlocal clock
        await clocks(dut)
        clock += 1
        if dut.digest_valid_o.value:
            seen.append(Digest(int(dut.digest_o.value), clock - ends[len(seen)]))

    async def bubble() -> None:
        """Wait a clock; the other inputs must not matter."""
        dut.valid_i.value = 0
        dut.first_i.value = choice.getrandbits(1)
        dut.last_i.value = choice.getrandbits(1)
        dut.block_i.value = choice.getrandbits(128)
        await tick()

    for record in records:
        for place, block in enumerate(record):
            while bubbles and choice.random() < bubbles:
                await bubble()
            dut.valid_i.value = 1
            dut.block_i.value = block
            dut.first_i.value = int(place == 0)
            dut.last_i.value = int(place == len(record) - 1)
            dut.count_i.value = len(record) if place == 0 else choice.getrandbits(18)
            if place == len(record) - 1:
                ends.append(clock)
            await tick()
            for _ in range(WORD_CLOCKS - 1):
                await bubble()
    dut.valid_i.value = 0
    for _ in range(LATENCY + 3):
        await tick()
    return seen


def random_record(choice: random.Random, length: int) -> list[int]:
    return [choice.getrandbits(128) for _ in range(length)]


async def check(
    dut: Any, choice: random.Random, h: int, lengths: Sequence[int], bubbles: float
) -> None:
    records = [random_record(choice, length) for length in lengths]
    seen = await run(dut, records, choice, bubbles)
    assert [s.digest for s in seen] == [ghash(h, record) for record in records]
    assert {s.latency for s in seen} == {LATENCY}


@cocotb.test()
async def every_short_length_back_to_back(dut: Any) -> None:
    """Hash records of 1 to 20 blocks in random order, without a bubble."""
    choice = random.Random(1)
    await start(dut, **IDLE, **NO_BLOCK)
    h = choice.getrandbits(128)
    assert await load_h(dut, h) == H_LATENCY
    lengths = [*range(1, 21), *[choice.randint(1, 20) for _ in range(100)]]
    await check(dut, choice, h, lengths, bubbles=0)
    await check(dut, choice, h, [1] * 30, bubbles=0)
    await check(dut, choice, h, list(range(20, 0, -1)), bubbles=0)


@cocotb.test()
async def every_short_length_with_bubbles(dut: Any) -> None:
    choice = random.Random(2)
    await start(dut, **IDLE, **NO_BLOCK)
    for bubbles in (0.1, 0.5, 0.9):
        h = choice.getrandbits(128)
        assert await load_h(dut, h) == H_LATENCY
        lengths = [*range(1, 21), *[choice.randint(1, 20) for _ in range(20)]]
        await check(dut, choice, h, lengths, bubbles)


@cocotb.test()
async def long_records(dut: Any) -> None:
    """Hash the longest records (8 AAD blocks, 256 KiB, lengths) and odd ones."""
    choice = random.Random(3)
    await start(dut, **IDLE, **NO_BLOCK)
    h = choice.getrandbits(128)
    await load_h(dut, h)
    await check(dut, choice, h, [8 + 16384 + 1, 1, 255, 256, 257, 1023], bubbles=0)
    await check(dut, choice, h, [1021, 3], bubbles=0.3)


@cocotb.test()
async def special_values(dut: Any) -> None:
    """Use H and blocks with one bit, none and all bits set."""
    choice = random.Random(4)
    await start(dut, **IDLE, **NO_BLOCK)
    singles = [1 << i for i in range(128)]
    for h in (0, 1, 1 << 127, (1 << 128) - 1, 0xE1 << 120):
        assert await load_h(dut, h) == H_LATENCY
        records = [[single] for single in singles] + [singles, [0] * 9, [(1 << 128) - 1] * 9]
        seen = await run(dut, records, choice, bubbles=0)
        assert [s.digest for s in seen] == [ghash(h, record) for record in records]
    for h in singles[::5]:
        await load_h(dut, h)
        await check(dut, choice, h, [2, 5, 6], bubbles=0)


@cocotb.test()
async def tags_of_aes_gcm(dut: Any) -> None:
    """Compare digest plus E(J0) with the tag of `cryptography`."""
    choice = random.Random(5)
    await start(dut, **IDLE, **NO_BLOCK)
    for _ in range(12):
        key = choice.randbytes(32)
        encrypt = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        await load_h(dut, int.from_bytes(encrypt.update(bytes(16))))
        records, tags = [], []
        for _ in range(8):
            iv = choice.randbytes(12)
            aad = choice.randbytes(choice.choice([0, 1, 15, 16, 17, 64, 90, 128]))
            plain = choice.randbytes(choice.choice([0, 1, 15, 16, 17, 100, 2047, 2048, 2049]))
            sealed = AESGCM(key).encrypt(iv, plain, aad)
            cipher, tag = sealed[:-16], sealed[-16:]
            mask = int.from_bytes(encrypt.update(iv + b"\0\0\0\1"))
            tags.append(int.from_bytes(tag) ^ mask)
            text = aad + bytes(-len(aad) % 16) + cipher + bytes(-len(cipher) % 16)
            text += (8 * len(aad)).to_bytes(8) + (8 * len(cipher)).to_bytes(8)
            records.append([int.from_bytes(text[i : i + 16]) for i in range(0, len(text), 16)])
        seen = await run(dut, records, choice, choice.choice([0, 0.25]))
        assert [s.digest for s in seen] == tags


@cocotb.test()
async def clear_leaves_nothing(dut: Any) -> None:
    """Clear at any time: registers are zero a clock later; a new H works."""
    choice = random.Random(6)
    await start(dut, **IDLE, **NO_BLOCK)
    for blocks_before in (1, 2, 3, 4, 5, 6, 7, 8, 13, 40):
        h = choice.getrandbits(128)
        await load_h(dut, h)
        for place in range(blocks_before):
            if place:
                dut.valid_i.value = 0
                await clocks(dut, WORD_CLOCKS - 1)
            dut.valid_i.value = 1
            dut.first_i.value = int(place == 0)
            dut.count_i.value = blocks_before + choice.randint(0, 3)
            dut.block_i.value = choice.getrandbits(128)
            await clocks(dut)
        assert len(nonzero_registers(dut, at_least=20)) >= 5
        dut.clear_i.value = 1  # with a block at the input, which is lost too
        await clocks(dut)
        dut.clear_i.value = 0
        dut.valid_i.value = 0
        assert nonzero_registers(dut, at_least=20) == []
        for _ in range(2 * LATENCY):
            assert not dut.digest_valid_o.value
            assert not dut.h_ready_o.value
            await clocks(dut)
        assert nonzero_registers(dut, at_least=20) == []
    # Clear while the powers are computed.
    for wait in range(1, H_LATENCY):
        dut.h_i.value = choice.getrandbits(128)
        dut.h_load_i.value = 1
        await clocks(dut)
        dut.h_load_i.value = 0
        await clocks(dut, wait - 1)
        dut.clear_i.value = 1
        await clocks(dut)
        dut.clear_i.value = 0
        assert nonzero_registers(dut, at_least=20) == []
        await clocks(dut, H_LATENCY)
        assert not dut.h_ready_o.value
        assert nonzero_registers(dut, at_least=20) == []
    h = choice.getrandbits(128)
    assert await load_h(dut, h) == H_LATENCY
    await check(dut, choice, h, [7, 3], bubbles=0)
