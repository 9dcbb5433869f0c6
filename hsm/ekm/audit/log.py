"""Write the audit log; ``hsm.ekm.audit.hash_chain`` defines its format.

Each record is on the disk before the key manager answers. A line that a crash left incomplete was
never answered; the next writer cuts it off and records that.

One key manager owns a log; its worker processes write to it too. Each write holds a lock of the
file and continues from the last record, so there is one chain, whichever process writes or is
killed.

**Rotation** closes the file and continues in a new one, under the same lock. The last record of the
old file is ``rotated``. The new file is created under another name with a first record
``continued``; the old file gets its segment name as a hard link; the new one is renamed to the
log's name. There is a whole log under that name at every moment. A writer that finds ``rotated`` at
the end of its file switches to the new file; if the rotating process was killed, the writer
completes the rotation first.
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
    AuditEvent,
    AuditSummary,
    encode_record,
    parse_record,
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
    """Return a record's line with its newline, and the record's hash.

    Adds a ``hash`` member to ``content``. Its place in the line is unique: ``hash`` is never the
    first member, and within a JSON string every quotation mark follows a backslash.
    """
    content["hash"] = ""
    before, _, after = encode_record(content).partition(_NO_HASH)
    head = hashlib.sha256(before + after).hexdigest()
    return b'%b,"hash":"%b"%b\n' % (before, head.encode(), after), head


def _last_line(file: int, known: int, length: int) -> tuple[int, bytes]:
    """Return the end of the last whole line after offset ``known``, and it.

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
    """A writer of the audit log."""

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.time,
        *,
        joined: bool = False,
        on_record: Callable[[dict[str, Any]], None] = lambda record: None,
        rotate_bytes: int | None = None,
    ) -> None:
        """Open the log, verify it, and cut off an incomplete last line.

        ``clock`` returns Unix time in seconds; ``on_record`` is called with every existing record.
        With ``joined``, write to a log that another process owns and has verified. The writer that
        makes a file longer than ``rotate_bytes`` rotates it.
        """
        self.path = path
        self._clock = clock
        self._rotate_bytes = rotate_bytes or sys.maxsize
        self._count, self._head, self._length = 0, GENESIS, 0
        self._noted: list[dict[str, Any]] = []
        self._unsynced = False
        self.noted = 0
        """How many records this writer has buffered so far."""
        self._owner_file = -1
        self._file = self._open(0 if joined else os.O_CREAT)
        try:
            if not joined:
                self._lock_log(on_record)
        except BaseException:
            self.close()
            raise

    def _open(self, more: int = 0, path: Path | None = None) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | more
        try:
            return os.open(path or self.path, flags, 0o600)
        except OSError as error:
            raise AuditError(
                f"Cannot open the audit log {self.path}: {error.strerror}; see to its folder and "
                "its access rights."
            ) from error

    def _lock_log(self, on_record: Callable[[dict[str, Any]], None]) -> None:
        """Take the log for this process, with a lock file that rotation keeps."""
        self._owner_file = self._open(os.O_CREAT, self.path.with_name(f"{self.path.name}.lock"))
        try:
            fcntl.flock(self._owner_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AuditError(
                f"The audit log {self.path} is in use by another key manager; "
                "stop that one or configure another file."
            ) from None
        while not self._is_current():  # a worker of a killed key manager rotated meanwhile
            left, self._file = self._file, self._open()
            os.close(left)
        with self._locked():
            for record in records(self.path):
                self._count, self._head = record["number"], record["hash"]
                on_record(record)
        self._catch_up_locked()
        sync_directory(self.path.parent)
        self.sync()

    def _catch_up_locked(self) -> None:
        with self._locked():
            self._catch_up()

    @property
    def head(self) -> str:
        """The hash of the last record (hexadecimal), which commits to all records."""
        return self._head

    def append(self, event: AuditEvent, **details: str | int | list[str]) -> None:
        """Write a record and wait until it is on the disk."""
        self.note(event, **details)
        self.sync()

    def note(self, event: AuditEvent, **details: str | int | list[str]) -> None:
        """Buffer a record; ``write`` puts it in the file, ``sync`` on the disk.

        Details are serial numbers, volumes, labels, key hashes, outcomes; never a key.
        """
        self._noted.append(self._stamp(event, details))
        self.noted += 1

    def _stamp(self, event: AuditEvent, record: dict[str, Any]) -> dict[str, Any]:
        """Add time and event to a record; return it."""
        record["time"] = round(self._clock(), 6)
        record["event"] = event
        return record

    def write(self) -> None:
        """Write all buffered records to the file, where they outlive the process.

        Writes all of them or, with an AuditError, none, now or later.
        """
        noted, self._noted = self._noted, []
        if noted:
            with self._locked():
                self._catch_up()
                self._write(noted)
                if self._length > self._rotate_bytes:
                    with suppress(AuditError):  # the records are written; the next write fails
                        self._rotate()

    def rotate(self) -> Path:
        """Close the file and continue in a new one; return the closed segment."""
        self.write()
        with self._locked():
            self._catch_up()
            return self._rotate()

    def sync(self) -> None:
        """Write all buffered records and wait until they are on the disk.

        After a failure (AuditError) the content of the disk is unknown; this writer must end.
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
        """Whether a record may not be on the disk yet."""
        return self._unsynced or bool(self._noted)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the file's lock, which the kernel releases with its holder."""
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLKW, _LOCK)
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            yield
        finally:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLKW, _UNLOCK)

    def _catch_up(self) -> None:
        """Read the last whole line, and cut off what a killed writer left.

        Where another writer has rotated the log, switch to the new file.
        """
        while (length := os.fstat(self._file).st_size) != self._length:
            if self._read_last(length) != ROTATED:
                return
            self._switch_file()

    def _read_last(self, length: int) -> str:
        """Read number and hash of the last whole line; return its event."""
        data_end, line = length, b""
        if length > self._length:
            data_end, line = _last_line(self._file, self._length, length)
        content = parse_record(line) if line else {"number": self._count, "hash": self._head}
        number, head = content.get("number"), content.get("hash")
        if data_end < self._length or not isinstance(number, int) or not isinstance(head, str):
            raise AuditError(
                f"The audit log {self.path} was altered while it was written; keep the file as "
                "evidence and give the key manager a new one."
            )
        self._count, self._head, self._length = number, head, data_end
        if data_end < length:
            os.ftruncate(self._file, data_end)
            self._write([self._stamp("recovery", {"torn_bytes": length - data_end})])
            return "recovery"
        return str(content.get("event", ""))

    # Rotation, with the file's lock held

    def _rotate(self) -> Path:
        segment = segment_path(self.path, self._first_number())
        self._write([self._stamp(ROTATED, {"segment": segment.name})])
        self._switch_file()
        return segment

    def _first_number(self) -> int:
        line, place = b"", 0
        while b"\n" not in line:
            line += (part := os.pread(self._file, STEP, place))
            place += len(part)
            if not part:
                return 1  # an empty log
        return int(parse_record(line[: line.index(b"\n")]).get("number", 0))

    def _is_current(self) -> bool:
        """Return whether the open file is the one under the log's name."""
        return os.path.samestat(os.fstat(self._file), self.path.stat())

    def _switch_file(self) -> None:
        """Switch to the file that follows this one; create it if it is absent.

        The process may be killed after each step: the next writer finds the same end of this file
        and begins here again. The new file is locked before it gets its name, so no other process
        writes to it before the rotation is complete.
        """
        self._length = 0  # also when this fails: then the end of the file is read again
        following = -1
        try:
            if self._is_current():
                os.fsync(self._file)
                aside = self.path.with_name(f"{self.path.name}.next")
                following = self._open(os.O_CREAT | os.O_TRUNC, aside)
                fcntl.fcntl(following, fcntl.F_OFD_SETLKW, _LOCK)
                self._write_first_record(following)
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
                    "and is another file; move it to another folder."
                ) from None

    def _write_first_record(self, file: int) -> None:
        """Write the first record of the next file, and sync it to the disk."""
        segment = segment_path(self.path, self._first_number()).name
        record = self._stamp(CONTINUED, {"segment": segment})
        line, _ = _hashed_line({"number": self._count + 1, "previous": self._head, **record})
        if os.write(file, line) != len(line):
            raise OSError("the new file could not be written")
        os.fsync(file)

    def _write(self, noted: Sequence[dict[str, Any]]) -> None:
        """Chain records to the last one and write all of them or none."""
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
            with suppress(OSError):  # otherwise the next writer cuts off the torn line
                os.ftruncate(self._file, self._length)
            raise self._cannot_write(error) from error
        self._count, self._head, self._length = count, head, self._length + len(data)

    def _cannot_write(self, error: OSError) -> AuditError:
        return AuditError(f"Cannot write the audit log {self.path}: {error}.")

    def close(self) -> None:
        """Close the file; an owner releases the log."""
        os.close(self._file)
        if self._owner_file >= 0:
            os.close(self._owner_file)

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
