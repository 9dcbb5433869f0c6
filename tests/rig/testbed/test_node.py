"""The nodes of a run: under its folder, and discarded after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hsm.ekm.audit.log import records
from hsm.keys.eedk import KeyLabel
from rig.drive.cartridge import Cartridge
from rig.lab.load import load_lab
from rig.results.events import EventLog
from rig.testbed.drives import OpenDrive
from rig.testbed.run_cartridges import forget, kept_cartridges
from rig.testbed.run_nodes import RunNodes, storage_group
from rig.testbed.session import LabSession
from rig.ve.catalogue.model import PoolSettings
from tests.support.nodes import put, work
from tests.support.rig_command import lab_file
from tests.support.tape_site import Site, ekm_settings


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


def test_run_nodes_that_are_kept_name_their_key_managers(site: Site, tmp_path: Path) -> None:
    config = ekm_settings(site.lab, site.lab.state_dir.parent)
    for external in ((), ("far",)):
        nodes = RunNodes(tmp_path)
        at = replace(session(site, tmp_path, external), administered=lambda: [config])
        pools = [PoolSettings(2, True, (KeyLabel("KEK 1"),))]
        sizes = {"cache_bytes": 10_000, "cartridge_bytes": 10_000}
        with nodes.open("a name", at, pools, cartridges=2, **sizes) as node:
            put(node, "L00001", b"data", storage_group(2))
            work(node)
        nodes.keep()
    kept = kept_cartridges(tmp_path)
    assert [each.node for each in kept] == [
        tmp_path / "nodes" / "a-name",
        tmp_path / "nodes-2" / "a-name",
    ]
    ((left, why),) = forget(kept)
    assert (left, why) == (kept[1], "key manager far was not started by the rig")
    for each in kept:
        assert any(
            record["event"] == "cartridge-forgotten"
            and record["cartridge_id"] == each.cartridge_id.hex()
            for record in records(config.audit)
        )
    (tmp_path / "nodes" / "a-name" / "key-managers.json").write_text("[" * 5000)
    ((left, why),) = forget(kept[:1])
    assert "key-managers.json cannot be read" in why


def test_run_nodes_take_a_folder_that_no_other_run_left(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes-2").mkdir()
    assert RunNodes(tmp_path).folder == tmp_path / "nodes-3"
