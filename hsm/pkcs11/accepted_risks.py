"""What a token may lack without being useless: a lab that takes such a token says so.

`rig hsm validate` finds more than these; these are the ones that take protection from keys, so
that the rig does not work with them unasked. They are written into the token's `accept`.
"""

from collections.abc import Iterable
from enum import StrEnum


class Limit(StrEnum):
    """A limit of a token, by the word that accepts it."""

    UNTRUSTED_WRAPPING = "untrusted-wrapping"
    HANDS_OUT_KEYS = "hands-out-keys"
    SIGNING_KEY_IN_FILE = "signing-key-in-file"

    @property
    def lost(self) -> str:
        """What a lab with this limit does without, as a clause."""
        return _LOST[self]


_LOST = {
    Limit.UNTRUSTED_WRAPPING: (
        "wraps data keys to any key (it does not enforce WRAP_WITH_TRUSTED), so whoever has its "
        "PIN can take data keys out"
    ),
    Limit.HANDS_OUT_KEYS: (
        "wraps keys that are marked not extractable, so whoever has its PIN can take the KEKs out"
    ),
    Limit.SIGNING_KEY_IN_FILE: (
        "makes no P-256 keys, so the key manager's signing key would be in a file (mode 0600)"
    ),
}


def limit_sentence(token: str, limits: Iterable[Limit]) -> str:
    """Return what is wrong with a token that has limits nobody accepted, and how to accept them."""
    ordered = sorted(limits)
    reasons = " and ".join(limit.lost for limit in ordered)
    return (
        f"The token {token} {reasons}; if that will do here, write accept: [{', '.join(ordered)}] "
        "for this token (see `rig hsm validate`)."
    )
