"""How long a built simulation takes to start, and one register read in it.

Run as `python tests/bench/sim_start.py [STARTS]`; prints minimum, median and maximum.
"""

import argparse
import statistics
import time

import hdl.registers.engine_map as regs
from rig.board.sim import SimBoard

READS = 200


def line(what: str, seconds: list[float]) -> str:
    """Return a figure's line, in milliseconds."""
    least, middle, most = min(seconds), statistics.median(seconds), max(seconds)
    return f"{what:14} {1e3 * least:9.2f} {1e3 * middle:9.2f} {1e3 * most:9.2f}"


def main() -> None:
    """Start and stop the board so many times, and read in each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("starts", type=int, nargs="?", default=5, help="how often (default 5)")
    count: int = parser.parse_args().starts
    with SimBoard():
        pass  # built now
    starts, reads = [], []
    for _ in range(count):
        begun = time.perf_counter()
        with SimBoard() as board:
            starts.append(time.perf_counter() - begun)
            for _ in range(READS):
                begun = time.perf_counter()
                board.read(regs.ID.address, 4, 1)
                reads.append(time.perf_counter() - begun)
    print(f"{'ms':14} {'min':>9} {'median':>9} {'max':>9}")
    print(line("start", starts))
    print(line("register read", reads))


if __name__ == "__main__":
    main()
