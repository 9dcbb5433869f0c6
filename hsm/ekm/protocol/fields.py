"""The fields of key exchange messages: encoding, decoding and limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hsm.ekm.protocol.errors import MessageError
from hsm.errors import LabelInvalidError
from hsm.keys.eedk import KEK_HASH_BYTES, KeyLabel, KeyMode


class KeyOperation(StrEnum):
    """An operation that a drive may request."""

    GENERATE = "generate"
    """A new data key and its two EEDKs, for a cartridge written from BOT."""
    TRANSLATE = "translate"
    """The data key in a cartridge's EEDKs, to append or read."""
    REKEY = "rekey"
    """Two new EEDKs for the data key in a cartridge's EEDKs."""


_OPERATIONS: Mapping[str, KeyOperation] = {each.value: each for each in KeyOperation}


TEXT_LIMIT = 500
"""Longest text of an Error message, in characters."""

_SHORT_BYTES = 24
"""A byte string shorter than this is encoded with a head of one byte (RFC 8949, 3)."""

Converter = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """The checks and conversions of one field.

    ``read`` checks a decoded value and returns the field's value; ``write`` converts it back where
    the two differ. ``size`` is the length of the encoding in bytes where it is fixed.
    """

    read: Converter
    write: Converter | None = None
    size: int | None = None


def octets(least: int, most: int) -> Field:
    """Return a field for a byte string of ``least`` to ``most`` bytes."""

    def read(value: object) -> bytes:
        if isinstance(value, bytes) and least <= len(value) <= most:
            return value
        if not isinstance(value, bytes):
            raise MessageError("must be bytes")
        raise MessageError(f"must be {least} to {most} bytes, not {len(value)}")

    short = most < _SHORT_BYTES
    return Field(read, size=1 + most if least == most and short else None)


def integer(least: int, most: int) -> Field:
    """Return a field for an integer from ``least`` to ``most``."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise MessageError("must be an integer")
        if not least <= value <= most:
            raise MessageError(f"must be {least} to {most}")
        return value

    return Field(read)


def printable_text(most: int) -> Field:
    """Return a field for printable text of at most ``most`` characters."""

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise MessageError("must be text")
        if len(value) > most or not value.isprintable():
            raise MessageError(f"must be printable and at most {most} characters")
        return value

    return Field(read)


def read_volume(value: object) -> str:
    """Read a VOLSER."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Z0-9]{6}", value):
        raise MessageError("must be a VOLSER: six characters A-Z 0-9")
    return value


def read_flag(value: object) -> bool:
    """Read a boolean."""
    if not isinstance(value, bool):
        raise MessageError("must be true or false")
    return value


def read_operation(value: object) -> KeyOperation:
    """Read the operation that a drive requests."""
    operation = _OPERATIONS.get(value) if isinstance(value, str) else None
    if operation is None:
        raise MessageError(f"must be one of {', '.join(KeyOperation)}")
    return operation


def list_of(most: int, read_item: Converter) -> Converter:
    """Return a function that reads a list of at most ``most`` items."""

    def read(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) > most:
            raise MessageError(f"must be a list of at most {most}")
        return tuple(read_item(item) for item in value)

    return read


def pair_of(read_item: Converter) -> Converter:
    """Return a function that reads a list of at most two items."""
    return list_of(2, read_item)


def read_label(value: object) -> KeyLabel:
    """Read a key label and its mode."""
    if isinstance(value, KeyLabel):
        return value
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(v, str) for v in value):
        raise MessageError("must hold pairs of label and mode")
    label, mode = value
    try:
        key_label = KeyLabel(label, mode)
    except (LabelInvalidError, ValueError):
        key_label = None
    if key_label is None or key_label.label != label:
        raise MessageError(
            "must hold labels of 1 to 64 printable characters in NFC without surrounding blanks, "
            "and modes 'clear' or 'hash'"
        )
    return key_label


def write_label(key_label: KeyLabel) -> list[str]:
    """Write a key label and its mode."""
    return [key_label.label, key_label.mode.value]


def read_label_text(value: object) -> str:
    """Read a key label without a mode."""
    if not isinstance(value, str):
        raise MessageError("must hold texts")
    return read_label([value, KeyMode.CLEAR.value]).label


@dataclass(frozen=True, slots=True)
class LabelState:
    """Whether a keystore has a KEK under a label.

    ``kek_hash`` is SHA-256 of the KEK's SubjectPublicKeyInfo, empty when the label is unknown.
    """

    label: str
    kek_hash: bytes = b""
    has_private: bool = False

    @property
    def known(self) -> bool:
        """Whether there is a KEK under this label."""
        return bool(self.kek_hash)


def read_label_state(value: object) -> LabelState:
    """Read the state of a label."""
    match value:
        case LabelState():
            return value
        case [str() as label, bytes() as kek_hash, bool() as has_private] if len(
            kek_hash
        ) == KEK_HASH_BYTES or not (kek_hash or has_private):
            return LabelState(read_label_text(label), kek_hash, has_private)
    raise MessageError("must hold triples of label, hash of its key, and whether it is private")


def write_label_state(state: LabelState) -> list[str | bytes | bool]:
    """Write the state of a label."""
    return [state.label, state.kek_hash, state.has_private]


def printable(text: str) -> str:
    """Return the text, cut and made printable for an Error message."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown[:TEXT_LIMIT]
