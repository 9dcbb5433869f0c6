"""Read and verify an audit log: JSON lines bound by a hash chain.

A record's ``hash`` is SHA-256 of its line without that member; its ``previous`` is the hash of the
record before, so a changed, removed or inserted line breaks the chain at a known line. Whole lines
that were cut off the end are not detectable from the files alone: keep ``head`` elsewhere for that.

The chain continues over files: ``audit.jsonl`` is written, ``audit.jsonl.000000004712`` is a closed
segment that begins with record 4712. Segments may be archived, the oldest first. The rest still
verifies: its first record names the hash of the last record that was archived, and a record
``archived`` says that this part was removed on purpose.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from hsm.ekm.protocol.errors import EkmError

AuditEvent = Literal[
    "start",
    "stop",
    "recovery",
    "worker-lost",
    "connection",
    "label-query",
    "key-reply",
    "ack",
    "no-ack",
    "refusal",
    "drive-error",
    "admin",
    "cartridge-known",
    "cartridge-forgotten",
    "archived",
    "rotated",
    "continued",
]
"""The events that records are about."""
GENESIS: Final = "0" * 64
"""The value of ``previous`` in the first record of a log."""
CONTINUED: Final = "continued"
"""The event of the first record of a file that follows another one."""
ARCHIVED: Final = "archived"
"""The event that says through which record, with which hash, the log was archived."""
STEP: Final = 65536
"""Bytes read at a time when searching the end of the log."""
MAX_LINE: Final = 1024 * 1024
"""Longest line, in bytes, that is read as a record; real ones are much shorter."""
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_HASH: Final = re.compile(r"[0-9a-f]{64}")


class AuditError(EkmError):
    """The audit log cannot be used or does not verify."""


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """The result of verifying a log.

    ``records`` are their number, ``head`` is the hash of the last one, ``torn_bytes`` is the size
    of a partly written last line. The chain begins with record ``first``; the record before that,
    if there was one, had the hash ``anchor``. ``archived`` says whether the log records that the
    missing part was archived (true when nothing is missing). ``files`` is the number of files read.
    """

    records: int
    head: str
    torn_bytes: int
    length: int
    first: int = 1
    anchor: str = GENESIS
    archived: bool = True
    files: int = 1


def encode_record(content: dict[str, Any]) -> bytes:
    """Return a record's line, without its newline."""
    return _ENCODER.encode(content).encode()


def record_hash(content: dict[str, Any]) -> str:
    """Return the hash of a record that has no hash yet."""
    return hashlib.sha256(encode_record(content)).hexdigest()


def parse_record(line: bytes) -> dict[str, Any]:
    """Return the record in a line; an empty dictionary when there is none."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def segment_path(path: Path, first: int) -> Path:
    """Return the name of the closed segment that begins with record ``first``."""
    return path.with_name(f"{path.name}.{first:012d}")


def segments(path: Path, archive: Path | None = None) -> list[Path]:
    """Return the closed segments of a log in order, with those in ``archive``."""
    name = re.compile(re.escape(path.name) + r"\.\d{12}")
    found: dict[str, Path] = {}
    for folder in (archive, path.parent):
        if folder is not None:
            found |= {each.name: each for each in folder.iterdir() if name.fullmatch(each.name)}
    return [found[each] for each in sorted(found)]


def records(path: Path, archive: Path | None = None) -> Iterator[dict[str, Any]]:
    """Verify the log record by record and yield each; skip a torn last line.

    ``archive`` is a folder with older segments. Raises AuditError with file and number of the
    first line that does not fit.
    """
    chain = _ChainVerifier()
    try:
        with path.open("rb") as log:
            written = os.fstat(log.fileno())
            for segment in segments(path, archive):
                with segment.open("rb") as closed:
                    # During a rotation the last segment is still the log: read it once.
                    if not os.path.samestat(os.fstat(closed.fileno()), written):
                        yield from chain.verified(segment, closed, closed=True)
            yield from chain.verified(path, log, closed=False)
    except OSError as error:
        raise AuditError(
            f"Cannot read the audit log {path}: {error.strerror}; see to its folder and its access "
            "rights."
        ) from error


class _ChainVerifier:
    """Verifies a chain over files, and keeps the place that it has reached."""

    def __init__(self) -> None:
        self._previous: str | None = None
        self._number = 0

    def verified(self, path: Path, log: BinaryIO, *, closed: bool) -> Iterator[dict[str, Any]]:
        for place, line in enumerate(iter(lambda: log.readline(MAX_LINE), b""), start=1):
            if not line.endswith(b"\n") and len(line) < MAX_LINE and not closed:
                return
            content = parse_record(line)
            stored = content.pop("hash", None)
            if (
                not self._follows(content, first_line=place == 1)
                or stored != record_hash(content)
                or encode_record(content | {"hash": stored}) + b"\n" != line
            ):
                raise AuditError(self._broken_message(path, place, content))
            self._previous, self._number = stored, content["number"]
            yield content | {"hash": stored}

    def _follows(self, content: dict[str, Any], *, first_line: bool) -> bool:
        number, previous = content.get("number"), content.get("previous")
        if self._previous is not None:
            return number == self._number + 1 and previous == self._previous
        if number == 1:
            return previous == GENESIS
        return (
            first_line
            and content.get("event") == CONTINUED
            and isinstance(number, int)
            and number > 1
            and isinstance(previous, str)
            and _HASH.fullmatch(previous) is not None
        )

    def _broken_message(self, path: Path, place: int, content: dict[str, Any]) -> str:
        number, expected = content.get("number"), self._number + 1
        begins = place == 1 and content.get("event") == CONTINUED
        if begins and isinstance(number, int) and number > expected:
            return (
                f"A part of the audit log is missing before {path}: records {expected} to "
                f"{number - 1}; bring the segment with these records back."
            )
        return (
            f"The audit log {path} was altered: line {place} does not fit the chain; "
            "keep the file as evidence and give the key manager a new one."
        )


def verify(path: Path, archive: Path | None = None) -> AuditSummary:
    """Verify a log and summarize it; raise AuditError for a broken chain."""
    count, head, first, anchor = 0, GENESIS, 1, GENESIS
    archived: tuple[int, str] = (0, GENESIS)
    for record in records(path, archive):
        if not count:
            first, anchor = record["number"], record["previous"]
        if record["event"] == ARCHIVED:
            archived = max(archived, (record["through"], record["head"]))
        count, head = count + 1, record["hash"]
    through, last_head = archived
    data_end, length = _end_of_lines(path)
    return AuditSummary(
        count,
        head,
        torn_bytes=length - data_end,
        length=data_end,
        first=first,
        anchor=anchor,
        archived=through >= first or (through, last_head) == (first - 1, anchor),
        files=len(segments(path, archive)) + 1,
    )


def _end_of_lines(path: Path) -> tuple[int, int]:
    """Return the offset after the last newline and the file's size, in bytes."""
    length = path.stat().st_size
    with path.open("rb") as log:
        end = length
        while end > 0:
            begin = max(0, end - STEP)
            log.seek(begin)
            newline = log.read(end - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1, length
            end = begin
    return 0, length
