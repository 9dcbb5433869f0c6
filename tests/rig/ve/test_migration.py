"""Migration between pools: the three changes, move, reclaim."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select

from rig.ve.catalogue import settings
from rig.ve.catalogue.database import CatalogueError
from rig.ve.catalogue.model import (
    InhibitPeriod,
    ManagementClass,
    PoolSettings,
    ReclaimPolicy,
    StorageGroup,
    TapeEncryption,
    VolumeState,
)
from rig.ve.catalogue.schema import ManagementClassRow, PhysicalRow, StorageGroupRow
from rig.ve.node import Node
from tests.support.nodes import (
    KEK_1,
    NodeFactory,
    assert_agrees,
    content,
    copies,
    evict,
    put,
    tape,
    work,
)

OLD = PoolSettings(1)
NEW = PoolSettings(2, True, (KEK_1,))


def fill(node: Node, count: int, group: str = "SG1") -> list[str]:
    """Write volumes of 3000 bytes, two to a cartridge of 7000 bytes.

    All cartridges but the last are full.
    """
    names = [f"{group}{number:03}" for number in range(count)]
    for number, name in enumerate(names):
        put(node, name, content(number), group)
    work(node)
    return names


def assert_readable(node: Node, names: list[str]) -> None:
    """Check that every volume comes back from tape as it was written."""
    evict(node)
    for number, name in enumerate(names):
        assert node.read(name).read_bytes() == content(number)
        node.unload(name)
    assert node.work().failures == []
    assert_agrees(node)


def pools_in_use(node: Node) -> dict[int, int]:
    """Cartridges that are not scratch, by pool."""
    found: dict[int, int] = {}
    with node.catalogue.reading() as session:
        for row in session.scalars(select(PhysicalRow)):
            if row.state != VolumeState.SCRATCH.value:
                found[row.pool] = found.get(row.pool, 0) + 1
    return found


@pytest.mark.rule("MIG-1")
def test_migration_begins_with_the_three_changes(node_factory: NodeFactory) -> None:
    node = node_factory.node(OLD, NEW, PoolSettings(3))
    with node.change() as session:
        for name, number in (("A", 1), ("B", 1), ("C", 3)):
            settings.set_storage_group(session, StorageGroup(name, number))
        settings.set_management_class(session, ManagementClass("TWICE", 1))
        settings.set_management_class(session, ManagementClass("ONCE", 0))
    with node.change() as session:
        changes = settings.begin_migration(session, 1, 2)
    with node.catalogue.reading() as session:
        groups = {row.name: row.pool for row in session.scalars(select(StorageGroupRow))}
        classes = {
            row.name: row.secondary_pool for row in session.scalars(select(ManagementClassRow))
        }
        assert settings.pool(session, 1) == replace(OLD, reclaim_pool=2, return_borrowed=True)
        assert settings.defaults(session) == (2, 0)
    assert groups == {"A": 2, "B": 2, "C": 3, "SG1": 2, "SG2": 2, "SG3": 3}
    assert classes == {"TWICE": 2, "ONCE": 0}
    assert "storage group A: primary pool 1 -> 2" in changes
    assert len(changes) == 7


@pytest.mark.rule("MIG-1")
def test_migration_needs_a_new_pool_that_encrypts_and_is_empty(node_factory: NodeFactory) -> None:
    node = node_factory.node(OLD, NEW, PoolSettings(3))
    with pytest.raises(CatalogueError, match="Pool 3 does not encrypt"), node.change() as session:
        settings.begin_migration(session, 1, 3)
    fill(node, 1, "SG2")
    with pytest.raises(CatalogueError, match="TAP001 is in it"), node.change() as session:
        settings.begin_migration(session, 1, 2)


@pytest.mark.rule("MIG-4", "MIG-10")
def test_move_stacked_volumes_at_once_filled_or_not(node_factory: NodeFactory) -> None:
    node = node_factory.node(replace(OLD, return_borrowed=True), NEW, cartridge_bytes=7000)
    names = fill(node, 5)
    assert tape(node, "TAP003").state is VolumeState.FILLING
    node.expire(names[0])
    in_cache = node.parts.cache.files()
    node.move_stacked(["TAP001", "TAP002", "TAP003"], 2)
    work(node)
    # The cartridges went back to the common scratch pool, and the first was borrowed from there.
    assert pools_in_use(node) == {2: 2}
    with node.catalogue.reading() as session:
        assert not session.scalars(select(PhysicalRow).where(PhysicalRow.pool == 1)).all()
    for name in names[1:]:
        (copy,) = copies(node, name)
        assert tape(node, copy.volser).encryption is TapeEncryption.ENCRYPTED
    # Tape to tape: the cache was not touched.
    assert node.parts.cache.files() == in_cache
    assert node.parts.staging.files() == []
    evict(node)
    for number, name in enumerate(names[1:], 1):
        assert node.read(name).read_bytes() == content(number)
    assert_agrees(node)


@pytest.mark.rule("MIG-4")
def test_move_stacked_volumes_as_each_becomes_eligible(node_factory: NodeFactory) -> None:
    node = node_factory.node(OLD, NEW, cartridge_bytes=7000)
    names = fill(node, 5)
    node.move_stacked(["TAP001", "TAP002"], 2, when_eligible=True)
    assert node.work().done == 0
    with node.change() as session:
        settings.set_pool(session, replace(OLD, reclaim=ReclaimPolicy(threshold_percent=51)))
    node.expire(names[2])
    work(node)
    assert pools_in_use(node) == {1: 2, 2: 1}
    assert tape(node, "TAP001").state is VolumeState.FULL
    assert tape(node, copies(node, names[3])[0].volser).pool == 2
    with pytest.raises(CatalogueError, match="TAP002 is scratch"):
        node.move_stacked(["TAP002"], 2)
    with pytest.raises(CatalogueError, match="no physical volume 'XXX'"):
        node.move_stacked(["XXX"], 2)
    with pytest.raises(CatalogueError, match="Pool 7 is not configured"):
        node.move_stacked(["TAP001"], 7)
    assert_agrees(node)


@pytest.mark.rule("MIG-9", "MIG-10", "MIG-12")
def test_reclaim_takes_the_least_active_first_and_never_the_unfilled(
    node_factory: NodeFactory,
) -> None:
    policy = ReclaimPolicy(threshold_percent=60)
    node = node_factory.node(
        replace(OLD, reclaim=policy, reclaim_pool=2),
        PoolSettings(3, reclaim=policy, reclaim_pool=2),
        NEW,
        cartridge_bytes=10_000,
        cartridges=8,
    )
    one = fill(node, 4)  # three on a full cartridge, one on another
    three = fill(node, 4, "SG3")
    for name in (one[0], one[1], three[0], three[1]):
        node.expire(name)
    put(node, one[2], content(2, 2000), "SG1")  # rewritten elsewhere: its cartridge is empty
    first, second = copies(node, three[2])[0].volser, "TAP001"
    assert tape(node, second).state is VolumeState.SCRATCH
    assert [each.volume.volser for each in node.scheduler.plan_reclaim().candidates] == [first]
    assert not node.work(reclaim=True).failures
    assert tape(node, first).state is VolumeState.SCRATCH
    assert tape(node, copies(node, three[2])[0].volser).pool == 2
    assert tape(node, copies(node, three[3])[0].volser).pool == 3  # not filled: stays
    assert_agrees(node)


@pytest.mark.rule("MIG-11")
def test_reclaim_does_not_begin_in_an_inhibit_period(node_factory: NodeFactory) -> None:
    node = node_factory.node(
        replace(OLD, reclaim=ReclaimPolicy(threshold_percent=60), reclaim_pool=2),
        NEW,
        cartridge_bytes=7000,
    )
    names = fill(node, 3)
    node.expire(names[0])
    with node.change() as session:
        settings.set_inhibit_periods(session, [InhibitPeriod(0, 0, 7 * 1440)])
    assert node.work(reclaim=True).done == 0
    assert tape(node, "TAP001").state is VolumeState.FULL
    with node.change() as session:
        settings.set_inhibit_periods(session, [])
    assert node.work(reclaim=True).done >= 1
    assert tape(node, "TAP001").state is VolumeState.SCRATCH
    assert tape(node, copies(node, names[1])[0].volser).pool == 2


@pytest.mark.rule("MIG-6", "MIG-7")
def test_reclaim_by_age_with_a_clock_set_ahead(node_factory: NodeFactory) -> None:
    node = node_factory.node(
        replace(OLD, reclaim=ReclaimPolicy(days_since_write=30), reclaim_pool=2),
        NEW,
        cartridge_bytes=7000,
    )
    names = fill(node, 5)
    node.advance(29)
    assert node.work(reclaim=True).done == 0
    node.advance(1)
    assert not node.work(reclaim=True).failures
    assert pools_in_use(node) == {1: 1, 2: 2}
    assert_readable(node, names)
