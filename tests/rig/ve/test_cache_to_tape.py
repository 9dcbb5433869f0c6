"""A volume's bytes from host file to cache to tape: read once each."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from rig.ve.node import MAX_BATCH_VOLUMES, Node, NodeError
from rig.ve.volumes.logical_volume import VolumeError, VolumeFile
from rig.ve.volumes.tape_volume_cache import MAX_OPEN_FILES, CacheFullError
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

LARGE = 6_000_000


def bytes_read() -> int:
    """Return the bytes that this process has read from files."""
    (count,) = re.findall(r"^rchar: (\d+)$", Path("/proc/self/io").read_text(), re.MULTILINE)
    return int(count)


def host_files(folder: Path, count: int, size: int = 500) -> list[VolumeFile]:
    """Files of a host, to become L00001 and on."""
    files = []
    for number in range(1, count + 1):
        path = folder / f"file{number}"
        path.write_bytes(content(number, size))
        files.append(VolumeFile.of(f"L{number:05}", path))
    return files


def write_files(
    node: Node, files: list[VolumeFile], acknowledged: list[list[str]] | None = None
) -> list[list[str]]:
    """Write files; return the names of each batch, also in `acknowledged`."""
    acknowledged = [] if acknowledged is None else acknowledged
    for batch in node.write_files(files):
        acknowledged.append([volume.name for volume in batch])
    return acknowledged


def test_volume_is_read_once_to_the_cache_and_once_to_tape(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    node = node_factory.node(cache_bytes=2 * LARGE, cartridge_bytes=2 * LARGE)
    put(node, "L00001", content(1))
    work(node)  # what is imported or started at first use is there now
    path = tmp_path / "large"
    path.write_bytes(content(2, LARGE))
    before = bytes_read()
    volume = node.write("L00002", path)
    to_cache = bytes_read() - before
    node.unload("L00002")
    before = bytes_read()
    work(node)
    to_tape = bytes_read() - before
    assert LARGE <= to_cache < 1.2 * LARGE
    assert LARGE <= to_tape < 1.2 * LARGE
    assert volume.sha256 == hashlib.sha256(content(2, LARGE)).hexdigest()
    evict(node)
    assert node.read("L00002").read_bytes() == content(2, LARGE)


def test_premigration_leaves_out_a_damaged_file_and_writes_the_rest(
    node_factory: NodeFactory,
) -> None:
    node = node_factory.node()
    for number in (1, 2, 3):
        put(node, f"L0000{number}", content(number), "SG2")
    file = node.parts.cache.path("L00002", 1)
    file.write_bytes(content(9))
    (failure,) = node.work().failures
    assert str(failure).startswith("Not copied to pool 2: L00002. ")
    assert isinstance(failure, VolumeError)
    assert [bool(copies(node, f"L0000{number}")) for number in (1, 2, 3)] == [True, False, True]
    assert open_interventions(node) == ["cache file of L00002"]
    # As long as it is damaged it costs no more than being read; nothing is mounted for it.
    written = tape(node, "TAP001").written_bytes
    epoch = node.parts.cartridges.inspect("TAP001").block_count
    assert len(node.work().failures) == 1
    assert node.parts.cartridges.inspect("TAP001").block_count == epoch
    assert tape(node, "TAP001").written_bytes == written
    file.write_bytes(content(2))
    work(node)
    assert open_interventions(node) == []
    assert_agrees(node)
    evict(node)
    assert [node.read(f"L0000{n}").read_bytes() for n in (1, 2, 3)] == [
        content(1),
        content(2),
        content(3),
    ]


def test_premigration_to_a_filled_cartridge_stops_at_a_damaged_file(
    node_factory: NodeFactory,
) -> None:
    node = node_factory.node()
    put(node, "L00001", content(1))
    work(node)
    for number in (2, 3, 4):
        put(node, f"L0000{number}", content(number))
    node.parts.cache.path("L00003", 1).unlink()
    assert len(node.work().failures) == 1
    found = {name: bool(copies(node, name)) for name in ("L00001", "L00002", "L00003", "L00004")}
    assert found == {"L00001": True, "L00002": True, "L00003": False, "L00004": True}
    put(node, "L00003", content(5))  # written again by the host, so that nothing is damaged
    assert open_interventions(node) == []
    work(node)
    assert_agrees(node)
    evict(node)
    assert node.read("L00003").read_bytes() == content(5)


def test_files_written_together_are_acknowledged_together(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    node = node_factory.node(cache_bytes=200_000)
    files = host_files(tmp_path, MAX_BATCH_VOLUMES + MAX_OPEN_FILES // 2)
    acknowledged = write_files(node, files)
    assert [len(batch) for batch in acknowledged] == [MAX_BATCH_VOLUMES, MAX_OPEN_FILES // 2]
    assert [name for batch in acknowledged for name in batch] == [file.name for file in files]
    assert_agrees(node)
    work(node)
    evict(node)
    node.recall([file.name for file in files])  # more than are open at a time
    for file in files:
        assert node.read(file.name).read_bytes() == file.source.read_bytes()
    assert_agrees(node)


def test_files_written_together_take_the_place_of_older_contents(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    node = node_factory.node()
    put(node, "L00001", content(11))
    put(node, "L00002", content(12), "SG2")
    work(node)
    put(node, "L00003", content(13))
    files = host_files(tmp_path, 3)
    assert write_files(node, files) == [["L00001", "L00002", "L00003"]]
    assert [copies(node, file.name) for file in files] == [[], [], []]
    assert_agrees(node)
    work(node)
    assert tape(node, copies(node, "L00002")[0].volser).pool == 2  # its storage group is kept
    evict(node)
    for file in files:
        assert node.read(file.name).read_bytes() == file.source.read_bytes()
    assert_agrees(node)


def test_files_that_do_not_fit_leave_those_before_them_safe(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    node = node_factory.node(cache_bytes=5_000)
    acknowledged: list[list[str]] = []
    with pytest.raises(CacheFullError, match="1000 bytes are needed, 0 can be had"):
        write_files(node, host_files(tmp_path, 8, 1000), acknowledged)
    names = [name for batch in acknowledged for name in batch]
    assert names == [f"L0000{number}" for number in range(1, 6)]
    assert_agrees(node)


def test_file_that_cannot_be_read_leaves_nothing_of_its_batch(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    node = node_factory.node()
    files = host_files(tmp_path, 3)
    files[2].source.unlink()
    with pytest.raises(Exception, match=r"file3 cannot be read \(No such file"):
        write_files(node, files)
    assert node.parts.cache.files() == []
    with pytest.raises(NodeError, match="L00001 is given twice"):
        write_files(node, [files[0], files[0]])
    assert_agrees(node)
