"""The host computes the check value of generated traffic word by word."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rig.engine.driver import EngineError, Operation
from rig.engine.traffic_generator import ExpectedTraffic, record_aad, record_data, record_iv

SIZES = (1, 15, 16, 17, 100, 2031, 2032, 2048, 12_345)


def check_of(words: list[bytes]) -> int:
    """Return the check value as traffic.sv computes it, a word at a time."""
    check = 0
    for word in words:
        check = (check << 1 | check >> 127) & ((1 << 128) - 1) ^ int.from_bytes(word, "big")
    return check


def words_of(
    keys: tuple[bytes, bytes], operation: Operation, size: int, seed: int, number: int, aad: int
) -> list[bytes]:
    """Return the result words of a record; the second key is from record 2 on."""
    head = (operation.value << 20 | size).to_bytes(4, "big") + bytes(12)
    data = record_data(seed, number, size)
    tag = b""
    if operation is not Operation.BYPASS:
        cipher = AESGCM(keys[number >= 2])
        sealed = cipher.encrypt(record_iv(seed, number), data, record_aad(seed, number, aad))
        data, tag = sealed[:size], sealed[size:]
    if operation is Operation.DECRYPT:  # in counter mode the same as encryption
        tag = b""
    body = head + data + bytes(-size % 16) + tag
    return [body[at : at + 16] for at in range(0, len(body), 16)]


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("size", SIZES)
def test_expected_traffic_is_what_the_words_give(operation: Operation, size: int) -> None:
    choose = random.Random(size)
    seed, key = choose.getrandbits(32), choose.randbytes(32)
    aad = 0 if operation is Operation.BYPASS else choose.choice((0, 5, 128))
    change = operation is Operation.ENCRYPT
    following = choose.randbytes(32) if change else key
    expected = ExpectedTraffic(
        key,
        operation,
        size,
        seed,
        aad_bytes=aad,
        change_after=2 if change else None,
        next_key=following if change else None,
    )
    words: list[bytes] = []
    for number in range(300 if size < 20 else 9):
        counted = 0 if operation is Operation.DECRYPT else number
        words += words_of((key, following), operation, size, seed, counted, aad)
        if number in (0, 1, 2, 8, 140, 299):
            assert expected.after(number + 1) == check_of(words)
    with pytest.raises(EngineError, match=r"^The check value after 1 records is asked for after"):
        expected.after(1)
