"""Where block RAMs of the engine lie on the chip.

The placer scatters the 112 block RAMs of the cipher over the whole chip, which has few others
free, so that each round has wires from one end of it to the other, and these cannot be routed. So
they are given sites: eight of a round beside each other, and the rounds one behind the other, along
one row of block RAMs, back along the next, and the last two on the third.

Behind the last round lies the record buffer, one bank above the other. Left to the placer, one of
its block RAMs came to lie at the far end of the chip, and the path out of it was the longest of
all. Those of the board's window for records to the engine lie in front of the last two rounds.

Sites as nextpnr-ecp5 names them, for LFE5U-85F and LFE5UM5G-85F, which are one die.
"""

import json
import re
from pathlib import Path
from typing import Any

CHIPS = ("85k", "um5g-85k")

_ROMS = 8  # of a round
_GROUPS = 13  # of four block RAMs in a row
_ROWS = (22, 46, 70, 82)
_SBOX = re.compile(r"(?:^|\.)u_aes_pipe\.gen_round\[(\d+)\]\.u_round\.gen_sub\[(\d+)\]\.")
_BANK = r"u_buffer\.gen_bank\[{}\]\.u_bank\.memory"
_WINDOW = r"u_record_in\.u_ram\.memory"


def sites(row: int) -> list[str]:
    """Return the sites of a row of block RAMs, from left to right."""
    # Between the seventh group and the eighth is the spine in the middle.
    columns = [4 + 9 * g + 2 * i + (2 if g >= 7 else 0) for g in range(_GROUPS) for i in range(4)]
    return [f"X{column}/Y{row}/EBR{index % 4}" for index, column in enumerate(columns)]


def sbox_sites() -> list[list[str]]:
    """Return the eight sites of each round, the first round first."""
    there, back, third, _ = map(sites, _ROWS)
    chain = [*there[2:50], *back[49:1:-1], *third[4:20]]
    return [chain[at : at + _ROMS] for at in range(0, len(chain), _ROMS)]


def bank_sites() -> list[list[str]]:
    """Return the sites of each bank of the record buffer, more than the widest needs."""
    return [sites(row)[22:] for row in _ROWS[2:]]


def window_sites() -> list[str]:
    """Return the sites of the window for records to the engine."""
    return sites(_ROWS[2])[:4]


def fix_block_rams(netlist: Path, top: str) -> int:
    """Give the block RAMs in a netlist of Yosys their sites; return how many were given one.

    A memory that is larger than its place is left to the placer, all of it.
    """
    design = json.loads(netlist.read_text(encoding="utf-8"))
    cells: dict[str, Any] = design["modules"][top]["cells"]
    rams = [name for name, cell in cells.items() if cell["type"] == "DP16KD"]
    rounds = sbox_sites()
    fixed = {
        name: rounds[int(found[1]) - 1][int(found[2]) // 2]
        for name in rams
        if (found := _SBOX.search(name))
    }
    for number, place in enumerate(bank_sites()):
        fixed |= _laid_out(rams, _BANK.format(number), place)
    fixed |= _laid_out(rams, _WINDOW, window_sites())
    for name, site in fixed.items():
        cells[name]["attributes"]["BEL"] = site
    if fixed:
        netlist.write_text(json.dumps(design), encoding="utf-8")
    return len(fixed)


def _laid_out(rams: list[str], memory: str, place: list[str]) -> dict[str, str]:
    """Give the block RAMs of one memory sites in their order, if there are enough."""
    pattern = re.compile(rf"(?:^|\.){memory}\.(\d+)\.(\d+)$")
    numbered = {name: found for name in rams if (found := pattern.search(name))}
    ordered = sorted(numbered, key=lambda name: [int(part) for part in numbered[name].groups()])
    return dict(zip(ordered, place, strict=False)) if len(ordered) <= len(place) else {}
