"""Cartridges with volumes are inserted; a catalogue is rebuilt from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import HEADER_BYTES
from rig.drive.drive import Block
from rig.ve.catalogue import settings, transactions
from rig.ve.catalogue.database import CatalogueError
from rig.ve.catalogue.model import ManagementClass, PoolSettings, VolumeState
from rig.ve.ejection import EjectionError
from rig.ve.insertion import InsertionError
from rig.ve.node import Node
from rig.ve.operator_views import volumes
from rig.ve.volumes.logical_volume import CopyFacts, VolumeHeader, decode_label
from tests.support.nodes import (
    CLEAR,
    ENCRYPTED,
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
from tests.support.tape_site import Site


@pytest.fixture
def other_factory(site: Site, tmp_path: Path) -> Iterator[NodeFactory]:
    """Opens another node, with the same drive and key manager."""
    with ExitStack() as stack:
        yield NodeFactory(site, tmp_path / "other", stack)


def carried(node: Node, folder: Path) -> Path:
    """Return a folder with a copy of every cartridge of a node."""
    folder.mkdir(exist_ok=True)
    for volser in node.parts.cartridges.volsers():
        shutil.copy(node.parts.cartridges.path(volser), folder)
    return folder


def spoil(file: Path, block: int) -> None:
    """Change one byte of a block's data."""
    with Cartridge.open(file) as cartridge:
        at = cartridge.offset(block) + HEADER_BYTES
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def shown(node: Node, name: str) -> dict[str, object]:
    with node.catalogue.reading() as session:
        return next(volumes(session, [name]))


def read(node: Node, name: str) -> bytes:
    data = node.read(name).read_bytes()
    node.release(name)
    return data


# Insert


@pytest.mark.rule("DR-1")
@pytest.mark.parametrize("group", ["SG1", "SG2"])
def test_inserted_cartridge_brings_its_volumes(
    node_factory: NodeFactory, other_factory: NodeFactory, tmp_path: Path, group: str
) -> None:
    node = node_factory.node()
    for number in range(3):
        put(node, f"L{number:05}", content(number), group)
    work(node)
    other = other_factory.node(cartridges=0)
    file = shutil.copy(node.parts.cartridges.path("TAP001"), tmp_path)
    report = other.insert_cartridge(Path(file))
    assert (report.cartridges, report.findings) == (["TAP001"], [])
    assert report.volumes == ["L00000", "L00001", "L00002"]
    assert not Path(file).exists()
    for number in range(3):
        assert read(other, f"L{number:05}") == content(number)
    volume = shown(other, "L00001")
    assert (volume["storage_group"], volume["found_on_tape"]) == (group, True)
    volume_there, row = tape(node, "TAP001"), tape(other, "TAP001")
    assert (row.pool, row.state) == (int(group[2:]), VolumeState.FILLING)
    assert (row.keys, row.active_bytes) == (volume_there.keys, volume_there.active_bytes)
    assert_agrees(other)
    put(other, "L00009", content(9), group)  # it is appended to as any other
    work(other)
    assert copies(other, "L00009")[0].volser == "TAP001"
    assert_agrees(other)


@pytest.mark.rule("DR-1")
def test_newest_generation_wins_and_expired_volumes_are_marked(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    put(node, "L00001", content(1))
    put(node, "L00002", content(2))
    put(node, "L00003", content(3))
    work(node)
    node.eject("TAP001", "vault", node_factory.folder / "away", only_copies=True)
    put(node, "L00001", content(10))  # newer than what is away
    node.expire("L00002")
    work(node)
    file = node_factory.folder / "away" / "TAP001.tape"
    with Cartridge.open(file, write=True) as cartridge:
        cartridge.begin_append()  # so its labels are read again
    report = node.insert_cartridge(file)
    assert report.findings == []
    assert "written elsewhere at vault: append epoch 2 where 1 was known" in report.notes[0]
    assert read(node, "L00001") == content(10)
    assert not shown(node, "L00001")["found_on_tape"]
    evict(node)
    assert read(node, "L00002") == content(2)
    assert shown(node, "L00002")["found_on_tape"]
    assert tape(node, "TAP001").active_volumes == 2
    assert_agrees(node)


@pytest.mark.rule("DR-1")
def test_older_copy_of_a_known_cartridge_is_refused(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    put(node, "L00001", content(1))
    work(node)
    old = Path(shutil.copy(node.parts.cartridges.path("TAP001"), node_factory.folder / "old.tape"))
    put(node, "L00002", content(2))
    work(node)
    node.eject("TAP001", "vault", node_factory.folder / "away", only_copies=True)
    with pytest.raises(InsertionError, match="older copy of TAP001: its append epoch is 1, and 2"):
        node.insert_cartridge(old)
    assert old.exists()
    assert not node.parts.cartridges.path("TAP001").exists()


@pytest.mark.rule("DR-1")
def test_foreign_cartridge_with_a_volser_that_exists_is_refused(
    node_factory: NodeFactory, other_factory: NodeFactory, tmp_path: Path
) -> None:
    node, other = node_factory.node(), other_factory.node()
    put(node, "L00001", content(1))
    work(node)
    file = Path(shutil.copy(node.parts.cartridges.path("TAP001"), tmp_path))
    with pytest.raises(InsertionError, match="another TAP001 than the one of this node"):
        other.insert_cartridge(file)
    assert file.exists()
    # A blank one that is ejected leaves room for it.
    other.eject("TAP001", "shelf", tmp_path / "shelf")
    assert other.insert_cartridge(file).volumes == ["L00001"]
    assert read(other, "L00001") == content(1)
    assert_agrees(other)


@pytest.mark.rule("DR-1")
def test_other_content_of_the_same_generation_is_named_and_kept(
    node_factory: NodeFactory, other_factory: NodeFactory, tmp_path: Path
) -> None:
    node, other = node_factory.node(), other_factory.node(cartridges=0)
    put(node, "L00001", content(1))
    work(node)
    other.insert(["OTH001"])
    put(other, "L00001", content(2))
    work(other)
    file = Path(shutil.copy(node.parts.cartridges.path("TAP001"), tmp_path))
    report = other.insert_cartridge(file)
    (finding,) = report.findings
    assert "L00001 has generation 1 on TAP001 block 0" in finding
    assert read(other, "L00001") == content(2)
    assert tape(other, "TAP001").state is VolumeState.FULL  # and is never overwritten
    with other.catalogue.reading() as session:
        assert transactions.physical(session, "TAP001").read_only
    assert_agrees(other)


@pytest.mark.rule("DR-1")
def test_content_that_is_in_the_cache_alone_is_never_replaced(
    node_factory: NodeFactory, other_factory: NodeFactory, tmp_path: Path
) -> None:
    node, other = node_factory.node(), other_factory.node(cartridges=0)
    put(node, "L00001", content(1))
    put(node, "L00001", content(2))
    work(node)
    put(other, "L00001", content(3))
    report = other.insert_cartridge(
        Path(shutil.copy(node.parts.cartridges.path("TAP001"), tmp_path))
    )
    assert "generation 1, is in the cache alone" in report.findings[0]
    assert read(other, "L00001") == content(3)
    put(other, "L00001", content(4))
    with other.catalogue.reading() as session:
        assert transactions.logical(session, "L00001").generation == 3  # above what is on tape


@pytest.mark.rule("DR-1")
def test_cartridge_that_cannot_be_read_stays_where_it_was(
    node_factory: NodeFactory, other_factory: NodeFactory, tmp_path: Path
) -> None:
    node, other = node_factory.node(), other_factory.node(CLEAR, cartridges=0)
    put(node, "L00001", content(1), "SG2")
    work(node)
    (copy,) = copies(node, "L00001")
    file = Path(shutil.copy(node.parts.cartridges.path(copy.volser), tmp_path))
    with pytest.raises(CatalogueError, match="Pool 7 is not configured"):
        other.insert_cartridge(file, 7)
    with pytest.raises(Exception, match="is encrypted, and no pool here encrypts"):
        other.insert_cartridge(file)
    assert file.exists()
    assert other.parts.cartridges.volsers() == []
    assert other.insert_cartridge(file, 1).volumes == ["L00001"]


# Rebuild


@pytest.mark.rule("DR-2")
def test_rebuilt_catalogue_has_every_volume_that_is_on_tape(
    node_factory: NodeFactory, other_factory: NodeFactory, tmp_path: Path
) -> None:
    both = PoolSettings(3, True, (KEK_1,))
    node = node_factory.node(CLEAR, ENCRYPTED, both)
    with node.change() as session:
        settings.set_management_class(session, ManagementClass("COPIES", 3))
    for number in range(6):
        put(node, f"L{number:05}", content(number), f"SG{1 + number % 2}", "COPIES")
    work(node)
    put(node, "L00000", content(100), "SG2")
    node.expire("L00005")
    work(node)
    other = other_factory.node(CLEAR, ENCRYPTED, both, cartridges=2)  # blank ones do no harm
    report = other.rebuild(carried(node, tmp_path / "carried"))
    assert report.findings == []
    assert report.notes == ["management class COPIES was made: secondary pool 3"]
    expected = {f"L{number:05}": content(number) for number in range(1, 6)}
    expected["L00000"] = content(100)
    assert sorted(report.volumes) == sorted(expected)
    for name, data in expected.items():
        assert read(other, name) == data
    for name in sorted(expected.keys() - {"L00005"}):
        assert copies(other, name) == copies(node, name)
    assert shown(other, "L00005")["found_on_tape"]
    assert_agrees(other)
    with pytest.raises(InsertionError, match="has 6 logical volumes and"):
        other.rebuild(tmp_path / "carried")


@pytest.mark.rule("DR-2")
def test_moved_volumes_come_back_where_they_moved_to(
    node_factory: NodeFactory, other_factory: NodeFactory, tmp_path: Path
) -> None:
    node = node_factory.node()
    put(node, "L00001", content(1))
    work(node)
    node.move_stacked(["TAP001"], 2)
    work(node)
    assert tape(node, "TAP001").state is VolumeState.SCRATCH
    other = other_factory.node(cartridges=0)
    assert other.rebuild(carried(node, tmp_path / "carried")).findings == []
    assert copies(other, "L00001") == copies(node, "L00001")
    assert tape(other, "TAP001").state is VolumeState.SCRATCH
    assert_agrees(other)


@pytest.mark.rule("DR-2")
def test_damage_is_named_and_stops_nothing_else(
    node_factory: NodeFactory, other_factory: NodeFactory, tmp_path: Path
) -> None:
    node = node_factory.node(cartridge_bytes=9000)
    for number in range(6):
        put(node, f"L{number:05}", content(number), f"SG{1 + number % 2}")
    work(node)
    put(node, "L00001", content(50), "SG1")  # its older generation is on TAP002
    work(node)
    folder = carried(node, tmp_path / "carried")
    (newest,) = copies(node, "L00001")
    spoil(folder / f"{newest.volser}.tape", newest.first_block + 1)
    (label,) = copies(node, "L00002")
    spoil(folder / f"{label.volser}.tape", label.first_block)
    (folder / "TAP009.tape").write_bytes(b"no cartridge")
    other = other_factory.node(cartridges=0)
    report = other.rebuild(folder)
    text = "\n".join(report.findings)
    assert f"L00001, generation 2, on {newest.volser} cannot be read: block" in text
    assert f"label cannot be read, in block {label.first_block} of {label.volser}" in text
    assert "TAP009.tape is not a cartridge" in text
    assert len(report.findings) == 3, text
    assert sorted(report.volumes) == ["L00000", "L00001", "L00003", "L00004", "L00005"]
    assert read(other, "L00001") == content(1)  # the newest that can be read
    assert_agrees(other)


@pytest.mark.rule("DR-2")
def test_labels_without_generations_are_taken_in_the_order_of_epochs(
    node_factory: NodeFactory,
    other_factory: NodeFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def old_label(header: VolumeHeader) -> Block:
        text = {"label": "header", "volume": header.name, "size": header.size}
        text |= {"sha256": header.sha256, "path": header.path}
        return Block(json.dumps(text).encode(), label=True)

    with monkeypatch.context() as patch:
        patch.setattr(VolumeHeader, "encode", old_label)
        node = node_factory.node(CLEAR, PoolSettings(3))
        for name, number, group in (
            ("L00009", 9, "SG1"),
            ("L00001", 1, "SG1"),
            ("L00001", 2, "SG1"),
            ("L00002", 3, "SG1"),
            ("L00002", 4, "SG3"),
        ):
            put(node, name, content(number), group)
            work(node)
    with Cartridge.open(node.parts.cartridges.path("TAP001")) as cartridge:
        label = decode_label(cartridge.read(0, 1)[0].data)
    assert isinstance(label, VolumeHeader)
    assert label.facts == CopyFacts()
    other = other_factory.node(CLEAR, PoolSettings(3), cartridges=0)
    report = other.rebuild(carried(node, tmp_path / "carried"))
    assert read(other, "L00001") == content(2)  # in one cartridge the order is known
    (finding,) = report.findings
    assert finding == (
        "L00002 has 2 contents without a generation, on TAP002 block 0 (epoch 1), TAP001 block 9 "
        "(epoch 4); the one of TAP001 block 9 was taken."
    )
    assert read(other, "L00002") == content(3)
    assert_agrees(other)


# Eject


@pytest.mark.rule("DR-5")
def test_ejected_cartridge_comes_back_as_it_was(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    away = node_factory.folder / "away"
    put(node, "L00001", content(1), "SG2")
    work(node)
    (before,) = copies(node, "L00001")
    ejected = node.eject(before.volser, "DR site", away)
    assert (ejected.file, ejected.volumes) == (away / f"{before.volser}.tape", ())
    assert not node.parts.cartridges.path(before.volser).exists()
    evict_all = node.settings.cache_bytes
    with pytest.raises(Exception, match="cache"):
        node.free_cache(evict_all)  # nothing else has L00001 now
    assert_agrees(node)
    put(node, "L00002", content(2), "SG2")
    work(node)
    assert copies(node, "L00002")[0].volser != before.volser
    with pytest.raises(CatalogueError, match="TAP001 is ejected, at DR site"):
        node.move_stacked([before.volser], 1)
    report = node.insert_cartridge(ejected.file)
    assert report.notes == [f"{before.volser} is back, as it was"]
    assert copies(node, "L00001") == [before]
    evict(node)
    assert read(node, "L00001") == content(1)
    assert_agrees(node)


@pytest.mark.rule("DR-5")
def test_only_copy_is_ejected_on_demand_and_a_read_says_where(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    away = node_factory.folder / "away"
    put(node, "L00001", content(1))
    work(node)
    evict(node)
    with pytest.raises(EjectionError, match="TAP001 has the only copy of L00001, which"):
        node.eject("TAP001", "vault 3", away)
    assert tape(node, "TAP001").state is VolumeState.FILLING
    ejected = node.eject("TAP001", "vault 3", away, only_copies=True)
    assert ejected.volumes == ("L00001",)
    with pytest.raises(CatalogueError, match="L00001 is on ejected TAP001 at vault 3; bring"):
        node.read("L00001")
    assert_agrees(node)
    node.expire("L00001")  # what is away is not written from BOT when it is empty
    assert tape(node, "TAP001").state is VolumeState.EJECTED
    node.insert_cartridge(ejected.file)
    assert tape(node, "TAP001").state is VolumeState.SCRATCH
    assert_agrees(node)


@pytest.mark.rule("DR-5")
def test_read_takes_the_copy_that_is_in_the_node(node_factory: NodeFactory) -> None:
    node = node_factory.node(CLEAR, PoolSettings(3))
    with node.change() as session:
        settings.set_management_class(session, ManagementClass("COPIES", 3))
    put(node, "L00001", content(1), "SG1", "COPIES")
    work(node)
    evict(node)
    primary, secondary = copies(node, "L00001")
    node.eject(primary.volser, "vault", node_factory.folder / "away")
    assert read(node, "L00001") == content(1)
    assert {event.volume for event in node.events.events if event.step == "READ-1"} == {
        secondary.volser
    }


@pytest.mark.rule("DR-5")
def test_cartridge_written_elsewhere_brings_what_was_written_there(
    node_factory: NodeFactory, other_factory: NodeFactory
) -> None:
    node, other = node_factory.node(), other_factory.node(cartridges=0)
    put(node, "L00001", content(1), "SG2")
    put(node, "L00002", content(2), "SG2")
    work(node)
    (copy,) = copies(node, "L00001")
    away = node_factory.folder / "away"
    other.insert_cartridge(node.eject(copy.volser, "other", away).file)
    put(other, "L00001", content(11), "SG2")
    put(other, "L00003", content(3), "SG2")
    work(other)
    report = node.insert_cartridge(other.eject(copy.volser, "main", away, only_copies=True).file)
    assert sorted(report.volumes) == ["L00001", "L00003"]
    assert report.findings == []
    assert "was written elsewhere at other: append epoch 2 where 1 was known" in report.notes[0]
    for name, number in (("L00001", 11), ("L00002", 2), ("L00003", 3)):
        assert read(node, name) == content(number)
    assert tape(node, copy.volser).active_volumes == 3
    assert_agrees(node)
