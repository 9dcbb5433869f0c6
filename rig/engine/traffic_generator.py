"""The traffic generator of a board: records at the engine's own rate.

It makes the rate independent of the link to the host. Its records are determined by a seed
(hdl/boards/common/traffic.sv), so the host can compute the expected results.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import hdl.registers.board_map as regs
from hdl.registers.types import Register
from rig.board.protocol import Board
from rig.engine.driver import EngineError, Operation, RecordStatus, Result

_REGISTER_BYTES = 4
_WORD_BYTES = 16
_LIMIT_S = 60.0
_TOP_BITS = (1 << 128) - 1


@dataclass(frozen=True, slots=True)
class TrafficOutcome:
    """The records by status, and the check value over all result words."""

    good: int
    bad: int
    check: int


class TrafficGenerator:
    """The traffic generator and checker of a board."""

    def __init__(self, board: Board) -> None:
        """Use the generator of this board."""
        self._board = board

    def run(
        self,
        operation: Operation,
        record_bytes: int,
        records: int,
        *,
        seed: int = 0,
        tag: bytes = bytes(_WORD_BYTES),
    ) -> TrafficOutcome:
        """Send records back to back and wait until all are done."""
        if record_bytes < 1 or records < 1:
            raise EngineError("The traffic generator sends at least one record of one byte")
        shape = regs.TRAFFIC_SHAPE_OP.put(operation.value)
        self._write(regs.TRAFFIC_SHAPE, shape | regs.TRAFFIC_SHAPE_SIZE.put(record_bytes))
        self._write(regs.TRAFFIC_RECORDS, records)
        self._write(regs.TRAFFIC_SEED, seed)
        self._board.write(regs.TRAFFIC_TAG.address, _REGISTER_BYTES, tag)
        self._write(regs.BOARD_CTRL, regs.BOARD_CTRL_TRAFFIC_START.put(1))
        deadline = time.monotonic() + _LIMIT_S
        while regs.BOARD_STATUS_TRAFFIC_BUSY.get(self._read(regs.BOARD_STATUS)):
            if time.monotonic() > deadline:
                raise EngineError(
                    f"The traffic generator of board {self._board.name} did not end within "
                    f"{_LIMIT_S:.0f} s; reset the board"
                )
        check = self._board.read(regs.TRAFFIC_CHECK.address, _REGISTER_BYTES, 4)
        return TrafficOutcome(
            self._read(regs.TRAFFIC_GOOD),
            self._read(regs.TRAFFIC_BAD),
            int.from_bytes(check, "big"),
        )

    def _read(self, register: Register) -> int:
        return int.from_bytes(self._board.read(register.address, _REGISTER_BYTES, 1), "big")

    def _write(self, register: Register, value: int) -> None:
        self._board.write(register.address, _REGISTER_BYTES, value.to_bytes(4, "big"))


def record_iv(seed: int, number: int) -> bytes:
    """Return the IV of record `number`, a value that no record on tape has."""
    return struct.pack(">III", 0xFFFF_FFFF, seed, number)


def record_data(seed: int, number: int, size: int) -> bytes:
    """Return the data of record `number`."""
    words = -(-size // _WORD_BYTES)
    pattern = b"".join(
        struct.pack(">IIII", seed, number, word, word ^ 0xFFFF_FFFF) for word in range(words)
    )
    return pattern[:size]


def expected_outcome(
    key: bytes, operation: Operation, size: int, records: int, seed: int
) -> tuple[bytes, int]:
    """Compute the tag that decryption must expect, and the check value."""
    tag = bytes(_WORD_BYTES)
    results = []
    if operation is Operation.DECRYPT:
        iv = record_iv(seed, 0)
        counter = Cipher(algorithms.AES(key), modes.CTR(iv + bytes((0, 0, 0, 2)))).decryptor()
        plain = counter.update(record_data(seed, 0, size))
        tag = AESGCM(key).encrypt(iv, plain, b"")[size:]
        results = [Result(RecordStatus.OK, plain, b"")] * records
    else:
        for number in range(records):
            data = record_data(seed, number, size)
            if operation is Operation.ENCRYPT:
                encrypted = AESGCM(key).encrypt(record_iv(seed, number), data, b"")
                results.append(Result(RecordStatus.OK, encrypted[:size], encrypted[size:]))
            else:
                results.append(Result(RecordStatus.OK, data, b""))
    return tag, check_value(operation, results)


def check_value(operation: Operation, results: Iterable[Result]) -> int:
    """Return the check value over these results, as the board computes it."""
    check = 0
    for result in results:
        head = result.status << 120 | operation.value << 116 | len(result.data) << 96
        body = result.data + bytes(-len(result.data) % _WORD_BYTES) + result.tag
        words = [head] + [
            int.from_bytes(body[at : at + _WORD_BYTES], "big")
            for at in range(0, len(body), _WORD_BYTES)
        ]
        for word in words:
            check = (check << 1 & _TOP_BITS | check >> 127) ^ word
    return check
