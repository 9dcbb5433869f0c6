"""Fuzz the parsers of network data, guided by coverage, for a time.

Each target runs in a process of its own, from the corpus in tests/fuzz/corpus; what it finds new is
kept in a scratch folder (`--keep FOLDER`: there), an input that broke it in `fuzz-findings`. Prints
executions and coverage of each target; exit code 1 when one broke.

Run as `make fuzz [ARGS="--seconds 60 --target message"]`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz.targets import TARGETS

HERE = Path(__file__).parent
LONGEST_INPUT = 70_000
"""Bytes; a message and a little more."""
_FINDINGS = Path("fuzz-findings")
_GRACE_SECONDS = 60.0


def fuzz(target: str, seconds: int, found: Path) -> tuple[bool, dict[str, int]]:
    """Fuzz one target; return whether it held, and what libFuzzer counted."""
    _FINDINGS.mkdir(exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(
        [
            sys.executable,
            HERE / "one.py",
            target,
            found,
            HERE / "corpus" / target,
            f"-max_total_time={seconds}",
            f"-max_len={LONGEST_INPUT}",
            f"-artifact_prefix={_FINDINGS}/{target}-",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds + _GRACE_SECONDS,
    )
    output = ended.stdout
    if ended.returncode:
        print(output[-4000:])
    runs = re.search(r"number_of_executed_units:\s*(\d+)", output)
    covered = re.findall(r"cov: (\d+)", output)
    return not ended.returncode, {
        "executions": int(runs[1]) if runs else 0,
        "coverage": int(covered[-1]) if covered else 0,
        "new_inputs": sum(1 for _ in found.iterdir()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Coverage-guided fuzzing of the key side.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--target", choices=tuple(TARGETS), action="append", help="only this")
    parser.add_argument("--keep", type=Path, help="folder for the inputs found")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    counts: dict[str, dict[str, int]] = {}
    sound = True
    print(f"{'target':<10} {'executions':>12} {'a second':>9} {'edges':>7} {'new inputs':>11}")
    with tempfile.TemporaryDirectory(prefix="taperig-corpus-") as scratch:
        for target in options.target or TARGETS:
            began = time.monotonic()
            held, count = fuzz(target, options.seconds, (options.keep or Path(scratch)) / target)
            sound &= held
            counts[target] = {**count, "held": int(held)}
            rate = count["executions"] / (time.monotonic() - began)
            print(
                f"{target:<10} {count['executions']:>12} {rate:>9.0f} {count['coverage']:>7} "
                f"{count['new_inputs']:>11}{'' if held else '  BROKEN: see fuzz-findings'}",
                flush=True,
            )
    if options.json is not None:
        options.json.write_text(json.dumps(counts, indent=2) + "\n")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
