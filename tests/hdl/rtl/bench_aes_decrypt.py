"""The AES-256 inverse cipher, against NIST vectors and `cryptography`."""

import random
from typing import Any

import cocotb
from clocked import clocks, nonzero_registers, start
from cocotb.triggers import ClockCycles, RisingEdge
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from nist_vectors import ecb_vectors

LATENCY = 42
KEY_LATENCY = 105
REGISTERS = 16 + 6
IDLE = {"clear_i": 0, "key_start_i": 0, "key_i": 0, "start_i": 0, "block_i": 0, "repeats_i": 0}


async def load_key(dut: Any, key: int) -> None:
    dut.key_i.value = key
    dut.key_start_i.value = 1
    await clocks(dut)
    dut.key_start_i.value = 0
    dut.key_i.value = 0
    await ClockCycles(dut.clk_i, KEY_LATENCY - 2)
    await clocks(dut)
    assert not dut.key_done_o.value
    await clocks(dut)
    assert dut.key_done_o.value


async def decrypt(dut: Any, block: int) -> int:
    """Decrypt one block; the time must not depend on key or block."""
    dut.block_i.value = block
    dut.start_i.value = 1
    await clocks(dut)
    dut.start_i.value = 0
    dut.block_i.value = 0
    for _ in range(LATENCY - 1):
        assert not dut.done_o.value
        await clocks(dut)
    assert dut.done_o.value
    return int(dut.block_o.value)


@cocotb.test()
async def known_answers(dut: Any) -> None:
    """Run every DECRYPT vector of GFSbox, KeySbox, VarTxt and VarKey."""
    await start(dut, **IDLE)
    counts = {}
    loaded = None
    for name in ("GFSbox", "KeySbox", "VarTxt", "VarKey"):
        vectors = ecb_vectors(name, "DECRYPT")
        counts[name] = len(vectors)
        for key, plain, cipher in vectors:
            if key != loaded:
                await load_key(dut, key)
                loaded = key
            assert await decrypt(dut, cipher) == plain, f"{name}: key {key:064x} of {cipher:032x}"
    assert counts == {"GFSbox": 5, "KeySbox": 16, "VarTxt": 128, "VarKey": 256}


@cocotb.test()
async def monte_carlo(dut: Any) -> None:
    """Run the Monte Carlo test of AESAVS 6.4.1 for decryption.

    The seed and the last result are those NIST publishes in ECBMCT256.rsp (DECRYPT, COUNT 0 and
    COUNT 99), the result of each chain is compared with `cryptography`.
    """
    key = 0x2B09BA39B834062B9E93F48373B8DD018DEDF1E5BA1B8AF831EBBACBC92A2643
    text = 0x89649BD0115F30BD878567610223A59D
    first = 0x1F9B9B213F1884FA98B62DD6639FD33B
    final = 0xE3D3868F578CAF34E36445BF14CEFC68
    await start(dut, **IDLE)
    dut.repeats_i.value = 999
    for chain in range(100):
        await load_key(dut, key)
        dut.block_i.value = text
        dut.start_i.value = 1
        await clocks(dut)
        dut.start_i.value = 0
        await RisingEdge(dut.done_o)
        await clocks(dut)
        result, before = int(dut.block_o.value), int(dut.previous_o.value)
        cipher = Cipher(algorithms.AES(key.to_bytes(32)), modes.ECB()).decryptor()
        expected = text.to_bytes(16)
        for _ in range(1000):
            expected = cipher.update(expected)
        assert result == int.from_bytes(expected), f"chain {chain}"
        assert chain > 0 or result == first
        key ^= before << 128 | result
        text = result
        await clocks(dut)
    assert text == final


@cocotb.test()
async def random_blocks(dut: Any) -> None:
    choice = random.Random(1)
    await start(dut, **IDLE)
    for _ in range(10):
        key = choice.getrandbits(256)
        await load_key(dut, key)
        cipher = Cipher(algorithms.AES(key.to_bytes(32)), modes.ECB()).decryptor()
        for _ in range(20):
            block = choice.getrandbits(128)
            expected = int.from_bytes(cipher.update(block.to_bytes(16)))
            assert await decrypt(dut, block) == expected


@cocotb.test()
async def clear_leaves_nothing(dut: Any) -> None:
    """Clear at any time: one clock later all registers are zero."""
    choice = random.Random(2)
    await start(dut, **IDLE)
    for wait in (0, 1, 2, 3, 4, 13, 14, LATENCY - 2, LATENCY - 1, LATENCY):
        await load_key(dut, choice.getrandbits(256))
        dut.block_i.value = choice.getrandbits(128)
        dut.start_i.value = 1
        await clocks(dut)
        dut.start_i.value = 0
        await clocks(dut, wait)
        assert len(nonzero_registers(dut, at_least=REGISTERS)) >= 2
        dut.clear_i.value = 1
        await clocks(dut)
        dut.clear_i.value = 0
        assert nonzero_registers(dut, at_least=REGISTERS) == []
        for _ in range(LATENCY + 2):
            assert not dut.done_o.value
            await clocks(dut)
        assert nonzero_registers(dut, at_least=REGISTERS) == []
