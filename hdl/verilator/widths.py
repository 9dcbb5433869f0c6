"""Run the benches of the gates at every width: `make widths`.

Also `python -m hdl.verilator.widths [WIDTH ...]`. The suite runs the widest whole and a short form
of the narrowest. Stops at the first width whose benches fail.
"""

import argparse
import os
import subprocess
import sys
import time

from hdl.errors import HdlError
from hdl.sources import HDL_DIRECTORY
from hdl.widths import WIDTH_VARIABLE, WIDTHS, require_width

BENCHES = "tests/hdl/rtl"


def main() -> int:
    """Run the benches at the named widths, or at all; return 1 on failure."""
    parser = argparse.ArgumentParser(description="Run the benches at every width.")
    parser.add_argument("widths", nargs="*", type=int, metavar="WIDTH", help="bytes a clock")
    options = parser.parse_args()
    for width in options.widths:
        require_width(width)
    for width in options.widths or WIDTHS:
        begin = time.monotonic()
        answer = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", BENCHES],
            cwd=HDL_DIRECTORY.parent,
            env={**os.environ, WIDTH_VARIABLE: str(width)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        summary = answer.stdout.rstrip().splitlines()[-1:]
        took = time.monotonic() - begin
        print(f"{width:2} bytes a clock  {took:6.1f} s  {''.join(summary)}", flush=True)
        if answer.returncode:
            print(answer.stdout)
            return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HdlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
