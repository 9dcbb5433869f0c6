"""AWSTAPE images, block by block."""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsm.errors import TaperigError
from rig.ve.volumes.awstape import MAX_BLOCK_BYTES, TAPE_MARK, AwsTapeError, ImageWriter, read_image
from rig.ve.volumes.tape_volume_cache import pieces_of
from tests.support.tape_images import write_tape

ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
BLOCKS = st.lists(st.none() | st.binary(min_size=1, max_size=200), max_size=12)


def header(length: int, before: int, flags: int) -> bytes:
    return struct.pack("<HHBB", length, before, flags, 0)


@ONE_FOLDER
@given(blocks=BLOCKS)
def test_image_is_read_as_it_was_written(tmp_path: Path, blocks: list[bytes | None]) -> None:
    path = write_tape(tmp_path / "t.aws", *blocks)
    assert list(read_image(path)) == blocks


def test_image_has_the_bytes_of_the_format(tmp_path: Path) -> None:
    path = write_tape(tmp_path / "t.aws", b"abc", TAPE_MARK, b"d")
    assert path.read_bytes() == (
        header(3, 0, 0xA0) + b"abc" + header(0, 3, 0x40) + header(1, 0, 0xA0) + b"d"
    )


def test_long_block_is_cut_into_segments(tmp_path: Path) -> None:
    block = bytes(range(256)) * 600
    path = write_tape(tmp_path / "t.aws", block, b"x")
    assert list(read_image(path)) == [block, b"x"]
    content = path.read_bytes()
    assert content[:6] == header(65_535, 0, 0x80)
    assert content[65_541:65_547] == header(65_535, 65_535, 0x00)
    assert content[131_082:131_088] == header(len(block) - 131_070, 65_535, 0x20)


@pytest.mark.parametrize("size", [0, MAX_BLOCK_BYTES + 1])
def test_block_that_is_empty_or_too_long_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "t.aws"
    with pytest.raises(AwsTapeError, match="1 to 2097152 bytes"), ImageWriter(path) as tape:
        tape.block(bytes(size))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"abc", "at byte 0 it ends inside a segment's header"),
        (header(5, 0, 0xA0) + b"abc", "at byte 0 it ends inside a block"),
        (header(3, 0, 0x80) + b"abc", "it ends inside a block"),
        (header(3, 7, 0xA0) + b"abc", "at byte 0 there is no segment's header"),
        (header(1, 0, 0xA0) + b"a" + header(1, 2, 0xA0) + b"b", "at byte 7 there is no segment"),
        (b"\x01\x00\x00\x00\xa0\x01a", "at byte 0 there is no segment's header"),
        (header(1, 0, 0xC0) + b"a", "flags 0xc0"),
        (header(1, 0, 0x20) + b"a", "flags 0x20"),
        (header(1, 0, 0x80) + b"a" + header(1, 1, 0x80) + b"b", "flags 0x80"),
        (header(1, 0, 0x40) + b"a", "a tape mark has bytes"),
        (header(1, 0, 0x80) + b"a" + header(0, 1, 0x40), "a tape mark has bytes, or is inside"),
    ],
)
def test_image_damage_is_named_with_its_place(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "t.aws"
    path.write_bytes(content)
    with pytest.raises(AwsTapeError, match=what):
        list(read_image(path))


def test_block_without_an_end_does_not_fill_memory(tmp_path: Path) -> None:
    path = tmp_path / "t.aws"
    segments = [header(65_535, 0 if n == 0 else 65_535, 0x80 if n == 0 else 0) for n in range(40)]
    path.write_bytes(b"".join(each + bytes(65_535) for each in segments))
    with pytest.raises(AwsTapeError, match="a block is longer than 2097152 bytes"):
        list(read_image(path))


@ONE_FOLDER
@given(content=st.binary(max_size=400))
def test_image_of_any_bytes_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.aws"
    path.write_bytes(content)
    try:
        blocks = list(read_image(path))
    except AwsTapeError:
        return
    assert write_tape(tmp_path / "u.aws", *(b for b in blocks if b != b"")).is_file()


@ONE_FOLDER
@given(blocks=BLOCKS.filter(bool), data=st.data())
def test_image_with_a_flipped_bit_in_its_last_header_is_refused(
    tmp_path: Path, blocks: list[bytes | None], data: st.DataObject
) -> None:
    path = write_tape(tmp_path / "t.aws", *blocks, b"end")
    content = bytearray(path.read_bytes())
    last = len(content) - 3 - 6
    bit = data.draw(st.integers(0, 6 * 8 - 1))
    content[last + bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    with pytest.raises(AwsTapeError):
        list(read_image(path))


def test_image_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(AwsTapeError, match=r"none.aws cannot be read \(No such file"):
        list(read_image(tmp_path / "none.aws"))


def test_image_replaces_another_only_when_whole(tmp_path: Path) -> None:
    path = write_tape(tmp_path / "t.aws", b"old")
    with pytest.raises(AwsTapeError), ImageWriter(path) as tape:
        tape.block(bytes(MAX_BLOCK_BYTES + 1))
    assert list(read_image(path)) == [b"old"]
    assert list(tmp_path.iterdir()) == [path]


def test_image_writer_names_an_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(AwsTapeError, match="cannot be written"):
        ImageWriter(tmp_path / "absent" / "t.aws")


@pytest.mark.parametrize("read", [read_image, pieces_of], ids=["image", "host file"])
def test_pipe_or_device_is_no_file_to_cache(
    tmp_path: Path, read: Callable[[Path], Iterator[bytes | None]]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(TaperigError, match=f"{path} cannot be read .*not a regular file"):
            next(iter(read(path)))
