"""Run the mutants of the gates, and print which bench killed each.

Exit code 1 when one survived that should not; a mutant that no bench can notice says why in
mutants.toml, and has to survive. Exit code 2 when one could not be made or run.

Run as `make mutants [ARGS="--seed 1 NAME..."]`.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.mutants.cells import MutantError, MutantVerdict, mutants, run_cell


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named mutants, or all; print a table and the score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to run (default: all)")
    parser.add_argument("--seed", type=int, help="seed of the benches (default: a new one)")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (default 2)")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    known = mutants()
    names = options.names or list(known)
    if unknown := [name for name in names if name not in known]:
        raise MutantError(f"There is no mutant {unknown[0]}; choose from: {', '.join(known)}.")
    width = max(map(len, names))
    print(f"seed {seed}", flush=True)
    killed = explained = 0
    wrong: list[str] = []
    errors: list[MutantError] = []
    with ThreadPoolExecutor(options.jobs) as cells:
        running = [(name, cells.submit(run_cell, name, seed)) for name in names]
        for name, cell in running:
            try:
                result = cell.result()
            except MutantError as error:
                print(f"{name:{width}} not run: {error}", flush=True)
                errors.append(error)
                continue
            was_killed = result.verdict is MutantVerdict.KILLED
            equivalent = known[name].equivalent
            killed += was_killed
            explained += bool(equivalent) and not was_killed
            if was_killed == bool(equivalent):
                wrong.append(name)
            why = result.by if was_killed else equivalent or "NO BENCH NOTICES IT"
            print(
                f"{name:{width}} {result.verdict.value:9} {result.seconds:6.1f} s  {why}",
                flush=True,
            )
    print(f"{killed} of {len(names)} killed, {explained} that no bench can notice", end="")
    print(f", {len(errors)} not run" if errors else "", end="")
    print(f"; WRONG: {', '.join(wrong)}" if wrong else "")
    return 2 if errors else 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MutantError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
