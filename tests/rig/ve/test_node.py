"""A node on the real drive, gates and key manager."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import select

from hsm.ekm.protocol.errors import EkmUnavailable
from hsm.ekm.service.launch import spawn_ekm
from hsm.keys.pki import load_certificate
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import TapeFormat
from rig.drive.drive import Drive
from rig.engine.driver import Engine
from rig.results.events import NoticeKind
from rig.ve import operator_views
from rig.ve.catalogue import settings
from rig.ve.catalogue.backup import DatabaseBackup
from rig.ve.catalogue.database import CatalogueError
from rig.ve.catalogue.model import (
    ManagementClass,
    PoolSettings,
    StorageGroup,
    TapeEncryption,
    VolumeState,
)
from rig.ve.catalogue.operator_messages import NO_KEY_MANAGER
from rig.ve.catalogue.schema import CopyRow, DriveRow, EventRow, PhysicalRow, PremigrationRow
from rig.ve.ekm.proxy import EkmProxy
from rig.ve.node import Node, NodeError, NodeSettings
from rig.ve.operator_views import tape_map
from rig.ve.volumes.tape_volume_cache import CacheFullError
from tests.support.boards import StartBoard
from tests.support.nodes import (
    CLEAR,
    ENCRYPTED,
    KEK_1,
    KEK_2,
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
from tests.support.tape_site import Site, ekm_settings
from tests.support.volume_sinks import FolderSink
from tests.support.waiting import wait_until


@pytest.mark.rule("POOL-1", "POOL-4", "BOT-1", "READ-1")
def test_volume_goes_from_host_to_cache_to_tape_and_back(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    data = content(1)
    put(node, "L00001", data, "SG2")
    assert copies(node, "L00001") == []
    work(node)
    (copy,) = copies(node, "L00001")
    assert (copy.volser, copy.first_block, copy.blocks, copy.size) == ("TAP001", 0, 3, 3000)
    volume = tape(node, "TAP001")
    assert (volume.pool, volume.state, volume.borrowed) == (2, VolumeState.FILLING, True)
    assert (volume.encryption, volume.keys) == (TapeEncryption.ENCRYPTED, (KEK_1,))
    assert (volume.active_bytes, volume.active_volumes, volume.written_bytes) == (3000, 1, 3000)
    assert data[:16] not in node.parts.cartridges.path("TAP001").read_bytes()
    evict(node)
    assert node.parts.cache.files() == []
    assert_agrees(node)
    assert node.read("L00001").read_bytes() == data
    assert tape(node, "TAP001").last_accessed is not None
    node.unload("L00001")
    assert node.work().done == 0  # nothing changed, so nothing is copied
    assert_agrees(node)


def test_volume_rewritten_replaces_its_old_content(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    put(node, "L00001", content(1))
    put(node, "L00002", content(2))
    work(node)
    put(node, "L00001", content(3, 5000))
    assert copies(node, "L00001") == []
    assert tape(node, "TAP001").active_volumes == 1
    work(node)
    (copy,) = copies(node, "L00001")
    assert (copy.generation, copy.size, copy.first_block) == (2, 5000, 6)
    assert_agrees(node)
    evict(node)
    assert node.read("L00001").read_bytes() == content(3, 5000)
    assert node.read("L00002").read_bytes() == content(2)
    assert [path.name for path in node.parts.cache.files()] == ["L00001.2", "L00002.1"]


@pytest.mark.rule("POOL-5")
def test_volume_without_constructs_goes_to_pool_1_without_a_copy(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    put(node, "L00001", content(1))
    work(node)
    assert [tape(node, copy.volser).pool for copy in copies(node, "L00001")] == [1]
    with node.change() as session:
        settings.set_defaults(session, 2, 1)
    put(node, "L00002", content(2))
    work(node)
    found = [(copy.role, tape(node, copy.volser).pool) for copy in copies(node, "L00002")]
    assert found == [("primary", 2), ("secondary", 1)]
    assert_agrees(node)


@pytest.mark.rule("POOL-4")
def test_constructs_map_to_pools_several_to_one(node_factory: NodeFactory) -> None:
    node = node_factory.node(CLEAR, ENCRYPTED, PoolSettings(3))
    with node.change() as session:
        settings.set_storage_group(session, StorageGroup("PAYROLL", 2))
        settings.set_storage_group(session, StorageGroup("LEDGER", 2))
        settings.set_management_class(session, ManagementClass("TWICE", 3))
        settings.set_management_class(session, ManagementClass("TWO", 3))
        settings.set_management_class(session, ManagementClass("ONCE", 0))
    for name, group, chosen in (
        ("L00001", "PAYROLL", "TWICE"),
        ("L00002", "LEDGER", "TWO"),
        ("L00003", "LEDGER", "ONCE"),
    ):
        put(node, name, content(1), group, management_class=chosen)
    work(node)
    found = {
        name: [tape(node, copy.volser).pool for copy in copies(node, name)]
        for name in ("L00001", "L00002", "L00003")
    }
    assert found == {"L00001": [2, 3], "L00002": [2, 3], "L00003": [2]}
    assert_agrees(node)
    # The second copy serves when the first cannot be read.
    evict(node)
    node.parts.cartridges.path(copies(node, "L00001")[0].volser).write_bytes(b"burnt")
    assert node.read("L00001").read_bytes() == content(1)
    with pytest.raises(CatalogueError, match="no storage group 'NONE'; known: LEDGER, PAYROLL"):
        node.write("L00009", [b""], 0, storage_group="NONE")
    with pytest.raises(CatalogueError, match="no management class 'NONE'"):
        node.write("L00009", [b""], 0, management_class="NONE")
    with (
        pytest.raises(CatalogueError, match="Pool 9 is not configured; configured: 1, 2, 3"),
        node.change() as session,
    ):
        settings.set_storage_group(session, StorageGroup("X", 9))


@pytest.mark.rule("POOL-4")
def test_both_copies_in_one_pool_are_on_two_cartridges(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    with node.change() as session:
        settings.set_management_class(session, ManagementClass("TWICE", 1))
    for number in range(3):
        put(node, f"L0000{number}", content(number), "SG1", "TWICE")
        work(node)
    for number in range(3):
        assert len({copy.volser for copy in copies(node, f"L0000{number}")}) == 2
    node.move_stacked(["TAP001", "TAP002"], 2)
    work(node)
    for number in range(3):
        assert len({copy.volser for copy in copies(node, f"L0000{number}")}) == 2
    assert_agrees(node)


@pytest.mark.rule("MIG-2")
def test_recalled_volume_goes_at_unload_to_the_pool_named_then(
    node_factory: NodeFactory,
) -> None:
    node = node_factory.node()
    put(node, "L00001", content(1), "SG1")
    put(node, "L00002", content(2), "SG1")
    put(node, "L00003", content(3), "SG1")
    work(node)
    with node.change() as session:
        settings.set_storage_group(session, StorageGroup("SG1", 2))
    assert node.work().done == 0
    # In cache at the change: not affected until it is next unloaded.
    pools = {name: tape(node, copies(node, name)[0].volser).pool for name in ("L00001", "L00002")}
    assert pools == {"L00001": 1, "L00002": 1}
    node.read("L00001")
    assert node.work().done == 0
    node.unload("L00001")
    work(node)
    assert tape(node, copies(node, "L00001")[0].volser).pool == 2
    assert tape(node, copies(node, "L00002")[0].volser).pool == 1
    # Recalled from tape: the same.
    evict(node)
    node.recall_job(["L00002"])
    assert tape(node, copies(node, "L00002")[0].volser).pool == 2
    assert tape(node, "TAP001").active_volumes == 1
    assert_agrees(node)


@pytest.mark.rule("MIG-3")
def test_recall_is_ordered_by_position_on_tape(node_factory: NodeFactory) -> None:
    node = node_factory.node(cartridge_bytes=9000)
    names = [f"L{number:05}" for number in (5, 3, 4, 1, 2)]
    for number, name in enumerate(names):
        put(node, name, content(number))
        work(node)
    evict(node)
    node.events.events.clear()
    node.recall(sorted(names))
    # Two cartridges, each mounted once and read from front to back.
    read = [event for event in node.events.events if event.step == "READ-3"]
    assert [(event.volume, event.detail["positions"]) for event in read] == [
        ("TAP001", [0, 3, 6]),
        ("TAP002", [0, 3]),
    ]
    for number, name in enumerate(names):
        assert node.read(name).read_bytes() == content(number)


@pytest.mark.rule("MSG-1")
@pytest.mark.parametrize(("group", "kind"), [("SG1", ""), ("SG2", "Encrypted ")])
def test_full_cartridge_gets_a_database_backup_and_hosts_a_notice(
    node_factory: NodeFactory, group: str, kind: str
) -> None:
    node = node_factory.node(cartridge_bytes=7000)
    for number in range(3):
        put(node, f"L{number:05}", content(number), group)
    work(node)
    first, second = tape(node, "TAP001"), tape(node, "TAP002")
    assert (first.state, first.active_volumes) == (VolumeState.FULL, 2)
    assert (second.state, second.active_volumes) == (VolumeState.FILLING, 1)
    with node.catalogue.reading() as session:
        texts = [row.text for row in session.scalars(select(EventRow))]
    assert texts == [f"Database Backup written to {kind}Physical Tape TAP001"]
    assert_agrees(node)
    # The backup is on the tape, with the map of the cartridge, and counts as filled.
    sink = FolderSink(node_factory.folder / "back")
    node.scheduler._idle.queue[0].sequences.read("TAP001", sink, ["DBBKUP"])
    data = (node_factory.folder / "back" / "DBBKUP").read_bytes()
    backup = DatabaseBackup.decode(data)
    assert (backup.volser, backup.sequence) == ("TAP001", 1)
    assert backup.map is not None
    assert [label["volume"] for _, _, label in backup.map] == ["L00000", "L00001"]
    assert first.written_bytes == 6000
    with node.catalogue.reading() as session:
        *_, last = tape_map(session, "TAP001")
        shown, *_ = operator_views.search(session, operator_views.Search(), node.clock.now())
    assert shown["fill_percent"] == round(100 * (6000 + len(data)) / first.capacity_bytes, 1)
    assert (last["volume"], last["role"], last["size"]) == ("DBBKUP", "backup", len(data))


@pytest.mark.rule("MIG-12")
def test_cartridge_is_scratch_when_its_data_is_rewritten_or_expired(
    node_factory: NodeFactory,
) -> None:
    node = node_factory.node(PoolSettings(1, return_borrowed=True), PoolSettings(2, True, (KEK_1,)))
    put(node, "L00001", content(1))
    put(node, "L00002", content(2))
    work(node)
    assert tape(node, "TAP001").last_inactivated is None
    put(node, "L00001", content(3))
    assert (tape(node, "TAP001").active_volumes, tape(node, "TAP001").active_bytes) == (1, 3000)
    assert tape(node, "TAP001").last_inactivated is not None
    node.expire("L00001")
    assert tape(node, "TAP001").active_volumes == 1
    node.expire("L00002")
    volume = tape(node, "TAP001")
    assert (volume.state, volume.pool, volume.borrowed) == (VolumeState.SCRATCH, 0, False)
    # Without returning, it stays in the pool that borrowed it.
    put(node, "L00003", content(1), "SG2")
    work(node)
    (copy,) = copies(node, "L00003")
    node.expire("L00003")
    volume = tape(node, copy.volser)
    assert (volume.state, volume.pool, volume.borrowed) == (VolumeState.SCRATCH, 2, True)
    assert_agrees(node)
    # Told to return borrowed volumes, the pool returns the empty ones at once.
    with node.change() as session:
        settings.set_pool(session, PoolSettings(2, True, (KEK_1,), return_borrowed=True))
    assert (tape(node, copy.volser).pool, tape(node, copy.volser).borrowed) == (0, False)


@pytest.mark.rule("POOL-2", "BOT-5")
def test_pool_settings_apply_at_the_next_bot_only(node_factory: NodeFactory) -> None:
    node = node_factory.node(CLEAR, cartridge_bytes=7000)
    put(node, "L00001", content(1))
    work(node)
    with node.change() as session:
        settings.set_pool(session, PoolSettings(1, True, (KEK_1,)))
    put(node, "L00002", content(2))
    work(node)
    assert {copies(node, name)[0].volser for name in ("L00001", "L00002")} == {"TAP001"}
    assert tape(node, "TAP001").encryption is TapeEncryption.CLEAR
    put(node, "L00003", content(3))
    work(node)
    assert tape(node, "TAP002").encryption is TapeEncryption.ENCRYPTED
    with Cartridge.open(node.parts.cartridges.path("TAP002")) as cartridge:
        assert cartridge.format is TapeFormat.ENCRYPTED
    assert tape(node, "TAP001").encryption is TapeEncryption.CLEAR
    assert_agrees(node)


def test_pool_that_may_not_borrow_raises_an_intervention_when_empty(
    node_factory: NodeFactory,
) -> None:
    node = node_factory.node(PoolSettings(1, borrow=False), cartridges=1)
    put(node, "L00001", content(1))
    (failure,) = node.work().failures
    assert "Pool 1 is out of scratch volumes" in str(failure)
    assert open_interventions(node) == ["scratch pool 1"]
    assert_agrees(node)
    with node.change() as session:
        settings.set_pool(session, PoolSettings(1, borrow=True))
    work(node)
    assert open_interventions(node) == []
    assert copies(node, "L00001")[0].volser == "TAP001"


def test_cache_evicts_the_least_recently_used_volume_that_is_on_tape(
    node_factory: NodeFactory,
) -> None:
    node = node_factory.node(cache_bytes=10_000)
    for number in (1, 2, 3):
        put(node, f"L0000{number}", content(number))
    with pytest.raises(CacheFullError, match="3000 bytes are needed, 1000 can be had"):
        node.write("L00004", [content(4)], 3000)
    work(node)
    node.read("L00001")
    node.unload("L00001")
    put(node, "L00004", content(4))
    assert [path.name for path in node.parts.cache.files()] == ["L00001.1", "L00003.1", "L00004.1"]
    node.read("L00001")
    node.read("L00003")
    with pytest.raises(CacheFullError):
        node.recall(["L00002"])
    assert_agrees(node)
    node.unload("L00003")
    assert node.read("L00002").read_bytes() == content(2)
    assert [path.name for path in node.parts.cache.files()] == ["L00001.1", "L00002.1", "L00004.1"]
    assert_agrees(node)


@pytest.mark.rule("EKM-9")
def test_work_waits_without_a_key_manager_and_resumes_by_itself(
    node_factory: NodeFactory, site: Site, tmp_path: Path
) -> None:
    key_manager = ekm_settings(site.lab, tmp_path)
    node = node_factory.node()
    put(node, "L00001", content(1), "SG2")
    put(node, "L00002", content(2), "SG2")
    work(node)
    evict(node)
    node.read("L00002")
    node.unload("L00002")
    node.close()
    with spawn_ekm(key_manager, ready_seconds=120) as ekm:
        port, endpoint = ekm.port, site.endpoint(ekm)
    proxy = EkmProxy([endpoint])
    node = node_factory.open(proxy=proxy)
    stop = threading.Event()
    serving = threading.Thread(target=node.serve, args=(stop, 0.05))
    serving.start()
    try:
        # No key manager: migrated volumes cannot be read, those in the cache can.
        with pytest.raises(EkmUnavailable):
            node.read("L00001")
        assert node.read("L00002").read_bytes() == content(2)
        # Bound for an encrypted pool: it stays in the cache. For a clear one: it goes on.
        put(node, "L00003", content(3), "SG2")
        put(node, "L00004", content(4), "SG1")
        wait_until(lambda: copies(node, "L00004") != [])
        wait_until(lambda: open_interventions(node) == [NO_KEY_MANAGER])
        assert copies(node, "L00003") == []
        assert node.read("L00003").read_bytes() == content(3)
        node.unload("L00003")
        with spawn_ekm(key_manager.replace(port=port), ready_seconds=120):
            wait_until(lambda: copies(node, "L00003") != [], 120)
            assert open_interventions(node) == []
            assert node.read("L00001").read_bytes() == content(1)
    finally:
        stop.set()
        serving.join()
        proxy.close()
    assert_agrees(node)


def test_verification_raises_an_intervention_until_the_cartridge_is_well(
    node_factory: NodeFactory,
) -> None:
    node = node_factory.node()
    for number in (1, 2):
        put(node, f"L0000{number}", content(number), "SG2")
    put(node, "L00003", content(3), "SG1")
    work(node)
    volser = copies(node, "L00002")[0].volser
    path = node.parts.cartridges.path(volser)
    whole = path.read_bytes()
    changed = bytearray(whole)
    for at in range(len(whole) // 2, len(whole), 97):
        changed[at] ^= 1
    for damaged in (whole[: len(whole) // 2], changed, b""):
        path.write_bytes(damaged)
        assert any(volser in finding for finding in node.verify_tapes())
        assert sorted(open_interventions(node)) == [
            f"copies on {volser}",
            f"read-only cartridge {volser}",
        ]
    path.write_bytes(whole)
    assert node.verify_tapes() == []
    assert open_interventions(node) == [f"read-only cartridge {volser}"]
    node.make_writable([volser])
    assert open_interventions(node) == []


def test_verification_intervention_ends_when_the_cartridge_is_scratch(
    node_factory: NodeFactory,
) -> None:
    node = node_factory.node()
    put(node, "L00001", content(1), "SG2")
    work(node)
    volser = copies(node, "L00001")[0].volser
    path = node.parts.cartridges.path(volser)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert node.verify_tapes()
    assert f"copies on {volser}" in open_interventions(node)
    node.expire("L00001")
    assert open_interventions(node) == [f"read-only cartridge {volser}"]
    assert tape(node, volser).state is not VolumeState.SCRATCH
    node.make_writable([volser])
    assert open_interventions(node) == []
    assert tape(node, volser).state is VolumeState.SCRATCH


@pytest.mark.rule("EKM-7", "EKM-8")
def test_notices_of_key_managers_are_kept_for_the_operator(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    node.events.notice(NoticeKind.INTERVENTION, "main", "Key manager main is lost")
    node.events.notice(NoticeKind.HOSTS, "main", "Degraded mode")
    node.events.notice(NoticeKind.CALL_HOME, "main", "A data key was needed")
    assert open_interventions(node) == ["key manager main"]
    node.close()
    node.events.notice(NoticeKind.CLEARED, "main", "not kept: the node is closed")
    node = node_factory.open()
    assert open_interventions(node) == ["key manager main"]
    node.events.notice(NoticeKind.CLEARED, "main", "Key manager main answers again")
    assert open_interventions(node) == []
    with node.catalogue.reading() as session:
        rows = operator_views.events(session, "message", "call-home")
    assert [(row["kind"], row["text"]) for row in rows] == [
        ("message", "Degraded mode"),
        ("call-home", "A data key was needed"),
    ]


def test_node_is_open_in_one_process_at_a_time(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    with pytest.raises(NodeError, match="Another process works with the node"):
        node_factory.open()
    node.close()
    node_factory.open()


def test_node_refuses_invalid_requests(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    with pytest.raises(NodeError, match="name of database backups"):
        node.write("DBBKUP", [b""], 0)
    with pytest.raises(NodeError, match="a cartridge holds 20000; divide it"):
        node.write("L00001", [b""], 20_001)
    with pytest.raises(CatalogueError, match="no logical volume 'L00001'"):
        node.read("L00001")
    with pytest.raises(CatalogueError, match="no logical volume"):
        node.expire("L00001")
    node.write("L00001", [b"x"], 1)
    with pytest.raises(NodeError, match="is mounted; unload it first"):
        node.expire("L00001")
    node.unload("L00001")
    with pytest.raises(NodeError, match="is not mounted"):
        node.unload("L00001")
    with pytest.raises(NodeError, match="a cartridge TAP001 already"):
        node.insert(["TAP001"])
    assert_agrees(node)


def test_clock_set_ahead_stays_so(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    before = node.clock.now()
    node.advance(30)
    assert node.clock.now() - before >= 30 * 86400
    node.close()
    assert node_factory.open().clock.now() - before >= 30 * 86400


def test_orders_and_copies_outlive_the_process(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    put(node, "L00001", content(1))
    node.write("L00002", [content(2)], 3000)  # still mounted: unloaded at the next start
    node.close()
    node = node_factory.open()
    assert node.recovered == ["L00002: unloaded, its host is gone"]
    with node.catalogue.reading() as session:
        assert len(session.scalars(select(PremigrationRow)).all()) == 2
    work(node)
    node.close()
    node = node_factory.open()
    assert node.recovered == []
    for number in (1, 2):
        assert len(copies(node, f"L0000{number}")) == 1
    with node.catalogue.reading() as session:
        assert len(session.scalars(select(CopyRow)).all()) == 2
        assert session.get_one(PhysicalRow, "TAP001").active_volumes == 2


@pytest.mark.rule("EKM-10")
def test_two_nodes_have_pools_and_key_managers_of_their_own(
    node_factory: NodeFactory, site: Site, tmp_path: Path
) -> None:
    with spawn_ekm(ekm_settings(site.lab, tmp_path), ready_seconds=120) as ekm:
        gone = site.endpoint(ekm)
    one = node_factory.node(PoolSettings(1, True, (KEK_1,)))
    elsewhere = NodeFactory(site, tmp_path / "elsewhere", node_factory.stack)
    two = elsewhere.node(PoolSettings(1), PoolSettings(7, True, (KEK_2,)), proxy=EkmProxy([gone]))
    for node in (one, two):
        put(node, "L00001", content(1), "SG1")
    put(two, "L00007", content(7), "SG7")
    work(one)
    assert [type(failure) for failure in two.work().failures] == [EkmUnavailable]
    assert tape(one, "TAP001").keys == (KEK_1,)
    assert tape(two, "TAP001").encryption is TapeEncryption.CLEAR
    assert copies(two, "L00007") == []
    assert (open_interventions(one), open_interventions(two)) == ([], [NO_KEY_MANAGER])
    with pytest.raises(CatalogueError, match="Pool 7 is not configured"), one.change() as session:
        settings.set_defaults(session, 7)
    for node in (one, two):
        assert_agrees(node)


def test_drives_work_in_parallel(site: Site, tmp_path: Path, start_board: StartBoard) -> None:
    """Two drives, each with its own gates, write at the same time."""
    ca = load_certificate(site.lab.ca).public_bytes(Encoding.DER)
    other = Drive(Engine(start_board()), site.element, "TAPE000002", "TS1120", ekm_ca_der=ca)
    both = threading.Barrier(2, timeout=120)
    chosen = NodeSettings("main", 1_000_000, 20_000)
    with Node(tmp_path / "node", [site.drive(), other], site.proxy, settings=chosen) as node:
        with node.change() as session:
            for number in (1, 2):
                settings.set_pool(session, PoolSettings(number))
                settings.set_storage_group(session, StorageGroup(f"SG{number}", number))
        node.insert(["TAP001", "TAP002"])
        for number in (1, 2):
            put(node, f"L0000{number}", content(number), f"SG{number}")

        def meet(_done: int, _total: int) -> None:
            both.wait()

        for each in node.scheduler._idle.queue:
            each.sequences.progress = meet
        work(node)
        assert both.n_waiting == 0
        assert not both.broken
        assert {copies(node, f"L0000{number}")[0].volser for number in (1, 2)} == {
            "TAP001",
            "TAP002",
        }
        assert_agrees(node)
        with node.catalogue.reading() as session:
            assert [row.mounts for row in session.scalars(select(DriveRow))] == [1, 1]
