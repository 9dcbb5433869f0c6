"""A catalogue is restored from the newest database backup on tape."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import select, text

from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import HEADER_BYTES
from rig.ve.catalogue import settings, transactions
from rig.ve.catalogue.backup import BackupError, DatabaseBackup, make_backup
from rig.ve.catalogue.model import VolumeState
from rig.ve.catalogue.schema import LogicalRow, PhysicalRow, RetiredNameRow, TrafficRow
from rig.ve.node import Node
from rig.ve.restoration import RestorationError
from tests.support.nodes import NodeFactory, assert_agrees, content, copies, evict, put, tape, work
from tests.support.tape_site import Site


@pytest.fixture
def other_factory(site: Site, tmp_path: Path) -> Iterator[NodeFactory]:
    """Opens another node, with the same drive and key manager."""
    with ExitStack() as stack:
        yield NodeFactory(site, tmp_path / "other", stack)


@pytest.fixture
def node(node_factory: NodeFactory) -> Node:
    """A node with three filled cartridges and one being filled, in both pools.

    L00001 is rewritten and L00002 has expired before the newest backup, L00003 after it.
    """
    node = node_factory.node(cartridge_bytes=9000)
    for number in range(6):
        put(node, f"L{number:05}", content(number), f"SG{1 + number % 2}")
    work(node)
    put(node, "L00001", content(101), "SG2")
    node.expire("L00002")
    for number in range(6, 12):
        put(node, f"L{number:05}", content(number), f"SG{1 + number % 2}")
    with node.change() as session:
        settings.set_defaults(session, 2)
    work(node)
    for number in (12, 13):
        put(node, f"L{number:05}", content(number), "SG1")
        work(node)
    node.expire("L00003")
    return node


EXPECTED = {f"L{number:05}": content(number) for number in (0, *range(4, 14))}
EXPECTED["L00001"] = content(101)


def carried(node: Node, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for volser in node.parts.cartridges.volsers():
        shutil.copy(node.parts.cartridges.path(volser), folder)
    return folder


def filled(node: Node) -> list[tuple[str, int]]:
    """Return the filled cartridges and the first block of each one's backup."""
    with node.catalogue.reading() as session:
        query = select(PhysicalRow).where(PhysicalRow.backup_block.is_not(None))
        return [(row.volser, row.backup_block or 0) for row in session.scalars(query)]


def spoil(file: Path, block: int) -> None:
    with Cartridge.open(file) as cartridge:
        at = cartridge.offset(block) + HEADER_BYTES
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def found_on_tape(node: Node) -> list[str]:
    with node.catalogue.reading() as session:
        return sorted(session.scalars(select(LogicalRow.name).where(LogicalRow.found_on_tape)))


def assert_read(node: Node, expected: dict[str, bytes]) -> None:
    for name, data in expected.items():
        assert node.read(name).read_bytes() == data, name
        node.release(name)


@pytest.mark.rule("DR-3")
def test_restored_catalogue_is_as_it_was_and_has_what_came_after(
    node: Node, other_factory: NodeFactory, tmp_path: Path
) -> None:
    assert len(filled(node)) >= 3
    other = other_factory.node(cartridges=3, cartridge_bytes=9000)
    report = other.restore(carried(node, tmp_path / "carried"))
    assert report.findings == []
    assert "database backup" in report.notes[0]
    # L00003 expired after the newest backup: it comes back. L00002 does not.
    assert sorted(report.volumes) == sorted([*EXPECTED, "L00003"])
    assert_read(other, EXPECTED | {"L00003": content(3)})
    assert found_on_tape(other) == ["L00013"]  # only its label says that it was written
    for name in EXPECTED:
        assert copies(other, name) == copies(node, name), name
    with other.catalogue.reading() as session, node.catalogue.reading() as before:
        assert settings.defaults(session) == (2, 0)
        assert session.get(RetiredNameRow, "L00002") is not None
        assert session.query(TrafficRow).count() == before.query(TrafficRow).count()
    for volser in node.parts.cartridges.volsers():
        was, now = tape(node, volser), tape(other, volser)
        assert (now.pool, now.state, now.keys) == (was.pool, was.state, was.keys), volser
        assert now.written_bytes == was.written_bytes
    assert_agrees(other)
    put(other, "L00002", content(22), "SG1")
    with other.catalogue.reading() as session:
        assert transactions.logical(session, "L00002").generation == 2
    work(other)
    assert_agrees(other)


@pytest.mark.rule("DR-3")
@pytest.mark.parametrize("how", ["damaged", "missing", "not a backup"])
@pytest.mark.parametrize("which", range(3))
def test_any_link_may_be_missing(
    node: Node, other_factory: NodeFactory, tmp_path: Path, which: int, how: str
) -> None:
    folder = carried(node, tmp_path / "carried")
    volser, block = filled(node)[which]
    file = folder / f"{volser}.tape"
    expected = dict(EXPECTED)
    if how == "missing":
        file.unlink()
        expected = {
            name: data for name, data in expected.items() if copies(node, name)[0].volser != volser
        }
    elif how == "damaged":
        spoil(file, block + 1)
    else:
        spoil(file, block)
    other = other_factory.node(cartridges=0, cartridge_bytes=9000)
    report = other.restore(folder)
    assert report.findings
    assert all(volser in finding for finding in report.findings), report.findings
    assert_read(other, expected)
    assert expected.keys() <= set(report.volumes)
    assert_agrees(other)
    if how == "missing" and tape(node, volser).active_volumes:
        assert tape(other, volser).state is VolumeState.EJECTED
        shutil.copy(node.parts.cartridges.path(volser), file)
        assert other.insert_cartridge(file).findings == []
        assert_read(other, EXPECTED)
        assert_agrees(other)


@pytest.mark.rule("DR-3")
def test_restore_without_any_backup_names_the_rebuild(
    node_factory: NodeFactory, other_factory: NodeFactory, tmp_path: Path
) -> None:
    node, other = node_factory.node(), other_factory.node(cartridges=0)
    put(node, "L00001", content(1))
    work(node)
    with pytest.raises(RestorationError, match=r"make the catalogue .* rig ve rebuild"):
        other.restore(carried(node, tmp_path / "carried"))
    assert other.rebuild(tmp_path / "carried").volumes == ["L00001"]
    assert_read(other, {"L00001": content(1)})


@pytest.mark.rule("DR-3")
def test_rebuild_needs_no_backup(node: Node, other_factory: NodeFactory, tmp_path: Path) -> None:
    evict(node)
    other = other_factory.node(cartridges=0, cartridge_bytes=9000)
    report = other.rebuild(carried(node, tmp_path / "carried"))
    assert report.findings == []
    assert_read(other, EXPECTED)
    assert "L00003" in found_on_tape(other)
    assert_agrees(other)


# The backup itself


@pytest.mark.rule("DR-3")
def test_backup_of_a_million_volumes_takes_two_megabytes_at_most(
    node_factory: NodeFactory,
) -> None:
    node = node_factory.node(cartridge_bytes=100_000_000)
    with node.catalogue.transaction() as session:
        session.execute(text(LOGICAL_VOLUMES))
        session.execute(text("INSERT INTO retired_name SELECT name, 1 FROM logical_volume"))
        session.execute(text(COPIES))
        session.execute(text("DELETE FROM logical_volume WHERE name LIKE '0%'"))
        session.execute(text("DELETE FROM retired_name WHERE name NOT LIKE '0%'"))
        row = transactions.physical(session, "TAP001")
        row.active_volumes = 1_000_000
        backup = make_backup(session, row, "main", 1.8e9)
        data = backup.encode()
    assert len(data) <= 2_000_000
    assert backup.map is None  # a million on one cartridge: the labels say it
    assert len(DatabaseBackup.decode(data).expired) == 100_000


COUNT = "WITH RECURSIVE count(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM count WHERE i < 999999) "
LOGICAL_VOLUMES = f"""
    INSERT INTO logical_volume (
        name, generation, size, sha256, storage_group, management_class, written, accessed,
        in_cache, mounted, source
    )
    {COUNT}
    SELECT printf('%06d', i), 1, 90, lower(hex(randomblob(32))), 'SG1', '', 1.8e9, 1.8e9, 0, 0, ''
    FROM count
"""
COPIES = f"""
    INSERT INTO stacked_copy (
        name, generation, volser, role, first_block, blocks, size, active
    )
    {COUNT}
    SELECT printf('%06d', i), 1, 'TAP001', 'primary', 3 * i, 3, 90, 1 FROM count
"""


def _backup() -> DatabaseBackup:
    tables: dict[str, list[dict[str, object]]] = {
        name: []
        for name in ("setting", "pool", "storage_group", "management_class", "drive", "traffic")
    }
    tables["physical_volume"] = []
    return DatabaseBackup("main", 1, 1.0, "TAP001", "00", 1, tables, {"L00001": 2}, True, [])


def test_backup_is_decoded_as_it_was_encoded() -> None:
    assert DatabaseBackup.decode(_backup().encode()) == _backup()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SQLite format 3\0",
        _backup().encode()[:-1],
        _backup().encode() + b"x",
    ],
)
def test_what_is_no_backup_is_refused(data: bytes) -> None:
    with pytest.raises(BackupError):
        DatabaseBackup.decode(data)
