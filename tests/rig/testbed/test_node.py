"""The nodes of a run: under its folder, and discarded after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.keys.eedk import KeyLabel
from rig.drive.cartridge import Cartridge
from rig.lab.load import load_lab
from rig.results.events import EventLog
from rig.testbed.drives import OpenDrive
from rig.testbed.node import RunNodes, storage_group
from rig.testbed.session import LabSession
from rig.ve.catalogue.model import PoolSettings
from tests.support.nodes import put, work
from tests.support.rig_command import lab_file
from tests.support.tape_site import Site


def session(site: Site, folder: Path, external: tuple[str, ...]) -> LabSession:
    lab = load_lab(lab_file(folder))
    opened = OpenDrive(lab.drives[0], site.engine, site.element, site.drive(), None)
    return LabSession(
        lab, lab.run_node, site.lab, (opened,), site.proxy, EventLog(), list, external
    )


@pytest.mark.rule("CART-4")
def test_run_nodes_name_key_managers_that_the_rig_did_not_start(site: Site, tmp_path: Path) -> None:
    nodes = RunNodes(tmp_path)
    pools = [PoolSettings(2, True, (KeyLabel("KEK 1"),))]
    sizes = {"cache_bytes": 10_000, "cartridge_bytes": 10_000}
    with nodes.open("a name", session(site, tmp_path, ("far",)), pools, cartridges=2, **sizes) as n:
        put(n, "L00001", b"data", storage_group(2))
        work(n)
        with Cartridge.open(n.parts.cartridges.path("TAP001")) as cartridge:
            cartridge_id = cartridge.memory.cartridge_id.hex()
        assert n.folder == tmp_path / "nodes" / "a-name"
    (sentence,) = nodes.discard()
    assert "Key manager far was not started by the rig" in sentence
    assert f"TAP001 --id {cartridge_id}" in sentence
    assert "TAP002" not in sentence
    assert not nodes.folder.exists()


def test_run_nodes_take_a_folder_that_no_other_run_left(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes-2").mkdir()
    assert RunNodes(tmp_path).folder == tmp_path / "nodes-3"
