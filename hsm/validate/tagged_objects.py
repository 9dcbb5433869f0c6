"""The tag on objects of a validation, and the removal of tagged objects.

An object is tagged if its label is one of LABELS and its CKA_ID begins with the magic number. No
other object on the token is ever changed or removed. The CKA_ID has 32 bytes:

    magic (8) | host (4) | process id (4) | start of the process (8) | time (4) | count (4)

A leftover is a tagged object whose process is dead. Nothing is known about processes of another
host, so their objects count as leftovers only after a day.
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
    """The process that owns tagged objects."""

    host: bytes
    pid: int
    started: int

    @staticmethod
    def current() -> "Owner":
        """Return this process as an owner."""
        return Owner(_host(), os.getpid(), _start_of(os.getpid()) or 0)

    def tag(self) -> bytes:
        """Return a new CKA_ID (32 bytes) for an object of this owner."""
        return _TAG.pack(
            _MAGIC, self.host, self.pid, self.started, int(time.time()), next(_COUNT) % 2**32
        )


def tag_attributes(owner: Owner, label: str = LABEL) -> dict[Attribute, Any]:
    """Return the attributes that tag an object as the owner's."""
    return {Attribute.LABEL: label, Attribute.ID: owner.tag()}


def is_leftover(identity: bytes, now: float) -> bool:
    """Return whether a CKA_ID is a tag whose owner is dead.

    A tag of another host counts as such after a day. `now` is in seconds since 1970.
    """
    owner = _owner_of(identity)
    if owner is None:
        return False
    if owner.host != _host():
        created: int = _TAG.unpack(identity)[4]
        return now - created > _OTHER_HOST_EXPIRY_SECONDS
    return _start_of(owner.pid) != owner.started


def find_tagged(session: Session) -> list[tuple[int, bytes]]:
    """Return handle and CKA_ID of all tagged objects on the token."""
    tagged = []
    for label in LABELS:
        for handle in session.find({Attribute.LABEL: label}):
            try:
                identity = session.get(handle, Attribute.ID)
            except RefusedCallError:
                continue
            if _owner_of(identity) is not None:
                tagged.append((handle, identity))
    return tagged


def remove_leftovers(session: Session) -> int:
    """Destroy the objects of killed validations; return their number."""
    leftovers = [
        handle for handle, identity in find_tagged(session) if is_leftover(identity, time.time())
    ]
    for handle in leftovers:
        session.destroy(handle)
    return len(leftovers)


def remove_objects_of(session: Session, owner: Owner) -> int:
    """Destroy the remaining objects of `owner`; return their number."""
    handles = [handle for handle, identity in find_tagged(session) if _owner_of(identity) == owner]
    for handle in handles:
        session.destroy(handle)
    return len(handles)


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
    """Return the start of a process in clock ticks since boot, or None."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(status.rpartition(")")[2].split()[19])
