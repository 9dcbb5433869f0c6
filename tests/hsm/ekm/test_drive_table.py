"""The drive table: contents, refusals, crashes."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hsm.ekm import drive_table
from hsm.ekm.drive_table import (
    NONCES_KEPT,
    DriveTable,
    DriveTableError,
    EnrolledDrive,
)
from hsm.ekm.protocol.errors import ErrorCode, ExchangeError
from hsm.ekm.protocol.identities import fingerprint
from hsm.pkcs11.oaep import OaepHash

FINGERPRINT = fingerprint(b"certificate")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "drives.sqlite"


@pytest.fixture
def table(path: Path) -> Iterator[DriveTable]:
    with DriveTable(path) as opened:
        yield opened


def code_of(refusal: pytest.ExceptionInfo[ExchangeError]) -> ErrorCode:
    return refusal.value.code


def consume(table: DriveTable, *request: Any) -> EnrolledDrive:
    """Consume one request's sequence number and nonce for good."""
    drive, settle = table.consume(*request)
    settle()
    return drive


def was_used(table: DriveTable, nonce: bytes) -> bool:
    """Return whether an earlier request of drive D1 had this nonce."""
    return nonce in table._look_up("D1")[1]


def test_drive_table_finds_an_enrolled_drive_and_no_other(table: DriveTable) -> None:
    table.enrol("D1", b"certificate", b"spki", OaepHash.SHA1)
    assert table.find("D1") == EnrolledDrive(
        "D1", fingerprint(b"certificate"), b"spki", OaepHash.SHA1
    )
    assert table.find("d1") is None
    assert table.find("D2") is None
    assert [drive.serial for drive in table.drives()] == ["D1"]


def test_drive_table_file_is_readable_by_its_owner_only(table: DriveTable, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_drive_table_keeps_everything_when_reopened(path: Path) -> None:
    with DriveTable(path) as table:
        table.enrol("D1", b"certificate", b"spki", OaepHash.SHA1)
        consume(table, "D1", FINGERPRINT, 5, b"n" * 32)
        table.set_revoked("D1", True)
    with DriveTable(path) as table:
        assert table.find("D1") == EnrolledDrive(
            "D1", fingerprint(b"certificate"), b"spki", OaepHash.SHA1, revoked=True, sequence=5
        )
        assert was_used(table, b"n" * 32)


def test_drive_table_enrolment_renews_keys_and_keeps_revocation_and_sequence(
    table: DriveTable,
) -> None:
    table.enrol("D1", b"certificate", b"spki", OaepHash.SHA1)
    consume(table, "D1", FINGERPRINT, 5, b"n" * 32)
    table.set_revoked("D1", True)
    table.enrol("D1", b"new certificate", b"new spki", OaepHash.SHA256)
    assert table.find("D1") == EnrolledDrive(
        "D1",
        fingerprint(b"new certificate"),
        b"new spki",
        OaepHash.SHA256,
        revoked=True,
        sequence=5,
    )


def test_drive_table_raises_sequences_to_those_of_the_audit_log(table: DriveTable) -> None:
    """A power cut may leave an old number in a table opened with ``logged``."""
    for serial in ("D1", "D2"):
        table.enrol(serial, b"certificate", b"spki", OaepHash.SHA1)
        consume(table, serial, FINGERPRINT, 5, b"n" * 32)
    table.raise_sequences({"D1": 9, "D2": 3, "D3": 7})
    assert [drive.sequence for drive in table.drives()] == [9, 5]
    with pytest.raises(ExchangeError):
        consume(table, "D1", FINGERPRINT, 9, b"m" * 32)


def test_drive_table_admits_a_revoked_drive_again(table: DriveTable) -> None:
    table.enrol("D1", b"certificate", b"spki", OaepHash.SHA1)
    table.set_revoked("D1", True)
    table.set_revoked("D1", False)
    drive = table.find("D1")
    assert drive is not None
    assert not drive.revoked


def test_drive_table_reports_revoking_an_unknown_drive(table: DriveTable) -> None:
    with pytest.raises(DriveTableError, match="D9 is not in the drive table"):
        table.set_revoked("D9", True)


@pytest.mark.parametrize("sequence", [4, 5])
def test_drive_table_refuses_a_sequence_number_that_does_not_grow(
    table: DriveTable, sequence: int
) -> None:
    table.enrol("D1", b"certificate", b"spki", OaepHash.SHA1)
    consume(table, "D1", FINGERPRINT, 5, b"a" * 32)
    with pytest.raises(ExchangeError) as refusal:
        consume(table, "D1", FINGERPRINT, sequence, b"b" * 32)
    assert code_of(refusal) is ErrorCode.STALE_SEQUENCE
    assert not was_used(table, b"b" * 32)
    consume(table, "D1", FINGERPRINT, 6, b"b" * 32)


def test_drive_table_accepts_a_nonce_once(table: DriveTable) -> None:
    table.enrol("D1", b"certificate", b"spki", OaepHash.SHA1)
    table.enrol("D2", b"certificate", b"spki", OaepHash.SHA1)
    consume(table, "D1", FINGERPRINT, 1, b"a" * 32)
    with pytest.raises(ExchangeError) as refusal:
        consume(table, "D1", FINGERPRINT, 2, b"a" * 32)
    assert code_of(refusal) is ErrorCode.REPLAYED_NONCE
    drive = table.find("D1")
    assert drive is not None
    assert drive.sequence == 1, "a refused request uses up no sequence number"
    consume(table, "D2", FINGERPRINT, 1, b"a" * 32)  # nonces are counted for each drive


def test_drive_table_stores_a_group_of_requests_when_settled(table: DriveTable, path: Path) -> None:
    for serial in ("D1", "D2"):
        table.enrol(serial, b"certificate", b"spki", OaepHash.SHA1)
    with DriveTable(path) as other:
        _, settle_first = table.consume("D1", FINGERPRINT, 1, b"a" * 32)
        with pytest.raises(ExchangeError) as refusal:
            table.consume("D1", FINGERPRINT, 1, b"b" * 32)  # what is not settled yet counts
        assert code_of(refusal) is ErrorCode.STALE_SEQUENCE
        _, settle_second = table.consume("D2", FINGERPRINT, 1, b"a" * 32)
        assert [drive.sequence for drive in other.drives()] == [0, 0]
        settle_first()
        assert [drive.sequence for drive in other.drives()] == [1, 1]
        settle_second()
        consume(other, "D1", FINGERPRINT, 2, b"c" * 32)  # nothing is locked
    consume(table, "D1", FINGERPRINT, 3, b"d" * 32)


def test_drive_table_is_not_locked_after_a_refusal(table: DriveTable, path: Path) -> None:
    table.enrol("D1", b"certificate", b"spki", OaepHash.SHA1)
    table.set_revoked("D1", True)
    for serial, code in (("D1", ErrorCode.REVOKED_DRIVE), ("D2", ErrorCode.UNKNOWN_DRIVE)):
        with pytest.raises(ExchangeError) as refusal:
            table.consume(serial, FINGERPRINT, 1, b"a" * 32)
        assert code_of(refusal) is code
        with DriveTable(path) as other:
            other.set_revoked("D1", True)


def test_drive_table_commit_failure_is_reported_to_every_request(
    table: DriveTable, path: Path
) -> None:
    for serial in ("D1", "D2"):
        table.enrol(serial, b"certificate", b"spki", OaepHash.SHA1)
    settles = [table.consume(serial, FINGERPRINT, 1, b"a" * 32)[1] for serial in ("D1", "D2")]
    table._database.execute("ROLLBACK")  # as SQLite does of itself when the disk is full
    for settle in settles:
        with pytest.raises(DriveTableError, match="failed"):
            settle()
    assert [drive.sequence for drive in table.drives()] == [0, 0]
    consume(table, "D1", FINGERPRINT, 1, b"a" * 32)


def test_drive_table_stores_the_last_nonces(table: DriveTable) -> None:
    table.enrol("D1", b"certificate", b"spki", OaepHash.SHA1)
    numbers = range(1, NONCES_KEPT + 4)
    for number in numbers:
        consume(table, "D1", FINGERPRINT, number, bytes([number]) * 32)
    used = [number for number in numbers if was_used(table, bytes([number]) * 32)]
    assert used == [*numbers][-NONCES_KEPT:]


def test_drive_table_may_be_open_in_two_processes(table: DriveTable, path: Path) -> None:
    with DriveTable(path) as other:
        other.enrol("D1", b"certificate", b"spki", OaepHash.SHA1)
        assert table.find("D1") is not None
        other.set_revoked("D1", True)
        drive = table.find("D1")
        assert drive is not None
        assert drive.revoked


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" * 300])
def test_drive_table_reports_a_damaged_file_in_one_sentence(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DriveTableError, match="is not a drive table, or is damaged"):
        DriveTable(path)
    assert path.read_bytes() == content, "evidence is left alone"


@pytest.mark.parametrize("version", [1, 2, 3])
def test_drive_table_upgrades_an_older_layout(path: Path, version: int) -> None:
    with sqlite3.connect(path) as old:
        for schema in drive_table._SCHEMAS[:version]:
            old.executescript(schema)
        if version < 3:
            old.execute("CREATE INDEX nonces_in_order ON nonces (serial, sequence)")
        old.execute(f"PRAGMA user_version = {version}")
        old.execute("INSERT INTO drives VALUES ('D1', ?, x'00', 'SHA-1', 0, 5)", (FINGERPRINT,))
        old.execute("INSERT INTO nonces VALUES ('D1', ?, 5)", (b"n" * 32,))
    old.close()
    with DriveTable(path) as table:
        with pytest.raises(ExchangeError) as refusal:
            consume(table, "D1", FINGERPRINT, 5, b"n" * 32)
        assert code_of(refusal) is ErrorCode.STALE_SEQUENCE  # though the nonce is forgotten
        assert consume(table, "D1", FINGERPRINT, 6, b"m" * 32).sequence == 5
        assert not table.is_retiring(b"h" * 32)
    with sqlite3.connect(path) as new:
        assert new.execute("PRAGMA user_version").fetchone() == (4,)
        made = new.execute("SELECT name FROM sqlite_schema WHERE sql <> ''").fetchall()
    new.close()
    assert sorted(made) == [("drives",), ("retiring",)]


def test_drive_table_leaves_a_newer_layout_unchanged(path: Path) -> None:
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 5")
    newer.close()
    with pytest.raises(DriveTableError, match="layout is version 5, this program knows 4"):
        DriveTable(path)


def test_drive_table_reports_an_absent_folder_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DriveTableError, match="Cannot open the drive table"):
        DriveTable(tmp_path / "absent" / "drives.sqlite")


_WRITE_FOREVER = """
import sys
from pathlib import Path
from hsm.ekm.drive_table import DriveTable
table = DriveTable(Path(sys.argv[1]))
drive = table.find("D1")
number = drive.sequence
while True:
    number += 1
    _, settle = table.consume("D1", drive.fingerprint, number, number.to_bytes(32, "big"))
    settle()
    print(number, flush=True)
"""


def test_drive_table_keeps_consumed_sequences_when_the_process_is_killed(path: Path) -> None:
    with DriveTable(path) as table:
        table.enrol("D1", b"certificate", b"spki", OaepHash.SHA1)
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITE_FOREVER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        last = [int(writer.stdout.readline()) for _ in range(20)][-1]
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        with DriveTable(path) as table:
            drive = table.find("D1")
            assert drive is not None
            assert drive.sequence >= last
            assert was_used(table, drive.sequence.to_bytes(32, "big"))


def test_drive_table_that_a_full_disk_keeps_shut_is_not_called_damaged(tmp_path: Path) -> None:
    DriveTable(tmp_path / "drives.sqlite").close()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no file can grow, as on a full disk
    try:
        with pytest.raises(DriveTableError, match="check the free space") as caught:
            DriveTable(tmp_path / "drives.sqlite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "damaged" not in str(caught.value)
    DriveTable(tmp_path / "drives.sqlite").close()
