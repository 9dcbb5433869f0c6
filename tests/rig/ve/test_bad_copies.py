"""Nothing readable is given up, and work goes on past what is not."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hsm.ekm.protocol.errors import EkmUnavailable
from hsm.errors import TaperigError
from rig.drive.cartridge import Cartridge
from rig.ve.catalogue import bad_copies, settings, transactions
from rig.ve.catalogue.model import (
    ManagementClass,
    PoolSettings,
    ReclaimPolicy,
    StackedCopy,
    StorageGroup,
    VolumeState,
)
from rig.ve.catalogue.schema import CopyRow, LogicalRow
from rig.ve.node import Node, NodeError
from rig.ve.volumes.logical_volume import VolumeError
from rig.ve.volumes.tape_volume_cache import CacheFullError
from tests.support.nodes import (
    NodeFactory,
    assert_agrees,
    content,
    copies,
    evict,
    open_interventions,
    put,
    tape,
    work,
)

NAMES = ("L00001", "L00002", "L00003")


def damage(node: Node, copy: StackedCopy, block: int = 1) -> Path:
    """Change a byte in a block of a copy; `block` 0 is its header label."""
    path = node.parts.cartridges.path(copy.volser)
    with Cartridge.open(path) as cartridge:
        number = copy.first_block + (block if block >= 0 else copy.blocks + block)
        at = cartridge.offset(number) + 48 + cartridge.headers[number].length // 2
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    return path


def bad(node: Node) -> list[tuple[str, str]]:
    with node.catalogue.reading() as session:
        query = session.query(CopyRow).filter(CopyRow.active, CopyRow.bad)
        return sorted((row.name, row.volser) for row in query)


def in_cache(node: Node, *names: str) -> list[str]:
    with node.catalogue.reading() as session:
        rows = transactions.logicals(session, names)
        return [name for name in names if rows[name].in_cache]


@pytest.fixture
def node(node_factory: NodeFactory) -> Node:
    """A node with three volumes on TAP001, which is encrypted."""
    node = node_factory.node()
    for number, name in enumerate(NAMES):
        put(node, name, content(number), "SG2")
    work(node)
    assert tape(node, "TAP001").active_volumes == 3
    return node


@pytest.fixture
def twice(node_factory: NodeFactory) -> Node:
    """A node with three volumes on TAP001, encrypted, and on TAP002, clear."""
    node = node_factory.node()
    with node.change() as session:
        settings.set_management_class(session, ManagementClass("TWICE", 1))
    for number, name in enumerate(NAMES):
        put(node, name, content(number), "SG2", "TWICE")
    work(node)
    for name in NAMES:
        assert {tape(node, copy.volser).pool for copy in copies(node, name)} == {1, 2}
    return node


@pytest.mark.rule("COPY-1", "COPY-2", "COPY-3")
@pytest.mark.parametrize("block", [0, 1, -1], ids=["header label", "data", "trailer label"])
def test_volume_with_a_bad_copy_stays_in_the_cache_and_is_copied_again(
    node: Node, block: int
) -> None:
    (copy,) = copies(node, "L00002")
    damage(node, copy, block)
    (finding,) = node.verify_tapes()
    assert finding.startswith("L00002 on TAP001: ")
    assert bad(node) == [("L00002", "TAP001")]
    assert sorted(open_interventions(node)) == ["copies on TAP001", "read-only cartridge TAP001"]
    with pytest.raises(CacheFullError):
        evict(node)
    assert in_cache(node, *NAMES) == list(NAMES)
    with node.catalogue.reading() as session:
        assert transactions.physical(session, "TAP001").read_only
    assert "L00002 has a copy on TAP001 that cannot be read" in node.check().findings

    work(node)
    (again,) = copies(node, "L00002")
    assert (again.volser, bad(node)) == ("TAP002", [])
    assert open_interventions(node) == ["read-only cartridge TAP001"]
    evict(node)
    assert in_cache(node, *NAMES) == []
    for number, name in enumerate(NAMES):
        assert node.read(name).read_bytes() == content(number)
    assert_agrees(node)

    put(node, "L00004", content(4), "SG2")
    work(node)
    assert copies(node, "L00004")[0].volser == "TAP002"
    node.make_writable(["TAP001"])
    put(node, "L00005", content(5, 9000), "SG2")  # the fullest cartridge with room
    work(node)
    assert_agrees(node)


@pytest.mark.rule("COPY-1", "COPY-2")
def test_bad_copy_is_made_anew_from_the_other_one_on_tape(twice: Node) -> None:
    primary = next(copy for copy in copies(twice, "L00002") if copy.role == "primary")
    damage(twice, primary)
    evict(twice)
    assert twice.read("L00002").read_bytes() == content(1)  # the other copy served
    assert bad(twice) == [("L00002", primary.volser)]
    with twice.catalogue.transaction() as session:  # so that only a tape can give it
        row = transactions.logical(session, "L00002")
        row.in_cache = row.mounted = False
    twice.parts.cache.remove("L00002", 1)
    work(twice)
    assert bad(twice) == []
    pools = {copy.role: tape(twice, copy.volser).pool for copy in copies(twice, "L00002")}
    assert pools == {"primary": 2, "secondary": 1}
    assert primary.volser not in {copy.volser for copy in copies(twice, "L00002")}
    assert in_cache(twice, "L00002") == []
    assert twice.read("L00002").read_bytes() == content(1)
    assert_agrees(twice)


@pytest.mark.rule("COPY-4")
def test_recall_goes_on_past_a_bad_block(node: Node) -> None:
    damage(node, copies(node, "L00002")[0])
    evict(node)
    with pytest.raises(TaperigError, match="block 4 of TAP001"):
        node.read_all(NAMES)
    assert in_cache(node, *NAMES) == ["L00001", "L00003"]
    assert bad(node) == [("L00002", "TAP001")]
    assert "L00002 is lost unless a cartridge is repaired: no copy can be read" in (
        node.check().findings
    )


@pytest.mark.rule("COPY-1")
def test_only_copy_counts_again_once_it_can_be_read(node: Node) -> None:
    path = node.parts.cartridges.path("TAP001")
    whole = path.read_bytes()
    damage(node, copies(node, "L00002")[0])
    evict(node)
    with pytest.raises(TaperigError):
        node.read("L00002")
    with node.catalogue.reading() as session:
        assert bad_copies.lost(session, "TAP001") == ["L00002"]
    path.write_bytes(whole)
    assert node.read("L00002").read_bytes() == content(1)
    assert bad(node) == []
    assert open_interventions(node) == ["read-only cartridge TAP001"]


@pytest.mark.rule("COPY-1")
@pytest.mark.parametrize("left", [0, 30_000])
def test_all_copies_on_a_destroyed_cartridge_are_bad(node: Node, left: int) -> None:
    path = node.parts.cartridges.path("TAP001")
    path.write_bytes(bytes(left))
    assert node.verify_tapes()
    assert bad(node) == [(name, "TAP001") for name in NAMES]
    work(node)
    assert bad(node) == []
    evict(node)
    for number, name in enumerate(NAMES):
        assert node.read(name).read_bytes() == content(number)


@pytest.mark.rule("COPY-1")
def test_copies_on_a_missing_or_other_cartridge_are_not_bad_but_do_not_count(node: Node) -> None:
    path = node.parts.cartridges.path("TAP001")
    aside = path.rename(path.with_suffix(".aside"))
    assert node.verify_tapes()
    with pytest.raises(CacheFullError):
        evict(node)
    assert (in_cache(node, *NAMES), bad(node)) == (list(NAMES), [])
    Cartridge.create(path, "TAP001")
    assert node.verify_tapes()
    with pytest.raises(CacheFullError):
        evict(node)
    assert (in_cache(node, *NAMES), bad(node)) == (list(NAMES), [])
    aside.rename(path)
    assert node.verify_tapes() == []
    evict(node)
    assert in_cache(node, *NAMES) == []


@pytest.mark.rule("COPY-1")
def test_key_manager_that_is_away_makes_no_copy_bad(node: Node, node_factory: NodeFactory) -> None:
    evict(node)
    node.close()
    drive = node_factory.site.drive()
    with Node(node.folder, [drive], None, settings=node.settings) as alone:
        (finding,) = alone.verify_tapes()
        assert finding.startswith("TAP001: ")
        with pytest.raises(EkmUnavailable):
            alone.read("L00001")
        assert bad(alone) == []
        assert open_interventions(alone) == ["no key manager"]


@pytest.mark.rule("COPY-4", "MIG-4")
def test_move_goes_on_past_a_bad_block(node: Node) -> None:
    damage(node, copies(node, "L00002")[0])
    node.move_stacked(["TAP001"], 1)
    (failure,) = node.work().failures
    assert isinstance(failure, VolumeError)
    assert str(failure).startswith("Moved from TAP001: 2 volumes, but for L00002: ")
    assert [tape(node, copies(node, name)[0].volser).pool for name in NAMES] == [1, 2, 1]
    work(node)  # from the cache
    assert [tape(node, copies(node, name)[0].volser).pool for name in NAMES] == [1, 2, 1]
    assert copies(node, "L00002")[0].volser != "TAP001"
    assert_agrees(node)


@pytest.mark.rule("COPY-4", "MIG-5")
def test_reclaim_takes_what_can_be_read_once(node_factory: NodeFactory) -> None:
    policy = ReclaimPolicy(threshold_percent=95)
    node = node_factory.node(PoolSettings(1, reclaim=policy), cartridge_bytes=9000)
    for number, name in enumerate(NAMES):
        put(node, name, content(number), "SG1")
    put(node, "L00004", content(4), "SG1")
    work(node)
    assert tape(node, "TAP001").state is VolumeState.FULL
    node.expire("L00003")
    damage(node, copies(node, "L00001")[0])
    evict(node)
    assert len(node.work(reclaim=True).failures) == 1
    assert tape(node, "TAP001").active_volumes == 1
    assert node.work(reclaim=True).failures == []
    assert bad(node) == [("L00001", "TAP001")]


@pytest.mark.rule("COPY-4", "MIG-2")
def test_recall_job_goes_on_where_another_pool_fails(node: Node) -> None:
    with node.change() as session:
        settings.set_pool(session, PoolSettings(3, borrow=False))
        settings.set_storage_group(session, StorageGroup("SG3", 3))
        settings.set_storage_group(session, StorageGroup("SG2", 1))
    put(node, "L00009", content(9), "SG3")  # has no cartridge to go to
    damage(node, copies(node, "L00002")[0])
    evict_all_but(node, "L00009")
    with pytest.raises(TaperigError, match="block 4 of TAP001"):
        node.recall_job(NAMES)
    pools = [tape(node, copies(node, name)[0].volser).pool for name in NAMES]
    assert pools == [1, 2, 1]


def evict_all_but(node: Node, name: str) -> None:
    with node.catalogue.transaction() as session:
        for row in session.query(LogicalRow).filter(LogicalRow.name != name):
            row.in_cache = False
            node.parts.cache.remove(row.name, row.generation)


@pytest.mark.rule("COPY-2", "COPY-4")
@pytest.mark.parametrize("how", ["missing", "cut", "changed"])
def test_cache_file_that_is_not_what_was_stored_is_recalled(node: Node, how: str) -> None:
    path = node.parts.cache.path("L00001", 1)
    match how:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(content(0)[:-1])
        case _:
            path.write_bytes(content(7))
    assert node.absent(NAMES) == ["L00001"]
    assert node.read("L00001").read_bytes() == content(0)
    assert_agrees(node)


@pytest.mark.rule("COPY-4")
def test_cache_file_that_nothing_else_has_is_said_to_be_lost(node: Node) -> None:
    put(node, "L00007", content(7), "SG2")
    node.parts.cache.path("L00007", 1).unlink()
    with pytest.raises(NodeError, match=r"L00007.* No cartridge has it either"):
        node.read("L00007")
    assert open_interventions(node) == ["cache file of L00007"]
    assert node.read("L00001").read_bytes() == content(0)


@pytest.mark.rule("COPY-2", "COPY-4")
def test_copy_ordered_of_a_missing_cache_file_is_made_from_tape(node: Node) -> None:
    with node.change() as session:
        settings.set_management_class(session, ManagementClass("TWICE", 1))
        for row in transactions.logicals(session, NAMES).values():
            row.management_class = "TWICE"
        transactions.unload(session, NAMES, node.clock.now())
    node.parts.cache.path("L00002", 1).unlink()
    work(node)
    for number, name in enumerate(NAMES):
        assert {tape(node, copy.volser).pool for copy in copies(node, name)} == {1, 2}
        assert node.read(name).read_bytes() == content(number)
    assert_agrees(node)


@pytest.mark.rule("COPY-5")
def test_scrub_reads_what_was_not_read_for_long(node: Node) -> None:
    assert node.due_to_scrub(30) == []
    node.advance(31)
    assert node.due_to_scrub(30) == ["TAP001"]
    put(node, "L00004", content(4), "SG1")
    work(node)
    assert node.due_to_scrub(30) == ["TAP001"]
    assert node.due_to_scrub(0) == ["TAP001", "TAP002"]
    assert node.verify_tapes(node.due_to_scrub(30)) == []
    assert node.due_to_scrub(30) == []
    damage(node, copies(node, "L00002")[0])
    node.advance(31)
    assert len(node.verify_tapes(node.due_to_scrub(30))) == 1
    assert node.due_to_scrub(30) == []


@pytest.mark.rule("COPY-5")
def test_serving_node_scrubs_and_repairs_by_itself(twice: Node) -> None:
    (copy,) = (copy for copy in copies(twice, "L00002") if copy.volser == "TAP001")
    damage(twice, copy)
    evict(twice)
    twice.advance(91)
    stop = threading.Event()
    serving = threading.Thread(target=twice.serve, args=(stop, 0.01))
    serving.start()
    try:
        for _ in range(2000):
            if {c.volser for c in copies(twice, "L00002")}.isdisjoint({"TAP001"}):
                break
            threading.Event().wait(0.01)
    finally:
        stop.set()
        serving.join()
    assert bad(twice) == []
    assert "TAP001" not in {copy.volser for copy in copies(twice, "L00002")}
    assert twice.read("L00002").read_bytes() == content(1)
