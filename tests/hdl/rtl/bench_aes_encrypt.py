"""AES-256 key expansion and cipher, against NIST and `cryptography`."""

import random
from collections.abc import Sequence
from typing import Any

import cocotb
from clocked import clocks, flip, nonzero_registers, start
from cocotb.triggers import ClockCycles, RisingEdge
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from nist_vectors import ecb_vectors
from width import AES_LATENCY, WORD_BYTES, WORD_CLOCKS, round_path

LATENCY = AES_LATENCY
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


async def until_open(dut: Any) -> None:
    """Wait until a block may come."""
    while not dut.open_o.value:
        await clocks(dut)


async def send(dut: Any, block: int) -> None:
    """Send a block as soon as it may come, and take the time that it takes."""
    dut.valid_i.value = 0
    await until_open(dut)
    dut.valid_i.value = 1
    dut.block_i.value = block
    await clocks(dut)


def left(dut: Any) -> list[str]:
    """Return the registers that are not zero, without those of control."""
    # A unit has 16 S-box outputs, its block and its valid bits.
    found = nonzero_registers(dut, at_least=20 * -(-14 // WORD_CLOCKS))
    return [path for path in found if ".u_word_phase." not in path]


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
        while not dut.open_o.value or (bubbles and choice.random() < bubbles):
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
        await until_open(dut)
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


def unit(number: int) -> str:
    return f"u_pipe.{round_path(number)}."


def shared(number: int, *names: str) -> list[str]:
    """Return registers of a unit that serves several rounds, if there are any."""
    return [] if WORD_BYTES == 16 else [unit(number).removesuffix("u_round.") + n for n in names]


FLIPPED = (
    *["u_pipe.whitened_q", "u_pipe.parity_in_q", "u_pipe.parity_whitened_q"],
    *[unit(r) + ("rows_01_q" if r % 2 else "rows_23_q") for r in range(1, 15)],
    *[unit(r) + "parity_mix_q" for r in (1, 8, 14)],
    *[unit(r) + "parity_sub_q" for r in (1, 8, 14)],
    *[unit(r) + "even_left_q" for r in (2, 14)],
    *[unit(r) + "odd_right_q" for r in (2, 14)],
    *[unit(r) + f"gen_sub[{b}].u_sbox_rom.data_a_q" for r in (1, 9) for b in range(0, 16, 2)],
    *[unit(r) + f"gen_sub[{b}].u_sbox_rom.data_b_q" for r in (2, 14) for b in range(0, 16, 2)],
    *[path for r in (1, 7, 14) for path in shared(r, "block_q", "key_q", "key_parity_q")],
    *[path for r in (1, 14) for path in shared(r, "entered_q", "parity_q")],
    *([] if WORD_BYTES == 16 else ["u_word_phase.gen_count.phase_q"]),
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
            left = list(reversed(blocks))
            for n in range(WORD_CLOCKS * len(blocks) + LATENCY + 6):
                dut.valid_i.value = int(sends := bool(left and dut.open_o.value))
                dut.block_i.value = left.pop() if sends else 0
                if n == at:
                    flip(dut, path, choice)
                await clocks(dut)
                if dut.valid_o.value:
                    results.append(int(dut.block_o.value))
                seen_wrong |= bool(dut.wrong_o.value)
            assert len(results) == len(blocks) or "phase_q" in path
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
    for blocks_before in (1, 2, 15, LATENCY - 1, LATENCY, 60):
        await load_key(dut, choice.getrandbits(256))
        for _ in range(blocks_before):
            await send(dut, choice.getrandbits(128))
        assert len(left(dut)) > (blocks_before // 2 if WORD_BYTES == 16 else 10)
        dut.clear_i.value = 1  # with a block at the input, which is lost too
        await clocks(dut)
        dut.clear_i.value = 0
        dut.valid_i.value = 0
        assert left(dut) == []
        for _ in range(LATENCY + 2):
            assert not dut.valid_o.value
            await clocks(dut)
        assert left(dut) == []
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
        assert left(dut) == []
        for _ in range(5):
            assert not dut.busy_o.value
            assert not dut.done_o.value
            await clocks(dut)
        assert left(dut) == []


@cocotb.test()
async def reset_leaves_nothing(dut: Any) -> None:
    """Reset: registers with a reset are zero at once, others a clock later."""
    choice = random.Random(5)
    await start(dut, **IDLE)
    await load_key(dut, choice.getrandbits(256))
    for _ in range(LATENCY + 5):
        await send(dut, choice.getrandbits(128))
    dut.valid_i.value = 0
    dut.rst_ni.value = 0
    await clocks(dut)
    dut.rst_ni.value = 1
    await clocks(dut)
    assert left(dut) == []
