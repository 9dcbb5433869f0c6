"""The audit log: append-only, one JSON line a record, each bound to the one before by a hash.

A record's ``hash`` is SHA-256 of its line without that member; its ``previous`` is the hash of the
line before, so a changed, removed or inserted line breaks the chain at a known place. Cutting whole
lines off the end is not detectable from the file alone: keep ``head`` elsewhere for that. Each
record is on the disk before the key manager answers. A line that a crash left half-written
was never answered; it is cut off by the next writer, and a record says so.

One key manager owns a log; its worker processes join in. They write under a lock of the file, each
from where the one before ended, so there is one chain, whoever writes and whoever is killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from hsm.ekm.errors import EkmError

GENESIS = "0" * 64
"""What the first record has for ``previous``."""
_STEP = 65536
"""Bytes that are read at a time when the end of the log is looked for."""
_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_UNLOCK = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)


class AuditError(EkmError):
    """The audit log cannot be used or does not verify."""


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """A verified log: how many records, the last one's hash, bytes of a half-written last line."""

    records: int
    head: str
    torn_bytes: int
    length: int


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def _line(content: dict[str, Any]) -> bytes:
    return _ENCODER.encode(content).encode()


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(_line(content)).hexdigest()


def _hashed_line(content: dict[str, Any]) -> tuple[bytes, str]:
    """Return a record's line with its newline, and its hash; encodes each member once."""
    before = _line({key: value for key, value in content.items() if key < "hash"})[:-1]
    after = _line({key: value for key, value in content.items() if key > "hash"})[1:]
    head = hashlib.sha256(before + b"," + after).hexdigest()
    return b'%b,"hash":"%b",%b\n' % (before, head.encode(), after), head


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records in order, verifying as it goes; a torn last line is left out.

    Raises AuditError with the number of the first line that does not fit.
    """
    try:
        with path.open("rb") as log:
            yield from _verified(path, log)
    except OSError as error:
        raise AuditError(f"Cannot read the audit log {path}: {error}.") from error


def _verified(path: Path, log: BinaryIO) -> Iterator[dict[str, Any]]:
    previous = GENESIS
    for number, line in enumerate(log, start=1):
        if not line.endswith(b"\n"):
            return
        content = _parsed(line)
        stored = content.pop("hash", None)
        if (
            content.get("previous") != previous
            or content.get("number") != number
            or stored != _hash(content)
            or _line(content | {"hash": stored}) + b"\n" != line
        ):
            raise AuditError(
                f"The audit log {path} was altered: line {number} does not fit the chain; "
                "keep the file as evidence and give the key manager a new one."
            )
        previous = stored
        yield content | {"hash": stored}


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def verify(path: Path) -> AuditSummary:
    """Return what the log holds; raise AuditError when its chain is broken."""
    count, head = 0, GENESIS
    for record in records(path):
        count, head = record["number"], record["hash"]
    data_end, length = _end_of_lines(path)
    return AuditSummary(count, head, torn_bytes=length - data_end, length=data_end)


def _last_line(file: int, known: int, length: int) -> tuple[int, bytes]:
    """Return where the last whole line after offset ``known`` ends, and that line.

    The line is empty, and the offset ``known``, when there is none.
    """
    begin = max(known, length - _STEP)
    while True:
        data = os.pread(file, length - begin, begin)
        end = data.rfind(b"\n") + 1
        start = data.rfind(b"\n", 0, end - 1) + 1 if end else 0
        if begin == known or (end and start):
            return begin + end, data[start:end]
        begin = max(known, begin - _STEP)


def _end_of_lines(path: Path) -> tuple[int, int]:
    """Return the offset just after the last newline, and the file's length, both in bytes."""
    length = path.stat().st_size
    with path.open("rb") as log:
        end = length
        while end > 0:
            begin = max(0, end - _STEP)
            log.seek(begin)
            newline = log.read(end - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1, length
            end = begin
    return 0, length


class AuditLog:
    """The log as one of its writers has it."""

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.time,
        *,
        joined: bool = False,
        on_record: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> None:
        """Open the log, verify it whole, and cut off a line that a crash left half-written.

        ``clock`` gives Unix time in seconds; ``on_record`` is shown every record there is. With
        ``joined``, write to a log that another process owns and has verified.
        """
        self.path = path
        self._clock = clock
        self._count, self._head, self._length = 0, GENESIS, 0
        self._noted: list[dict[str, Any]] = []
        self._unsynced = False
        self.noted = 0
        """How many records this writer has noted."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (0 if joined else os.O_CREAT)
        try:
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            raise AuditError(f"Cannot open the audit log {path}: {error}.") from error
        try:
            if not joined:
                self._own(on_record)
        except BaseException:
            os.close(self._file)
            raise

    def _own(self, on_record: Callable[[dict[str, Any]], None]) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AuditError(
                f"The audit log {self.path} is in use by another key manager; "
                "stop that one or configure another file."
            ) from None
        with self._alone():
            for record in records(self.path):
                self._count, self._head = record["number"], record["hash"]
                on_record(record)
            self._length, _ = _end_of_lines(self.path)
        self._catch_up_alone()
        self.sync()

    def _catch_up_alone(self) -> None:
        with self._alone():
            self._catch_up()

    @property
    def head(self) -> str:
        """The last record's hash (hexadecimal), which stands for the whole log."""
        return self._head

    def append(self, event: str, **details: str | int | list[str]) -> None:
        """Write a record and return when it is on the disk."""
        self.note(event, **details)
        self.sync()

    def note(self, event: str, **details: str | int | list[str]) -> None:
        """Take a record, which is in the file after ``write`` and on the disk after ``sync``.

        Details are serial numbers, volumes, labels, key hashes, outcomes; never a key.
        """
        self._noted.append({"time": round(self._clock(), 6), "event": event, **details})
        self.noted += 1

    def write(self) -> None:
        """Write all that was noted; a process that is killed from then on loses none of it.

        All of it or, with an AuditError, nothing, now or later.
        """
        noted, self._noted = self._noted, []
        if noted:
            with self._alone():
                self._catch_up()
                self._write(noted)

    def sync(self) -> None:
        """Return when all that was noted is on the disk.

        After a failure (AuditError) nobody knows what is on the disk; this writer must end.
        """
        self.write()
        if self._unsynced:
            try:
                os.fsync(self._file)
            except OSError as error:
                raise self._cannot_write(error) from error
            self._unsynced = False

    @property
    def unsynced(self) -> bool:
        """Whether something was noted that may not be on the disk yet."""
        return self._unsynced or bool(self._noted)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep the other writers out (a lock of the open file, gone when its holder is killed)."""
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLKW, _LOCK)
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            yield
        finally:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLKW, _UNLOCK)

    def _catch_up(self) -> None:
        """Go on from the last whole line, whoever wrote it; cut off what a killed writer left."""
        length = os.fstat(self._file).st_size
        if length == self._length:
            return
        data_end, line = length, b""
        if length > self._length:
            data_end, line = _last_line(self._file, self._length, length)
        content = _parsed(line) if line else {"number": self._count, "hash": self._head}
        number, head = content.get("number"), content.get("hash")
        if data_end < self._length or not isinstance(number, int) or not isinstance(head, str):
            raise AuditError(
                f"The audit log {self.path} was altered while it was written; keep the file as "
                "evidence and give the key manager a new one."
            )
        self._count, self._head, self._length = number, head, data_end
        if data_end < length:
            os.ftruncate(self._file, data_end)
            torn = {"event": "recovery", "torn_bytes": length - data_end}
            self._write([{"time": round(self._clock(), 6), **torn}])

    def _write(self, noted: Sequence[dict[str, Any]]) -> None:
        """Chain records to the last and write them, all or none."""
        count, head = self._count, self._head
        lines = []
        for record in noted:
            count += 1
            line, head = _hashed_line({"number": count, "previous": head, **record})
            lines.append(line)
        data = b"".join(lines)
        self._unsynced = True
        try:
            written = os.write(self._file, data)
            if written != len(data):
                raise OSError(f"only {written} of {len(data)} bytes were written")
        except OSError as error:
            with suppress(OSError):  # else the torn line is found by the next writer
                os.ftruncate(self._file, self._length)
            raise self._cannot_write(error) from error
        self._count, self._head, self._length = count, head, self._length + len(data)

    def _cannot_write(self, error: OSError) -> AuditError:
        return AuditError(f"Cannot write the audit log {self.path}: {error}.")

    def close(self) -> None:
        """Close the file; the owner lets another one have it."""
        os.close(self._file)

    def __enter__(self) -> Self:
        """Return the open log."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the log."""
        self.close()
