"""The audit log: append-only, one JSON line a record, each bound to the one before by a hash.

A record's ``hash`` is SHA-256 of its line without that member; its ``previous`` is the hash of the
line before, so a changed, removed or inserted line breaks the chain at a known place. Cutting whole
lines off the end is not detectable from the file alone: keep ``head`` elsewhere for that. Each
record is on the disk before the key manager answers. A line that a crash left half-written
was never answered; it is cut off at the next start, and a record says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from hsm.ekm.errors import EkmError

GENESIS = "0" * 64
"""What the first record has for ``previous``."""


class AuditError(EkmError):
    """The audit log cannot be used or does not verify."""


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """A verified log: how many records, the last one's hash, bytes of a half-written last line."""

    records: int
    head: str
    torn_bytes: int
    length: int


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(_line(content)).hexdigest()


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


def _end_of_lines(path: Path) -> tuple[int, int]:
    """Return the offset just after the last newline, and the file's length, both in bytes."""
    length = path.stat().st_size
    with path.open("rb") as log:
        end = length
        while end > 0:
            begin = max(0, end - 65536)
            log.seek(begin)
            newline = log.read(end - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1, length
            end = begin
    return 0, length


class AuditLog:
    """The log as its one writer has it."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open the log, verify it whole, and cut off a line that a crash left half-written.

        ``clock`` gives Unix time in seconds.
        """
        self.path = path
        self._clock = clock
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise AuditError(f"Cannot open the audit log {path}: {error}.") from error
        try:
            self._begin()
        except BaseException:
            os.close(self._file)
            raise

    def _begin(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AuditError(
                f"The audit log {self.path} is in use by another key manager; "
                "stop that one or configure another file."
            ) from None
        summary = verify(self.path)
        self._count, self._head, self._length = summary.records, summary.head, summary.length
        if summary.torn_bytes:
            os.ftruncate(self._file, summary.length)
            self.append("recovery", torn_bytes=summary.torn_bytes)

    @property
    def head(self) -> str:
        """The last record's hash (hexadecimal), which stands for the whole log."""
        return self._head

    def append(self, event: str, **details: str | int | list[str]) -> None:
        """Write a record and return when it is on the disk.

        Details are serial numbers, volumes, labels, key hashes, outcomes; never a key.
        """
        content: dict[str, Any] = {
            "number": self._count + 1,
            "time": round(self._clock(), 6),
            "event": event,
            "previous": self._head,
            **details,
        }
        head = _hash(content)
        line = _line(content | {"hash": head}) + b"\n"
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written")
            os.fsync(self._file)
        except OSError as error:
            self._cut_back()
            raise AuditError(f"Cannot write the audit log {self.path}: {error}.") from error
        self._count, self._head, self._length = self._count + 1, head, self._length + len(line)

    def _cut_back(self) -> None:
        """Take back a record that is not safely on the disk, so that the chain goes on."""
        try:
            os.ftruncate(self._file, self._length)
        except OSError:
            return  # the torn line is found at the next start

    def close(self) -> None:
        """Close the file and let another writer have it."""
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
