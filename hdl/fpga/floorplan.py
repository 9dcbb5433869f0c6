"""Sites on the chip for the block RAMs of the engine.

The placer spreads the 112 block RAMs of the cipher over the whole chip, so that each round has
wires from one end of it to the other, and these cannot be routed. So they get fixed sites: the
eight of a round side by side, and the rounds in order, along one row of block RAMs, back along the
next, and the last two on the third.

The record buffer is placed after the last round, one bank above the other. Without fixed sites one
of its block RAMs was placed at the far end of the chip, and its output was the critical path. The
block RAMs of the record window to the engine are placed before the last two rounds, those of the
key unwrap below them.

Sites have the names of nextpnr-ecp5, for LFE5U-85F and LFE5UM5G-85F, which share one die.
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
_UNWRAP = re.compile(r"(?:^|\.)u_key_unwrap\.")


def sites(row: int) -> list[str]:
    """Return the sites of a row of block RAMs, from left to right."""
    # The chip's spine lies between the seventh group and the eighth.
    columns = [4 + 9 * g + 2 * i + (2 if g >= 7 else 0) for g in range(_GROUPS) for i in range(4)]
    return [f"X{column}/Y{row}/EBR{index % 4}" for index, column in enumerate(columns)]


def sbox_sites() -> list[list[str]]:
    """Return the eight sites of each round, the first round first."""
    there, back, third, _ = map(sites, _ROWS)
    chain = [*there[2:50], *back[49:1:-1], *third[4:20]]
    return [chain[at : at + _ROMS] for at in range(0, len(chain), _ROMS)]


def bank_sites() -> list[list[str]]:
    """Return the sites for each bank of the record buffer, some to spare."""
    return [sites(row)[22:] for row in _ROWS[2:]]


def window_sites() -> list[str]:
    """Return the sites for the record window to the engine."""
    return sites(_ROWS[2])[:4]


def unwrap_sites() -> list[str]:
    """Return the sites for the S-boxes of the key unwrap."""
    return sites(_ROWS[3])[4:14]


def fix_block_rams(netlist: Path, top: str) -> int:
    """Assign sites to the block RAMs in a netlist of Yosys; return how many.

    A memory with more block RAMs than sites is left to the placer as a whole.
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
    for number, bank in enumerate(bank_sites()):
        fixed |= _assign_sites(rams, _BANK.format(number), bank)
    fixed |= _assign_sites(rams, _WINDOW, window_sites())
    unwrap = sorted(filter(_UNWRAP.search, rams))
    if len(unwrap) <= len(unwrap_sites()):
        fixed |= dict(zip(unwrap, unwrap_sites(), strict=False))
    for name, site in fixed.items():
        cells[name]["attributes"]["BEL"] = site
    if fixed:
        netlist.write_text(json.dumps(design), encoding="utf-8")
    return len(fixed)


def _assign_sites(rams: list[str], memory: str, free: list[str]) -> dict[str, str]:
    """Return sites for a memory's block RAMs in order, if enough are free."""
    pattern = re.compile(rf"(?:^|\.){memory}\.(\d+)\.(\d+)$")
    numbered = {name: found for name in rams if (found := pattern.search(name))}
    ordered = sorted(numbered, key=lambda name: [int(part) for part in numbered[name].groups()])
    return dict(zip(ordered, free, strict=False)) if len(ordered) <= len(free) else {}
