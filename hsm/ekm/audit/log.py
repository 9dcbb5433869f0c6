"""Write the audit log; ``hsm.ekm.audit.hash_chain`` has its format and verifies it.

Each record is on the disk before the key manager answers. A line that a crash left half-written
was never answered; it is cut off by the next writer, and a record says so.

One key manager owns a log; its worker processes join in. They write under a lock of the file, each
from where the one before ended, so there is one chain, whoever writes and whoever is killed.

**Rotation** closes the file and goes on in a new one, under the same lock: the last record of the
old file says ``rotated``; the new file is made aside with a first record ``continued``; the old one
gets its name as a segment, a link; the new one is moved over the log's name. There is a whole log
under that name at every moment. A writer that finds ``rotated`` at the end of its file goes over to
the new one; if whoever rotated was killed in between, it finishes that first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from hsm.ekm.audit.hash_chain import (
    CONTINUED,
    GENESIS,
    STEP,
    AuditError,
    AuditSummary,
    encoded,
    parsed,
    records,
    segment_path,
    verify,
)
from hsm.files import sync_directory

__all__ = ["GENESIS", "AuditError", "AuditLog", "AuditSummary", "records", "verify"]

ROTATED: Final = "rotated"
"""The event of the last record of a closed file."""
_NO_HASH: Final = b',"hash":""'
_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_UNLOCK = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)


def _hashed_line(content: dict[str, Any]) -> tuple[bytes, str]:
    """Return a record's line with its newline, and its hash; give the record room for that.

    The hash is not the first member, and no text looks like its place, since within a text no
    quotation mark is without a backslash.
    """
    content["hash"] = ""
    before, _, after = encoded(content).partition(_NO_HASH)
    head = hashlib.sha256(before + after).hexdigest()
    return b'%b,"hash":"%b"%b\n' % (before, head.encode(), after), head


def _last_line(file: int, known: int, length: int) -> tuple[int, bytes]:
    """Return where the last whole line after offset ``known`` ends, and that line.

    The line is empty, and the offset ``known``, when there is none.
    """
    begin = max(known, length - STEP)
    while True:
        data = os.pread(file, length - begin, begin)
        end = data.rfind(b"\n") + 1
        start = data.rfind(b"\n", 0, end - 1) + 1 if end else 0
        if begin == known or (end and start):
            return begin + end, data[start:end]
        begin = max(known, begin - STEP)


class AuditLog:
    """The log as one of its writers has it."""

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.time,
        *,
        joined: bool = False,
        on_record: Callable[[dict[str, Any]], None] = lambda record: None,
        rotate_bytes: int | None = None,
    ) -> None:
        """Open the log, verify it whole, and cut off a line that a crash left half-written.

        ``clock`` gives Unix time in seconds; ``on_record`` is shown every record there is. With
        ``joined``, write to a log that another process owns and has verified. A file that is longer
        than ``rotate_bytes`` is closed by whoever wrote the last record to it.
        """
        self.path = path
        self._clock = clock
        self._rotate_bytes = rotate_bytes or sys.maxsize
        self._count, self._head, self._length = 0, GENESIS, 0
        self._noted: list[dict[str, Any]] = []
        self._unsynced = False
        self.noted = 0
        """How many records this writer has noted."""
        self._owned = -1
        self._file = self._open(0 if joined else os.O_CREAT)
        try:
            if not joined:
                self._own(on_record)
        except BaseException:
            self.close()
            raise

    def _open(self, more: int = 0, path: Path | None = None) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | more
        try:
            return os.open(path or self.path, flags, 0o600)
        except OSError as error:
            raise AuditError(f"Cannot open the audit log {self.path}: {error}.") from error

    def _own(self, on_record: Callable[[dict[str, Any]], None]) -> None:
        """Take the log for this process alone, through a file that rotation leaves in place."""
        self._owned = self._open(os.O_CREAT, self.path.with_name(f"{self.path.name}.lock"))
        try:
            fcntl.flock(self._owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AuditError(
                f"The audit log {self.path} is in use by another key manager; "
                "stop that one or configure another file."
            ) from None
        while not self._is_current():  # a worker of a killed key manager rotated meanwhile
            left, self._file = self._file, self._open()
            os.close(left)
        with self._alone():
            for record in records(self.path):
                self._count, self._head = record["number"], record["hash"]
                on_record(record)
        self._catch_up_alone()
        sync_directory(self.path.parent)
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
        self._noted.append(self._now(event, details))
        self.noted += 1

    def _now(self, event: str, record: dict[str, Any]) -> dict[str, Any]:
        """Return the record, which now tells the time and the event too."""
        record["time"] = round(self._clock(), 6)
        record["event"] = event
        return record

    def write(self) -> None:
        """Write all that was noted; a process that is killed from then on loses none of it.

        All of it or, with an AuditError, nothing, now or later.
        """
        noted, self._noted = self._noted, []
        if noted:
            with self._alone():
                self._catch_up()
                self._write(noted)
                if self._length > self._rotate_bytes:
                    with suppress(AuditError):  # what was noted is written; the next one is told
                        self._rotate()

    def rotate(self) -> Path:
        """Close the file and go on in a new one; return the closed segment. All is on the disk."""
        self.write()
        with self._alone():
            self._catch_up()
            return self._rotate()

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
        """Go on from the last whole line, whoever wrote it; cut off what a killed writer left.

        Where another writer has gone on in a new file, go over to that one, and look there.
        """
        while (length := os.fstat(self._file).st_size) != self._length:
            if self._take_last(length) != ROTATED:
                return
            self._go_over()

    def _take_last(self, length: int) -> str:
        """Take over number and hash of the last whole line; return its event."""
        data_end, line = length, b""
        if length > self._length:
            data_end, line = _last_line(self._file, self._length, length)
        content = parsed(line) if line else {"number": self._count, "hash": self._head}
        number, head = content.get("number"), content.get("hash")
        if data_end < self._length or not isinstance(number, int) or not isinstance(head, str):
            raise AuditError(
                f"The audit log {self.path} was altered while it was written; keep the file as "
                "evidence and give the key manager a new one."
            )
        self._count, self._head, self._length = number, head, data_end
        if data_end < length:
            os.ftruncate(self._file, data_end)
            self._write([self._now("recovery", {"torn_bytes": length - data_end})])
            return "recovery"
        return str(content.get("event", ""))

    # Rotation; the file's lock is held

    def _rotate(self) -> Path:
        segment = segment_path(self.path, self._first_number())
        self._write([self._now(ROTATED, {"segment": segment.name})])
        self._go_over()
        return segment

    def _first_number(self) -> int:
        line, place = b"", 0
        while b"\n" not in line:
            line += (part := os.pread(self._file, STEP, place))
            place += len(part)
            if not part:
                return 1  # an empty log
        return int(parsed(line[: line.index(b"\n")]).get("number", 0))

    def _is_current(self) -> bool:
        """Say whether the open file is the one under the log's name."""
        return os.path.samestat(os.fstat(self._file), self.path.stat())

    def _go_over(self) -> None:
        """Go over to the file that follows this one; make it first, if nobody did.

        Each step may be the last one of a process: whoever comes next finds the same end of this
        file and begins again here. The new file's lock is taken before it can be found, so nobody
        writes to it before it is there for good.
        """
        self._length = 0  # also when this fails: then the end of the file is looked at again
        following = -1
        try:
            if self._is_current():
                os.fsync(self._file)
                aside = self.path.with_name(f"{self.path.name}.next")
                following = self._open(os.O_CREAT | os.O_TRUNC, aside)
                fcntl.fcntl(following, fcntl.F_OFD_SETLKW, _LOCK)
                self._begin(following)
                self._name_segment()
                aside.rename(self.path)
            else:
                following = self._open()
                fcntl.fcntl(following, fcntl.F_OFD_SETLKW, _LOCK)
            sync_directory(self.path.parent)
        except BaseException as error:
            if following >= 0:
                os.close(following)
            if isinstance(error, OSError):
                raise self._cannot_write(error) from error
            raise
        os.close(self._file)  # and its lock is free
        self._file, self._unsynced = following, False

    def _name_segment(self) -> None:
        segment = segment_path(self.path, self._first_number())
        try:
            os.link(self.path, segment)
        except FileExistsError:
            if not os.path.samestat(os.fstat(self._file), segment.stat()):
                raise AuditError(
                    f"The audit log {self.path} cannot be rotated: {segment.name} is there already "
                    "and is another file; move that away."
                ) from None

    def _begin(self, file: int) -> None:
        """Write the first record of the file that follows this one; it is on the disk then."""
        segment = segment_path(self.path, self._first_number()).name
        record = self._now(CONTINUED, {"segment": segment})
        line, _ = _hashed_line({"number": self._count + 1, "previous": self._head, **record})
        if os.write(file, line) != len(line):
            raise OSError("the new file could not be written")
        os.fsync(file)

    def _write(self, noted: Sequence[dict[str, Any]]) -> None:
        """Chain records to the last and write them, all or none."""
        count, head = self._count, self._head
        lines = []
        for record in noted:
            count += 1
            record["number"], record["previous"] = count, head
            line, head = _hashed_line(record)
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
        if self._owned >= 0:
            os.close(self._owned)

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
