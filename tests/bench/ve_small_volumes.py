"""Measure small volumes into the cache and to tape.

The engine's own path is the reference.

    engine_mb_s   the rig's own engine path: Engine on a SimBoard, with the records that these
                  volumes become on tape (header label, data, trailer label)
    work_mb_s     `rig ve work`, which copies the volumes to an encrypted pool
    both_mb_s     `rig ve write` of all volumes, then `rig ve work`

Each is MB of volume data (10^6 bytes) a second, by the time of whole commands, start and all;
tokens and keys were made, and the simulation built, by a first small volume.  Figures are medians
over turns in which each comes once; the ratios are medians of each turn's ratio.  The same with
`_cpu` are by processor time, of all processes together, for a machine that has other work too.

Run as `python tests/bench/ve_small_volumes.py [--volumes N] [--bytes N] [--turns N] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[2]))

from rig.board.sim import SimBoard
from rig.drive.cartridge_format import MAX_BLOCK_BYTES
from rig.ve.volumes.logical_volume import VolumeHeader, VolumeTrailer
from tests.bench.sim_speed import (
    KEY_BYTES,
    KINDS,
    RigPath,
    Seconds,
    Work,
    children_processor_time,
    encryption_work,
)

LAB = """\
name: small-volumes
boards: {{sim: {{kind: sim, clock_mhz: 62.5}}}}
drives: [{{serial: TR0000000001, model: TS1120, board: sim}}]
tokens: {{ekm: {{module: softhsm, label: taperig-ekm}}}}
ekms: [{{name: main, host: 127.0.0.1, port: 0, start: true, token: ekm}}]
keks: [{{label: Small Key 1}}, {{label: Small Key 2}}]
pools:
  1:
    encrypt: true
    keys: [{{label: Small Key 1, mode: clear}}, {{label: Small Key 2, mode: hash}}]
nodes:
  main: {{cache_mb: {cache_mb}, cartridge_mb: {cartridge_mb}, cartridges: 4}}
"""
SHA256 = "0" * 64


class RigVe:
    """`rig ve` in a state folder of its own."""

    def __init__(self, folder: Path, megabytes: float) -> None:
        """Make the lab, and the node with a first small volume."""
        self.output = ""
        self._folder = folder
        self._lab = folder / "lab.yaml"
        room = int(megabytes) + 100
        self._lab.write_text(LAB.format(cache_mb=room, cartridge_mb=room))
        first = folder / "first"
        first.write_bytes(os.urandom(1000))
        self.run("write", str(first))
        self.run("work")

    def run(self, *words: str) -> Seconds:
        """Run a command; return how long it took."""
        begin, processor_begin = time.perf_counter(), children_processor_time()
        answer = subprocess.run(
            [sys.executable, "-m", "rig", "ve", *words, "--lab", str(self._lab)],
            env={**os.environ, "TAPERIG_STATE": str(self._folder / "state")},
            capture_output=True,
            text=True,
            check=False,
        )
        processor = children_processor_time() - processor_begin
        seconds = Seconds(time.perf_counter() - begin, processor)
        if answer.returncode != 0:
            raise ChildProcessError(f"rig ve {words[0]} failed:\n{answer.stdout}{answer.stderr}")
        self.output = answer.stdout
        return seconds

    def check(self, volumes: int) -> None:
        """Raise ChildProcessError unless all `volumes` volumes are on tape."""
        self.run("status", "--json")
        status = json.loads(self.output)
        if (status["logical_volumes"], status["waiting_for_tape"]) != (volumes, 0):
            raise ChildProcessError(f"Not all {volumes} volumes are on tape:\n{self.output}")


def make_files(folder: Path, count: int, size: int) -> list[Path]:
    """Make files of random bytes."""
    folder.mkdir()
    files = [folder / f"volume{number:05}" for number in range(count)]
    for file in files:
        file.write_bytes(os.urandom(size))
    return files


def engine_work(key: bytes, files: Sequence[Path]) -> Work:
    """Make the records that these files become on tape."""
    blocks = []
    for number, file in enumerate(files):
        data = file.read_bytes()
        pieces = [data[at : at + MAX_BLOCK_BYTES] for at in range(0, len(data), MAX_BLOCK_BYTES)]
        name = f"L{number:05}"
        blocks.append(VolumeHeader(name, len(data), SHA256, str(file)).encode().data)
        blocks += pieces
        blocks.append(VolumeTrailer(name, len(pieces)).encode().data)
    return encryption_work(key, blocks)


def measure(folder: Path, volumes: int, size: int, turns: int) -> dict[str, float]:
    """Measure by turns; return figures and ratios."""
    megabytes = volumes * size / 1e6
    node = RigVe(folder, megabytes * turns)
    key = secrets.token_bytes(KEY_BYTES)
    took: dict[str, list[Seconds]] = {"engine": [], "write": [], "work": []}
    with SimBoard() as board:
        engine = RigPath(board, key)
        for turn in range(turns):
            files = make_files(folder / f"data{turn}", volumes, size)
            took["write"].append(node.run("write", *map(str, files)))
            took["work"].append(node.run("work"))
            node.check(1 + volumes * (turn + 1))
            took["engine"].append(engine.turn(engine_work(key, files)))
    figures: dict[str, float] = {}
    for kind, of in KINDS.items():
        seconds = {name: [of(each) for each in values] for name, values in took.items()}
        both = [sum(each) for each in zip(seconds["write"], seconds["work"], strict=True)]
        for name, values in (*seconds.items(), ("both", both)):
            figures[f"{name}{kind}_mb_s"] = megabytes / median(values)
            if name in ("work", "both"):
                pairs = zip(seconds["engine"], values, strict=True)
                figures[f"{name}_over_engine{kind}"] = median(a / b for a, b in pairs)
        figures[f"write{kind}_ms_a_volume"] = median(seconds["write"]) / volumes * 1e3
    return figures


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--volumes", type=int, default=1000, help="volumes (default 1000)")
    parser.add_argument("--bytes", type=int, default=100_000, help="of each (default 100000)")
    parser.add_argument("--turns", type=int, default=3, help="repetitions (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taperig-small-") as scratch:
        figures = measure(Path(scratch), options.volumes, options.bytes, options.turns)
    for name, value in figures.items():
        print(f"{name:24} {value:8.3f}")
    if options.json is not None:
        rounded = {name: round(value, 4) for name, value in figures.items()}
        options.json.write_text(json.dumps(rounded, indent=2) + "\n")


if __name__ == "__main__":
    main()
