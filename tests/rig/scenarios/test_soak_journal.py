"""The journal of a soak after a kill at any byte, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rig.engine.soak import PartFigures
from rig.results.results import ResultsError
from rig.scenarios import soak_journal
from rig.scenarios.soak_journal import NAME, JournalError, SoakHeader, Total

HEADER = SoakHeader(
    lab_file="/lab.yaml",
    lab_sha256="0" * 64,
    board="sim",
    seed=7,
    hours=1.5,
    engine_seconds=None,
    build_hash=0x1234,
)


def figures(number: int) -> PartFigures:
    return PartFigures(
        records=10 * number,
        bytes=1000 * number,
        keys=2,
        cycles=100,
        promised_cycles=100.0 + number,
        all_cycles=110,
        longest_gap=number,
        longest_latency=50 - number,
    )


def written(folder: Path, parts: int) -> tuple[bytes, Total]:
    """Write a journal of some parts; return its content and their total."""
    total = Total()
    with soak_journal.begin(folder, HEADER) as journal:
        for number in range(1, parts + 1):
            journal.add(number, figures(number), 2.0)
            total.add(number, figures(number), 2.0)
    return (folder / NAME).read_bytes(), total


def total_of(parts: int) -> Total:
    total = Total()
    for number in range(1, parts + 1):
        total.add(number, figures(number), 2.0)
    return total


def test_soak_journal_gives_back_what_was_added(tmp_path: Path) -> None:
    _, total = written(tmp_path, 3)
    assert soak_journal.read_header(tmp_path) == HEADER
    journal, found = soak_journal.resume(tmp_path)
    journal.close()
    assert found == total
    assert (found.parts, found.records, found.seconds) == (3, 60, 6.0)
    assert (found.longest_gap, found.gap_part) == (3, 3)
    assert (found.longest_latency, found.latency_part) == (49, 1)
    assert (found.least_ratio, found.ratio_part) == (1.01, 1)


def test_soak_journal_cut_at_any_byte_keeps_every_whole_line(tmp_path: Path) -> None:
    content, _ = written(tmp_path, 3)
    first = content.index(b"\n") + 1
    for length in range(first, len(content) + 1):
        (tmp_path / NAME).write_bytes(content[:length])
        parts = content[first:length].count(b"\n")
        journal, found = soak_journal.resume(tmp_path)
        with journal:
            assert found == total_of(parts)
            journal.add(parts + 1, figures(parts + 1), 2.0)
        journal, found = soak_journal.resume(tmp_path)
        journal.close()
        assert found == total_of(parts + 1)


def test_soak_journal_cuts_off_more_than_the_next_line_covers(tmp_path: Path) -> None:
    content, _ = written(tmp_path, 1)
    (tmp_path / NAME).write_bytes(content + b"x" * 5000)
    journal, _ = soak_journal.resume(tmp_path)
    with journal:
        journal.add(2, figures(2), 2.0)
    journal, found = soak_journal.resume(tmp_path)
    journal.close()
    assert found == total_of(2)
    assert b"x" not in (tmp_path / NAME).read_bytes()


def test_soak_journal_ends_with_what_was_wrong(tmp_path: Path) -> None:
    with soak_journal.begin(tmp_path, HEADER) as journal:
        journal.add(1, figures(1), 2.0)
        journal.add_wrong(2, "byte 3")
    journal, found = soak_journal.resume(tmp_path)
    journal.close()
    assert (found.parts, found.wrong) == (1, "byte 3")


@pytest.mark.parametrize(
    "line",
    [
        b"\0" * 40,
        b"{}",
        b"[1]",
        b'{"part": 2}',
        b'{"part": 9, "wrong": "a part too far"}',
        b'{"part": ' + b"9" * 5000 + b', "wrong": ""}',
        b'{"part": 2, "wrong": "' + b"x" * 70_000 + b'"}',
        json.dumps({"part": 2, "seconds": float("nan"), "records": 1}).encode(),
        b"[" * 60_000,
    ],
    ids=str,
)
def test_soak_journal_refuses_a_damaged_line(tmp_path: Path, line: bytes) -> None:
    content, _ = written(tmp_path, 1)
    (tmp_path / NAME).write_bytes(content + line + b"\n")
    with pytest.raises(JournalError, match="is damaged in line 3; begin a new soak"):
        soak_journal.resume(tmp_path)
    assert (tmp_path / NAME).read_bytes() == content + line + b"\n"


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\xff\n", b"x" * 100_000])
def test_soak_journal_refuses_a_damaged_first_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(JournalError, match="is damaged in line 1; begin a new soak"):
        soak_journal.read_header(tmp_path)


def test_soak_journal_refuses_a_folder_without_a_soak(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"holds no soak: it has no soak\.jsonl"):
        soak_journal.read_header(tmp_path)


def test_soak_journal_is_of_one_process(tmp_path: Path) -> None:
    written(tmp_path, 1)
    journal, _ = soak_journal.resume(tmp_path)
    with journal, pytest.raises(JournalError, match="is under way in another process"):
        soak_journal.resume(tmp_path)


def test_soak_journal_names_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / NAME).symlink_to("/dev/full")
    journal = soak_journal._open(tmp_path / NAME)
    with pytest.raises(JournalError, match=r"No space left on device.*--resume"), journal:
        journal.add(1, figures(1), 2.0)
    with pytest.raises(ResultsError):
        soak_journal.begin(tmp_path / "absent", HEADER)
