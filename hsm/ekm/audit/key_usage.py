"""Read from the audit log which cartridges need which keys (POOL-3).

The log has each key exchange with volume and keys. The EEDKs on a cartridge after each operation:

- GENERATE: the new pair, after the drive has acknowledged it; the old pair is overwritten.
- TRANSLATE: the pair that the drive read from the cartridge, which is the most reliable source.
- REKEY: the new pair and the old one, until an exchange shows that the cartridge has only the new
  one: power may fail before the drive has written it.

When in doubt a cartridge needs a key, so that no key is removed too early. A cartridge that was
scrapped, or overwritten in the clear, counts until an administrator has it forgotten.

A cartridge is identified by its VOLSER and the id in its memory (CART-4), since two cartridges may
have one VOLSER. The id stays when a cartridge is written from BOT again: GENERATE replaces its
EEDKs. Records from before protocol version 2 have no id: all of one VOLSER count as one additional
cartridge, since it is unknown which one it was.

The records in archived segments are summarized in the log (``hsm.ekm.audit.archive``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hsm.ekm.audit import hash_chain
from hsm.ekm.protocol.errors import EkmError
from hsm.errors import LabelInvalidError
from hsm.keys.labels import label_key

FORGOTTEN: Final = "cartridge-forgotten"
"""The event by which an administrator declares that a cartridge needs no key."""
KNOWN: Final = "cartridge-known"
"""The event that summarizes a cartridge's keys as of the archived record ``through``."""
UNKNOWN_ID = "none"
"""Shown for the id of a cartridge that is known from records without an id."""
_CLEAR, _HASH = " (clear)", " (hash)"


@dataclass(slots=True)
class KnownCartridge:
    """A cartridge's keys, as audit records name them, and its last exchange.

    ``last`` is Unix time. ``cartridge_id`` is hexadecimal, empty when the records have none.
    """

    volume: str
    cartridge_id: str = ""
    keys: set[str] = field(default_factory=set)
    last: float = 0.0

    def __str__(self) -> str:
        """Return VOLSER and id, as messages name a cartridge."""
        return f"{self.volume} id {self.cartridge_id or UNKNOWN_ID}"


CartridgeKey = tuple[str, str]
"""VOLSER and cartridge id, which identify a cartridge."""
KnownCartridges = dict[CartridgeKey, KnownCartridge]


def read_known_cartridges(path: Path, through: int | None = None) -> KnownCartridges:
    """Verify an audit log, and return all cartridges that it knows.

    ``through`` is the last record to read; all by default. Raises EkmError when records are missing
    between its summary and its first record, AuditError when its chain is broken.
    """
    first, summarized, summaries = _summaries(path)
    if first > summarized + 1:
        raise EkmError(
            f"The audit log {path} begins with record {first} and does not summarize the records "
            "before it, so it is unknown which cartridges need a key; bring the older segments "
            "back, and archive them with `rig ekm audit archive`."
        )
    last = sys.maxsize if through is None else through
    later = (r for r in hash_chain.records(path) if summarized < r["number"] <= last)
    return known_cartridges(later, summaries.get(summarized))


def _summaries(path: Path) -> tuple[int, int, dict[int, KnownCartridges]]:
    """Return the first record's number, the last summary's, and all summaries."""
    first, summarized = 0, 0
    summaries: dict[int, KnownCartridges] = {}
    for record in hash_chain.records(path):
        first = first or record["number"]
        if record["event"] == KNOWN:
            volume, cartridge_id = key = _cartridge_key(record)
            cartridge = KnownCartridge(
                volume, cartridge_id, set(record["keys"]), last=float(record["last"])
            )
            summaries.setdefault(record["through"], {})[key] = cartridge
        elif record["event"] == hash_chain.ARCHIVED:
            summarized = max(summarized, record["through"])
    return first or 1, summarized, summaries


def _cartridge_key(record: dict[str, Any]) -> CartridgeKey:
    return record["volume"], record.get("cartridge_id", "")


def known_cartridges(
    records: Iterable[dict[str, Any]], before: KnownCartridges | None = None
) -> KnownCartridges:
    """Return all cartridges that an audit log's records, in order, name.

    ``before`` holds the cartridges that were known before the first record.
    """
    known = before or {}
    for record in records:
        event = record.get("event")
        if not isinstance(record.get("volume"), str):
            continue
        volume, cartridge_id = key = _cartridge_key(record)
        if event == FORGOTTEN:
            known.pop(key, None)
            continue
        if event not in ("key-reply", "ack") or record.get("operation") is None:
            continue
        cartridge = known.setdefault(key, KnownCartridge(volume, cartridge_id))
        cartridge.last = record["time"]
        _update_keys(cartridge, record, set(record["keys"]))
    return known


def _update_keys(cartridge: KnownCartridge, record: dict[str, Any], keys: set[str]) -> None:
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


def needs_key(cartridge: KnownCartridge, label: str, kek_hash: bytes) -> bool:
    """Return whether the cartridge has an EEDK of the KEK, by label or hash."""
    return any(_names_kek(name, label, kek_hash) for name in cartridge.keys)


def _names_kek(name: str, label: str, kek_hash: bytes) -> bool:
    stem, _, mode = name.rpartition(" (")
    if mode == "hash)" and stem == kek_hash.hex():
        return True
    try:
        return label_key(stem) == label_key(label)
    except LabelInvalidError:
        return False
