"""Simulate with random initial values: `make powerup`.

Also `python -m hdl.verilator.power_up [--seeds N] [--first N] [--benches-only]`.

A register that reset does not reach, and every word of a memory, comes up in silicon as anything.
Verilator starts them as zero unless it is told otherwise. For each seed this runs the benches of
the gates and a whole `rig run` with other initial values, and stops at the first failure.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hdl.errors import HdlError
from hdl.sources import HDL_DIRECTORY

# A number from 1 up; when it is set, all simulations start with the random values of this seed.
POWER_UP_VARIABLE = "TAPERIG_POWER_UP_SEED"

DEFAULT_SEEDS = 20
BENCHES = ("tests/hdl/rtl", "tests/hdl/boards")


def power_up_plusargs(seed: int | None = None) -> list[str]:
    """Return the simulator's options for random initial values.

    Without `seed`, the seed is that of the environment; if there is none, the list is empty.
    """
    if seed is None:
        seed = power_up_seed()
    return [] if seed is None else ["+verilator+rand+reset+2", f"+verilator+seed+{seed}"]


def power_up_seed() -> int | None:
    """Return the seed of the environment, if any; raise HdlError."""
    text = os.environ.get(POWER_UP_VARIABLE, "")
    if not text:
        return None
    digits = text.isascii() and text.isdigit() and len(text) <= 10
    if not digits or not 0 < int(text) < 1 << 31:
        raise HdlError(
            f"The environment variable {POWER_UP_VARIABLE} is '{text}'; set it to a number "
            "from 1 to 2147483647, or unset it."
        )
    return int(text)


def main() -> int:
    """Run benches and rig with each seed; return 1 at the first failure."""
    parser = argparse.ArgumentParser(description="Simulate with random initial values.")
    parser.add_argument("--seeds", type=int, default=DEFAULT_SEEDS, help="number of seeds")
    parser.add_argument("--first", type=int, default=1, help="first seed")
    parser.add_argument("--benches-only", action="store_true", help="leave out `rig run`")
    arguments = parser.parse_args()
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *BENCHES]
    rig = [str(Path(sys.executable).parent / "rig"), "run"]
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        steps = {"benches": pytest} if arguments.benches_only else {"benches": pytest, "run": rig}
        for name, command in steps.items():
            begin = time.monotonic()
            failed = _run(command, seed)
            took = time.monotonic() - begin
            verdict = "failed" if failed else "passed"
            print(f"seed {seed:4}  {name:8} {verdict}  {took:6.1f} s", flush=True)
            if failed:
                print(failed)
                return 1
    print(f"all {arguments.seeds} seeds passed")
    return 0


def _run(command: list[str], seed: int) -> str:
    """Run a command with the values of `seed`; return its output on failure."""
    with tempfile.TemporaryDirectory(prefix="taperig-powerup-") as state:
        answer = subprocess.run(
            command,
            cwd=HDL_DIRECTORY.parent,
            env={**os.environ, POWER_UP_VARIABLE: str(seed), "TAPERIG_STATE": state},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    return answer.stdout if answer.returncode else ""


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HdlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
