"""Make a catalogue of many volumes anew, and print how long it takes.

Run as `python tests/bench/ve_rebuild.py [VOLUMES] [--engine soft|keys|gates] [--size BYTES]`.
What is real in each engine is as in `ve_kill.py`. The volumes are written, all of the node but its
cartridges is lost, and its catalogue is made of them: from the labels (rebuild), and from the
newest database backup and what came after it (restore).
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from hsm.keys.eedk import KeyLabel
from rig.ve.catalogue import settings
from rig.ve.catalogue.model import PoolSettings
from rig.ve.intake import IntakeReport
from rig.ve.node import Node, NodeSettings
from rig.ve.volumes.logical_volume import VolumeFile
from tests.support.kill_equipment import equipment

PER_CARTRIDGE = 1_000
"""Volumes that fill a cartridge."""


def main() -> None:
    """Write, lose, rebuild and restore."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("volumes", nargs="?", type=int, default=10_000)
    parser.add_argument("--engine", choices=("soft", "keys", "gates"), default="gates")
    parser.add_argument("--size", type=int, default=1_000)
    options = parser.parse_args()
    chosen = NodeSettings("bench", 4 * options.volumes * options.size, PER_CARTRIDGE * options.size)
    encrypt = options.engine != "soft"
    pool = PoolSettings(1, encrypt, (KeyLabel("KEK 1"),) if encrypt else ())
    with (
        tempfile.TemporaryDirectory(prefix="taperig-rebuild-") as name,
        equipment(options.engine, Path(name)) as equip,
        equip() as (drives, proxy),
    ):
        folder = Path(name)
        source = folder / "file"
        source.write_bytes(bytes(options.size))

        def timed(what: str, act: Callable[[], object]) -> None:
            began = time.monotonic()
            act()
            seconds = time.monotonic() - began
            print(f"{what:10} {seconds:8.1f} s  {options.volumes / seconds:9.0f} volumes/s")

        with Node(folder / "main", drives, proxy, settings=chosen) as node:
            with node.change() as session:
                settings.set_pool(session, pool)
            count = 2 + options.volumes // PER_CARTRIDGE
            node.insert(f"TAP{number:03}" for number in range(1, count + 1))
            files = [
                VolumeFile(f"V{number:05}", source, options.size)
                for number in range(options.volumes)
            ]
            timed("write", lambda: list(node.write_files(files)))
            timed("work", lambda: _require(not node.work().failures))
        shutil.move(folder / "main" / "cartridges", folder / "left")
        for what in ("rebuild", "restore"):
            with Node(folder / what, drives, proxy, settings=chosen) as node:
                with node.change() as session:
                    settings.set_pool(session, pool)
                act: Callable[[Path], IntakeReport] = getattr(node, what)
                timed(what, lambda act=act: _require(not act(folder / "left").findings))  # type: ignore[misc]
                _require(len(node.existing([file.name for file in files])) == len(files))


def _require(good: bool) -> None:
    if not good:
        raise SystemExit("It went wrong.")


if __name__ == "__main__":
    main()
