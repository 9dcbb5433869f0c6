"""The traffic generator of a board: records at the engine's own rate.

It makes the rate independent of the link to the host. Its records are determined by a seed
(hdl/boards/common/traffic.sv), so the host can compute the expected results.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import hdl.registers.board_map as regs
from hdl.registers.types import Register
from hdl.widths import WORD_BYTES
from rig.board.protocol import Board
from rig.engine.driver import SEALED_KEY_BYTES, EngineError, Operation, RecordStatus

_REGISTER_BYTES = 4
_LIMIT_S = 60.0
_MOST_RECORDS = (1 << 32) - 1
_TOP_BITS = (1 << 128) - 1
_AHEAD_BYTES = 1 << 20
_LANES = 128
"""The check value is the same after so many rotations by one."""
_BLOCK_BYTES = _LANES * WORD_BYTES
_ALL_LANES = (1 << 8 * _BLOCK_BYTES) - 1


@dataclass(frozen=True, slots=True)
class TrafficKeyChange:
    """A change of the data key between records.

    After each `every` records the board loads `sealed_key`, which is wrapped under its transport
    key: the first `every` records are under the key that the engine holds at the start.
    """

    every: int
    sealed_key: bytes


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
        tag: bytes = bytes(WORD_BYTES),
        aad_bytes: int = 0,
        key_change: TrafficKeyChange | None = None,
        while_busy: Callable[[], None] = lambda: None,
    ) -> TrafficOutcome:
        """Send records back to back and wait until all are done.

        `while_busy` is called again and again, each time after the generator was seen running.
        There is no limit of time for the whole run, but one for each step of its progress.
        """
        if record_bytes < 1 or not 1 <= records <= _MOST_RECORDS:
            raise EngineError(
                f"The traffic generator sends 1 to {_MOST_RECORDS} records of at least one byte"
            )
        if key_change is not None:
            if key_change.every < 1 or len(key_change.sealed_key) != SEALED_KEY_BYTES:
                raise EngineError(
                    f"A key change needs a sealed key of {SEALED_KEY_BYTES} bytes and at least one "
                    "record before it"
                )
            self._board.write(regs.TRAFFIC_KEY.address, _REGISTER_BYTES, key_change.sealed_key)
        self._write(regs.TRAFFIC_KEY_EVERY, key_change.every if key_change else 0)
        self._write(
            regs.TRAFFIC_SHAPE,
            regs.TRAFFIC_SHAPE_OP.put(operation.value)
            | regs.TRAFFIC_SHAPE_AAD.put(aad_bytes)
            | regs.TRAFFIC_SHAPE_SIZE.put(record_bytes),
        )
        self._write(regs.TRAFFIC_RECORDS, records)
        self._write(regs.TRAFFIC_SEED, seed)
        self._board.write(regs.TRAFFIC_TAG.address, _REGISTER_BYTES, tag)
        self._write(regs.BOARD_CTRL, regs.BOARD_CTRL_TRAFFIC_START.put(1))
        deadline = time.monotonic() + _LIMIT_S
        ended = 0
        while regs.BOARD_STATUS_TRAFFIC_BUSY.get(self._read(regs.BOARD_STATUS)):
            while_busy()
            now = self._read(regs.TRAFFIC_GOOD) + self._read(regs.TRAFFIC_BAD)
            if now != ended:
                ended, deadline = now, time.monotonic() + _LIMIT_S
            if time.monotonic() > deadline:
                raise EngineError(
                    f"The traffic generator of board {self._board.name} ended no record for "
                    f"{_LIMIT_S:.0f} s, after {ended} of {records}; reset the board"
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
    words = -(-size // WORD_BYTES)
    pattern = b"".join(
        struct.pack(">IIII", seed, number, word, word ^ 0xFFFF_FFFF) for word in range(words)
    )
    return pattern[:size]


def record_aad(seed: int, number: int, size: int) -> bytes:
    """Return the AAD of record `number`."""
    words = -(-size // WORD_BYTES)
    ones = 0xFFFF_FFFF
    pattern = b"".join(
        struct.pack(">IIII", seed ^ ones, number ^ ones, word ^ ones, word) for word in range(words)
    )
    return pattern[:size]


class ExpectedTraffic:
    """The check value of a run, computed record by record from its seed.

    `key` is the key that the engine holds at the start; from record `change_after` on, `next_key`.
    With DECRYPT all records are the same, under one key, and `tag` is the tag that they expect.
    """

    def __init__(
        self,
        key: bytes,
        operation: Operation,
        size: int,
        seed: int,
        *,
        aad_bytes: int = 0,
        change_after: int | None = None,
        next_key: bytes | None = None,
    ) -> None:
        """Start before the first record."""
        if operation is Operation.DECRYPT and change_after is not None:
            raise EngineError("The generator decrypts one record again and again, under one key")
        self._operation = operation
        self._size = size
        self._seed = seed
        self._aad_bytes = aad_bytes
        self._change_after = change_after
        self._records = 0
        self._check = _CheckValue()
        self._pattern = _Pattern(seed, size)
        self._ciphers = AESGCM(key), AESGCM(next_key or key)
        self._head = (RecordStatus.OK << 24 | operation.value << 20 | size).to_bytes(4, "big")
        self._head += bytes(WORD_BYTES - len(self._head))
        self.tag = bytes(WORD_BYTES)
        self._decrypted = 0
        """The check value of one decrypted record: all are the same."""
        if operation is Operation.DECRYPT:
            iv = record_iv(seed, 0)
            counter = Cipher(algorithms.AES(key), modes.CTR(iv + bytes((0, 0, 0, 2)))).decryptor()
            plain = counter.update(record_data(seed, 0, size))
            aad = record_aad(seed, 0, aad_bytes)
            self.tag = self._ciphers[0].encrypt(iv, plain, aad)[size:]
            one = _CheckValue()
            one.add(self._head + _padded(plain))
            self._decrypted = one.value()

    def after(self, records: int) -> int:
        """Return the check value after so many records; counts may only grow."""
        if records < self._records:
            raise EngineError(
                f"The check value after {records} records is asked for after that of "
                f"{self._records}; start again with the seed"
            )
        if self._operation is Operation.DECRYPT:
            self._records = records
            return self._repeated(records)
        while self._records < records:
            self._check.add(self._head + self._result(self._records))
            self._records += 1
        return self._check.value()

    def work_ahead(self, records: int) -> None:
        """Compute some more records, of so many, while the board works."""
        if self._operation is not Operation.DECRYPT and self._records < records:
            self.after(min(records, self._records + _AHEAD_BYTES // self._size + 1))

    def _repeated(self, records: int) -> int:
        """Return the check value of so many equal records.

        Each is rotated by the words that follow, and rotations repeat after 128.
        """
        words = 1 - (-self._size // WORD_BYTES)
        check = 0
        for later in range(min(records, _LANES)):
            if (records - later + _LANES - 1) // _LANES % 2:
                check ^= _rotated(self._decrypted, words * later)
        return check

    def _result(self, number: int) -> bytes:
        data = self._pattern.data(number)
        if self._operation is Operation.BYPASS:
            return _padded(data)
        changed = self._change_after is not None and number >= self._change_after
        aad = record_aad(self._seed, number, self._aad_bytes)
        sealed = self._ciphers[changed].encrypt(record_iv(self._seed, number), data, aad)
        return _padded(sealed[: self._size]) + sealed[self._size :]


class _Pattern:
    """The data of records of one size, which differ in their number only."""

    def __init__(self, seed: int, size: int) -> None:
        self._size = size
        self._words = -(-size // WORD_BYTES)
        self._data = bytearray(record_data(seed, 0, self._words * WORD_BYTES))
        self._number = bytes(4)

    def data(self, number: int) -> bytes:
        """Return the data of a record."""
        for at, (old, new) in enumerate(zip(self._number, number.to_bytes(4, "big"), strict=True)):
            if old != new:
                self._data[4 + at :: WORD_BYTES] = bytes((new,)) * self._words
        self._number = number.to_bytes(4, "big")
        return bytes(memoryview(self._data)[: self._size])


class _CheckValue:
    """The generator's check value: each word rotates it by one and is added.

    After 128 words it is rotated back, so words that are 128 apart are added up first, as parts of
    one long number, the lanes.
    """

    def __init__(self) -> None:
        self._words = 0
        self._lanes = 0

    def add(self, body: bytes) -> None:
        """Add whole words."""
        lanes, whole = 0, len(body) - len(body) % _BLOCK_BYTES
        view = memoryview(body)
        for at in range(0, whole, _BLOCK_BYTES):
            lanes ^= int.from_bytes(view[at : at + _BLOCK_BYTES], "big")
        rest = view[whole:]
        lanes ^= int.from_bytes(rest, "big") << 8 * (_BLOCK_BYTES - len(rest))
        by = self._words % _LANES * WORD_BYTES * 8
        self._lanes ^= lanes >> by | (lanes << (8 * _BLOCK_BYTES - by)) & _ALL_LANES
        self._words += len(body) // WORD_BYTES

    def value(self) -> int:
        """Return the check value of all words so far."""
        check = 0
        lanes = self._lanes.to_bytes(_BLOCK_BYTES, "big")
        for lane in range(_LANES):
            at = lane * WORD_BYTES
            word = int.from_bytes(lanes[at : at + WORD_BYTES], "big")
            check ^= _rotated(word, self._words - 1 - lane)
        return check


def _rotated(word: int, by: int) -> int:
    by %= _LANES
    return (word << by | word >> (_LANES - by)) & _TOP_BITS


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % WORD_BYTES)
