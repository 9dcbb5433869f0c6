"""Timing: it depends on lengths only, not on keys, texts or tags."""

import random
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from engine import TRANSPORT_KEY, EngineDriver, Op, Record, Status, engine_test, parse_results

from hdl.registers import engine_map as regs

KEYS = (bytes(32), b"\xff" * 32, b"\x52" * 32, bytes(31) + b"\x01")  # Sbox[0x52] is 0
LENGTHS = (1, 15, 16, 100, 1000)
AADS = (0, 20, 128)


def fill(kind: int, length: int) -> bytes:
    return (bytes(length), b"\xff" * length, random.randbytes(length))[min(kind, 2)]


def flip_bit(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")


def records(key: bytes, kind: int, forged_bit: int) -> list[Record]:
    """Return records of every length and kind, one of them forged."""
    made = []
    for length in LENGTHS:
        for aad_length in AADS:
            iv, aad, data = fill(kind, 12), fill(kind, aad_length), fill(kind, length)
            sealed = AESGCM(key).encrypt(iv, data, aad)
            made += [
                Record(Op.ENCRYPT, data, iv, aad),
                Record(Op.DECRYPT, sealed[:-16], iv, aad, sealed[-16:]),
                Record(Op.BYPASS, data),
                Record(Op.DECRYPT, sealed[:-16], iv, aad, flip_bit(sealed[-16:], forged_bit)),
            ]
    return made


async def measure_records(
    engine: EngineDriver, key: bytes, kind: int, forged_bit: int, *, sealed: bool
) -> tuple[list[tuple[int, int]], int]:
    """Load a key while records wait; return words, frame clocks, busy clocks."""
    await engine.power_on()
    if sealed:
        await engine.write_key(regs.SEALED_KEY, aes_key_wrap(TRANSPORT_KEY, key))
    else:
        await engine.write_key(regs.PLAIN_KEY, key)
    sent = records(key, kind, forged_bit)
    await engine.command(regs.CTRL_LOAD_SEALED if sealed else regs.CTRL_LOAD_PLAIN)
    begin = int(engine.dut.clocks_o.value)
    engine.push(b"".join(record.frame() for record in sent))
    stream, ends = await engine.answers(len(sent))
    statuses = [result.status for result in parse_results(stream)]
    assert statuses == [Status.OK, Status.OK, Status.OK, Status.TAG_MISMATCH] * (len(sent) // 4)
    await engine.command(regs.CTRL_COUNTERS_SNAPSHOT)
    return [(words, clock - begin) for words, clock in ends], await engine.counter(regs.CYCLES_BUSY)


@engine_test
async def time_does_not_depend_on_keys_and_texts(dut: Any) -> None:
    engine = EngineDriver(dut)
    for sealed in (False, True):
        first = None
        for kind, key in enumerate((*KEYS, *(random.randbytes(32) for _ in range(3)))):
            took = await measure_records(engine, key, kind, random.randrange(128), sealed=sealed)
            first = first or took
            assert took == first, f"key {key.hex()}"


@engine_test
async def time_does_not_depend_on_a_refused_key(dut: Any) -> None:
    """Refuse a bad sealed key after the same clocks, wherever it is wrong."""
    engine = EngineDriver(dut)
    took = set()
    for bit in (0, 63, 64, 137, 255, 319):
        await engine.power_on()
        blob = aes_key_wrap(TRANSPORT_KEY, random.randbytes(32))
        await engine.write_key(regs.SEALED_KEY, flip_bit(blob, bit))
        await engine.command(regs.CTRL_LOAD_SEALED)
        begin = int(dut.clocks_o.value)
        engine.push(Record(Op.BYPASS, b"waits").frame())
        _, ends = await engine.answers(1)
        assert await engine.status(regs.STATUS_UNWRAP_FAILED)
        took.add(ends[0][1] - begin)
    assert len(took) == 1, took
