"""Archiving closed segments of an audit log away, without losing what the log is asked for.

Which cartridges need a key is read from the log (POOL-3), so what the segments tell of cartridges
is summed up in it first: a record ``cartridge-known`` each, as of the last record that goes, then
``archived``, which makes the summary valid. Only then is each segment copied, compared and removed,
the oldest first. So a kill at any moment leaves either the segments or a valid summary of them, and
doing it again ends it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hsm.ekm.audit.hash_chain import ARCHIVED, AuditError, records, segments
from hsm.ekm.audit.key_usage import KNOWN, known_in
from hsm.ekm.audit.log import AuditLog
from hsm.files import sync_directory


def archive(log: AuditLog, directory: Path) -> dict[str, Any]:
    """Move all closed segments of a log that verifies to ``directory``.

    Returns the ``segments``' names, the last record that went (``through``) and the ``directory``.
    Raises AuditError when there is none, the chain is broken, or the directory cannot take them.
    """
    path = log.path
    # One that is just being closed is the log still.
    closed = [segment for segment in segments(path) if not segment.samefile(path)]
    if not closed:
        raise AuditError(
            f"The audit log {path} has no closed segment; close one with `rig ekm audit rotate`."
        )
    through, head = _last_of(path, closed[-1])
    known = known_in(path, through)
    for cartridge in known.values():
        log.note(
            KNOWN,
            outcome="ok",
            through=through,
            volume=cartridge.volume,
            cartridge_id=cartridge.cartridge_id,
            keys=sorted(cartridge.keys),
            last=int(cartridge.last),
        )
    names = [segment.name for segment in closed]
    log.append(
        ARCHIVED,
        outcome="ok",
        through=through,
        head=head,
        cartridges=len(known),
        segments=names,
        directory=str(directory),
    )
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        for segment in closed:
            _move(segment, directory)
    except OSError as error:
        raise AuditError(
            f"The audit log's segments cannot be moved to {directory}: {error}; what was not moved "
            "is where it was."
        ) from error
    return {"segments": names, "through": through, "directory": str(directory)}


def _last_of(path: Path, segment: Path) -> tuple[int, str]:
    """Verify the log; return number and hash of the last record of its last closed segment."""
    lines = segment.read_bytes().count(b"\n")
    first = int(segment.suffix[1:])
    through, head = first + lines - 1, ""
    for record in records(path):
        if record["number"] == through:
            head = record["hash"]
    return through, head


def _move(segment: Path, directory: Path) -> None:
    target, partial = directory / segment.name, directory / f"{segment.name}.part"
    content = segment.read_bytes()
    if not target.exists():
        partial.unlink(missing_ok=True)
        with partial.open("xb") as copy:
            os.fchmod(copy.fileno(), 0o600)
            copy.write(content)
            copy.flush()
            os.fsync(copy.fileno())
        partial.rename(target)
        sync_directory(directory)
    if target.read_bytes() != content:
        raise AuditError(
            f"{target} is there already and is another file; archive the segments elsewhere."
        )
    segment.unlink()
    sync_directory(segment.parent)
