"""Which cartridges a key manager knows, and which keys they need: read from its audit log (POOL-3).

The log has each key exchange with volume and keys. What a cartridge bears after each:

- GENERATE: the new pair, once the drive acknowledged; what was on the cartridge is overwritten.
- TRANSLATE: the pair that the drive read from the cartridge, which is the best witness there is.
- REKEY: the new pair too, and the old one until an exchange shows that the cartridge has the new
  one only: power may fail before the drive has written it.

When in doubt a cartridge needs a key, so a key is never removed too early. A cartridge that was
scrapped, or overwritten in the clear, is known as such when an administrator says so.

A cartridge is known by its VOLSER and by the id in its memory (CART-4), since two cartridges may
bear one VOLSER. The id stays when a cartridge is written from BOT again: GENERATE replaces what the
cartridge bore before. Records from before protocol version 2 have no id: all of one VOLSER count
as one more cartridge, since nothing tells which one it was.

What segments told that were archived away is summed up in the log (``hsm.ekm.audit.archive``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsm.ekm.audit import hash_chain
from hsm.ekm.protocol.errors import EkmError
from hsm.errors import LabelInvalidError
from hsm.keys.labels import label_key

FORGOTTEN = "cartridge-forgotten"
"""The event by which an administrator says that a cartridge bears nothing any more."""
KNOWN = "cartridge-known"
"""The event that sums up a cartridge's keys as of the record ``through``, which was archived."""
UNKNOWN_ID = "none"
"""How the id of a cartridge is written that is known from records without one."""
_CLEAR, _HASH = " (clear)", " (hash)"


@dataclass(slots=True)
class KnownCartridge:
    """A cartridge's keys, as audit records name them, and when it was last heard of (Unix time).

    ``cartridge_id`` is hexadecimal, empty when the records are from before it was sent.
    """

    volume: str
    cartridge_id: str = ""
    keys: set[str] = field(default_factory=set)
    last: float = 0.0

    def __str__(self) -> str:
        """Return VOLSER and id, as messages name a cartridge."""
        return f"{self.volume} id {self.cartridge_id or UNKNOWN_ID}"


CartridgeKey = tuple[str, str]
"""VOLSER and cartridge id, by which a cartridge is known."""
KnownCartridges = dict[CartridgeKey, KnownCartridge]


def known_in(path: Path, through: int | None = None) -> KnownCartridges:
    """Return all known cartridges, from an audit log that is verified at the same time.

    ``through`` is the last record that counts; all by default. Raises EkmError when the log begins
    later than what it sums up, AuditError when its chain is broken.
    """
    first, summed_up, summaries = _summaries(path)
    if first > summed_up + 1:
        raise EkmError(
            f"The audit log {path} begins with record {first} and does not sum up what was before, "
            "so it cannot tell which cartridges need a key; bring the segments before it back, and "
            "take them away with `rig ekm audit archive`."
        )
    last = sys.maxsize if through is None else through
    later = (r for r in hash_chain.records(path) if summed_up < r["number"] <= last)
    return known_cartridges(later, summaries.get(summed_up))


def _summaries(path: Path) -> tuple[int, int, dict[int, KnownCartridges]]:
    """Return the first record's number, through which the log is summed up, and the summaries."""
    first, summed_up = 0, 0
    summaries: dict[int, KnownCartridges] = {}
    for record in hash_chain.records(path):
        first = first or record["number"]
        if record["event"] == KNOWN:
            volume, cartridge_id = known_by = _cartridge_key(record)
            cartridge = KnownCartridge(
                volume, cartridge_id, set(record["keys"]), last=float(record["last"])
            )
            summaries.setdefault(record["through"], {})[known_by] = cartridge
        elif record["event"] == hash_chain.ARCHIVED:
            summed_up = max(summed_up, record["through"])
    return first or 1, summed_up, summaries


def _cartridge_key(record: dict[str, Any]) -> CartridgeKey:
    return record["volume"], record.get("cartridge_id", "")


def known_cartridges(
    records: Iterable[dict[str, Any]], before: KnownCartridges | None = None
) -> KnownCartridges:
    """Return all known cartridges, from the records of an audit log in order.

    ``before`` is what was known before the first of them.
    """
    known = before or {}
    for record in records:
        event = record.get("event")
        if not isinstance(record.get("volume"), str):
            continue
        volume, cartridge_id = known_by = _cartridge_key(record)
        if event == FORGOTTEN:
            known.pop(known_by, None)
            continue
        if event not in ("key-reply", "ack") or record.get("operation") is None:
            continue
        cartridge = known.setdefault(known_by, KnownCartridge(volume, cartridge_id))
        cartridge.last = record["time"]
        _learn(cartridge, record, set(record["keys"]))
    return known


def _learn(cartridge: KnownCartridge, record: dict[str, Any], keys: set[str]) -> None:
    operation, replied = record["operation"], record["event"] == "key-reply"
    if operation == "translate":
        if replied and len(record["keys"]) == 2 and not any(map(_unreadable, keys)):
            cartridge.keys = keys
        else:
            cartridge.keys |= keys
    elif replied or operation == "rekey":
        cartridge.keys |= keys
    elif record["outcome"] == "ok":
        cartridge.keys = keys


def _unreadable(name: str) -> bool:
    return not name.endswith((_CLEAR, _HASH))


def needs(cartridge: KnownCartridge, label: str, kek_hash: bytes) -> bool:
    """Say whether the cartridge bears an EEDK of the KEK with this label and hash."""
    return any(_names(name, label, kek_hash) for name in cartridge.keys)


def _names(name: str, label: str, kek_hash: bytes) -> bool:
    stem, _, mode = name.rpartition(" (")
    if mode == "hash)" and stem == kek_hash.hex():
        return True
    try:
        return label_key(stem) == label_key(label)
    except LabelInvalidError:
        return False
