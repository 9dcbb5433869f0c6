"""The drive table: the drives that may request keys, and their state.

It is one SQLite file. Each change is on the disk before the method returns, so neither a crash nor
a power cut restores an old sequence number or a revoked drive. A serving key manager flushes its
audit log before it answers, and omits the table's own flush (``logged``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hsm.ekm.protocol.errors import EkmError, ErrorCode, ExchangeError
from hsm.ekm.protocol.identities import fingerprint
from hsm.pkcs11.oaep import OaepHash

NONCES_KEPT = 16
"""Nonces stored for each drive; older ones are covered by the sequence number."""

_OAEP_HASHES = {each.value: each for each in OaepHash}
_BUSY_SECONDS = 5.0
_LOG_PAGES = 4000
"""Pages (4 KiB) in the write-ahead log before a checkpoint."""
_SCHEMA = """
CREATE TABLE drives (
    serial TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    wrap_spki BLOB NOT NULL,
    oaep_hash TEXT NOT NULL CHECK (oaep_hash IN ('SHA-1', 'SHA-256')),
    revoked INTEGER NOT NULL DEFAULT 0,
    sequence INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE nonces (
    serial TEXT NOT NULL REFERENCES drives (serial),
    nonce BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (serial, nonce)
) STRICT, WITHOUT ROWID;
"""
_SCHEMA_2 = """
CREATE TABLE retiring (
    kek_hash BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;
"""
"""KEKs that get no new EEDKs, by SHA-256 of their SubjectPublicKeyInfo."""
_SCHEMA_3 = """
DROP INDEX IF EXISTS nonces_in_order;
PRAGMA user_version = 3;
"""
"""Old nonces are dropped too seldom for an index, which each request would write."""
_SCHEMA_4 = """
DROP TABLE nonces;
ALTER TABLE drives ADD COLUMN nonces BLOB NOT NULL DEFAULT x'';
PRAGMA user_version = 4;
"""
"""The last nonces of a drive are in its row, latest first: one page written, not two."""
_SCHEMAS = (_SCHEMA, _SCHEMA_2, _SCHEMA_3, _SCHEMA_4)
"""The statements that lead from each version to the next."""


class DriveTableError(EkmError):
    """The drive table's file is unusable, or a change to it is impossible."""


def note_sequence(used: dict[str, int], record: Mapping[str, Any]) -> None:
    """Add the sequence number of an audit record to ``used``, by drive serial."""
    if record["event"] == "key-reply" and "sequence" in record:
        serial = record["serial"]
        used[serial] = max(record["sequence"], used.get(serial, 0))


@dataclass(frozen=True, slots=True)
class EnrolledDrive:
    """A drive that may request keys.

    ``fingerprint`` is that of its signing certificate; ``wrap_spki`` (DER) is the RSA public key
    that its data keys are wrapped with, ``oaep_hash`` the hash that its secure element supports;
    ``sequence`` is the last sequence number that it used.
    """

    serial: str
    fingerprint: bytes
    wrap_spki: bytes
    oaep_hash: OaepHash
    revoked: bool = False
    sequence: int = 0


def _drive(
    serial: str, fingerprint_: bytes, spki: bytes, oaep_hash: str, revoked: int, sequence: int
) -> EnrolledDrive:
    return EnrolledDrive(
        serial, fingerprint_, spki, _OAEP_HASHES[oaep_hash], bool(revoked), sequence
    )


def _require_admitted(serial: str, drive: EnrolledDrive | None) -> EnrolledDrive:
    """Return a drive that may request keys.

    Raises ExchangeError with UNKNOWN_DRIVE or REVOKED_DRIVE for one that may not.
    """
    if drive is None:
        raise ExchangeError(ErrorCode.UNKNOWN_DRIVE, f"Drive {serial} is not in the drive table.")
    if drive.revoked:
        raise ExchangeError(
            ErrorCode.REVOKED_DRIVE, f"Drive {serial} is revoked in the drive table."
        )
    return drive


class _Group:
    """One transaction for several requests: all take effect or none."""

    def __init__(self, commit: Callable[[], None]) -> None:
        self._commit = commit
        self._open = True
        self._failure: DriveTableError | None = None

    def fail(self, error: DriveTableError) -> None:
        """Make ``settle`` of each request raise this error."""
        self._open, self._failure = False, error

    def settle(self) -> None:
        """Commit once for all requests; raises DriveTableError when that failed."""
        if self._open:
            self._open = False
            try:
                self._commit()
            except DriveTableError as error:
                self._failure = error
        if self._failure is not None:
            raise self._failure


def _refusal(path: Path, error: sqlite3.Error) -> str:
    """Say why a table cannot be opened; only a damaged one is to be replaced."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without its extension
    if code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return (
            f"{path} is not a drive table, or is damaged ({error}); restore it from a copy, "
            "or move it away and enrol the drives again."
        )
    return (
        f"Cannot use the drive table {path}: {error}; check the free space and the access rights "
        "of its folder."
    )


class DriveTable:
    """The drive table's file, which several processes may have open."""

    def __init__(self, path: Path, *, logged: bool = False) -> None:
        """Open the table; create it when the file is absent.

        With ``logged``, changes by ``consume`` need not reach the disk at once, because the audit
        log has them too: after a power cut ``raise_sequences`` restores them.
        """
        self.path = path
        self._group: _Group | None = None
        self._synchronous = "NORMAL" if logged else "FULL"
        try:
            path.touch(mode=0o600, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise DriveTableError(f"Cannot open the drive table {path}: {error}.") from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._database.close()
            raise DriveTableError(_refusal(path, error)) from error

    def _prepare(self) -> None:
        run = self._database.execute
        run("PRAGMA journal_mode = WAL")  # one disk write for each change, not three
        run(f"PRAGMA synchronous = {self._synchronous}")
        run(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        run("PRAGMA foreign_keys = ON")
        with self._transaction():
            version = run("PRAGMA user_version").fetchone()[0]
            tables = run("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if version > len(_SCHEMAS) or (version == 0 and tables):
                raise sqlite3.DatabaseError(
                    f"its layout is version {version}, this program knows {len(_SCHEMAS)}"
                )
            for statement in ";".join(_SCHEMAS[version:]).split(";"):
                run(statement)
        if run("PRAGMA quick_check").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("its pages are inconsistent")

    def __enter__(self) -> Self:
        """Return the open table."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the table."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> DriveTableError:
        return DriveTableError(f"The drive table {self.path} failed: {error}.")

    def enrol(
        self, serial: str, certificate_der: bytes, wrap_spki: bytes, oaep_hash: OaepHash
    ) -> None:
        """Enrol a drive, or replace a known drive's certificate and wrapping key.

        A known drive keeps its sequence number and stays revoked if it is.
        """
        with self._reported(), self._transaction():
            self._database.execute(
                "INSERT INTO drives (serial, fingerprint, wrap_spki, oaep_hash) "
                "VALUES (?, ?, ?, ?) ON CONFLICT (serial) DO UPDATE SET "
                "fingerprint = excluded.fingerprint, wrap_spki = excluded.wrap_spki, "
                "oaep_hash = excluded.oaep_hash",
                (serial, fingerprint(certificate_der), wrap_spki, oaep_hash.value),
            )

    def set_revoked(self, serial: str, revoked: bool) -> None:
        """Revoke a drive, or admit it again."""
        with self._reported(), self._transaction():
            changed = self._database.execute(
                "UPDATE drives SET revoked = ? WHERE serial = ?", (int(revoked), serial)
            ).rowcount
        if not changed:
            raise DriveTableError(
                f"Drive {serial} is not in the drive table {self.path}; enrol it first."
            )

    def set_retiring(self, kek_hash: bytes, retiring: bool) -> None:
        """Set whether a KEK gets no new EEDKs, because it is to be removed."""
        with self._reported(), self._transaction():
            if retiring:
                self._database.execute("INSERT OR IGNORE INTO retiring VALUES (?)", (kek_hash,))
            else:
                self._database.execute("DELETE FROM retiring WHERE kek_hash = ?", (kek_hash,))

    def is_retiring(self, kek_hash: bytes) -> bool:
        """Return whether this KEK gets no new EEDKs."""
        with self._reported():
            row = self._database.execute(
                "SELECT 1 FROM retiring WHERE kek_hash = ?", (kek_hash,)
            ).fetchone()
        return row is not None

    def find(self, serial: str) -> EnrolledDrive | None:
        """Return the drive, or None when it was never enrolled."""
        return next(iter(self._select("WHERE serial = ?", serial)), None)

    def drives(self) -> list[EnrolledDrive]:
        """Return all drives, ordered by serial number."""
        return self._select("ORDER BY serial")

    def _select(self, clause: str, *values: str) -> list[EnrolledDrive]:
        with self._reported():
            rows = self._database.execute(
                "SELECT serial, fingerprint, wrap_spki, oaep_hash, revoked, sequence FROM drives "
                + clause,
                values,
            ).fetchall()
        return [_drive(*row) for row in rows]

    def _look_up(self, serial: str) -> tuple[EnrolledDrive | None, bytes]:
        """Return the drive and the nonces of its last requests."""
        row = self._database.execute(
            "SELECT serial, fingerprint, wrap_spki, oaep_hash, revoked, sequence, nonces "
            "FROM drives WHERE serial = ?",
            (serial,),
        ).fetchone()
        return (None, b"") if row is None else (_drive(*row[:6]), row[6])

    def raise_sequences(self, sequences: Mapping[str, int]) -> None:
        """Raise sequence numbers to those in the audit log, by drive serial."""
        with self._reported(), self._transaction():
            self._database.executemany(
                "UPDATE drives SET sequence = max(sequence, ?) WHERE serial = ?",
                [(sequence, serial) for serial, sequence in sequences.items()],
            )

    def consume(
        self, serial: str, fingerprint_: bytes, sequence: int, nonce: bytes
    ) -> tuple[EnrolledDrive, Callable[[], None]]:
        """Consume a request's sequence number and nonce; return its drive.

        ``fingerprint_`` is that of the certificate in the request. Raises ExchangeError with
        UNKNOWN_DRIVE, REVOKED_DRIVE, CERTIFICATE_MISMATCH, STALE_SEQUENCE or REPLAYED_NONCE,
        changing nothing.

        Several requests share one transaction. Returns also a function. Call it soon and once for
        each request: only then are sequence number and nonce consumed permanently. Both raise
        DriveTableError.
        """
        group, began = self._group, False
        try:
            if group is None:
                self._database.execute("BEGIN IMMEDIATE")
                group, began = _Group(self._commit_group), True
                self._group = group
            drive = self._consume(serial, fingerprint_, sequence, nonce)
        except sqlite3.Error as error:
            failure = self._failed(error)
            if group is not None:
                group.fail(failure)
                self._roll_back_group()
            raise failure from error
        except BaseException:
            if began:  # no caller will settle it
                self._roll_back_group()
            raise
        return drive, group.settle

    def _commit_group(self) -> None:
        try:
            with self._reported():
                self._database.execute("COMMIT")
        except DriveTableError:
            self._roll_back_group()
            raise
        self._group = None

    def _roll_back_group(self) -> None:
        self._group = None
        with suppress(sqlite3.Error):  # SQLite may have rolled it back itself
            self._database.execute("ROLLBACK")

    def _consume(
        self, serial: str, fingerprint_: bytes, sequence: int, nonce: bytes
    ) -> EnrolledDrive:
        """Check everything before writing, so that a refusal changes nothing."""
        found, nonces = self._look_up(serial)
        drive = _require_admitted(serial, found)
        if fingerprint_ != drive.fingerprint:
            raise ExchangeError(
                ErrorCode.CERTIFICATE_MISMATCH,
                f"Drive {serial} showed a certificate other than the enrolled one.",
            )
        if sequence <= drive.sequence:
            raise ExchangeError(
                ErrorCode.STALE_SEQUENCE,
                f"Drive {serial} sent sequence number {sequence}, but {drive.sequence} was used "
                "already: an old request is being replayed, or the drive's clock was set back.",
            )
        if nonce in nonces:  # a match across two nonces has a probability of 2**-240
            raise ExchangeError(
                ErrorCode.REPLAYED_NONCE,
                f"Drive {serial} sent a nonce that it has used before: "
                "an old exchange is being replayed.",
            )
        self._database.execute(
            "UPDATE drives SET sequence = ?, nonces = ? WHERE serial = ?",
            (sequence, (nonce + nonces)[: NONCES_KEPT * len(nonce)], serial),
        )
        return drive
