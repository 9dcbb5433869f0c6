"""The default scenario: each pool is written, appended and read back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig.engine.clock import judge_clock
from rig.engine.throughput import PROMISE_LIMIT, RATIO_LIMIT, Worst, measure_worst
from rig.lab.model import Lab
from rig.report import text
from rig.results.events import Event
from rig.results.measurement import Measurement
from rig.scenarios.base import Scenario, ScenarioContext
from rig.scenarios.host import Host, number_volumes
from rig.testbed.node_setup import pool_settings
from rig.ve.catalogue.model import PoolSettings
from rig.ve.volumes.logical_volume import VolumeFile

ENCRYPTED_STEPS = (
    ("BOT-1", "BOT-2a", "BOT-2b", "BOT-2c", "BOT-2d", "CART-5", "BOT-2e", "BOT-4"),
    ("APP-1", "APP-2a", "APP-2b", "APP-2c", "APP-2d", "APP-2e", "APP-2f", "APP-4"),
    ("READ-1", "READ-2a", "READ-2b", "READ-2c", "READ-2d", "READ-2e", "READ-4"),
)
CLEAR_STEPS = (
    ("BOT-1", "BOT-3a", "BOT-3b", "BOT-4"),
    ("APP-1", "APP-3a", "APP-3b", "APP-4"),
    ("READ-1", "READ-3", "READ-4"),
)
MOVING = {
    "BOT-2e": "encrypted write from BOT",
    "APP-2f": "encrypted append",
    "READ-2e": "decrypted read",
    "BOT-3b": "clear write from BOT",
    "APP-3b": "clear append",
    "READ-3": "clear read",
}
"""The steps that move data, whose rate is judged."""

TWINS = {"BOT-2e": "BOT-3b", "APP-2f": "APP-3b", "READ-2e": "READ-3"}
"""Steps that move encrypted data, and those that move the same in the clear."""

JUDGED_BYTES = 1_000_000
"""Below this, a step is too short for a rate: filling and draining the engine outweigh the data."""

SAMPLE_BYTES = 32
SAMPLES = 8
SEARCH_BYTES = 1 << 18
"""Bytes of a cartridge that are searched at a time, so that other threads are not held up."""


class RoundTrip(Scenario):
    """Write from BOT, append, read back and compare, for every pool."""

    name = "round_trip"
    title = "Write from BOT, append, read back and compare"

    def run(self, context: ScenarioContext) -> None:
        """Run every pool on a node of its own, the clear pools first."""
        pools = sorted(run_pools(context.session.lab), key=lambda pool: pool.encrypt)
        written, appended = _split(context.files, pools[0].number)
        size = max(1, sum(volume.size for volume in (*written, *appended)))
        context.measure(judge_clock(context.session.drive.engine.clock))
        context.report.step_heading()
        context.session.drive.engine.clear_counters()
        with context.nodes.open(
            self.name,
            context.session,
            pools,
            cache_bytes=2 * size,
            cartridge_bytes=size,
            cartridges=len(pools),
        ) as node:
            host = Host(node)
            host.write(written, pools[0].number)
            clear: dict[str, _StepFigures] = {}
            for pool, later in zip(pools, [*pools[1:], None], strict=True):
                self._pool(context, host, pool, later, clear)
        for item in measure_worst(context.session.drive.engine, _worst(context)):
            context.measure(item)

    def _pool(
        self,
        context: ScenarioContext,
        host: Host,
        pool: PoolSettings,
        later: PoolSettings | None,
        clear: dict[str, _StepFigures],
    ) -> None:
        """Judge a pool whose first volumes are in the cache.

        While the drive reads, the volumes of the next pool are cached. `clear` is what the steps of
        the first clear pool counted.
        """
        written, appended = _split(context.files, pool.number)
        everything = [*written, *appended]
        session = context.session
        events_before = len(session.events.events)
        with _progress(context, host, f"pool {pool.number}: writing", written):
            host.work()
        host.write(appended, pool.number)
        with _progress(context, host, f"pool {pool.number}: appending", appended):
            host.work()
        host.empty_cache()
        volser = host.cartridge_of(everything[0])
        samples = _samples(everything)
        # While the drive reads, which changes nothing on the cartridge.
        with ThreadPoolExecutor(max_workers=2) as beside:
            path = host.node.parts.cartridges.path(volser)
            sample_count = beside.submit(_count_samples, path, samples)
            cached: Future[None] | None = None
            if later is not None:
                next_written, _ = _split(context.files, later.number)
                cached = beside.submit(host.write, next_written, later.number)
            with _progress(context, host, f"pool {pool.number}: reading", everything):
                host.recall(everything)
        events = session.events.events[events_before:]
        _check_volumes(context, pool, volser, everything, host.differing(everything))
        _check_steps(context, pool, events)
        _check_medium(context, pool, sample_count.result(), len(samples))
        context.check(
            f"pool {pool.number}: no key is left in the gates after the demount",
            not session.drive.engine.key_valid,
            volser,
            rules=("BOT-4", "APP-4", "READ-4"),
        )
        for step, figures in _moved(events).items():
            clear.setdefault(step, figures)
            for item in _step_rates(context, pool, step, figures, clear.get(TWINS.get(step, ""))):
                context.measure(item)
        if cached is not None:
            cached.result()


def run_pools(lab: Lab) -> list[PoolSettings]:
    """Return the pools of the node that is run."""
    return [pool_settings(number, unit) for number, unit in lab.pools_of(lab.run_node).items()]


def _split(files: Sequence[Path], pool: int) -> tuple[list[VolumeFile], list[VolumeFile]]:
    """Split the files: two thirds are written from BOT, the rest appended.

    A single file is both.
    """
    volumes = number_volumes(files, pool)
    cut = max(1, 2 * len(volumes) // 3)
    return volumes[:cut], volumes[cut:] or number_volumes(files[:1], pool, len(volumes) + 1)


@contextmanager
def _progress(
    context: ScenarioContext, host: Host, words: str, volumes: Sequence[VolumeFile]
) -> Iterator[None]:
    """Show how far the drive has come with these volumes."""
    done_before = 0
    scheduler = host.node.scheduler
    with context.report.task(words, sum(volume.size for volume in volumes) or None) as advance:

        def moved(done: int, _total: int) -> None:
            nonlocal done_before
            advance(done - done_before)
            done_before = done

        scheduler.progress = moved
        try:
            yield
        finally:
            scheduler.progress = lambda done, total: None


def _check_volumes(
    context: ScenarioContext,
    pool: PoolSettings,
    volser: str,
    volumes: Sequence[VolumeFile],
    different: Sequence[str],
) -> None:
    sizes = [volume.size for volume in volumes if volume.name not in different]
    detail = f"{text.plural(len(sizes), 'logical volume')}, {text.size(sum(sizes))}"
    if different:
        detail += f"; different: {', '.join(different)}"
    context.check(
        f"pool {pool.number}: all came back byte for byte",
        not different,
        f"{volser}, {detail}",
        rules=("READ-2e",) if pool.encrypt else ("READ-3",),
    )


def _check_steps(context: ScenarioContext, pool: PoolSettings, events: Sequence[Event]) -> None:
    happened = tuple(event.step for event in events)
    write, append, read = ENCRYPTED_STEPS if pool.encrypt else CLEAR_STEPS
    # One job moves so many volumes at most; with more, there are several appends.
    expected = (*write, *(append * max(1, happened.count("APP-1"))), *read)
    context.check(
        f"pool {pool.number}: the steps are those of the sequences, in their order",
        happened == expected,
        f"{len(happened)} steps" if happened == expected else ", ".join(happened),
        rules=tuple(dict.fromkeys(expected)),
    )


def _check_medium(
    context: ScenarioContext, pool: PoolSettings, found: int, looked_for: int
) -> None:
    """Check that samples are on clear cartridges, and not on encrypted."""
    if not looked_for:
        return
    if pool.encrypt:
        name, passed = "holds nothing of the files in the clear", found == 0
    else:
        name, passed = "holds the files in the clear", found == looked_for
    context.check(
        f"pool {pool.number}: the cartridge {name}",
        passed,
        f"{found} of {looked_for} samples found",
        rules=("BOT-2e",) if pool.encrypt else ("BOT-3b",),
    )


def _count_samples(cartridge: Path, samples: Sequence[bytes]) -> int:
    """Count the samples that are on the cartridge, a piece of it at a time."""
    missing, before = set(samples), b""
    with cartridge.open("rb") as file:
        while missing and (piece := file.read(SEARCH_BYTES)):
            content = before + piece
            missing = {sample for sample in missing if sample not in content}
            before = content[1 - SAMPLE_BYTES :]
    return sum(1 for sample in samples if sample not in missing)


def _samples(volumes: Sequence[VolumeFile]) -> list[bytes]:
    """Return a distinctive sample of each of the largest volumes.

    It is from the first block.
    """
    samples: list[bytes] = []
    for volume in sorted(volumes, key=lambda volume: -volume.size)[:SAMPLES]:
        with volume.source.open("rb") as file:
            piece = file.read(SAMPLE_BYTES)
        if len(piece) == SAMPLE_BYTES and len(set(piece)) > SAMPLE_BYTES // 4:
            samples.append(piece)
    return samples


@dataclass(frozen=True, slots=True)
class _StepFigures:
    """What the gates counted in all steps of one kind."""

    bytes: int
    cycles: int
    promised_cycles: float

    @property
    def bytes_per_cycle(self) -> float:
        return self.bytes / self.cycles if self.cycles else math.nan


def _moved(events: Sequence[Event]) -> dict[str, _StepFigures]:
    """Add up the steps that move data, by their kind."""
    sums: dict[str, _StepFigures] = {}
    for event in events:
        if event.step in MOVING:
            before = sums.get(event.step, _StepFigures(0, 0, 0.0))
            counted = event.detail["engine"].values()
            sums[event.step] = _StepFigures(
                before.bytes + sum(each["bytes"] for each in counted),
                before.cycles + sum(each["cycles"] for each in counted),
                before.promised_cycles + sum(each["promised_cycles"] for each in counted),
            )
    return sums


def _step_rates(
    context: ScenarioContext,
    pool: PoolSettings,
    step: str,
    moved: _StepFigures,
    clear: _StepFigures | None,
) -> Iterator[Measurement]:
    """Yield a step's rate, alone, over the promise and over the clear."""
    drive = context.session.drive
    clock_hz = drive.engine.clock_hz
    why_not = None
    if drive.traffic is not None:
        why_not = "the board's link is slower"
    elif moved.bytes < JUDGED_BYTES:
        why_not = f"only {text.size(moved.bytes)}"
    name = f"pool {pool.number}: {step} {MOVING[step]}"
    detail = {
        "bytes": moved.bytes,
        "cycles": moved.cycles,
        "promised_cycles": moved.promised_cycles,
        "clock_hz": clock_hz,
    }
    yield Measurement(
        name=name,
        value=moved.bytes_per_cycle * clock_hz / 1e6,
        unit="MB/s",
        minimum=drive.unit.native_rate / 1e6,
        rules=(step,),
        assumed_clock=drive.engine.clock.assumed,
        not_judged=why_not,
        detail=detail,
    )
    yield Measurement(
        name=f"{name}, over the promise",
        value=moved.promised_cycles / moved.cycles if moved.cycles else math.nan,
        unit="ratio",
        minimum=PROMISE_LIMIT,
        rules=(step, "RATE-3"),
        not_judged=why_not,
        detail=detail,
    )
    if clear is not None:
        # Small records have an AAD beside little data: what the build promises says how much.
        promised = (moved.bytes / moved.promised_cycles) / (clear.bytes / clear.promised_cycles)
        yield Measurement(
            name=f"{name}, over clear",
            value=moved.bytes_per_cycle / clear.bytes_per_cycle,
            unit="ratio",
            minimum=RATIO_LIMIT * min(1.0, promised),
            rules=(step, "RATE-1"),
            not_judged=why_not,
            detail={**detail, "clear_bytes": clear.bytes, "clear_cycles": clear.cycles},
        )


def _worst(context: ScenarioContext) -> Worst:
    """Return what the gates counted since their counters were cleared."""
    engine = context.session.drive.engine
    worst = Worst()
    worst.add(engine.counters(), engine.gap_counters())
    return worst
