"""A cartridge that is not the one the catalogue knows is not touched."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hsm.errors import TaperigError
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import (
    MAX_EPOCH,
    MEDIA_OFFSET,
    PAGE_BYTES,
    CartridgeMemory,
    TapeFormat,
)
from rig.ve.catalogue import transactions
from rig.ve.catalogue.schema import EventRow
from rig.ve.node import Node
from rig.ve.tape.cartridge_store import CartridgeMismatchError
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
from tests.support.version_1 import as_version_1

Forge = Callable[[Path], None]


def with_memory(change: Callable[[CartridgeMemory], CartridgeMemory]) -> Forge:
    """Rewrite both slots of the memory, with their checksums right.

    It has no seal then, which only the data key makes.
    """

    def forge(path: Path) -> None:
        data = bytearray(path.read_bytes())
        for at in range(0, MEDIA_OFFSET, PAGE_BYTES):
            memory = CartridgeMemory.decode(bytes(data[at : at + PAGE_BYTES]))
            data[at : at + PAGE_BYTES] = replace(change(memory), seal=None).encode()
        path.write_bytes(data)

    return forge


def as_clear(path: Path) -> None:
    """Put a clear cartridge with blocks of the same lengths in its place."""
    with Cartridge.open(path) as cartridge:
        memory = cartridge.memory
        records = [(header.length, header.flags) for header in cartridge.headers]
    path.unlink()
    Cartridge.create(path, memory.volser)
    with Cartridge.open(path, write=True) as cartridge:
        cartridge.begin_from_bot(TapeFormat.CLEAR)
        headers = cartridge.next_headers(records)
        cartridge.append([(header, bytes(header.length), b"") for header in headers])
    with_memory(lambda forged: replace(forged, cartridge_id=memory.cartridge_id))(path)


FORGED: dict[str, Forge] = {
    "clear": as_clear,
    "format": with_memory(lambda memory: replace(memory, format=TapeFormat.CLEAR, eedks=())),
    "blank": with_memory(
        lambda memory: CartridgeMemory(memory.volser, memory.cartridge_id, memory.sequence)
    ),
    "id": with_memory(lambda memory: replace(memory, cartridge_id=bytes(16))),
    "version 1": as_version_1,
    "epoch": with_memory(lambda memory: replace(memory, epoch=memory.epoch + 1)),
}


@pytest.fixture
def node(node_factory: NodeFactory) -> Node:
    """A node with two volumes on TAP001, which is encrypted."""
    node = node_factory.node(cartridges=3)
    put(node, "L00001", content(1), "SG2")
    put(node, "L00002", content(2), "SG2")
    work(node)
    assert tape(node, "TAP001").active_volumes == 2
    return node


@pytest.mark.rule("CART-1", "CART-3")
@pytest.mark.parametrize("name", FORGED)
def test_forged_memory_is_refused_before_anything_moves(node: Node, name: str) -> None:
    path = node.parts.cartridges.path("TAP001")
    before = path.read_bytes()
    FORGED[name](path)
    forged = path.read_bytes()
    assert forged != before

    evict(node)
    with pytest.raises(CartridgeMismatchError, match="TAP001 is not what the catalogue knows"):
        node.read("L00001")
    put(node, "L00003", content(3), "SG2")
    work(node)  # on another cartridge
    with pytest.raises(CartridgeMismatchError):
        node.scheduler.rekey("TAP001")
    (finding,) = (each for each in node.verify_tapes() if "TAP001" in each)
    assert finding.startswith("TAP001: Cartridge TAP001 is not what the catalogue knows")
    assert path.read_bytes() == forged
    assert tape(node, "TAP002").active_volumes == 1
    assert open_interventions(node) == ["cartridge TAP001"]
    assert any(each.startswith("TAP001: its ") for each in node.check().findings)

    path.write_bytes(before)
    assert node.read("L00001").read_bytes() == content(1)
    assert open_interventions(node) == []
    assert_agrees(node)


@pytest.mark.rule("CART-2")
@pytest.mark.parametrize(
    "forge",
    [
        with_memory(lambda memory: replace(memory, block_count=memory.block_count - 1)),
        with_memory(lambda memory: replace(memory, end_offset=memory.end_offset - 100)),
        with_memory(lambda memory: replace(memory, eedks=memory.eedks[::-1])),
    ],
    ids=["blocks", "end", "eedks"],
)
def test_memory_without_its_seal_is_healed_from_the_media(node: Node, forge: Forge) -> None:
    path = node.parts.cartridges.path("TAP001")
    forge(path)
    evict(node)
    assert node.read("L00001").read_bytes() == content(1)
    assert node.read("L00002").read_bytes() == content(2)
    with node.catalogue.reading() as session:
        said = [row.text for row in session.query(EventRow).filter(EventRow.kind == "message")]
    assert said == [
        "TAP001: the newest cartridge memory was not made with the data key; an older one was used",
        "TAP001: the cartridge memory was repaired from a copy on the media",
    ]
    put(node, "L00003", content(3), "SG2")
    work(node)
    assert tape(node, "TAP001").active_volumes == 3
    with Cartridge.open(path) as cartridge:
        assert cartridge.memory.seal is not None
        assert cartridge.memory.block_count == 9
    assert node.verify_tapes() == []
    assert_agrees(node)


@pytest.mark.rule("CART-2")
def test_memory_without_any_seal_is_refused_with_an_intervention(node: Node) -> None:
    path = node.parts.cartridges.path("TAP001")
    before = path.read_bytes()
    data = bytearray(before)
    for match in re.finditer(rb"TCMP\x00\x02", before):
        page = slice(match.start(), match.start() + PAGE_BYTES)
        memory = CartridgeMemory.decode(before[page])
        data[page] = replace(memory, seal=None).encode()
    path.write_bytes(data)
    put(node, "L00003", content(3), "SG2")
    work(node)
    assert path.read_bytes() == data
    assert copies(node, "L00003")[0].volser == "TAP002"
    assert {copy.volser for copy in copies(node, "L00001")} == {"TAP002"}  # made anew
    assert "read-only cartridge TAP001" in open_interventions(node)
    with node.catalogue.reading() as session:
        events = session.query(EventRow).filter(EventRow.subject == "read-only cartridge TAP001")
        assert "has no seal of its data key" in events[0].text


@pytest.mark.rule("CART-1")
def test_older_copy_of_a_cartridge_is_not_appended_to(node: Node, tmp_path: Path) -> None:
    path = node.parts.cartridges.path("TAP001")
    shutil.copy(path, tmp_path / "older")
    put(node, "L00003", content(3), "SG2")
    work(node)
    newest = path.read_bytes()
    evict(node)
    shutil.copy(tmp_path / "older", path)
    put(node, "L00004", content(4), "SG2")
    work(node)
    assert path.read_bytes() == (tmp_path / "older").read_bytes()
    assert tape(node, "TAP002").active_volumes == 1
    (finding, *_) = (each for each in node.check().findings if "blocks" in each)
    assert finding == "TAP001: its number of blocks is 6, the catalogue says 9"
    with pytest.raises(CartridgeMismatchError, match="append epoch is 1, the catalogue says 2"):
        node.read("L00003")
    path.write_bytes(newest)
    assert node.read("L00003").read_bytes() == content(3)
    assert_agrees(node)


@pytest.mark.rule("CART-1")
def test_older_copy_is_no_write_that_was_cut_off(node: Node, tmp_path: Path) -> None:
    path = node.parts.cartridges.path("TAP001")
    older = path.read_bytes()
    put(node, "L00003", content(3), "SG2")
    work(node)
    with node.change() as session:
        transactions.physical(session, "TAP001").writing_pool = 2
    path.write_bytes(older)
    with pytest.raises(CartridgeMismatchError):
        node.parts.cartridges.inspect("TAP001", repair=True)
    assert path.read_bytes() == older


@pytest.mark.rule("CART-1")
def test_scratch_cartridge_is_compared_before_bot(node_factory: NodeFactory) -> None:
    node = node_factory.node(cartridges=2)
    one, two = (node.parts.cartridges.path(volser) for volser in ("TAP001", "TAP002"))
    one.unlink()
    Cartridge.create(one, "TAP001")
    blank = one.read_bytes()
    put(node, "L00001", content(1), "SG2")
    work(node)
    assert one.read_bytes() == blank
    assert tape(node, "TAP002").active_volumes == 1
    assert open_interventions(node) == ["cartridge TAP001"]
    assert two.stat().st_size > 4096


@pytest.mark.rule("CART-1")
def test_exchanged_cartridges_are_named(node: Node) -> None:
    put(node, "L00003", content(3))
    work(node)
    one, two = (node.parts.cartridges.path(volser) for volser in ("TAP001", "TAP002"))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    evict(node)
    with pytest.raises(TaperigError, match="its VOLSER is TAP002, the catalogue says TAP001"):
        node.read("L00001")
    assert (one.read_bytes(), two.read_bytes()) == (second, first)


def _torn(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.rule("COPY-4")
def test_cartridge_without_an_epoch_left_is_set_aside(node_factory: NodeFactory) -> None:
    node = node_factory.node(cartridges=2)
    put(node, "L00001", content(1), "SG1")
    work(node)
    with_memory(lambda memory: replace(memory, epoch=MAX_EPOCH))(
        node.parts.cartridges.path("TAP001")
    )
    with node.change() as session:
        transactions.physical(session, "TAP001").epoch = MAX_EPOCH
    put(node, "L00002", content(2), "SG1")
    work(node)
    assert copies(node, "L00002")[0].volser == "TAP002"
    assert open_interventions(node) == ["read-only cartridge TAP001"]


@pytest.mark.rule("COPY-4")
@pytest.mark.parametrize("spoil", [Path.unlink, _torn])
def test_cartridge_that_cannot_be_used_is_set_aside_and_another_taken(
    node: Node, spoil: Forge
) -> None:
    path = node.parts.cartridges.path("TAP001")
    before = path.read_bytes()
    spoil(path)
    put(node, "L00003", content(3), "SG2")
    work(node)
    assert copies(node, "L00003")[0].volser == "TAP002"
    subjects = open_interventions(node)
    assert "read-only cartridge TAP001" in subjects

    path.write_bytes(before)
    with node.change() as session:
        row = transactions.physical(session, "TAP001")
        row.writing_pool = None
    node.make_writable(["TAP001"])
    assert open_interventions(node) == []
    with pytest.raises(TaperigError, match="TAP001 is not read-only; nothing was changed"):
        node.make_writable(["TAP001"])
