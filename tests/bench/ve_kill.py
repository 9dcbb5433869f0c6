"""Kill a node at random points and print the findings by kind of kill.

Run as `python tests/bench/ve_kill.py [KILLS] [--engine soft|keys|gates] [--seed N] [--json FILE]`.
What is real in each: `soft` (default) has two drives with the engine in software and clear pools;
`keys` one drive with the engine in software, secure element, token and key manager real, and an
encrypted pool; `gates` the same on the simulated gates, which lose power with each kill. Catalogue,
cache, cartridges and the whole virtualization engine are real in all.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.kill_equipment import equipment
from tests.support.ve_kill_campaign import Campaign, report


def main() -> None:
    """Run the campaign; exit 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", nargs="?", type=int, default=500)
    parser.add_argument("--engine", choices=("soft", "keys", "gates"), default="soft")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the counts")
    options = parser.parse_args()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="taperig-kill-") as scratch,
        equipment(options.engine, Path(scratch)) as chosen,
    ):
        campaign = Campaign(Path(scratch) / "node", chosen, options.seed)
        campaign.prepare()
        number = 0
        while campaign.outcome.kills < options.kills:
            number += 1
            if not campaign.round(number):
                break
            if number % 25 == 0:
                print(f"{campaign.outcome.kills} kills, nothing wrong", flush=True)
    counts = {"engine": options.engine, "seed": options.seed, **report(campaign.outcome)}
    if options.json:
        options.json.write_text(json.dumps(counts, indent=2))
    seconds = time.monotonic() - began
    print(f"\n{'kills':28} {campaign.outcome.kills:6} in {seconds:.0f} s, engine {options.engine}")
    print(f"{'acknowledged meanwhile':28} {campaign.outcome.acknowledged:6}")
    for title in ("by_point", "operations", "recovered"):
        print(title.replace("_", " "))
        for name, count in counts[title].items():
            print(f"  {name:42} {count:6}")
    for line in campaign.outcome.wrong:
        print(f"WRONG {line}")
    raise SystemExit(1 if campaign.outcome.wrong else 0)


if __name__ == "__main__":
    main()
