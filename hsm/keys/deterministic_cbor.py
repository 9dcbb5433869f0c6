"""Deterministic CBOR (RFC 8949, 4.2): one value has one encoding, and no other is accepted.

Only what messages and EEDKs need: integers, byte and text strings, booleans, arrays, and one map
around all whose keys are short ASCII texts. Tags are refused before the decoder's handlers of them
(regular expressions, shared references, big numbers) see any of a peer's bytes; floats, null,
indefinite lengths and maps within are refused too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NoReturn

import cbor2

MAX_DEPTH = 8
MAX_MEMBERS = 32


class CborError(ValueError):
    """Bytes that are not the deterministic encoding of a permitted value."""


class _NoTags(dict[int, Any]):
    """What cbor2 asks how to decode a tag, whichever it is."""

    def __missing__(self, tag: int) -> NoReturn:
        raise CborError("tags are not permitted")


_NO_TAGS: Final = _NoTags()
_MEMBERS: Final = frozenset((int, bytes, str, bool, list))


def in_order(name: str) -> tuple[int, str]:
    """Return by what the members of a map are sorted: their encoded names (ASCII, under 24)."""
    return len(name), name


def encode(value: object) -> bytes:
    """Return the one encoding of ``value``."""
    return cbor2.dumps(value, canonical=True)


def encode_ordered(content: dict[str, Any]) -> bytes:
    """Return the one encoding of a map whose members are ``in_order``, in a sixth of the time."""
    return cbor2.dumps(content)


def decode(data: bytes) -> Any:
    """Return the value; raise CborError unless ``encode(value)`` gives exactly ``data`` back.

    The members of a map are ``in_order``.
    """
    try:
        value = cbor2.loads(
            data,
            semantic_decoders=_NO_TAGS,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError) as error:
        if isinstance(error.__cause__, CborError):
            raise error.__cause__ from None
        raise CborError(f"not CBOR: {error}") from error
    if type(value) is dict:
        if len(value) > MAX_MEMBERS or not _well_named(tuple(value)):
            raise CborError(
                "not the deterministic encoding: a map's names are ASCII, shorter than 24, in "
                f"order, and at most {MAX_MEMBERS}"
            )
        _refuse_exotic(value.values())
    else:
        _refuse_exotic((value,))
    # Encoded as it was decoded, its heads are the shortest; the order was seen to apart.
    if encode_ordered(value) != data:
        raise CborError("not the deterministic encoding, or bytes follow it")
    return value


@lru_cache(64)
def _well_named(names: tuple[Any, ...]) -> bool:
    """Say whether a map's names are what they may be, and in order."""
    return all(
        type(name) is str and name.isascii() and len(name) < 24 for name in names
    ) and names == tuple(sorted(names, key=in_order))


def _refuse_exotic(values: Any) -> None:
    kinds = set(map(type, values))
    if not kinds <= _MEMBERS:
        raise CborError("floats, null, maps within and other rare values are not permitted")
    if list in kinds:
        for value in values:
            if type(value) is list:
                _refuse_exotic(value)
