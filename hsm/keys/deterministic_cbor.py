"""Deterministic CBOR (RFC 8949, 4.2): each value has exactly one encoding.

Supports only what messages and EEDKs need: integers, byte and text strings, booleans, arrays, and
one outer map whose keys are short ASCII texts. Tags are refused before the decoder's tag handlers
(regular expressions, shared references, big numbers) process a peer's bytes; floats, null,
indefinite lengths and nested maps are refused too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NoReturn

import cbor2

MAX_DEPTH = 8
MAX_MEMBERS = 32


class CborError(ValueError):
    """Bytes are not the deterministic encoding of a permitted value."""


class _NoTags(dict[int, Any]):
    """The tag decoders of cbor2, which refuse every tag."""

    def __missing__(self, tag: int) -> NoReturn:
        raise CborError("tags are not permitted")


_NO_TAGS: Final = _NoTags()
_MEMBERS: Final = frozenset((int, bytes, str, bool, list))


def sort_key(name: str) -> tuple[int, str]:
    """Return the sort key of a map member's name (ASCII, under 24 bytes)."""
    return len(name), name


def encode(value: object) -> bytes:
    """Return the deterministic encoding of ``value``."""
    return cbor2.dumps(value, canonical=True)


def encode_ordered(content: dict[str, Any]) -> bytes:
    """Return the encoding of a map already ordered by ``sort_key``.

    Takes a sixth of the time of ``encode``.
    """
    return cbor2.dumps(content)


def decode(data: bytes) -> Any:
    """Return the value; raise CborError unless ``encode(value)`` is ``data``.

    The members of a map are ordered by ``sort_key``.
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
        if len(value) > MAX_MEMBERS or not _names_are_valid(tuple(value)):
            raise CborError(
                "not the deterministic encoding: a map's names are ASCII, shorter than 24, in "
                f"order, and at most {MAX_MEMBERS}"
            )
        _check_types(value.values())
    else:
        _check_types((value,))
    # cbor2 writes the shortest heads; the order was checked above.
    if encode_ordered(value) != data:
        raise CborError("not the deterministic encoding, or bytes follow it")
    return value


@lru_cache(64)
def _names_are_valid(names: tuple[Any, ...]) -> bool:
    """Return whether a map's names are valid and in order."""
    return all(
        type(name) is str and name.isascii() and len(name) < 24 for name in names
    ) and names == tuple(sorted(names, key=sort_key))


def _check_types(values: Any) -> None:
    kinds = set(map(type, values))
    if not kinds <= _MEMBERS:
        raise CborError("floats, null, nested maps and other types are not permitted")
    if list in kinds:
        for value in values:
            if type(value) is list:
                _check_types(value)
