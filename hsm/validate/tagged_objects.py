"""The tag on everything that a validation makes, and the removal of what bears it.

An object is a validation's own only if both its label is one of LABELS and its CKA_ID begins with
the magic; nothing else on the token is ever changed or removed. The CKA_ID is 32 bytes:

    magic (8) | host (4) | process id (4) | start of the process (8) | time (4) | count (4)

A leftover is an own object whose process is dead. Of another host's processes nothing is known,
so their objects count as leftovers only after a day.
"""

import hashlib
import itertools
import os
import struct
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pkcs11 import Attribute

from hsm.validate.raw_pkcs11 import RefusedCallError, Session

LABEL: Final = "taperig validate"
OTHER_CASE_LABEL: Final = "TAPERIG Validate"
LABELS: Final = (LABEL, OTHER_CASE_LABEL)
_MAGIC: Final = bytes.fromhex("e0a754a91d0c9b6f")
_TAG: Final = struct.Struct(">8s4sIQII")
_COUNT: Final = itertools.count()
_OTHER_HOST_EXPIRY_SECONDS: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class Owner:
    """The process whose objects a tag marks."""

    host: bytes
    pid: int
    started: int

    @staticmethod
    def current() -> "Owner":
        """Return this process as an owner."""
        return Owner(_host(), os.getpid(), _start_of(os.getpid()) or 0)

    def tag(self) -> bytes:
        """Return a CKA_ID for an object of this owner, 32 bytes."""
        return _TAG.pack(
            _MAGIC, self.host, self.pid, self.started, int(time.time()), next(_COUNT) % 2**32
        )


def tag_attributes(owner: Owner, label: str = LABEL) -> dict[Attribute, Any]:
    """Return the attributes that mark an object as the owner's."""
    return {Attribute.LABEL: label, Attribute.ID: owner.tag()}


def is_leftover(identity: bytes, now: float) -> bool:
    """Say whether a CKA_ID is a tag whose owner is dead, or of another host and old."""
    owner = _owner_of(identity)
    if owner is None:
        return False
    if owner.host != _host():
        made: int = _TAG.unpack(identity)[4]
        return now - made > _OTHER_HOST_EXPIRY_SECONDS
    return _start_of(owner.pid) != owner.started


def find_tagged(session: Session) -> list[tuple[int, bytes]]:
    """Return handle and CKA_ID of all objects on the token that a validation made."""
    found = []
    for label in LABELS:
        for handle in session.find({Attribute.LABEL: label}):
            try:
                identity = session.get(handle, Attribute.ID)
            except RefusedCallError:
                continue
            if _owner_of(identity) is not None:
                found.append((handle, identity))
    return found


def remove_leftovers(session: Session) -> int:
    """Destroy what dead validations left; return how many objects."""
    leftovers = [
        handle for handle, identity in find_tagged(session) if is_leftover(identity, time.time())
    ]
    for handle in leftovers:
        session.destroy(handle)
    return len(leftovers)


def remove_objects_of(session: Session, owner: Owner) -> int:
    """Destroy what `owner` made and has not destroyed; return how many objects."""
    mine = [handle for handle, identity in find_tagged(session) if _owner_of(identity) == owner]
    for handle in mine:
        session.destroy(handle)
    return len(mine)


def _owner_of(identity: bytes) -> Owner | None:
    if len(identity) != _TAG.size or not identity.startswith(_MAGIC):
        return None
    _, host, pid, started, _, _ = _TAG.unpack(identity)
    return Owner(host, pid, started)


def _host() -> bytes:
    try:
        name = Path("/etc/machine-id").read_bytes().strip()
    except OSError:
        name = b""
    return hashlib.sha256(name or uuid.getnode().to_bytes(8, "big")).digest()[:4]


def _start_of(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(status.rpartition(")")[2].split()[19])
