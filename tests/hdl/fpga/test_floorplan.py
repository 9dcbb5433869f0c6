"""Sites of the block RAMs: on the chip, unique, rounds next to each other."""

import json
import re
from itertools import pairwise
from pathlib import Path

from hdl.fpga.floorplan import (
    bank_sites,
    fix_block_rams,
    sbox_sites,
    sites,
    unwrap_sites,
    window_sites,
)


def test_floorplan_uses_each_site_once_and_only_sites_of_the_chip() -> None:
    rounds = sbox_sites()
    assert [len(each) for each in rounds] == [8] * 14
    groups = (*rounds, *bank_sites(), window_sites(), unwrap_sites())
    used = [site for each in groups for site in each]
    assert len(set(used)) == len(used)
    assert set(used) <= {site for row in (22, 46, 70, 82) for site in sites(row)}
    assert sites(22)[0] == "X4/Y22/EBR0"
    assert sites(46)[-1] == "X120/Y46/EBR3"


def test_floorplan_places_a_round_together_and_next_to_its_successor() -> None:
    places = [
        [tuple(map(int, re.findall(r"\d+", site)[:2])) for site in each] for each in sbox_sites()
    ]
    for each in places:
        columns = [x for x, _ in each]
        assert max(columns) - min(columns) <= 24
        assert len({y for _, y in each}) == 1
    for each, following in pairwise(places):
        (x, y), (next_x, next_y) = each[-1], following[0]
        assert abs(x - next_x) <= 5
        assert abs(y - next_y) <= 24


def cell(kind: str) -> dict[str, object]:
    return {"type": kind, "attributes": {}}


def sites_given(folder: Path, cells: dict[str, dict[str, object]]) -> dict[str, str]:
    """Return the sites that cells get, by cell name."""
    netlist = folder / "netlist.json"
    netlist.write_text(json.dumps({"modules": {"top": {"cells": cells}}}))
    count = fix_block_rams(netlist, "top")
    after = json.loads(netlist.read_text())["modules"]["top"]["cells"]
    given = {n: each["attributes"]["BEL"] for n, each in after.items() if each["attributes"]}
    assert len(given) == count
    return given


def test_floorplan_fixes_sboxes_buffer_window_and_key_unwrap(tmp_path: Path) -> None:
    inside = "u_board.u_drive_crypto.u_aes_pipe.gen_round[14].u_round.gen_sub[6].u_sbox_rom.rom.0.0"
    bank = "u_board.u_drive_crypto.u_buffer.gen_bank[1].u_bank.memory.0."
    window = "u_board.u_record_in.u_ram.memory.0."
    unwrap = "u_board.u_drive_crypto.u_key_control.u_key_unwrap.u_inv_cipher.gen_column"
    cells = {
        inside: cell("DP16KD"),
        "u_aes_pipe.gen_round[1].u_round.gen_sub[0].u_sbox_rom.some": cell("LUT4"),
        "u_key_control.u_aes_key_expand.gen_sub[0].u_sbox_rom.rom.0.0": cell("DP16KD"),
        **{f"{bank}{n}": cell("DP16KD") for n in (0, 1, 10, 2)},
        **{f"{window}{n}": cell("DP16KD") for n in range(4)},
        **{f"{unwrap}[{n}].rom.0.0": cell("DP16KD") for n in (3, 0)},
    }
    assert sites_given(tmp_path, cells) == {
        inside: sbox_sites()[13][3],
        **{f"{bank}{n}": bank_sites()[1][place] for place, n in enumerate((0, 1, 2, 10))},
        **{f"{window}{n}": window_sites()[n] for n in range(4)},
        f"{unwrap}[0].rom.0.0": unwrap_sites()[0],
        f"{unwrap}[3].rom.0.0": unwrap_sites()[1],
    }


def test_floorplan_leaves_a_memory_without_enough_sites_to_the_placer(tmp_path: Path) -> None:
    names = [f"u_record_in.u_ram.memory.{n // 4}.{n % 4}" for n in range(5)]
    assert sites_given(tmp_path, {name: cell("DP16KD") for name in names}) == {}
