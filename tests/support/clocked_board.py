"""A board with a clock of its own, which runs by the host's time.

It stands in for a real one where only registers, traffic generator and counters matter: of those
two it has what a real board does, but no gates, so no simulation's speed is in its clock. The check
value of its records is what `cryptography` computes, under the key that the test gives it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import hdl.registers.board_map as board
import hdl.registers.engine_map as regs
from rig.engine.driver import Operation
from rig.engine.traffic_generator import ExpectedTraffic

OVERHEAD = 2


@dataclass
class ClockedBoard:
    """The registers that an engine and its traffic generator are opened with."""

    true_hz: float
    clock_hz: float
    """The clock by the lab file."""
    simulated: bool = False
    link_s: float = 0.0
    """How long each access takes."""
    counted: float = 1.0
    """The share of the clocks that its counter counts."""
    key: bytes | None = None
    """The data key of the generated records, or None: their check value is 0."""
    name: str = "bench"
    in_flight_bytes: int = 1 << 17
    generates_traffic: bool = True
    port_counters: int | None = None
    link_faults: int | None = 0
    runs: int = 0
    _written: dict[int, int] = field(default_factory=dict)
    _began: float | None = None
    _snapshot: int = 0
    _value: int = 0

    def read(self, address: int, size: int, count: int) -> bytes:
        """See Board.read."""
        time.sleep(self.link_s)
        words = (self._register(address + 4 * at) for at in range(count))
        return b"".join(word.to_bytes(4, "big") for word in words)

    def write(self, address: int, size: int, data: bytes | bytearray | memoryview) -> None:
        """See Board.write."""
        time.sleep(self.link_s / 2)
        for at in range(0, len(data), 4):
            self._written[address + at] = int.from_bytes(data[at : at + 4], "big")
        if address == board.BOARD_CTRL.address:
            self._began = time.monotonic()
            self.runs += 1
        elif address == regs.CTRL.address:
            value = self._written[address]
            if regs.CTRL_COUNTERS_SNAPSHOT.get(value):
                self._snapshot = self._clocks()
            if regs.CTRL_COUNTERS_CLEAR.get(value):
                self._began = None
        time.sleep(self.link_s / 2)

    def close(self) -> None:
        """See Board.close."""

    def _clocks(self) -> int:
        """Return the busy clocks of the generator's run."""
        if self._began is None:
            return 0
        passed = (time.monotonic() - self._began) * self.true_hz
        return int(self.counted * min(passed, self._all_clocks()))

    def _all_clocks(self) -> int:
        shape = self._written[board.TRAFFIC_SHAPE.address]
        words = -(-board.TRAFFIC_SHAPE_SIZE.get(shape) // 16)
        return self._written[board.TRAFFIC_RECORDS.address] * (words + OVERHEAD)

    def _check(self) -> int:
        """Return the check value of all records of the run."""
        if self.key is None:
            return 0
        shape = self._written[board.TRAFFIC_SHAPE.address]
        expected = ExpectedTraffic(
            self.key,
            Operation(board.TRAFFIC_SHAPE_OP.get(shape)),
            board.TRAFFIC_SHAPE_SIZE.get(shape),
            self._written[board.TRAFFIC_SEED.address],
            aad_bytes=board.TRAFFIC_SHAPE_AAD.get(shape),
        )
        return expected.after(self._written[board.TRAFFIC_RECORDS.address])

    def _running(self) -> bool:
        return (
            self._began is not None
            and (time.monotonic() - self._began) * self.true_hz < self._all_clocks()
        )

    def _register(self, address: int) -> int:
        records = self._written.get(board.TRAFFIC_RECORDS.address, 0)
        shape = self._written.get(board.TRAFFIC_SHAPE.address, 0)
        if address == board.TRAFFIC_CHECK.address:
            self._value = self._check()
        if address - board.TRAFFIC_CHECK.address in range(0, 16, 4):
            return self._value >> 96 - 8 * (address - board.TRAFFIC_CHECK.address) & 0xFFFF_FFFF
        known = {
            regs.ID.address: 0x54415045,
            regs.VERSION.address: regs.VERSION_MAJOR.put(1),
            regs.MAP_HASH.address: regs.MAP_HASH_EXPECTED,
            regs.FEATURES.address: regs.FEATURES_BANK_LOG2.put(16)
            | regs.FEATURES_AAD_MAX.put(128)
            | regs.FEATURES_SIMULATED.put(int(self.simulated)),
            regs.PROMISE.address: regs.PROMISE_WORD_BYTES.put(16)
            | regs.PROMISE_OVERHEAD.put(OVERHEAD),
            regs.STATUS.address: regs.STATUS_SELF_TEST_DONE.put(1)
            | regs.STATUS_SELF_TEST_OK.put(1),
            regs.CYCLES_BUSY.low.address: self._snapshot & 0xFFFF_FFFF,
            regs.CYCLES_BUSY.high.address: self._snapshot >> 32,
            regs.RECORDS.low.address: records,
            regs.BYTES.low.address: records * board.TRAFFIC_SHAPE_SIZE.get(shape) & 0xFFFF_FFFF,
            board.BOARD_STATUS.address: board.BOARD_STATUS_TRAFFIC_BUSY.put(int(self._running())),
            board.TRAFFIC_GOOD.address: 0 if self._running() else records,
            board.TRAFFIC_BAD.address: 0,
        }
        return known.get(address, self._written.get(address, 0))
