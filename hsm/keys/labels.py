"""Key labels: 1 to 64 printable characters, compared without case (KEY-5)."""

import unicodedata
from functools import lru_cache
from typing import Final

from hsm.errors import LabelInvalidError

MAX_LABEL_CHARACTERS = 64
DRIVE_IDENTITY_LABEL: Final = "taperig drive identity"
DRIVE_WRAP_LABEL: Final = "taperig drive wrap"
TRANSPORT_LABEL: Final = "taperig transport"
"""The three keys in the token of a drive's secure element."""


def normalize_label(label: str) -> str:
    """Return the label in Unicode NFC, without surrounding blanks.

    Raises LabelInvalidError unless 1 to 64 printable characters remain (KEY-5).
    """
    kept = unicodedata.normalize("NFC", label).strip()
    if not kept:
        raise LabelInvalidError("A key label is empty; use 1 to 64 printable characters.")
    if not kept.isprintable():
        raise LabelInvalidError(
            f"The key label {kept[:MAX_LABEL_CHARACTERS]!a} has a character that cannot be "
            "printed; use 1 to 64 printable characters."
        )
    if len(kept) > MAX_LABEL_CHARACTERS:
        raise LabelInvalidError(
            f"The key label {kept[:24]!r}... has {len(kept)} characters; the most is "
            f"{MAX_LABEL_CHARACTERS}."
        )
    return kept


@lru_cache(1024)
def label_key(label: str) -> str:
    """Return the key by which labels are compared, without case."""
    return unicodedata.normalize("NFC", normalize_label(label).casefold())
