"""``rig ve rekey``: real drive, gates, token and key manager."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.rig_command import lab_file, rig


@pytest.mark.rule("KEY-2", "POOL-3")
def test_ve_rekey_gives_a_cartridge_the_current_keys_of_its_pool(
    tmp_path: Path, state: Path
) -> None:
    lab = lab_file(tmp_path)
    tape = state / "ve" / "main" / "cartridges" / "TAP001.tape"

    def ve(*arguments: str | Path) -> str:
        ended = rig("ve", *arguments, "--lab", lab)
        assert ended.code == 0, ended.err
        return ended.out

    def labels() -> list[str | None]:
        shown = json.loads(rig("cartridge", "show", tape, "--json").out)
        return [eedk["label"] for eedk in shown["eedks"]]

    (tmp_path / "data").write_bytes(b"not all who wander are lost" * 1000)
    ve("constructs", "--default-primary", "2")
    ve("write", tmp_path / "data")
    ve("work")
    assert labels() == ["June 2007 Key", None]
    ve("pools", "--set", "2", "--key", "June 2007 DR Site Key")
    (done,) = json.loads(ve("rekey", "TAP001", "--json"))
    key = {"label": "June 2007 DR Site Key", "mode": "clear"}
    assert done == {"volser": "TAP001", "keys": [key], "opened_here": [True, True]}
    assert labels() == ["June 2007 DR Site Key"] * 2
    assert "no physical volume needs the key" in ve("needs-key", "June 2007 Key")
    assert "nothing wrong" in ve("check", "--tapes")
    before = tape.read_bytes()
    for volsers, words in (
        (("TAP001", "TAP002"), "Cartridge TAP002 is scratch"),
        (("TAP099",), "There is no physical volume 'TAP099'"),
    ):
        assert words in rig("ve", "rekey", *volsers, "--lab", lab).sentence()
    assert tape.read_bytes() == before
