"""The checked-in cycle counts of the engine in simulation, RATE-4.

Simulated gates take the same clocks for the same records in every run; narrow ones to within the
clocks of one word, by what ran before. A file for each width of the
data path has the counts, and the hash of the RTL that they were counted from. They are a second
net: what is slow enough to matter fails a limit of its own too.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hdl.files import read_text
from hdl.sources import HDL_DIRECTORY, rtl_sha256
from hdl.widths import clocks_per_word
from hsm.errors import TaperigError
from hsm.files import reason_and_cure
from rig.engine.driver import Engine
from rig.engine.throughput import (
    RECORD_SIZES,
    Sample,
    Traffic,
    Unpaced,
    measure_small,
    measure_unpaced,
)
from rig.results.measurement import Measurement

FOLDER: Final = HDL_DIRECTORY / "cycle_counts"
UPDATE: Final = "rig baseline update"

_HEAD: Final = (
    "# Cycles of the simulated engine, unpaced, for batches of records back to back.\n"
    f"# Written by `{UPDATE}`; do not edit. Record sizes are in bytes.\n"
)
_HASH_DIGITS = 12


class BaselineError(TaperigError):
    """A baseline cannot be read or written."""


@dataclass(frozen=True, slots=True, order=True)
class Batch:
    """A batch of equal records, by what its cycles depend on."""

    operation: str
    aad_bytes: int
    record_bytes: int

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.operation}, records of {self.record_bytes:,} bytes, AAD of {self.aad_bytes}"


@dataclass(frozen=True, slots=True)
class Cycles:
    """The clocks that a batch of so many records took."""

    records: int
    clocks: int


@dataclass(frozen=True, slots=True)
class Baseline:
    """The cycle counts of one width."""

    word_bytes: int
    rtl_sha256: str
    counts: Mapping[Batch, Cycles]


def baseline_file(word_bytes: int, folder: Path | None = None) -> Path:
    """Return the file with the counts of a width."""
    return (folder or FOLDER) / f"width_{word_bytes}.toml"


def count_cycles(engine: Engine, traffic: Traffic) -> dict[Batch, Cycles]:
    """Count the cycles of every batch that a baseline has."""
    samples = list(measure_small(engine, traffic))
    for size in RECORD_SIZES:
        if size <= engine.max_data_bytes:
            samples += measure_unpaced(engine, traffic, size).samples()
    return cycles_of(samples)


def cycles_of(samples: Iterable[Sample]) -> dict[Batch, Cycles]:
    """Return the counted cycles by batch."""
    return {
        Batch(each.operation.name.lower(), each.aad_bytes, each.record_bytes): Cycles(
            each.counters.records, each.counters.cycles_busy
        )
        for each in samples
    }


def judge_cycles(
    engine: Engine, unpaced: Iterable[Unpaced], small: Iterable[Sample], folder: Path | None = None
) -> list[Measurement]:
    """Judge RATE-4: the counted cycles against the baseline of the width."""
    counted = cycles_of([*(each for size in unpaced for each in size.samples()), *small])
    baseline, why_not = None, None
    if not engine.simulated:
        why_not = "cycles are compared in simulation only"
    else:
        baseline = read_baseline(engine.promise.word_bytes, folder)
        if baseline is None:
            why_not = (
                f"no baseline for {engine.promise.word_bytes} bytes a clock; make it with: {UPDATE}"
            )
    return [
        _judge(batch, counted[batch], engine.clock_hz, baseline, why_not)
        for batch in sorted(counted)
    ]


def _judge(
    batch: Batch, counted: Cycles, clock_hz: float, baseline: Baseline | None, why_not: str | None
) -> Measurement:
    known = None if baseline is None else baseline.counts.get(batch)
    if why_not is None and known is None:
        why_not = f"the baseline has no such batch; {UPDATE}"
    elif known is not None and known.records != counted.records:
        why_not = f"the baseline has {known.records:,} records of it; {UPDATE}"
    # A narrow engine takes a word every few clocks, and what ran before decides which these are.
    slack = 0 if baseline is None else clocks_per_word(baseline.word_bytes) - 1
    return Measurement(
        name=f"cycles of the baseline, {batch}",
        value=counted.clocks,
        unit="clocks",
        minimum=None if known is None else known.clocks - slack,
        maximum=None if known is None else known.clocks + slack,
        rules=("RATE-4",),
        not_judged=why_not,
        detail={
            "direction": batch.operation,
            "record_bytes": batch.record_bytes,
            "aad_bytes": batch.aad_bytes,
            "records": counted.records,
            "bytes": counted.records * batch.record_bytes,
            "cycles": counted.clocks,
            "baseline_cycles": None if known is None else known.clocks,
            "baseline_rtl_sha256": None if baseline is None else baseline.rtl_sha256,
            "clock_hz": clock_hz,
        },
    )


def read_baseline(word_bytes: int, folder: Path | None = None) -> Baseline | None:
    """Return the baseline of a width, if there is one; raise BaselineError."""
    path = baseline_file(word_bytes, folder)
    try:
        found = tomllib.loads(read_text(path))
        counts = {
            Batch(operation, int(aad.removeprefix("aad_")), int(size)): Cycles(
                _whole(entry["records"]), _whole(entry["clocks"])
            )
            for operation, lengths in found["cycles"].items()
            for aad, sizes in lengths.items()
            for size, entry in sizes.items()
        }
        return Baseline(word_bytes, str(found["rtl_sha256"]), counts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BaselineError(
            f"The cycle counts in {path} cannot be read ({error}); restore the file, or count "
            f"anew with: {UPDATE}"
        ) from None


def read_or_none(word_bytes: int, folder: Path | None = None) -> Baseline | None:
    """Return the baseline of a width; none also when its file is damaged."""
    try:
        return read_baseline(word_bytes, folder)
    except BaselineError:
        return None


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{value!r} is no count")
    return value


def write_baseline(
    word_bytes: int, counts: Mapping[Batch, Cycles], folder: Path | None = None
) -> Path:
    """Write the baseline of a width, sorted; return its path."""
    lines = [f"{_HEAD}word_bytes = {word_bytes}", f'rtl_sha256 = "{rtl_sha256()}"']
    table = ""
    for batch in sorted(counts):
        if (head := f"[cycles.{batch.operation}.aad_{batch.aad_bytes}]") != table:
            table = head
            lines += ["", head]
        counted = counts[batch]
        lines.append(
            f"{batch.record_bytes} = {{ records = {counted.records}, clocks = {counted.clocks} }}"
        )
    path = baseline_file(word_bytes, folder)
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(exist_ok=True)
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise BaselineError(
            f"The cycle counts cannot be written to {path} ({reason_and_cure(error)})."
        ) from None
    return path


def differences(before: Baseline | None, counts: Mapping[Batch, Cycles]) -> list[str]:
    """Return a sentence for each batch whose cycles differ, old and new."""
    old = {} if before is None else before.counts
    lines = []
    for batch in sorted({*old, *counts}):
        was, now = old.get(batch), counts.get(batch)
        if was != now:
            lines.append(f"{batch}: {_words(was)} -> {_words(now)}")
    return lines


def _words(cycles: Cycles | None) -> str:
    return "none" if cycles is None else f"{cycles.clocks:,} clocks for {cycles.records:,} records"
