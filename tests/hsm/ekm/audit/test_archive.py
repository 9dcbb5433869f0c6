"""Rotation and archiving of the audit log: one chain over all files."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hsm.ekm.audit import log as audit_log
from hsm.ekm.audit.archive import archive
from hsm.ekm.audit.hash_chain import segments
from hsm.ekm.audit.key_usage import read_known_cartridges
from hsm.ekm.audit.log import AuditError, AuditLog
from hsm.ekm.protocol.errors import EkmError
from tests.support.audit_writers import assert_one_chain, write_and_kill

ONE, TWO, THREE = "KEK 1 (clear)", "KEK 2 (clear)", "KEK 3 (clear)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def volumes(path: Path) -> list[str]:
    return [r["volume"] for r in audit_log.records(path) if r["event"] == "key-reply"]


def reply(
    log: AuditLog, volume: str, *keys: str, operation: str = "translate", **more: str
) -> None:
    log.append(
        "key-reply", outcome="ok", operation=operation, volume=volume, keys=list(keys), **more
    )


@pytest.fixture
def three_files(path: Path) -> Path:
    with AuditLog(path) as log:
        for number in range(9):
            log.append("key-reply", volume=f"VOL00{number}")
            if number in (2, 5):
                log.rotate()
    return path


def test_audit_chain_continues_over_files(three_files: Path) -> None:
    assert [each.name for each in segments(three_files)] == [
        "audit.jsonl.000000000001",
        "audit.jsonl.000000000005",
    ]
    records = list(audit_log.records(three_files))
    assert [record["number"] for record in records] == list(range(1, 14))
    assert volumes(three_files) == [f"VOL00{number}" for number in range(9)]
    summary = audit_log.verify(three_files)
    assert (summary.records, summary.first, summary.files) == (13, 1, 3)
    assert summary.head == records[-1]["hash"]
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in segments(three_files))


def test_audit_chain_finds_any_changed_bit_in_any_file(three_files: Path) -> None:
    for each in (*segments(three_files), three_files):
        whole = each.read_bytes()
        for place in range(0, len(whole) - 1, 61):
            damaged = bytearray(whole)
            damaged[place] ^= 1
            each.write_bytes(damaged)
            with pytest.raises(AuditError, match=r"was altered|is missing"):
                audit_log.verify(three_files)
        each.write_bytes(whole)


def test_audit_chain_finds_a_line_cut_off_a_closed_segment(three_files: Path) -> None:
    first = segments(three_files)[0]
    lines = first.read_bytes().splitlines(keepends=True)
    for shorter in (lines[:-1], lines[:1]):
        first.write_bytes(b"".join(shorter))
        with pytest.raises(AuditError, match=r"missing before .*: records \d to 4"):
            audit_log.verify(three_files)
    first.write_bytes(b"".join(lines)[:-5])
    with pytest.raises(AuditError, match="was altered: line 4"):
        audit_log.verify(three_files)


def test_audit_chain_names_a_missing_segment_or_what_remains_verifiable(three_files: Path) -> None:
    first, second = segments(three_files)
    second.rename(second.with_suffix(".away"))
    with pytest.raises(AuditError, match=r"missing before .*: records 5 to 9; bring the segment"):
        audit_log.verify(three_files)
    second.with_suffix(".away").rename(second)
    last = list(audit_log.records(three_files))[3]
    first.unlink()
    summary = audit_log.verify(three_files)
    assert (summary.first, summary.anchor, summary.records) == (5, last["hash"], 9)
    assert not summary.archived, "nobody said that it was archived"
    with AuditLog(three_files) as log:
        log.append("key-reply", volume="VOL009")
    assert audit_log.verify(three_files).records == 10


def test_audit_log_cannot_be_shortened_at_its_beginning(three_files: Path) -> None:
    lines = segments(three_files)[0].read_bytes().splitlines(keepends=True)
    segments(three_files)[0].write_bytes(b"".join(lines[1:]))
    with pytest.raises(AuditError, match="line 1 does not fit"):
        audit_log.verify(three_files)


def test_audit_log_over_the_size_is_rotated_by_its_last_writer(path: Path) -> None:
    with (
        AuditLog(path, rotate_bytes=3000) as owner,
        AuditLog(path, joined=True, rotate_bytes=3000) as one,
        AuditLog(path, joined=True, rotate_bytes=3000) as two,
    ):
        for number in range(60):
            for log in (owner, one, two):
                log.append("key-reply", volume=f"V{number:05}")
    assert len(segments(path)) > 10
    assert all(each.stat().st_size < 3500 for each in segments(path))
    assert volumes(path) == [f"V{number:05}" for number in range(60) for _ in range(3)]


def test_audit_log_belongs_to_its_key_manager_after_rotation(path: Path) -> None:
    with AuditLog(path) as owner, AuditLog(path, joined=True) as worker:
        worker.append("start")
        worker.rotate()
        with pytest.raises(AuditError, match="in use by another key manager"):
            AuditLog(path)
        owner.append("stop")
    with AuditLog(path):
        pass


def test_audit_segment_is_on_the_disk_before_the_next_file_is_renamed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    names = {"audit.jsonl.next": "next", "audit.jsonl": "log", path.parent.name: "folder"}

    def watch(owner: Any, name: str) -> None:
        true = getattr(owner, name)

        def call(*arguments: Any, **more: Any) -> Any:
            first = arguments[0]
            where = Path(f"/proc/self/fd/{first}").readlink() if isinstance(first, int) else first
            done.append(f"{name} {names[where.name]}")
            return true(*arguments, **more)

        monkeypatch.setattr(owner, name, call)

    with AuditLog(path) as log:
        log.append("start")
        for owner, name in ((os, "write"), (os, "fsync"), (os, "link"), (Path, "rename")):
            watch(owner, name)
        log.rotate()
        monkeypatch.undo()
    assert done == [
        "write log",
        "fsync log",
        "write next",
        "fsync next",
        "link log",
        "rename next",
        "fsync folder",
    ]


def test_rotation_on_a_full_disk_is_reported_and_repeated(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AuditLog(path) as log, AuditLog(path, joined=True) as worker:
        log.append("key-reply", volume="VOL001")
        with monkeypatch.context() as patch:

            def full(*arguments: Any) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(os, "link", full)
            for each in (log, worker):
                with pytest.raises(AuditError, match="No space left"):
                    each.rotate()
        worker.append("key-reply", volume="VOL002")
        log.append("key-reply", volume="VOL003")
    assert volumes(path) == ["VOL001", "VOL002", "VOL003"]
    assert len(segments(path)) == 1


def test_rotation_that_fails_in_its_folder_does_not_split_the_chain(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AuditLog(path) as log, AuditLog(path, joined=True) as worker:
        log.append("key-reply", volume="VOL001")
        with monkeypatch.context() as patch:

            def fail(self: AuditLog) -> None:
                raise OSError(errno.EIO, "Input/output error")

            patch.setattr("hsm.ekm.audit.log.sync_directory", fail)
            with pytest.raises(AuditError, match="Input/output error"):
                log.rotate()
        worker.append("key-reply", volume="VOL002")
        log.append("key-reply", volume="VOL003")
    assert volumes(path) == ["VOL001", "VOL002", "VOL003"]


def test_rotation_does_not_overwrite_a_file_with_a_segments_name(path: Path) -> None:
    other = path.with_name("audit.jsonl.000000000001")
    with AuditLog(path) as log:
        log.append("key-reply", volume="VOL001")
        other.write_text("mine")
        with pytest.raises(AuditError, match="is there already and is another file"):
            log.rotate()
        assert other.read_text() == "mine"
        other.unlink()
        log.append("key-reply", volume="VOL002")
    assert volumes(path) == ["VOL001", "VOL002"]


# Kills


_KILLED = """
import os, signal, sys
from pathlib import Path
from hsm.ekm.audit.log import AuditLog
from hsm.ekm.audit.archive import archive
what, path, step, after = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "after"
log = AuditLog(path, joined=True)
log.append("key-reply", volume="BEFORE")
print(flush=True)
done = 0
def deadly(owner, name):
    true = getattr(owner, name)
    def call(*arguments, **more):
        global done
        done += 1
        if done == step and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = true(*arguments, **more)
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, call)
for owner, name in ((os, "write"), (os, "fsync"), (os, "link"), (os, "ftruncate"), (Path, "rename"),
                    (Path, "unlink"), (os, "fchmod"), (Path, "mkdir")):
    deadly(owner, name)
log.rotate() if what == "rotate" else archive(log, path.parent / "archive")
"""


def run_and_kill(what: str, path: Path, step: int, when: str) -> bool:
    """Rotate or archive in a process killed at a step; return if it finished."""
    child = subprocess.run(
        [sys.executable, "-c", _KILLED, what, str(path), str(step), when],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode in (0, -signal.SIGKILL), child.stderr
    return child.returncode == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_rotation_killed_at_any_step_loses_nothing(tmp_path: Path, when: str) -> None:
    steps = 0
    for step in range(1, 20):
        folder = tmp_path / str(step)
        folder.mkdir()
        path = folder / "audit.jsonl"
        with AuditLog(path) as owner, AuditLog(path, joined=True) as worker:
            worker.append("key-reply", volume="VOL001")
            lived = run_and_kill("rotate", path, step, when)
            assert audit_log.verify(path).torn_bytes == 0
            for log, volume in ((worker, "VOL002"), (owner, "VOL003")):
                log.append("key-reply", volume=volume)
        with AuditLog(path) as owner:
            reply(owner, "VOL004")
            owner.rotate()
            reply(owner, "VOL005")
        assert volumes(path) == ["VOL001", "BEFORE", "VOL002", "VOL003", "VOL004", "VOL005"]
        assert len(segments(path)) in (1, 2)
        assert not path.with_name("audit.jsonl.next").exists()
        if lived:
            break
        steps += 1
    assert steps >= 7


def test_rotation_by_killed_writers_leaves_one_chain(path: Path) -> None:
    write_and_kill(
        path,
        pause=lambda number: 0.03 * (1 + number % 3),
        longest=3000,
        every=1,
        rotate_bytes=20000,
    )
    assert len(segments(path)) > 10
    assert_one_chain(path)


# Archiving


def write_three_files(log: AuditLog) -> None:
    """Write two segments and a log: a cartridge is forgotten, one is rekeyed."""
    reply(log, "VOL001", ONE, TWO)
    reply(log, "VOL002", ONE, TWO)
    reply(log, "VOL003", ONE)
    log.rotate()
    reply(log, "VOL004", THREE)
    log.append("cartridge-forgotten", volume="VOL003")
    log.rotate()
    reply(log, "VOL002", TWO, THREE)


NEEDED = {"VOL001": {ONE, TWO}, "VOL002": {TWO, THREE}, "VOL004": {THREE}}


def needed(path: Path) -> dict[str, set[str]]:
    return {cartridge.volume: cartridge.keys for cartridge in read_known_cartridges(path).values()}


@pytest.mark.rule("POOL-3")
def test_archive_keeps_the_key_usage_of_archived_segments(path: Path) -> None:
    with AuditLog(path) as log:
        write_three_files(log)
        names = [each.name for each in segments(path)]
        assert needed(path) == NEEDED
        moved = archive(log, path.parent / "archive")
        assert moved["segments"] == names
        assert segments(path) == []
        assert needed(path) == NEEDED
        reply(log, "VOL001", THREE, THREE)
    summary = audit_log.verify(path)
    assert (summary.first, summary.archived) == (moved["through"] + 1, True)
    whole = audit_log.verify(path, path.parent / "archive")
    assert (whole.first, whole.head, whole.files) == (1, summary.head, 3)
    assert needed(path)["VOL001"] == {THREE}
    with AuditLog(path) as log:
        log.rotate()
        archive(log, path.parent / "archive")
        assert audit_log.verify(path, path.parent / "archive").first == 1
        assert audit_log.verify(path).archived
    assert needed(path) == NEEDED | {"VOL001": {THREE}}


@pytest.mark.rule("CART-4", "POOL-3")
def test_archive_summarizes_two_cartridges_of_one_volser(path: Path) -> None:
    with AuditLog(path) as log:
        reply(log, "VOL001", ONE, cartridge_id="01" * 16)
        reply(log, "VOL001", TWO, cartridge_id="02" * 16)
        reply(log, "VOL001", THREE)
        before = read_known_cartridges(path)
        log.rotate()
        archive(log, path.parent / "archive")
    after = read_known_cartridges(path)
    assert {key: each.keys for key, each in after.items()} == {
        ("VOL001", "01" * 16): {ONE},
        ("VOL001", "02" * 16): {TWO},
        ("VOL001", ""): {THREE},
    }
    assert before.keys() == after.keys()


def test_archive_that_was_altered_is_found(path: Path) -> None:
    with AuditLog(path) as log:
        write_three_files(log)
        archive(log, path.parent / "archive")
    first = segments(path, path.parent / "archive")[0]
    first.write_bytes(first.read_bytes().replace(b"VOL001", b"VOL009"))
    with pytest.raises(AuditError, match="line 1 does not fit"):
        audit_log.verify(path, path.parent / "archive")
    assert audit_log.verify(path).archived


@pytest.mark.rule("POOL-3")
def test_key_usage_is_unknown_when_segments_vanish_without_a_summary(path: Path) -> None:
    with AuditLog(path) as log:
        write_three_files(log)
    segments(path)[0].unlink()
    with pytest.raises(EkmError, match="does not summarize the records before it"):
        read_known_cartridges(path)


def test_archive_without_a_closed_segment_is_refused_in_one_sentence(path: Path) -> None:
    with AuditLog(path) as log:
        log.append("start")
        with pytest.raises(AuditError, match="no closed segment; close one with"):
            archive(log, path.parent / "archive")
        log.rotate()
        with pytest.raises(AuditError, match="cannot be moved to /proc/nowhere"):
            archive(log, Path("/proc/nowhere"))
    assert audit_log.verify(path).first == 1


def test_archive_killed_at_any_step_can_be_repeated(tmp_path: Path) -> None:
    steps = 0
    for step in range(1, 60):
        folder = tmp_path / str(step)
        folder.mkdir()
        path = folder / "audit.jsonl"
        with AuditLog(path) as owner:
            write_three_files(owner)
            lived = run_and_kill("archive", path, step, "before")
            assert audit_log.verify(path).archived, "what was moved is summarized"
            assert audit_log.verify(path, folder / "archive" if lived else None).torn_bytes == 0
            assert needed(path) == NEEDED
            if lived:
                break
            if segments(path):
                archive(owner, folder / "archive")
            assert segments(path) == []
            assert needed(path) == NEEDED
            assert audit_log.verify(path, folder / "archive").first == 1
        steps += 1
    assert steps >= 15
