"""Deterministic CBOR (RFC 8949, 4.2): one value has one encoding, and no other is accepted.

Only what messages and EEDKs need: integers, byte and text strings, booleans, arrays, and one map
around all whose keys are short ASCII texts. Tags, floats, null and indefinite lengths are refused
before the general decoder sees them, because its tag handlers (regular expressions, shared
references, big numbers) are not for a peer's bytes.
"""

from __future__ import annotations

from typing import Any

import cbor2

MAX_DEPTH = 8


class CborError(ValueError):
    """Bytes that are not the deterministic encoding of a permitted value."""


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
        return _plain_map(data)
    except (_NotPlain, IndexError, UnicodeDecodeError):
        return _decode_any(data)  # or say what is wrong


class _NotPlain(Exception):  # noqa: N818 - nothing is wrong
    """Bytes that are not the deterministic encoding of a map of plain values."""


def _plain_map(data: bytes) -> dict[str, Any]:
    """Decode what nearly all bytes are, in one pass: a map of texts, bytes, numbers, and lists.

    Raises _NotPlain, IndexError or UnicodeDecodeError for all else.
    """
    count, position, last = data[0] - 0xA0, 1, (0, b"")
    if not 0 <= count < 24:
        raise _NotPlain
    content = {}
    for _ in range(count):
        length = data[position] - 0x60
        begin = position + 1
        position = begin + length
        name = (length, data[begin:position])
        if not last < name or length >= 24:
            raise _NotPlain
        last = name
        content[name[1].decode("ascii")], position = _plain(data, position)
    if position != len(data):
        raise _NotPlain
    return content


def _plain(data: bytes, position: int) -> tuple[Any, int]:
    """Return the plain value that begins here, and where it ends; raises as _plain_map."""
    head = data[position]
    major, info, begin = head & 0xE0, head & 31, position + 1
    if info >= 24:
        if info > 27:
            raise _NotPlain
        end = begin + (1 << info - 24)
        argument = int.from_bytes(data[begin:end], "big")
        if argument < _LEAST[info] or end > len(data):
            raise _NotPlain
        info, begin = argument, end
    if major == 0:
        return info, begin
    if major in (0x40, 0x60):
        end = begin + info
        value = data[begin:end]
        if len(value) != info:
            raise _NotPlain
        return value if major == 0x40 else value.decode(), end
    if major == 0x80 and info < len(data):
        values = []
        for _ in range(info):
            if data[begin] & 0xE0 == 0x80:
                raise _NotPlain
            value, begin = _plain(data, begin)
            values.append(value)
        return values, begin
    if head not in _TRUTHS:
        raise _NotPlain
    return _TRUTHS[head], begin


_TRUTHS = {0xF4: False, 0xF5: True}
_LEAST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
"""The least number that needs an argument of one, two, four or eight bytes."""


def _decode_any(data: bytes) -> Any:
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
    # Encoded as it was decoded, its heads are the shortest; the order is seen to apart.
    if encode_ordered(value) != data:
        raise CborError("not the deterministic encoding, or bytes follow it")
    if type(value) is dict:
        names = list(value)
        if not all(type(name) is str and name.isascii() and len(name) < 24 for name in names):
            raise CborError("the names in a map are texts of ASCII, shorter than 24")
        if sorted(names, key=in_order) != names:
            raise CborError("not the deterministic encoding: a map is out of order")
    return value


def _refuse_exotic_items(data: bytes) -> None:
    """Walk the item heads in order; nesting does not matter, every head lies on this path."""
    position, end = 0, len(data)
    while position < end:
        step = _STEPS[data[position]]
        position = position + step if step else _after(data, position)


def _after(data: bytes, position: int) -> int:
    """Return where the item after a head of a rarer kind is."""
    major, info = data[position] >> 5, data[position] & 31
    if major == 6:
        raise CborError("tags are not permitted")
    if major == 7 and info not in (20, 21):
        raise CborError("floats, null and other simple values are not permitted")
    if info > 27:
        raise CborError("indefinite or reserved lengths are not permitted")
    if major == 5 and position:
        raise CborError("maps within are not permitted")
    width = 0 if info < 24 else 1 << (info - 24)
    argument = int.from_bytes(data[position + 1 : position + 1 + width], "big")
    position += 1 + width
    if major in (2, 3):
        position += info if width == 0 else argument
    return position


def _step(first: int) -> int:
    """Return the length of what a head of one byte begins, less what an array holds; 0: unknown."""
    major, info = first >> 5, first & 31
    if major < 5 and info < 24:
        return 1 + (info if major in (2, 3) else 0)
    return int(first in (0xF4, 0xF5))


_STEPS = tuple(map(_step, range(256)))
