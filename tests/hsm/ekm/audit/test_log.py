"""The audit log: its hash chain, crashes and several writers."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hsm.ekm.audit import hash_chain
from hsm.ekm.audit import log as audit_log
from hsm.ekm.audit.log import AuditError, AuditLog
from tests.support.audit_writers import assert_one_chain, write_and_kill


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def written(path: Path) -> Path:
    with AuditLog(path, clock=lambda: 1234.5) as log:
        for number in range(5):
            log.append("key-reply", serial="D1", volume=f"VOL00{number}", outcome="ok", code=0)
    return path


def test_audit_log_returns_records_in_order(written: Path) -> None:
    records = list(audit_log.records(written))
    assert [record["number"] for record in records] == [1, 2, 3, 4, 5]
    assert [record["volume"] for record in records] == [f"VOL00{number}" for number in range(5)]
    assert {record["time"] for record in records} == {1234.5}
    summary = audit_log.verify(written)
    assert (summary.records, summary.torn_bytes) == (5, 0)
    assert summary.head == records[-1]["hash"]


def test_audit_log_file_is_readable_by_its_owner_only(written: Path) -> None:
    assert written.stat().st_mode & 0o777 == 0o600


def test_audit_chain_continues_after_reopening(written: Path) -> None:
    with AuditLog(written) as log:
        log.append("key-reply", outcome="ok")
        assert log.head == audit_log.verify(written).head
    assert audit_log.verify(written).records == 6


def test_audit_chain_finds_any_changed_bit(written: Path) -> None:
    whole = written.read_bytes()
    end_of_last = len(whole) - 1
    for place in range(0, end_of_last, 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        written.write_bytes(damaged)
        with pytest.raises(AuditError, match=r"was altered: line \d"):
            audit_log.verify(written)


@pytest.mark.parametrize("line", range(4))
def test_audit_chain_finds_a_removed_line(written: Path, line: int) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    written.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))
    with pytest.raises(AuditError, match=f"line {line + 1} does not fit"):
        audit_log.verify(written)


def test_audit_chain_finds_exchanged_repeated_and_foreign_lines(written: Path) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    for altered in (
        [lines[1], lines[0], *lines[2:]],
        [lines[0], *lines],
        [*lines, b"{}\n"],
        [*lines, b"[]\n"],
        [*lines, b"\n"],
        [*lines, b"garbage\xff\n"],
        [lines[0].replace(b":", b": ", 1), *lines[1:]],
    ):
        written.write_bytes(b"".join(altered))
        with pytest.raises(AuditError, match="was altered"):
            audit_log.verify(written)


def test_audit_chain_finds_a_recomputed_hash_at_the_next_line(written: Path) -> None:
    lines = written.read_bytes().splitlines()
    content = json.loads(lines[2])
    del content["hash"]
    content["outcome"] = "refused"
    lines[2] = hash_chain.encode_record(content | {"hash": hash_chain.record_hash(content)})
    written.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(AuditError, match="line 4 does not fit"):
        audit_log.verify(written)


def test_audit_log_that_was_altered_is_not_continued(written: Path) -> None:
    whole = written.read_bytes().replace(b"VOL002", b"VOL009")
    written.write_bytes(whole)
    with pytest.raises(AuditError, match="line 3 does not fit"):
        AuditLog(written)
    assert written.read_bytes() == whole


def test_audit_log_cuts_off_and_records_a_torn_last_line(written: Path) -> None:
    whole = written.read_bytes()
    begin = whole.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(begin + 1, len(whole)):
        written.write_bytes(whole[:end])
        assert audit_log.verify(written).torn_bytes == end - begin
        with AuditLog(written) as log:
            log.append("start", outcome="ok")
        records = list(audit_log.records(written))
        assert [record["event"] for record in records[-2:]] == ["recovery", "start"]
        assert records[-2]["torn_bytes"] == end - begin
        assert records[-2]["number"] == 5


def test_audit_log_torn_in_its_first_line_starts_again(path: Path) -> None:
    path.write_bytes(b'{"number":1')
    with AuditLog(path):
        pass
    assert [record["event"] for record in audit_log.records(path)] == ["recovery"]


def test_audit_log_has_one_owner_at_a_time(written: Path) -> None:
    with AuditLog(written), pytest.raises(AuditError, match="in use by another key manager"):
        AuditLog(written)
    with AuditLog(written):
        pass


def test_audit_log_reports_a_full_disk_and_keeps_the_chain_whole(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_write(file: int, data: bytes) -> int:
        os.pwrite(file, data[:10], 0)  # appends, because the file has O_APPEND
        raise OSError(errno.ENOSPC, "No space left on device")

    with AuditLog(written) as log:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half_write)
            with pytest.raises(AuditError, match="No space left"):
                log.append("key-reply", outcome="ok")
        log.append("key-reply", outcome="ok")
    summary = audit_log.verify(written)
    assert (summary.records, summary.torn_bytes) == (6, 0)


def test_audit_log_reports_an_absent_folder_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="Cannot open the audit log"):
        AuditLog(tmp_path / "absent" / "audit.jsonl")
    with pytest.raises(AuditError, match="Cannot read the audit log"):
        audit_log.verify(tmp_path / "absent.jsonl")


def test_audit_log_append_returns_after_the_record_is_on_the_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    true_fsync = os.fsync

    def fsync(file: int) -> None:
        synced.append(os.fstat(file).st_size)
        true_fsync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with AuditLog(path) as log:
        log.append("start", outcome="ok")
        assert synced[-1] == path.stat().st_size


def test_audit_log_has_one_chain_with_several_writers(path: Path) -> None:
    with AuditLog(path) as owner, AuditLog(path, joined=True) as one:
        one.append("start", writer=1)
        with AuditLog(path, joined=True) as two:
            for number in range(20):
                for writer, log in enumerate((owner, one, two)):
                    log.note("key-reply", writer=writer, step=number)
                    log.note("ack", writer=writer, step=number)
                    log.write()
            assert two.unsynced
            two.sync()
            assert not two.unsynced
    records = list(audit_log.records(path))
    assert [record["writer"] for record in records[1:]] == [0, 0, 1, 1, 2, 2] * 20


def test_audit_log_writes_noted_records_at_once_and_in_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    true_write = os.write

    def write(file: int, data: bytes) -> int:
        written.append(data.count(b"\n"))
        return true_write(file, data)

    with AuditLog(path) as log:
        monkeypatch.setattr(os, "write", write)
        for number in range(5):
            log.note("key-reply", step=number)
        assert log.unsynced
        assert not written
        log.write()
    assert written == [5]
    assert [record["step"] for record in audit_log.records(path)] == list(range(5))


def test_audit_log_cuts_off_a_line_torn_by_a_killed_writer(path: Path) -> None:
    with AuditLog(path) as owner, AuditLog(path, joined=True) as worker:
        worker.append("key-reply", volume="VOL001")
        whole = path.read_bytes()
        with path.open("ab") as killed:
            killed.write(whole[:40])
        owner.append("worker-lost")
        worker.append("key-reply", volume="VOL002")
    events = [record["event"] for record in audit_log.records(path)]
    assert events == ["key-reply", "recovery", "worker-lost", "key-reply"]


@pytest.mark.parametrize("cut", [1, 100_000])
def test_audit_log_that_was_cut_while_open_is_not_continued(path: Path, cut: int) -> None:
    with AuditLog(path) as log:
        for number in range(5):
            log.append("key-reply", volume=f"VOL00{number}")
        os.truncate(path, max(0, path.stat().st_size - cut))
        with pytest.raises(AuditError, match="was altered while it was written"):
            log.append("key-reply", volume="VOL009")


def test_audit_log_has_one_chain_after_writers_were_killed(path: Path) -> None:
    write_and_kill(path, pause=lambda number: 0.02 * (number % 3), longest=9000, every=3)
    assert_one_chain(path)


_WRITE_FOREVER = """
import sys
import time
from pathlib import Path
from hsm.ekm.audit.log import AuditLog
log = AuditLog(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    log.append("key-reply", step=number)
    print(number, flush=True)
"""


def test_audit_log_keeps_appended_records_after_a_kill(path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITE_FOREVER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    for _ in range(30):
        writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    with AuditLog(path):
        pass
    assert audit_log.verify(path).records >= 30
