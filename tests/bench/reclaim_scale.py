"""Measure the time and memory of a reclaim plan as the catalogue grows.

Run as `python tests/bench/reclaim_scale.py [PHYSICAL ...] [--per-volume N] [--json FILE]`. For each
number of physical volumes a catalogue is filled with N logical volumes on each (100 by default, so
that 100,000 make 10 million), and the plan in a process of its own, as `rig ve reclaim plan` does.
Filling the largest takes some minutes and 2.5 GB of disk; only planning is timed.
"""

import argparse
import json
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hsm.keys.eedk import KeyLabel
from rig.ve.catalogue import settings
from rig.ve.catalogue.database import Catalogue
from rig.ve.catalogue.model import DAY_S, PoolSettings, ReclaimPolicy
from rig.ve.scheduler import current_reclaim_plan

NOW = 1_181_131_200.0
CAPACITY = 500_000_000_000


def fill(path: Path, physical: int, per_volume: int) -> None:
    """Make a catalogue of `physical` volumes in 32 pools.

    Nine in ten of them are filled.
    """
    random.seed(1)
    catalogue = Catalogue(path)
    with catalogue.transaction() as session:
        for number in range(1, 33):
            policy = ReclaimPolicy(
                threshold_percent=random.randint(5, 95),
                days_since_access=random.choice([0, 300]),
                days_since_write=random.choice([0, 365]),
                days_since_inactivation=random.choice([0, 30]),
            )
            keys = (KeyLabel("KEK 1"),)
            settings.set_pool(session, PoolSettings(number, True, keys, reclaim=policy))
    catalogue.close()
    link = sqlite3.connect(path)
    link.execute("PRAGMA synchronous=OFF")
    with link:
        link.executemany(
            "INSERT INTO physical_volume (volser, pool, state, encryption, keys, borrowed,"
            " capacity_bytes, written_bytes, active_bytes, active_volumes, block_count,"
            " first_epoch, last_written, last_accessed, last_inactivated, close_wanted,"
            " move_when_eligible) VALUES (?,?,?,'encrypted','[]',1,?,?,?,?,0,0,?,?,?,0,0)",
            _physical(physical, per_volume),
        )
        link.executemany(
            "INSERT INTO logical_volume (name, generation, size, sha256, storage_group,"
            " management_class, written, accessed, in_cache, mounted, source)"
            " VALUES (?,1,?,'','','',0,0,0,0,'')",
            ((f"L{n:08}", 5_000_000_000) for n in range(physical * per_volume)),
        )
        link.executemany(
            "INSERT INTO stacked_copy (name, generation, volser, role, first_block, blocks, size,"
            " active) VALUES (?,1,?,'primary',?,3,?,1)",
            (
                (f"L{n:08}", f"T{n // per_volume:06}", n % per_volume * 3, 5_000_000_000)
                for n in range(physical * per_volume)
            ),
        )
    link.close()


def _physical(count: int, per_volume: int) -> Iterator[tuple[object, ...]]:
    for number in range(count):
        full = number % 10 != 0
        written = CAPACITY if full else CAPACITY // 3
        yield (
            f"T{number:06}",
            random.randint(1, 32),
            "full" if full else "filling",
            CAPACITY,
            written,
            random.randint(0, written),
            per_volume,
            NOW - random.uniform(0, 500) * DAY_S,
            NOW - random.uniform(0, 500) * DAY_S,
            NOW - random.uniform(0, 500) * DAY_S,
        )


def plan(path: Path) -> dict[str, float]:
    """Plan once; return seconds of processor time, and peak memory in MB."""
    catalogue = Catalogue(path)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    with catalogue.reading() as session:
        plan = current_reclaim_plan(session, NOW)
    seconds = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    catalogue.close()
    return {"seconds": seconds, "memory_mb": (peak - base) / 1000, "eligible": plan.eligible}


def main() -> None:
    """Fill, plan in a child process, print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("physical", nargs="*", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--per-volume", type=int, default=100)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan is not None:
        print(json.dumps(plan(options.plan)))
        return
    rows = []
    print(f"{'physical':>9} {'logical':>11} {'eligible':>9} {'s':>8} {'us/volume':>10} {'MB':>7}")
    for physical in options.physical:
        with tempfile.TemporaryDirectory(prefix="taperig-plan-") as folder:
            path = Path(folder) / "catalogue.db"
            fill(path, physical, options.per_volume)
            answer = subprocess.run(
                [sys.executable, __file__, "--plan", path],
                check=True,
                capture_output=True,
                text=True,
            )
        row = {"physical": physical, "logical": physical * options.per_volume}
        row |= json.loads(answer.stdout)
        rows.append(row)
        print(
            f"{physical:9} {row['logical']:11} {row['eligible']:9} {row['seconds']:8.2f} "
            f"{1e6 * row['seconds'] / physical:10.1f} {row['memory_mb']:7.0f}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
