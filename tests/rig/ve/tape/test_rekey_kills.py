"""A rekey of a version 1 cartridge is killed at each call to the disk.

The cartridge is copied into a file of version 2 that takes its place, and the catalogue learns it.
The engine is in software; secure element and key manager are real.
"""

from __future__ import annotations

import os
import shutil
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm.keys.eedk import KeyLabel
from rig.drive.cartridge import Cartridge
from rig.ve.catalogue import settings, transactions
from rig.ve.catalogue.model import PoolSettings, StorageGroup
from rig.ve.node import Node, NodeSettings
from rig.ve.tape.cartridge_store import CartridgeStore
from tests.support.kill_equipment import equipment
from tests.support.kill_points import KillPoints
from tests.support.nodes import assert_agrees, content, open_interventions, put, work
from tests.support.ve_kill_campaign import Equipment
from tests.support.version_1 import as_version_1

KEY = KeyLabel("KEK 1")
SETTINGS = NodeSettings("main", 1_000_000, 100_000)


@contextmanager
def node_in(folder: Path, opened: Equipment) -> Iterator[Node]:
    with opened() as (drives, proxy), Node(folder, drives, proxy, settings=SETTINGS) as node:
        yield node


def _rekey_killed(folder: Path, opened: Equipment, at: int, *, after: bool) -> bool:
    """Rekey in another process, killed at a call; return whether it was."""
    pid = os.fork()
    if not pid:
        try:
            with node_in(folder, opened) as node:
                KillPoints(at, after=after, note=lambda point: None).install()
                node.scheduler.rekey("TAP001")
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.rule("CART-1", "CART-2")
def test_rekey_of_version_1_leaves_one_whole_cartridge_at_any_kill(tmp_path: Path) -> None:
    with equipment("keyed", tmp_path) as opened:
        start = tmp_path / "start"
        with node_in(start, opened) as node:
            with node.change() as session:
                settings.set_pool(session, PoolSettings(2, True, (KEY,)))
                settings.set_storage_group(session, StorageGroup("SG2", 2))
            node.insert(["TAP001"])
            put(node, "L00001", content(1), "SG2")
            work(node)
            put(node, "L00002", content(2), "SG2")
            work(node)
        as_version_1(start / "cartridges" / "TAP001.tape")
        facts = CartridgeStore(start / "cartridges").inspect("TAP001")
        with node_in(start, opened) as node, node.change() as session:
            # as an earlier catalogue knew it
            transactions.enter_facts(transactions.physical(session, "TAP001"), facts)
        assert facts.format_version == 1
        versions = set()
        at = 1
        while True:
            folder = tmp_path / "round"
            shutil.copytree(start, folder)
            killed = _rekey_killed(folder, opened, at, after=bool(at % 2))
            with Cartridge.open(folder / "cartridges" / "TAP001.tape") as cartridge:
                versions.add((killed, cartridge.memory.version))
            with node_in(folder, opened) as node:
                assert_agrees(node)
                assert node.verify_tapes() == []
                node.scheduler.rekey("TAP001")
                with Cartridge.open(node.parts.cartridges.path("TAP001")) as cartridge:
                    assert cartridge.memory.version == 2
                assert node.verify_tapes() == []
                put(node, "L00003", content(3), "SG2")
                work(node)
                assert node.verify_tapes() == []
                assert open_interventions(node) == []
                assert_agrees(node)
            shutil.rmtree(folder)
            if not killed:
                break
            at += 1
        assert versions == {(True, 1), (True, 2), (False, 2)}
