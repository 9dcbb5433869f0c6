"""Where the S-boxes of the cipher lie on the chip.

The placer scatters the 112 block RAMs of the pipeline over the whole chip, which has few others
free, so that each round has wires from one end of it to the other, and these cannot be routed. So
they are given sites: eight of a round beside each other, and the rounds one behind the other, along
one row of block RAMs, back along the next, and the last two on the third.

Sites as nextpnr-ecp5 names them, for LFE5U-85F and LFE5UM5G-85F, which are one die.
"""

import json
import re
from pathlib import Path

CHIPS = ("85k", "um5g-85k")

_ROMS = 8  # of a round
_GROUPS = 13  # of four block RAMs in a row
_ROWS = (22, 46, 70)
_SBOX = re.compile(r"(?:^|\.)u_aes_pipe\.gen_round\[(\d+)\]\.u_round\.gen_sub\[(\d+)\]\.")


def sites(row: int) -> list[str]:
    """Return the sites of a row of block RAMs, from left to right."""
    # Between the seventh group and the eighth is the spine in the middle.
    columns = [4 + 9 * g + 2 * i + (2 if g >= 7 else 0) for g in range(_GROUPS) for i in range(4)]
    return [f"X{column}/Y{row}/EBR{index % 4}" for index, column in enumerate(columns)]


def sbox_sites() -> list[list[str]]:
    """Return the eight sites of each round, the first round first."""
    there, back, third = (sites(row) for row in _ROWS)
    chain = [*there[2:50], *back[49:1:-1], *third[4:20]]
    return [chain[at : at + _ROMS] for at in range(0, len(chain), _ROMS)]


def fix_sboxes(netlist: Path, top: str) -> int:
    """Give the S-boxes in a netlist of Yosys their sites; return how many there are."""
    design = json.loads(netlist.read_text(encoding="utf-8"))
    rounds = sbox_sites()
    fixed = 0
    for name, cell in design["modules"][top]["cells"].items():
        found = _SBOX.search(name)
        if cell["type"] == "DP16KD" and found is not None:
            cell["attributes"]["BEL"] = rounds[int(found[1]) - 1][int(found[2]) // 2]
            fixed += 1
    if fixed:
        netlist.write_text(json.dumps(design), encoding="utf-8")
    return fixed
