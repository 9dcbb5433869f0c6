"""Kill workers, key managers and connections while drives ask for keys.

See tests/support/ekm_kill_campaign.py for what counts as lost and as answered twice. Exit code 1
when anything was.

Run as `python tests/bench/ekm_kill.py [--seconds S] [--drives N] [--seed N] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # for tests.support.ekm_lab

from tests.support.ekm_kill_campaign import run_campaign
from tests.support.ekm_lab import make_lab


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Kill campaign on two key managers.")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--drives", type=int, default=4)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="ekm-kill-") as name:
        folder = Path(name)
        outcome = run_campaign(
            make_lab(folder / "state"), folder, options.seconds, options.seed, options.drives
        )
    counts = dataclasses.asdict(outcome)
    for what, count in counts.items():
        print(f"{what:<16} {count}")
    if options.json is not None:
        options.json.write_text(json.dumps({"seed": options.seed, **counts}, indent=2) + "\n")
    return 0 if outcome.sound else 1


if __name__ == "__main__":
    sys.exit(main())
