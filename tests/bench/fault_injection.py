"""Flip single bits in the simulated engine; print what detects them.

Run as `python tests/bench/fault_injection.py [TRIALS] [--seed N] [--target NAME] [--json FILE]`;
TRIALS is for each target and operation.  tests/hdl/rtl/bench_engine_faults.py says what outcomes
mean.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

BENCHES = Path(__file__).parents[1] / "hdl" / "rtl"
sys.path[:0] = [str(BENCHES), str(BENCHES.parent)]

from test_engine import FLAGS, NO_ASSERTIONS, SMALL_BANKS, SOURCES  # noqa: E402  (found by the line above)

from hdl.errors import BenchError  # noqa: E402
from hdl.verilator.bench import run_bench  # noqa: E402

OUTCOMES = ("benign", "tag", "self check", "late", "framing", "silent")


def main() -> None:
    """Run the trials; print a line for each target and operation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trials", nargs="?", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", help="one target alone, by its name in the table")
    parser.add_argument("--json", type=Path, help="file for the counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taperig-faults-") as scratch:
        report = (options.json or Path(scratch) / "counts.json").resolve()
        failure = None
        try:
            run_bench(
                "engine_top",
                SOURCES,
                "bench_engine_faults",
                parameters=SMALL_BANKS,
                vlt=[BENCHES / "engine_flippable.vlt"],
                flags=FLAGS,
                plusargs=NO_ASSERTIONS,
                extra_env={
                    "FAULT_TRIALS": str(options.trials),
                    "FAULT_SEED": str(options.seed),
                    "FAULT_REPORT": str(report),
                    **({"FAULT_TARGET": options.target} if options.target else {}),
                },
                testcase="single_bit_flips",
                module_directory=BENCHES,
            )
        except BenchError as error:
            failure = error
            if not report.is_file():
                raise SystemExit(str(error)) from error
        counts: dict[str, dict[str, int]] = json.loads(report.read_text())
    print(f"{'target':20} {'operation':10}" + "".join(f"{each:>12}" for each in OUTCOMES))
    totals: dict[str, dict[str, int]] = {}
    for name, found in counts.items():
        target, operation = name.split("/")
        print(f"{target:20} {operation:10}" + "".join(f"{found.get(k, 0):12}" for k in OUTCOMES))
        total = totals.setdefault(operation, dict.fromkeys(OUTCOMES, 0))
        for outcome, count in found.items():
            total[outcome] += count
    for operation, total in totals.items():
        harmful = sum(total.values()) - total["benign"]
        shares = (f"{100 * total[k] / max(1, harmful):10.1f} %" for k in OUTCOMES[1:])
        print(f"{'of those with effect':20} {operation:10}{harmful:12}" + "".join(shares))
    if failure is not None:
        raise SystemExit(f"Silently wrong where it may not be: {failure}")


if __name__ == "__main__":
    main()
