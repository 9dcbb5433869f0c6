"""Logical volumes: labels, files, and what reading makes of a tape."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rig.drive.drive import Block
from rig.ve.volumes.logical_volume import (
    MAX_INTEGER,
    MAX_TIME,
    CopyFacts,
    VolumeError,
    VolumeFile,
    VolumeHeader,
    VolumeTrailer,
    blocks_of,
    decode_label,
    in_batches,
    prepare,
)
from rig.ve.volumes.reading import NullSink, VolumeReader
from tests.support.volume_sinks import CompareSink, FolderSink

names = st.from_regex(r"[A-Z0-9]{6}", fullmatch=True)
hashes = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
constructs = st.from_regex(r"[A-Za-z0-9._-]{0,64}", fullmatch=True)
facts = st.builds(
    CopyFacts,
    generation=st.integers(0, MAX_INTEGER),
    storage_group=constructs,
    management_class=constructs,
    written=st.floats(0, MAX_TIME),
    role=st.sampled_from(["", "primary", "secondary"]),
    pool=st.integers(0, 32),
    copied=st.floats(0, MAX_TIME),
)
headers = st.builds(
    VolumeHeader,
    name=names,
    size=st.integers(0, MAX_INTEGER),
    sha256=hashes,
    path=st.text(max_size=200),
    facts=facts,
)
trailers = st.builds(VolumeTrailer, name=names, blocks=st.integers(0, 2**48))


def files(folder: Path, *contents: bytes) -> list[VolumeFile]:
    paths = []
    for number, content in enumerate(contents):
        path = folder / f"file{number}"
        path.write_bytes(content)
        paths.append(path)
    return [VolumeFile.of(f"L{number:05}", path) for number, path in enumerate(paths, 1)]


def tape(*volumes: VolumeFile, block_bytes: int = 4) -> list[Block]:
    return [
        block
        for volume, header in zip(volumes, prepare(volumes), strict=True)
        for block in blocks_of(volume, header, block_bytes)
    ]


@given(st.one_of(headers, trailers))
def test_label_is_decoded_as_it_was_encoded(label: VolumeHeader | VolumeTrailer) -> None:
    block = label.encode()
    assert block.label
    assert decode_label(block.data) == label


def test_label_without_generation_and_constructs_is_decoded() -> None:
    text = '{"label": "header", "volume": "L00001", "size": 5, "sha256": "%s", "path": "/x"}'
    label = decode_label((text % ("0" * 64)).encode())
    assert label == VolumeHeader("L00001", 5, "0" * 64, "/x", CopyFacts())


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_label_of_any_bytes_is_decoded_or_refused(data: bytes) -> None:
    with pytest.raises(VolumeError):
        decode_label(data)


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "trailer", "volume": "L00001", "blocks": -1}',
        '{"label": "trailer", "volume": "L00001", "blocks": true, "more": 1}',
        '{"label": "trailer", "volume": "../..", "blocks": 1}',
        '{"label": "header", "volume": "L00001", "size": 1, "sha256": "xx", "path": ""}',
        "[" * 50_000,
        VolumeHeader("L00001", 1, "0" * 64, "x" * 60_000).encode().data.decode() + " " * 6000,
    ],
)
def test_label_with_a_wrong_field_is_refused(text: str) -> None:
    with pytest.raises(VolumeError):
        decode_label(text.encode())


@pytest.mark.parametrize(
    "change",
    [
        {"generation": -1},
        {"generation": 2**63},
        {"generation": "1"},
        {"storage_group": "no such; name"},
        {"management_class": "x" * 65},
        {"written": float("nan")},
        {"written": float("inf")},
        {"copied": -1.0},
        {"copied": 1e12},
        {"role": "third"},
        {"pool": None},
        {"more": 1},
        {"size": 2**63},
    ],
    ids=str,
)
def test_label_with_a_wrong_fact_is_refused(change: dict[str, object]) -> None:
    label = json.loads(VolumeHeader("L00001", 1, "0" * 64, "/x").encode().data)
    decode_label(json.dumps(label).encode())
    with pytest.raises(VolumeError):
        decode_label(json.dumps(label | change).encode())


def test_label_with_some_of_the_facts_is_refused() -> None:
    label = json.loads(VolumeHeader("L00001", 1, "0" * 64, "/x").encode().data)
    del label["role"]
    with pytest.raises(VolumeError):
        decode_label(json.dumps(label).encode())


def test_path_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    path.write_bytes(b"x")
    (header,) = prepare([VolumeFile.of("L00001", path)])
    label = decode_label(header.encode().data)
    assert isinstance(label, VolumeHeader)
    assert os.fsencode(label.path).endswith(b"caf\xe9")


def test_volume_is_a_header_its_data_and_a_trailer(tmp_path: Path) -> None:
    volumes = files(tmp_path, b"0123456789", b"")
    first, *data, last = tape(volumes[0])
    assert first.label
    assert last.label
    assert [block.data for block in data] == [b"0123", b"4567", b"89"]
    assert decode_label(last.data) == VolumeTrailer("L00001", 3)
    assert [block.label for block in tape(volumes[1])] == [True, True]


def test_batches_hold_their_bytes_and_lose_nothing(tmp_path: Path) -> None:
    blocks = tape(*files(tmp_path, bytes(100), bytes(7), b""))
    batches = list(in_batches(blocks, 150))
    assert [block for batch in batches for block in batch] == blocks
    assert all(sum(len(b.data) for b in batch) >= 150 for batch in batches[:-1])
    assert len(batches) > 2


def test_prepare_refuses_volumes_that_cannot_be_written(tmp_path: Path) -> None:
    (volume,) = files(tmp_path, b"x")
    with pytest.raises(VolumeError, match="no logical volume"):
        prepare([])
    with pytest.raises(VolumeError, match="L00001 is given twice"):
        prepare([volume, volume])
    with pytest.raises(VolumeError, match="no name of a logical volume"):
        VolumeFile.of("l00001", volume.source)
    with pytest.raises(VolumeError, match="cannot be read"):
        VolumeFile.of("L00001", tmp_path / "absent")
    volume.source.unlink()
    with pytest.raises(VolumeError, match=r"cannot be read \(No such file"):
        prepare([volume])
    with pytest.raises(VolumeError, match=r"cannot be read \(Is a directory"):
        prepare([VolumeFile.of("L00001", tmp_path)])


def test_file_that_changes_while_it_is_written_is_detected(tmp_path: Path) -> None:
    (volume,) = files(tmp_path, b"before")
    (header,) = prepare([volume])
    volume.source.write_bytes(b"after!")
    with pytest.raises(VolumeError, match="changed while it was written"):
        list(blocks_of(volume, header))


def test_reader_gives_back_the_files(tmp_path: Path) -> None:
    contents = [b"0123456789", b"", b"abc"]
    volumes = files(tmp_path, *contents)
    compare = CompareSink(volumes)
    folder = FolderSink(tmp_path / "out" / "deep")
    for sink in (compare, folder, NullSink()):
        reader = VolumeReader(sink)
        for block in tape(*volumes):
            reader.take(block)
        reader.finish()
        assert [header.name for header in reader.whole] == ["L00001", "L00002", "L00003"]
        assert reader.bytes == 13
        assert not reader.incomplete
    assert compare.all_equal
    found = {path.name: path.read_bytes() for path in folder.folder.iterdir()}
    assert found == dict(zip(["L00001", "L00002", "L00003"], contents, strict=True))


def test_reader_gives_only_the_volumes_asked_for(tmp_path: Path) -> None:
    volumes = files(tmp_path, b"one", b"two")
    folder = FolderSink(tmp_path / "out")
    reader = VolumeReader(folder, ["L00002"])
    for block in tape(*volumes):
        reader.take(block)
    assert [header.name for header in reader.whole] == ["L00002"]
    assert [path.name for path in folder.folder.iterdir()] == ["L00002"]


def test_reader_reports_a_volume_without_trailer_as_incomplete(tmp_path: Path) -> None:
    volumes = files(tmp_path, b"0123456789", b"two")
    cut = tape(volumes[0])[:2]
    for blocks, whole in ((cut, []), (cut + tape(volumes[1]), ["L00002"])):
        folder = FolderSink(tmp_path / "out")
        reader = VolumeReader(folder)
        for block in blocks:
            reader.take(block)
        reader.finish()
        assert reader.incomplete == ["L00001"]
        assert [header.name for header in reader.whole] == whole
        assert sorted(path.name for path in folder.folder.iterdir()) == whole


@pytest.mark.parametrize(
    "spoil",
    [
        lambda blocks: [blocks[0], blocks[2], blocks[1], *blocks[3:]],
        lambda blocks: [*blocks[:2], *blocks[3:]],
        lambda blocks: [*blocks[:3], *blocks[2:]],
    ],
    ids=["swapped", "missing", "twice"],
)
def test_reader_detects_blocks_in_wrong_order_or_number(tmp_path: Path, spoil: object) -> None:
    assert callable(spoil)
    folder = FolderSink(tmp_path / "out")
    reader = VolumeReader(folder)
    *others, trailer = spoil(tape(*files(tmp_path, b"0123456789")))
    for block in others:
        reader.take(block)
    with pytest.raises(VolumeError, match="L00001 did not come back as it was written"):
        reader.take(trailer)
    reader.finish()
    assert not list(folder.folder.iterdir())


def test_reader_detects_blocks_outside_of_volumes(tmp_path: Path) -> None:
    blocks = tape(*files(tmp_path, b"0123"))
    with pytest.raises(VolumeError, match="belongs to no logical volume"):
        VolumeReader(NullSink()).take(blocks[1])
    with pytest.raises(VolumeError, match="without a header"):
        VolumeReader(NullSink()).take(blocks[-1])


def test_compare_sink_lists_equal_different_missing_and_unexpected(tmp_path: Path) -> None:
    volumes = files(tmp_path, b"same", b"other", b"longer", b"absent", b"stranger")
    blocks = tape(*volumes[:3], volumes[4])
    volumes[1].source.write_bytes(b"OTHER")
    volumes[2].source.write_bytes(b"longer now")
    sink = CompareSink(volumes[:4])
    reader = VolumeReader(sink)
    for block in blocks:
        reader.take(block)
    assert sink.equal == ["L00001"]
    assert sink.different == ["L00002", "L00003"]
    assert sink.missing == ["L00004"]
    assert sink.unexpected == ["L00005"]
    assert not sink.all_equal


def test_folder_sink_that_cannot_write_raises_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file stands where the folder should be")
    reader = VolumeReader(FolderSink(tmp_path / "out"))
    with pytest.raises(VolumeError, match="L00001 was read, but cannot be put"):
        reader.take(tape(*files(tmp_path, b"x"))[0])
