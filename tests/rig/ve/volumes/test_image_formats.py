"""HET and SIMH images, and telling formats apart."""

from __future__ import annotations

import bz2
import datetime
import os
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rig.ve.volumes.awstape import MAX_BLOCK_BYTES, TAPE_MARK, AwsTapeError
from rig.ve.volumes.image_formats import ImageFormat, format_of, open_image, read_image
from rig.ve.volumes.image_transfer import export_image, inspect_image, is_image
from tests.support.tape_images import labelled, write_tape

BLOCKS = st.lists(st.none() | st.binary(min_size=1, max_size=200), max_size=12)
ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
HERCULES = pytest.mark.skipif(shutil.which("hetupd") is None, reason="needs Debian's hercules")


def write(path: Path, form: ImageFormat, blocks: list[bytes | None]) -> Path:
    with open_image(path, form) as tape:
        for block in blocks:
            if block is None:
                tape.tape_mark()
            else:
                tape.block(block)
    return path


def segment(data: bytes, flags: int, before: int = 0) -> bytes:
    return struct.pack("<HHBB", len(data), before, flags, 0) + data


@ONE_FOLDER
@given(blocks=BLOCKS, form=st.sampled_from(ImageFormat))
def test_image_is_read_as_it_was_written(
    tmp_path: Path, blocks: list[bytes | None], form: ImageFormat
) -> None:
    simh = form is ImageFormat.SIMH
    assume(not simh or blocks[:1] != [None])
    path = write(tmp_path / "image", form, blocks)
    assert list(read_image(path)) == blocks
    if blocks:
        assert format_of(path) is (ImageFormat.SIMH if simh else ImageFormat.AWS)


def test_het_is_shorter_and_simh_has_the_bytes_of_its_format(tmp_path: Path) -> None:
    block = bytes(100_000)
    het = write(tmp_path / "t.het", ImageFormat.HET, [block, TAPE_MARK])
    assert het.stat().st_size < 1000
    assert het.read_bytes()[4] == 0xA1
    assert list(read_image(het)) == [block, TAPE_MARK]
    simh = write(tmp_path / "t.tap", ImageFormat.SIMH, [b"abc", TAPE_MARK])
    assert simh.read_bytes() == b"\3\0\0\0abc\0\3\0\0\0" + bytes(4)


@HERCULES
@pytest.mark.parametrize("option", ["-z", "-b", "-d"])
def test_image_compressed_by_hercules_is_read(tmp_path: Path, option: str) -> None:
    data = [os.urandom(5000) + bytes(20_000), b"x", bytes(32_760)]
    blocks = labelled("PAY001", "PAY.ROLL", *data)
    path = write_tape(tmp_path / "t.aws", *blocks)
    het = tmp_path / "t.het"
    subprocess.run(["hetupd", option, path, het], check=True, capture_output=True)
    assert list(read_image(het)) == blocks
    assert inspect_image(het).volser == "PAY001"
    if option != "-d":
        assert het.stat().st_size < path.stat().st_size / 2


@HERCULES
def test_het_is_read_by_hercules(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(bytes(range(250)) * 400)
    day = datetime.date(2026, 11, 30)
    export_image("L00001", data, tmp_path / "out.het", day, ImageFormat.HET)
    subprocess.run(
        ["hetget", tmp_path / "out.het", tmp_path / "got", "1", "U", "0", "32760"],
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "got").read_bytes() == data.read_bytes()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (segment(b"not zlib", 0xA1), "a compressed block is none"),
        (segment(b"not bzip2", 0xA2), "a compressed block is none"),
        (segment(b"x", 0xA3), "its compression is unknown"),
        (segment(zlib.compress(b"abc")[:-2], 0xA1), "it is not whole"),
        (segment(zlib.compress(b"abc") + b"more", 0xA1), "it is not whole"),
        (segment(zlib.compress(bytes(MAX_BLOCK_BYTES + 1)), 0xA1), "it is longer than 2097152"),
        (segment(bz2.compress(bytes(50_000_000)), 0xA2), "it is longer than 2097152"),
        (segment(b"a", 0x81) + segment(b"b", 0x20, 1), "goes on in another compression"),
    ],
)
def test_compressed_block_that_is_none_or_a_bomb_is_refused(
    tmp_path: Path, content: bytes, what: str
) -> None:
    path = tmp_path / "t.het"
    path.write_bytes(content)
    with pytest.raises(AwsTapeError, match=what):
        list(read_image(path))


@pytest.mark.parametrize("data", [b"", bytes(100), b"plain text", bytes(4) + b"data" * 10])
def test_other_data_is_no_image(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "data"
    path.write_bytes(data)
    assert not is_image(path)


RECORD = b"\4\0\0\0VOL1\4\0\0\0"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\5\0", "it ends inside a length"),
        (b"\2\0\0\0ab\3\0\0\0", "has not its length behind it"),
        (b"\2\0\0\x80ab", "read with an error"),
        (b"\0\0\0\x10", "is longer than"),
    ],
)
def test_simh_image_that_is_damaged_is_refused_with_the_place(
    tmp_path: Path, content: bytes, what: str
) -> None:
    path = tmp_path / "t.tap"
    path.write_bytes(RECORD * 3 + content)
    with pytest.raises(AwsTapeError, match=f"SIMH tape image: at byte .*{what}"):
        list(read_image(path))


def test_simh_gaps_and_the_end_of_the_medium_are_stepped_over(tmp_path: Path) -> None:
    path = tmp_path / "t.tap"
    path.write_bytes(RECORD + b"\xfe\xff\xff\xff" + RECORD + bytes(4) + b"\xff" * 4 + b"junk")
    assert list(read_image(path)) == [b"VOL1", b"VOL1", TAPE_MARK]


@ONE_FOLDER
@given(content=st.binary(max_size=300))
def test_any_bytes_are_an_image_or_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(content)
    try:
        blocks = list(read_image(path))
    except AwsTapeError:
        return
    assert all(block is None or len(block) <= MAX_BLOCK_BYTES for block in blocks)
    assert is_image(path) is bool(blocks)


@pytest.mark.parametrize("form", ImageFormat)
def test_export_in_each_format_is_imported_again(tmp_path: Path, form: ImageFormat) -> None:
    data = tmp_path / "data"
    data.write_bytes(os.urandom(70_001))
    target = tmp_path / f"out.{form}"
    export_image("L00001", data, target, datetime.date(2026, 11, 30), form)
    assert inspect_image(target).volser == "L00001"
    blocks = list(read_image(target))
    assert b"".join(block for block in blocks[4:7] if block) == data.read_bytes()
    export_image("L00001", target, tmp_path / "again", datetime.date(2027, 1, 1))
    assert (tmp_path / "again").read_bytes() == target.read_bytes()
