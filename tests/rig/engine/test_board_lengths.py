"""Rates of boards are measured for seconds, and repeated."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from rig.board.virtual import VirtualBoard
from rig.board.visa import VisaBoard
from rig.engine.driver import Counters, Engine, GapCounters, Operation
from rig.engine.throughput import (
    BOARD_REPEATS,
    BOARD_SECONDS,
    MIXED_BYTES,
    GeneratedTraffic,
    MeasureError,
    Sample,
    Worst,
    measure_generated,
    measure_rates,
    measure_worst,
)
from rig.engine.traffic_generator import TrafficGenerator, TrafficKeyChange
from tests.support.clocked_board import ClockedBoard


@dataclass
class CountedTraffic:
    """Traffic that takes what the build promises, and more in one repeat."""

    engine: Engine
    slow: float = 1.0
    paced: bool = False
    taken: list[Sample] = field(default_factory=list)

    def measure(
        self, operation: Operation, record_bytes: int, count: int, aad_bytes: int = 16
    ) -> Sample:
        """See Traffic."""
        aad = 0 if operation is Operation.BYPASS else aad_bytes
        clocks = count * self.engine.promise.clocks(record_bytes, aad)
        if len(self.taken) % BOARD_REPEATS == 3 and operation is Operation.ENCRYPT:
            clocks = int(clocks * self.slow)
        counters = Counters(clocks, 0, 0, count, count * record_bytes, 0)
        clock = self.engine.clock
        promised = self.engine.promise.clocks(record_bytes, aad)
        gaps = GapCounters(1, 100)
        sample = Sample(operation, record_bytes, aad, counters, gaps, clock, promised)
        self.taken.append(sample)
        return sample


def test_measurement_of_a_board_has_repeats_of_two_seconds_each() -> None:
    engine = Engine(ClockedBoard(62.5e6, 62.5e6))
    traffic = CountedTraffic(engine)
    worst = Worst()
    found = list(measure_rates(engine, traffic, 900e6, 104e6, worst, sizes=(2048, 65_536)))
    assert BOARD_REPEATS >= 5
    assert len(traffic.taken) == 2 * 6 * BOARD_REPEATS
    unpaced = [each for each in traffic.taken if each.counters.cycles_busy >= 2 * 62.5e6]
    assert len(unpaced) >= len(traffic.taken) // 2
    for each in traffic.taken:
        assert each.counters.bytes >= BOARD_SECONDS * 900e6
    rate = next(item for item in found if item.rules == ("RATE-2",))
    assert rate.detail["repeats"] == BOARD_REPEATS
    assert rate.detail["spread"] == 0.0
    assert worst.cycles == sum(each.counters.cycles for each in traffic.taken)


@pytest.mark.rule("RATE-3")
def test_measurement_of_a_board_fails_by_its_slowest_repeat() -> None:
    engine = Engine(ClockedBoard(62.5e6, 62.5e6))
    traffic = CountedTraffic(engine, slow=1.02)
    found = list(measure_rates(engine, traffic, 900e6, 104e6, Worst(), sizes=(65_536,)))
    failed = {item.name for item in found if not item.passed}
    assert failed == {
        "engine alone, encrypt over clear, 64 KiB records",
        "engine alone, encrypt over the promise, 64 KiB records",
        "encrypted over clear, write, 64 KiB records",
    }
    item = next(each for each in found if each.name == "engine rate, encrypt, 64 KiB records")
    figures = item.detail
    rates = [each.rate / 1e6 for each in traffic.taken if each.operation is Operation.ENCRYPT][:5]
    assert figures["minimum_mb_per_s"] == min(rates) == item.value
    assert figures["median_mb_per_s"] == median(rates) == max(rates)
    assert figures["maximum_mb_per_s"] == max(rates)
    assert figures["spread"] == pytest.approx(0.0196, rel=0.01)


@pytest.fixture
def generated(transport_key: bytes, transport_key_file: Path) -> Iterator[GeneratedTraffic]:
    """Traffic of the virtual board, under a sealed key."""
    with (
        VirtualBoard(bank_bytes=16384, transport_key=transport_key_file) as virtual,
        VisaBoard("bench", virtual.socket_resource, clock_hz=62.5e6) as board,
    ):
        engine, key = Engine(board), secrets.token_bytes(32)
        engine.load_sealed_key(aes_key_wrap(transport_key, key))
        yield GeneratedTraffic(engine, TrafficGenerator(board), key)


@pytest.mark.rule("RATE-3")
def test_generated_traffic_of_any_size_passes_under_many_keys(
    generated: GeneratedTraffic, transport_key: bytes
) -> None:
    keys = []

    def new_key() -> tuple[bytes, bytes]:
        keys.append(secrets.token_bytes(32))
        return keys[-1], aes_key_wrap(transport_key, keys[-1])

    worst = Worst()
    found = list(measure_generated(generated, new_key, worst))
    assert {item.verdict for item in found} == {"pass"}
    assert len(found) == len(keys) == 2 * len(MIXED_BYTES)
    assert worst.cycles > 0

    key, sealed = new_key()
    change = TrafficKeyChange(7, sealed)
    for _ in range(2):
        generated.engine.load_sealed_key(aes_key_wrap(transport_key, generated.key))
        sample = generated.measure_under(Operation.ENCRYPT, 3000, 20, 5, (key, change))
        assert sample.counters.records == 20
    # The engine holds the following key now, so that the first records are wrong.
    with pytest.raises(MeasureError, match=r"^Of 20 records of 3000 bytes .* 20 ended"):
        generated.measure_under(Operation.ENCRYPT, 3000, 20, 5, (key, change))


@pytest.mark.rule("RATE-3")
@pytest.mark.parametrize(("counted", "verdict"), [(1.0, "pass"), (0.97, "fail"), (0.125, "fail")])
def test_board_that_counts_fewer_clocks_than_pass_fails(counted: float, verdict: str) -> None:
    key = secrets.token_bytes(32)
    board = ClockedBoard(1e6, 1e6, counted=counted, key=key)
    engine = Engine(board)
    traffic = GeneratedTraffic(engine, TrafficGenerator(board), key)
    worst = Worst()
    worst.add_samples([traffic.measure(Operation.ENCRYPT, 16_384, 600)])
    item = next(each for each in measure_worst(engine, worst) if "counted" in each.name)
    assert item.value == pytest.approx(counted, rel=0.005)
    assert item.verdict == verdict
