"""Sites of the S-boxes: on the chip, each once, rounds beside their neighbours."""

import json
import re
from itertools import pairwise
from pathlib import Path

from hdl.floorplan import fix_sboxes, sbox_sites, sites


def test_each_site_is_used_once_and_is_on_the_chip() -> None:
    rounds = sbox_sites()
    assert [len(each) for each in rounds] == [8] * 14
    used = [site for each in rounds for site in each]
    assert len(set(used)) == len(used)
    assert set(used) <= {site for row in (22, 46, 70) for site in sites(row)}
    assert sites(22)[0] == "X4/Y22/EBR0"
    assert sites(46)[-1] == "X120/Y46/EBR3"


def test_a_round_lies_together_and_beside_the_next() -> None:
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


def test_only_sboxes_of_the_pipeline_are_fixed(tmp_path: Path) -> None:
    def cell(kind: str) -> dict[str, object]:
        return {"type": kind, "attributes": {}}

    inside = "u_board.u_drive_crypto.u_aes_pipe.gen_round[14].u_round.gen_sub[6].u_sbox_rom.rom.0.0"
    cells = {
        inside: cell("DP16KD"),
        "u_aes_pipe.gen_round[1].u_round.gen_sub[0].u_sbox_rom.some": cell("LUT4"),
        "u_buffer.gen_bank[0].u_bank.memory.0.0": cell("DP16KD"),
    }
    netlist = tmp_path / "netlist.json"
    netlist.write_text(json.dumps({"modules": {"top": {"cells": cells}}}))
    assert fix_sboxes(netlist, "top") == 1
    after = json.loads(netlist.read_text())["modules"]["top"]["cells"]
    assert after[inside]["attributes"] == {"BEL": sbox_sites()[13][3]}
    assert [name for name, each in after.items() if each["attributes"]] == [inside]
