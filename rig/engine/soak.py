"""Records of a soak: mixed sizes, operations and AAD under many keys.

A soak is a row of parts. Part n of a seed is always the same, so that a part in which something was
wrong can be repeated alone. Each result is compared, byte by byte, with what `cryptography`
computes, which takes less than the second way through the gates of a round trip. The results of a
board's traffic generator are compared by their check value, which every result word enters.

The keys are derived from the seed. They protect nothing.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final

from hsm.errors import TaperigError
from rig.engine.driver import (
    Engine,
    EngineError,
    Operation,
    PromisedClocks,
    Record,
    RecordStatus,
    Result,
)
from rig.engine.throughput import (
    COUNTED_LIMIT,
    MeasureError,
    Worst,
    check_counters,
    record_and_result,
)
from rig.engine.traffic_generator import ExpectedTraffic, TrafficGenerator, TrafficKeyChange

PART_CLOCKS: Final = 1_000_000
"""Clocks of a part, at least, as the build promises them."""

KEY_CLOCKS: Final = 1000
"""A key is used for so many clocks to PART_CLOCKS."""

KEY_RECORDS: Final = 2000
"""A key is used for so many records at most: small ones cost the host more than the gates."""

GENERATED_CLOCKS: Final = 64 * 1024
"""Clocks of the records that a board generates under one key."""

GENERATED_RECORDS: Final = 20_000
"""A board generates so many records under one key at most, each of which the host computes."""

REAL_BOARD: Final = 32
"""The parts of a real board have so many times the clocks: its link takes longer to start one."""

EQUAL_RECORDS: Final = 8
"""A board decrypts the same record again and again, so many times as often: the host computes one
of them."""

LINK_BYTES: Final = 16 * 1024
"""Bytes of a part that go through the link to a board that generates the others."""

Sealer = Callable[[bytes], bytes]
"""Seals a key for the gates."""


class WrongResultError(TaperigError):
    """A result of the engine is wrong."""


@dataclass(frozen=True, slots=True)
class PartFigures:
    """What the engine counted in one part.

    `cycles`, `promised_cycles` and `longest_latency` are of the records that no link slowed down.
    """

    records: int
    bytes: int
    keys: int
    cycles: int
    promised_cycles: float
    all_cycles: int
    longest_gap: int
    longest_latency: int


def key_of(seed: int, part: int, number: int) -> bytes:
    """Return a key of a part, from 1."""
    return hashlib.sha256(f"taperig soak, seed {seed}, part {part}, key {number}".encode()).digest()


def run_part(
    engine: Engine, generator: TrafficGenerator | None, seal: Sealer, seed: int, number: int
) -> PartFigures:
    """Run one part; raises WrongResultError at the first wrong byte.

    So it does where the engine's results, counters or internal checks are wrong in another way.

    Args:
        engine: without a pace; it holds the part's last key afterwards.
        generator: of the board, where its link is slower than the engine.
        seal: seals a key for the gates.
        seed: of the soak.
        number: of the part, from 1.
    """
    part = _Part(engine, seal, seed, number)
    if generator is None:
        part.send_mixed(PART_CLOCKS, counts=True)
    else:
        part.send_mixed(LINK_BYTES / engine.promise.word_bytes, counts=False)
        part.generate(generator)
    return PartFigures(
        records=part.records,
        bytes=part.payload,
        keys=part.keys,
        cycles=part.cycles,
        promised_cycles=part.promised,
        all_cycles=part.worst.cycles,
        longest_gap=part.worst.longest_gap,
        longest_latency=part.worst.longest_latency,
    )


@dataclass(slots=True)
class _Part:
    engine: Engine
    seal: Sealer
    seed: int
    number: int
    records: int = 0
    payload: int = 0
    keys: int = 0
    cycles: int = 0
    promised: float = 0.0
    worst: Worst = field(default_factory=Worst)
    choose: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.choose = random.Random(f"{self.seed}/{self.number}")

    def send_mixed(self, clocks: float, *, counts: bool) -> None:
        """Send records of the host under one key after another."""
        sent = 0.0
        while sent < clocks:
            share = min(_spread(self.choose, KEY_CLOCKS, PART_CLOCKS), clocks - sent)
            sent += self._send_under_a_key(share, counts=counts)

    def generate(self, generator: TrafficGenerator) -> None:
        """Let the board generate records under one key after another."""
        scale = 1 if self.engine.simulated else REAL_BOARD
        while self.promised < scale * PART_CLOCKS:
            self._generate_under_a_key(generator, scale * GENERATED_CLOCKS)

    def _key(self) -> bytes:
        self.keys += 1
        return key_of(self.seed, self.number, self.keys)

    def _place(self, operation: Operation, size: int, aad: int) -> str:
        return (
            f"part {self.number} ({operation.name.lower()}, {size:,} bytes, AAD of {aad}, under "
            f"key {self.keys} of the part)"
        )

    # ---- records of the host ----

    def _send_under_a_key(self, clocks: float, *, counts: bool) -> float:
        key = self._key()
        self.engine.load_sealed_key(self.seal(key))
        self.engine.clear_counters()
        before, payload = self.records, self.payload
        promised = PromisedClocks(self.engine.promise)
        expected: deque[tuple[Record, Result]] = deque()
        records = self._mixed(key, clocks, promised, expected)
        try:
            for result in chain.from_iterable(self.engine.stream(records)):
                self.records += 1
                self._compare(result, *expected.popleft())
            self._count(
                self.records - before, self.payload - payload, promised.clocks if counts else None
            )
        except (EngineError, MeasureError) as error:
            raise WrongResultError(
                f"After the result of record {self.records:,} of part {self.number}, under key "
                f"{self.keys} of the part: {error}"
            ) from error
        return promised.clocks

    def _mixed(
        self,
        key: bytes,
        clocks: float,
        promised: PromisedClocks,
        expected: deque[tuple[Record, Result]],
    ) -> Iterator[Record]:
        """Yield records of mixed sizes for so many clocks.

        Under half the keys they have one operation.
        """
        operations = self.choose.choice((tuple(Operation), (self.choose.choice(tuple(Operation)),)))
        smallest = _spread(self.choose, 1, self.engine.max_data_bytes)
        largest = _spread(self.choose, smallest, self.engine.max_data_bytes)
        iv = self.choose.getrandbits(64)
        for _ in range(KEY_RECORDS):
            operation = self.choose.choice(operations)
            size = self._size(smallest, largest)
            aad = self._aad_bytes(operation)
            pair = record_and_result(
                key, operation, self.choose.randbytes(size), iv, self.choose.randbytes(aad)
            )
            iv += 1
            promised.add(size, aad)
            self.payload += size
            expected.append(pair)
            yield pair[0]
            if promised.clocks >= clocks:
                return

    def _size(self, smallest: int, largest: int) -> int:
        """Return a size, a quarter of them at or beside a power of two."""
        size = _spread(self.choose, smallest, largest)
        if self.choose.random() < 0.25:
            size = (1 << size.bit_length() - 1) + self.choose.choice((-1, 0, 1))
        return max(1, min(size, self.engine.max_data_bytes))

    def _aad_bytes(self, operation: Operation) -> int:
        if operation is Operation.BYPASS:
            return 0
        return self.choose.choice((0, 16, self.choose.randint(0, self.engine.max_aad_bytes)))

    def _compare(self, result: Result, record: Record, expected: Result) -> None:
        if result == expected:
            return
        place = self._place(record.operation, len(record.data), len(record.aad))
        if result.status is not RecordStatus.OK:
            what = f"ended with status {result.status.name}"
        elif result.data != expected.data:
            at = next(n for n, byte in enumerate(result.data) if byte != expected.data[n])
            what = f"is wrong from byte {at:,} on"
        else:
            what = "has a wrong tag"
        raise WrongResultError(f"The result of record {self.records:,} of {place} {what}.")

    # ---- records of the board ----

    def _generate_under_a_key(self, generator: TrafficGenerator, clocks: int) -> None:
        operation = self.choose.choice(tuple(Operation))
        size = self._size(1, self.engine.max_data_bytes)
        aad = self._aad_bytes(operation)
        seed = self.choose.getrandbits(32)
        promised = self.engine.promise.clocks(size, aad)
        count = max(2, min(math.ceil(clocks / promised), GENERATED_RECORDS))
        if operation is Operation.DECRYPT and not self.engine.simulated:
            count *= EQUAL_RECORDS
        key, change, next_key = self._key(), None, None
        if operation is Operation.ENCRYPT and self.choose.random() < 0.5:
            next_key = self._key()
            change = TrafficKeyChange(count // 2 + 1, self.seal(next_key))
        expected = ExpectedTraffic(
            key,
            operation,
            size,
            seed,
            aad_bytes=aad,
            change_after=change.every if change else None,
            next_key=next_key,
        )
        check = expected.after(count)
        self.engine.load_sealed_key(self.seal(key))
        self.engine.clear_counters()
        outcome = generator.run(
            operation,
            size,
            count,
            seed=seed,
            tag=expected.tag,
            aad_bytes=aad,
            key_change=change,
        )
        if outcome.good != count or outcome.check != check:
            raise WrongResultError(
                f"Of {count:,} records that the board generated, after record {self.records:,} of "
                f"{self._place(operation, size, aad)}, {outcome.good:,} ended with status OK, and "
                f"their check value is {outcome.check:032x} instead of {check:032x}."
            )
        self.records += count
        self.payload += size * count
        self._count(count, size * count, count * promised)

    # ---- counters ----

    def _count(self, records: int, payload: int, promised: float | None) -> None:
        """Add the engine's counters since they were cleared.

        `promised` is None where the link slowed the records down.
        """
        counters = self.engine.counters()
        check_counters(counters, records, payload)
        if counters.cycles_busy < COUNTED_LIMIT * counters.port_busy:
            raise WrongResultError(
                f"The engine counted {counters.cycles_busy:,} busy clocks where "
                f"{counters.port_busy:,} passed at its record port; its counters do not work."
            )
        gaps = self.engine.gap_counters()
        if promised is None:  # results wait for the link, which is no latency of the engine
            gaps = replace(gaps, longest_latency=0)
        else:
            self.cycles += counters.cycles
            self.promised += promised
        self.worst.add(counters, gaps)


def _spread(choose: random.Random, least: int, most: int) -> int:
    """Return a number with each of its magnitudes as probable."""
    return min(most, max(least, int(math.exp(choose.uniform(math.log(least), math.log(most + 1))))))
