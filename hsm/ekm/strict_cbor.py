"""Deterministic CBOR (RFC 8949, 4.2): one value has one encoding, and no other is accepted.

Only what the messages need: integers, byte and text strings, booleans, arrays, maps. Tags, floats,
null and indefinite lengths are refused before the general decoder sees them, because its tag
handlers (regular expressions, shared references, big numbers) are not for a peer's bytes.
"""

from __future__ import annotations

from typing import Any

import cbor2

MAX_DEPTH = 8


class CborError(ValueError):
    """Bytes that are not the deterministic encoding of a permitted value."""


def encode(value: object) -> bytes:
    """Return the one encoding of ``value``."""
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes) -> Any:
    """Return the value; raise CborError unless ``encode(value)`` gives exactly ``data`` back."""
    _refuse_exotic_items(data)
    try:
        value = cbor2.loads(
            data,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise CborError(f"not CBOR: {error}") from error
    if encode(value) != data:
        raise CborError("not the deterministic encoding, or bytes follow it")
    return value


def _refuse_exotic_items(data: bytes) -> None:
    """Walk the item heads in order; nesting does not matter, every head lies on this path."""
    position = 0
    while position < len(data):
        major, info = data[position] >> 5, data[position] & 31
        if major == 6:
            raise CborError("tags are not permitted")
        if major == 7 and info not in (20, 21):
            raise CborError("floats, null and other simple values are not permitted")
        if info > 27:
            raise CborError("indefinite or reserved lengths are not permitted")
        width = 0 if info < 24 else 1 << (info - 24)
        argument = int.from_bytes(data[position + 1 : position + 1 + width], "big")
        position += 1 + width
        if major in (2, 3):
            position += info if width == 0 else argument
