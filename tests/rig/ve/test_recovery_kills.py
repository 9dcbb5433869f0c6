"""Insert, eject, rebuild and restore are killed at every call to the disk.

Each is killed before and after every call that changes the disk; then the same call is made again.
Drives have the engine in software, the rest is real.
"""

from __future__ import annotations

import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rig.ve.catalogue import settings
from rig.ve.catalogue.model import ManagementClass, PoolSettings, StorageGroup
from rig.ve.insertion import InsertionError
from rig.ve.node import Node, NodeSettings
from tests.support.kill_equipment import SoftEquipment
from tests.support.kill_points import KillPoints
from tests.support.nodes import assert_agrees, content, put, work

SETTINGS = NodeSettings("main", 1_000_000, 9000)
VOLUMES = {f"L{number:05}": content(number) for number in range(8)}


@contextmanager
def node_in(folder: Path) -> Iterator[Node]:
    with (
        SoftEquipment()() as (drives, proxy),
        Node(folder, drives, proxy, settings=SETTINGS) as node,
    ):
        with node.change() as session:
            for pool in (1, 2):
                settings.set_pool(session, PoolSettings(pool))
            settings.set_management_class(session, ManagementClass("TWICE", 2))
            settings.set_storage_group(session, StorageGroup("SG1", 1))
        yield node


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a node that has volumes on five cartridges."""
    folder = tmp_path_factory.mktemp("start")
    with node_in(folder / "node") as node:
        node.insert(f"TAP{number:03}" for number in range(1, 7))
        for name, data in VOLUMES.items():
            put(node, name, data, "SG1", "TWICE")
        work(node)
    return folder


def carry(folder: Path) -> None:
    """Lose all of the node but its cartridges."""
    shutil.copytree(folder / "node" / "cartridges", folder / "carried")
    shutil.rmtree(folder / "node")


def carry_one(folder: Path) -> None:
    with node_in(folder / "node") as node:
        node.eject("TAP001", "away", folder / "carried")


def carry_one_elsewhere(folder: Path) -> None:
    carry(folder)


def insert(node: Node, folder: Path) -> None:
    node.insert_cartridge(folder / "carried" / "TAP001.tape")


def eject(node: Node, folder: Path) -> None:
    node.eject("TAP001", "away", folder / "carried")


def rebuild(node: Node, folder: Path) -> None:
    assert node.rebuild(folder / "carried").findings == []


def restore(node: Node, folder: Path) -> None:
    assert node.restore(folder / "carried").findings == []


def killed(folder: Path, act: Callable[[Node, Path], None], at: int, *, after: bool) -> bool:
    """Act in another process, killed at a call; return whether it was."""
    pid = os.fork()
    if not pid:
        try:
            with node_in(folder / "node") as node:
                KillPoints(at, after=after, note=lambda point: None).install()
                act(node, folder)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("prepare", "act"),
    [
        pytest.param(carry_one, insert, id="insert what comes back"),
        pytest.param(carry_one_elsewhere, insert, id="insert what is new"),
        pytest.param(lambda folder: None, eject, id="eject"),
        pytest.param(carry, rebuild, id="rebuild"),
        pytest.param(carry, restore, id="restore"),
    ],
)
@pytest.mark.rule("DR-1", "DR-2", "DR-3", "DR-5")
def test_second_call_completes_after_a_kill_at_any_call(
    start: Path,
    tmp_path: Path,
    prepare: Callable[[Path], None],
    act: Callable[[Node, Path], None],
    after: bool,
) -> None:
    shutil.copytree(start, tmp_path / "prepared")
    prepare(tmp_path / "prepared")
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        shutil.copytree(tmp_path / "prepared", folder)
        if not killed(folder, act, at, after=after):
            break
        with node_in(folder / "node") as node:
            if act in (rebuild, restore) and node.existing(list(VOLUMES)):
                with pytest.raises(InsertionError, match="has 8 logical volumes"):
                    act(node, folder)  # it had ended but for its last words
            else:
                act(node, folder)
            if act is eject:
                node.insert_cartridge(folder / "carried" / "TAP001.tape")
            for name in node.existing(list(VOLUMES)):
                assert node.read(name).read_bytes() == VOLUMES[name], (at, name)
                node.release(name)
            expected = 3 if prepare is carry_one_elsewhere else len(VOLUMES)
            assert len(node.existing(list(VOLUMES))) == expected, at
            assert_agrees(node)
        shutil.rmtree(folder)
    assert at > 3
