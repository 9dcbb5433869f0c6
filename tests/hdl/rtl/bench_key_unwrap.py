"""AES key unwrap, against NIST vectors, RFC 3394 and `cryptography`."""

import random
from typing import Any

import cocotb
from clocked import clocks, nonzero_registers, registers, start
from cocotb.triggers import ClockCycles
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from nist_vectors import read_cavp

LATENCY = 1139
REGISTERS = 16 + 12
IDLE = {"clear_i": 0, "start_i": 0, "kek_i": 0, "blob_i": 0}


async def unwrap(dut: Any, kek: int, blob: int) -> int | None:
    """Unwrap one blob; return the key, or None when it is refused.

    It must take the same time whatever happens, show nothing before the end, and leave nothing
    but its result in any register.
    """
    dut.kek_i.value = kek
    dut.blob_i.value = blob
    dut.start_i.value = 1
    await clocks(dut)
    dut.start_i.value = 0
    dut.kek_i.value = 0
    dut.blob_i.value = 0
    assert dut.busy_o.value
    assert (int(dut.key_o.value), int(dut.ok_o.value)) == (0, 0)
    await ClockCycles(dut.clk_i, LATENCY - 2)
    await clocks(dut)
    assert dut.busy_o.value
    assert not dut.done_o.value
    assert (int(dut.key_o.value), int(dut.ok_o.value)) == (0, 0)
    await clocks(dut)
    assert dut.done_o.value
    assert not dut.busy_o.value
    await clocks(dut)
    assert not dut.done_o.value
    if dut.ok_o.value:
        return int(dut.key_o.value)
    assert int(dut.key_o.value) == 0
    return None


def wrap(kek: bytes, key: bytes, initial: int) -> int:
    """Wrap as RFC 3394 2.2.1, with the given initial value."""
    cipher = Cipher(algorithms.AES(kek), modes.ECB()).encryptor()
    a, pieces = initial, [int.from_bytes(key[i : i + 8]) for i in range(0, 32, 8)]
    for t in range(1, 25):
        piece = pieces[(t - 1) % 4]
        block = int.from_bytes(cipher.update((a << 64 | piece).to_bytes(16)))
        a, pieces[(t - 1) % 4] = block >> 64 ^ t, block & (1 << 64) - 1
    return a << 256 | pieces[0] << 192 | pieces[1] << 128 | pieces[2] << 64 | pieces[3]


def vectors(name: str) -> list[tuple[int, int, int | None]]:
    """Return (KEK, blob, key or None) of the vectors with a 256-bit plaintext."""
    return [
        (int(v["K"], 16), int(v["C"], 16), int(v["P"], 16) if "P" in v else None)
        for section, v in read_cavp(f"keywrap/kwtestvectors/{name}.txt")
        if section == "PLAINTEXT LENGTH = 256"
    ]


@cocotb.test()
async def unwrapping_vectors_of_nist(dut: Any) -> None:
    """Run KW-AD, AES-256: 100 vectors with a 256-bit key; 20 must fail."""
    await start(dut, **IDLE)
    found = vectors("KW_AD_256")
    assert (len(found), sum(key is None for _, _, key in found)) == (100, 20)
    for kek, blob, key in found:
        assert await unwrap(dut, kek, blob) == key, f"kek {kek:064x} blob {blob:080x}"


@cocotb.test()
async def wrapping_vectors_of_nist(dut: Any) -> None:
    """Unwrap the ciphertexts of KW-AE, AES-256: 100 vectors."""
    await start(dut, **IDLE)
    found = vectors("KW_AE_256")
    assert len(found) == 100
    for kek, blob, key in found:
        assert key is not None
        assert await unwrap(dut, kek, blob) == key, f"kek {kek:064x} blob {blob:080x}"


@cocotb.test()
async def example_of_the_rfc(dut: Any) -> None:
    """Unwrap the example of RFC 3394 4.6."""
    await start(dut, **IDLE)
    kek = int.from_bytes(bytes(range(32)))
    key = 0x00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F
    blob = 0x28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21
    assert await unwrap(dut, kek, blob) == key


@cocotb.test()
async def random_keys(dut: Any) -> None:
    choice = random.Random(1)
    await start(dut, **IDLE)
    for _ in range(50):
        kek, key = choice.randbytes(32), choice.randbytes(32)
        blob = aes_key_wrap(kek, key)
        assert await unwrap(dut, int.from_bytes(kek), int.from_bytes(blob)) == int.from_bytes(key)


@cocotb.test()
async def every_changed_bit_is_refused(dut: Any) -> None:
    """Flip each bit of the blob and some of the KEK: refused; then unwrap it."""
    choice = random.Random(2)
    await start(dut, **IDLE)
    kek, key = choice.randbytes(32), choice.randbytes(32)
    true_kek, true_blob = int.from_bytes(kek), int.from_bytes(aes_key_wrap(kek, key))
    for bit in range(320):
        assert await unwrap(dut, true_kek, true_blob ^ 1 << bit) is None, f"bit {bit}"
    for bit in range(0, 256, 7):
        assert await unwrap(dut, true_kek ^ 1 << bit, true_blob) is None, f"bit {bit} of the key"
    assert await unwrap(dut, true_kek, true_blob) == int.from_bytes(key)


@cocotb.test()
async def every_bit_of_the_initial_value_counts(dut: Any) -> None:
    """Refuse blobs whose initial value is wrong in one bit."""
    choice = random.Random(5)
    await start(dut, **IDLE)
    kek, key = choice.randbytes(32), choice.randbytes(32)
    true_value = 0xA6A6A6A6A6A6A6A6
    assert wrap(kek, key, true_value) == int.from_bytes(aes_key_wrap(kek, key))
    for bit in range(64):
        blob = wrap(kek, key, true_value ^ 1 << bit)
        assert await unwrap(dut, int.from_bytes(kek), blob) is None, f"bit {bit}"


@cocotb.test()
async def only_the_result_remains(dut: Any) -> None:
    """Leave only the result in the registers; after a failure, nothing."""
    choice = random.Random(3)
    await start(dut, **IDLE)
    kek, key = choice.randbytes(32), choice.randbytes(32)
    blob = int.from_bytes(aes_key_wrap(kek, key))
    assert await unwrap(dut, int.from_bytes(kek), blob) == int.from_bytes(key)
    assert {path.split(".")[-1] for path in nonzero_registers(dut, at_least=REGISTERS)} == {
        "key_q",
        "ok_q",
    }
    assert await unwrap(dut, int.from_bytes(kek), blob ^ 1) is None
    assert nonzero_registers(dut, at_least=REGISTERS) == []


@cocotb.test()
async def clear_leaves_nothing(dut: Any) -> None:
    """Clear at any time: registers are zero in one clock; no key comes out."""
    choice = random.Random(4)
    await start(dut, **IDLE)
    # The first and last clocks, and forty between them.
    waits = [0, 1, 2, 105, 106, 107, LATENCY - 3, LATENCY - 2, LATENCY - 1, LATENCY, LATENCY + 5]
    for wait in waits + [choice.randrange(LATENCY) for _ in range(40)]:
        kek, key = choice.randbytes(32), choice.randbytes(32)
        dut.kek_i.value = int.from_bytes(kek)
        dut.blob_i.value = int.from_bytes(aes_key_wrap(kek, key))
        dut.start_i.value = 1
        await clocks(dut)
        dut.start_i.value = 0
        await clocks(dut, wait)
        assert len(nonzero_registers(dut, at_least=REGISTERS)) >= 2
        dut.clear_i.value = 1
        await clocks(dut)
        dut.clear_i.value = 0
        assert nonzero_registers(dut, at_least=REGISTERS) == []
        await ClockCycles(dut.clk_i, 40)
        await clocks(dut)
        assert not dut.busy_o.value
        assert nonzero_registers(dut, at_least=REGISTERS) == []
    assert any(path.endswith("key_q") for path, _ in registers(dut))
