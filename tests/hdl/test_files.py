"""Files that the builds read: no more of them than they may have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hdl import sources
from hdl.errors import HdlError
from hdl.files import END_BYTES, read_end, read_text, replace_once
from hdl.fpga.transport_key import read_key

ENDLESS = 1 << 40


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A sparse file that would fill any memory."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(ENDLESS)
    return path


def test_read_text_reads_no_more_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x" * 100)
    assert read_text(path, 100) == "x" * 100
    with pytest.raises(OSError, match="it has more than 99 bytes"):
        read_text(path, 99)


def test_read_end_returns_the_end_of_a_long_log(endless: Path) -> None:
    with endless.open("ab") as file:
        file.write(b"the end")
    assert read_end(endless).endswith("\0the end")
    assert len(read_end(endless)) == END_BYTES


@pytest.mark.parametrize(
    "read", [read_key, sources._packages_used], ids=["transport key", "source file"]
)
def test_file_that_is_too_long_is_refused_by_name(
    endless: Path, read: Callable[[Path], object]
) -> None:
    with pytest.raises(HdlError, match=f"{endless}.*more than"):
        read(endless)


def test_replace_once_replaces_a_text_that_occurs_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a b b")
    with pytest.raises(ValueError, match="occurs 2 times in file instead of once"):
        replace_once(path, "b", "c")
    with pytest.raises(ValueError, match="stays the same"):
        replace_once(path, "a", "a")
    assert path.read_text() == "a b b"
    replace_once(path, "a", "c")
    assert path.read_text() == "c b b"
