"""Move closed segments of an audit log to an archive, and summarize them.

Which cartridges need a key is read from the log (POOL-3), so the segments' records of cartridges
are summarized in the log first: one record ``cartridge-known`` for each cartridge, as of the last
record that is moved, then ``archived``, which makes the summary valid. Only then each segment is
copied, compared and removed, the oldest first. A process that is killed at any moment leaves either
the segments or a valid summary of them, and repeating the command completes it.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from hsm.ekm.audit.hash_chain import ARCHIVED, STEP, AuditError, records, segments
from hsm.ekm.audit.key_usage import KNOWN, read_known_cartridges
from hsm.ekm.audit.log import AuditLog
from hsm.files import same_content, sync_directory


def archive(log: AuditLog, directory: Path) -> dict[str, Any]:
    """Move all closed segments of a valid log to ``directory``.

    Returns the ``segments``' names, the last record that was moved (``through``) and the
    ``directory``. Raises AuditError when there is no closed segment, the chain is broken, or the
    directory cannot be written.
    """
    path = log.path
    # During a rotation the last segment is still the log.
    closed = [segment for segment in segments(path) if not segment.samefile(path)]
    if not closed:
        raise AuditError(
            f"The audit log {path} has no closed segment; close one with `rig ekm audit rotate`."
        )
    through, head = _last_record(path, closed[-1])
    known = read_known_cartridges(path, through)
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
            f"The audit log's segments cannot be moved to {directory}: {error}; those that were "
            "not moved are unchanged. Free space or choose another directory."
        ) from error
    return {"segments": names, "through": through, "directory": str(directory)}


def _last_record(path: Path, segment: Path) -> tuple[int, str]:
    """Verify the log; return number and hash of a segment's last record."""
    with segment.open("rb") as file:
        lines = sum(piece.count(b"\n") for piece in iter(partial(file.read, STEP), b""))
    first = int(segment.suffix[1:])
    through, head = first + lines - 1, ""
    for record in records(path):
        if record["number"] == through:
            head = record["hash"]
    return through, head


def _move(segment: Path, directory: Path) -> None:
    target, part = directory / segment.name, directory / f"{segment.name}.part"
    if not target.exists():
        part.unlink(missing_ok=True)
        with segment.open("rb") as original, part.open("xb") as copy:
            os.fchmod(copy.fileno(), 0o600)
            shutil.copyfileobj(original, copy)
            copy.flush()
            os.fsync(copy.fileno())
        part.rename(target)
        sync_directory(directory)
    if not same_content(segment, target):
        raise AuditError(
            f"{target} is there already and is another file; choose another directory."
        )
    segment.unlink()
    sync_directory(segment.parent)
