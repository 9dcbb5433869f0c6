"""AES-256 key expansion and cipher, against NIST and `cryptography`."""

import random
from collections.abc import Sequence
from typing import Any

import cocotb
from clocked import clocks, flip, nonzero_registers, start
from cocotb.triggers import ClockCycles, RisingEdge
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from nist_vectors import ecb_vectors

LATENCY = 29
KEY_LATENCY = 105
IDLE = {"clear_i": 0, "start_i": 0, "key_i": 0, "valid_i": 0, "block_i": 0, "repeats_i": 0}


def encrypt(key: int, blocks: Sequence[int]) -> list[int]:
    """Encrypt blocks with `cryptography`."""
    cipher = Cipher(algorithms.AES(key.to_bytes(32)), modes.ECB()).encryptor()
    return [int.from_bytes(cipher.update(block.to_bytes(16))) for block in blocks]


async def load_key(dut: Any, key: int) -> None:
    """Expand a key; the time must not depend on the key."""
    dut.key_i.value = key
    dut.start_i.value = 1
    await clocks(dut)
    dut.start_i.value = 0
    dut.key_i.value = 0
    assert dut.busy_o.value
    await ClockCycles(dut.clk_i, KEY_LATENCY - 2)
    await clocks(dut)
    assert dut.busy_o.value
    assert not dut.done_o.value
    await clocks(dut)
    assert not dut.busy_o.value
    assert dut.done_o.value
    await clocks(dut)
    assert not dut.done_o.value


async def run(
    dut: Any, blocks: Sequence[int], choice: random.Random, bubbles: float = 0
) -> list[int]:
    """Send blocks; return the results, each exactly LATENCY clocks later."""
    results: list[int] = []
    due: list[bool] = [False] * LATENCY

    async def tick(valid: bool) -> None:
        await clocks(dut)
        due.append(valid)
        assert bool(dut.valid_o.value) == due[-LATENCY]
        assert not dut.wrong_o.value
        if dut.valid_o.value:
            results.append(int(dut.block_o.value))

    for block in blocks:
        while bubbles and choice.random() < bubbles:
            dut.valid_i.value = 0
            dut.block_i.value = choice.getrandbits(128)
            await tick(False)
        dut.valid_i.value = 1
        dut.block_i.value = block
        await tick(True)
    dut.valid_i.value = 0
    for _ in range(LATENCY):
        await tick(False)
    return results


@cocotb.test()
async def known_answers(dut: Any) -> None:
    """Run every ENCRYPT vector of GFSbox, KeySbox, VarTxt and VarKey."""
    choice = random.Random(1)
    await start(dut, **IDLE)
    by_key: dict[int, list[tuple[int, int]]] = {}
    counts = {}
    for name in ("GFSbox", "KeySbox", "VarTxt", "VarKey"):
        vectors = ecb_vectors(name, "ENCRYPT")
        counts[name] = len(vectors)
        for key, plain, cipher in vectors:
            by_key.setdefault(key, []).append((plain, cipher))
    assert counts == {"GFSbox": 5, "KeySbox": 16, "VarTxt": 128, "VarKey": 256}
    for key, pairs in by_key.items():
        await load_key(dut, key)
        results = await run(dut, [plain for plain, _ in pairs], choice)
        assert results == [cipher for _, cipher in pairs], f"key {key:064x}"


@cocotb.test()
async def monte_carlo(dut: Any) -> None:
    """Run the Monte Carlo test of AESAVS 6.4.1 for encryption.

    The seed and the last result are those NIST publishes in ECBMCT256.rsp (ENCRYPT, COUNT 0 and
    COUNT 99), the result of each chain is compared with `cryptography`.
    """
    key = 0xF9E8389F5B80712E3886CC1FA2D28A3B8C9CD88A2D4A54C6AA86CE0FEF944BE0
    plain = 0xB379777F9050E2A818F2940CBBD9ABA4
    first = 0x6893EBAF0A1FCCC704326529FDFB60DB
    final = 0xC5D2CB3D5B7FF0E23E308967EE074825
    await start(dut, **IDLE)
    dut.repeats_i.value = 999
    for chain in range(100):
        await load_key(dut, key)
        dut.block_i.value = plain
        dut.valid_i.value = 1
        await clocks(dut)
        dut.valid_i.value = 0
        await RisingEdge(dut.valid_o)
        await clocks(dut)
        result, before = int(dut.block_o.value), int(dut.previous_o.value)
        cipher = Cipher(algorithms.AES(key.to_bytes(32)), modes.ECB()).encryptor()
        expected = plain.to_bytes(16)
        for _ in range(1000):
            expected = cipher.update(expected)
        assert result == int.from_bytes(expected), f"chain {chain}"
        assert chain > 0 or result == first
        key ^= before << 128 | result
        plain = result
        await clocks(dut)
    assert plain == final


@cocotb.test()
async def random_blocks(dut: Any) -> None:
    """Encrypt random blocks under random keys, without and with bubbles."""
    choice = random.Random(2)
    await start(dut, **IDLE)
    for bubbles in (0, 0.1, 0.5, 0.9, 0):
        key = choice.getrandbits(256)
        await load_key(dut, key)
        blocks = [choice.getrandbits(128) for _ in range(150)]
        assert await run(dut, blocks, choice, bubbles) == encrypt(key, blocks)


@cocotb.test()
async def round_keys_of_the_standard(dut: Any) -> None:
    """Compare the last round keys of the example in FIPS 197, appendix A.3."""
    await start(dut, **IDLE)
    key = 0x603DEB1015CA71BE2B73AEF0857D77811F352C073B6108D72D9810A30914DFF4
    await load_key(dut, key)
    rk = int(dut.rk_o.value)
    assert rk & (1 << 256) - 1 == key << 128 & (1 << 256) - 1 | key >> 128
    assert rk >> 14 * 128 == 0xFE4890D1E6188D0B046DF344706C631E


@cocotb.test()
async def new_start_replaces_the_key(dut: Any) -> None:
    """Restart during an expansion; the new key must be used."""
    choice = random.Random(3)
    await start(dut, **IDLE)
    for wait in (0, 1, 2, 50, 51, 102, 103):
        dut.key_i.value = choice.getrandbits(256)
        dut.start_i.value = 1
        await clocks(dut)
        dut.start_i.value = 0
        await clocks(dut, wait)
        key = choice.getrandbits(256)
        await load_key(dut, key)
        blocks = [choice.getrandbits(128) for _ in range(3)]
        assert await run(dut, blocks, choice) == encrypt(key, blocks)


ROUND = "u_pipe.gen_round[{}].u_round."
FLIPPED = (
    *["u_pipe.whitened_q", "u_pipe.parity_in_q", "u_pipe.parity_whitened_q"],
    *[ROUND.format(r) + ("rows_01_q" if r % 2 else "rows_23_q") for r in range(1, 15)],
    *[ROUND.format(r) + "parity_mix_q" for r in (1, 8, 14)],
    *[ROUND.format(r) + "parity_sub_q" for r in (1, 8, 14)],
    *[ROUND.format(r) + "even_left_q" for r in (2, 14)],
    *[ROUND.format(r) + "odd_right_q" for r in (2, 14)],
    *[
        ROUND.format(r) + f"gen_sub[{b}].u_sbox_rom.data_a_q"
        for r in (1, 9)
        for b in range(0, 16, 2)
    ],
    *[
        ROUND.format(r) + f"gen_sub[{b}].u_sbox_rom.data_b_q"
        for r in (2, 14)
        for b in range(0, 16, 2)
    ],
    *["u_key_expand.rows_q", "u_key_expand.sums_q"] * 10,
)


@cocotb.test()
async def flips_are_reported(dut: Any) -> None:
    """Flip one bit anywhere: a wrong block always comes with wrong_o."""
    choice = random.Random(6)
    await start(dut, **IDLE)
    seen = wrong_blocks = 0
    for path in FLIPPED:
        for _ in range(4):
            key = choice.getrandbits(256)
            await load_key(dut, key)
            blocks = [choice.getrandbits(128) for _ in range(12)]
            at = choice.randrange(LATENCY + 4) + 4
            results, seen_wrong = [], False
            for n in range(len(blocks) + LATENCY + 6):
                dut.valid_i.value = int(n < len(blocks))
                dut.block_i.value = blocks[n] if n < len(blocks) else 0
                if n == at:
                    flip(dut, path, choice)
                await clocks(dut)
                if dut.valid_o.value:
                    results.append(int(dut.block_o.value))
                seen_wrong |= bool(dut.wrong_o.value)
            assert len(results) == len(blocks)
            is_wrong = results != encrypt(key, blocks)
            assert seen_wrong or not is_wrong, f"{path} at clock {at}"
            seen += seen_wrong
            wrong_blocks += is_wrong
    assert wrong_blocks > len(FLIPPED)
    dut._log.info("%d flips of %d were seen, %d did harm", seen, 4 * len(FLIPPED), wrong_blocks)


@cocotb.test()
async def clear_leaves_nothing(dut: Any) -> None:
    """Clear at any time: one clock later all registers are zero."""
    choice = random.Random(4)
    await start(dut, **IDLE)
    registers_at_least = 14 * 20  # a round has 16 S-box outputs, its block and its valid bits
    for blocks_before in (1, 2, 15, LATENCY - 1, LATENCY, 60):
        await load_key(dut, choice.getrandbits(256))
        dut.valid_i.value = 1
        for _ in range(blocks_before):
            dut.block_i.value = choice.getrandbits(128)
            await clocks(dut)
        assert len(nonzero_registers(dut, at_least=registers_at_least)) > blocks_before // 2
        dut.clear_i.value = 1  # with a block at the input, which is lost too
        await clocks(dut)
        dut.clear_i.value = 0
        dut.valid_i.value = 0
        assert nonzero_registers(dut, at_least=registers_at_least) == []
        for _ in range(LATENCY + 2):
            assert not dut.valid_o.value
            await clocks(dut)
        assert nonzero_registers(dut, at_least=registers_at_least) == []
    # During an expansion, in both clocks of a word.
    for wait in (0, 1, 2, 3, 50, 51, 102, 103):
        dut.key_i.value = choice.getrandbits(256)
        dut.start_i.value = 1
        await clocks(dut)
        dut.start_i.value = 0
        await clocks(dut, wait)
        dut.clear_i.value = 1
        await clocks(dut)
        dut.clear_i.value = 0
        assert nonzero_registers(dut, at_least=registers_at_least) == []
        for _ in range(5):
            assert not dut.busy_o.value
            assert not dut.done_o.value
            await clocks(dut)
        assert nonzero_registers(dut, at_least=registers_at_least) == []


@cocotb.test()
async def reset_leaves_nothing(dut: Any) -> None:
    """Reset: registers with a reset are zero at once, others a clock later."""
    choice = random.Random(5)
    await start(dut, **IDLE)
    await load_key(dut, choice.getrandbits(256))
    dut.valid_i.value = 1
    for _ in range(LATENCY + 5):
        dut.block_i.value = choice.getrandbits(128)
        await clocks(dut)
    dut.valid_i.value = 0
    dut.rst_ni.value = 0
    await clocks(dut)
    dut.rst_ni.value = 1
    await clocks(dut)
    assert nonzero_registers(dut, at_least=14 * 20) == []
