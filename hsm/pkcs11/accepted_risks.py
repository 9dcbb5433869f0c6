"""Risks of a token that a lab must accept before the rig uses it.

`rig hsm validate` finds more weaknesses than these. These take protection from keys, so the rig
refuses the token until the risk is in its `accept`.
"""

from collections.abc import Iterable
from enum import StrEnum


class TokenRisk(StrEnum):
    """A risk of a token, by the word that accepts it."""

    UNTRUSTED_WRAPPING = "untrusted-wrapping"
    HANDS_OUT_KEYS = "hands-out-keys"
    SIGNING_KEY_IN_FILE = "signing-key-in-file"

    @property
    def weakness(self) -> str:
        """What the token does and what follows from it, as a clause."""
        return _WEAKNESSES[self]


_WEAKNESSES = {
    TokenRisk.UNTRUSTED_WRAPPING: (
        "wraps data keys to any key (it does not enforce WRAP_WITH_TRUSTED), so whoever has its "
        "PIN can take data keys out"
    ),
    TokenRisk.HANDS_OUT_KEYS: (
        "wraps keys that are marked not extractable, so whoever has its PIN can take the KEKs out"
    ),
    TokenRisk.SIGNING_KEY_IN_FILE: (
        "makes no P-256 keys, so the key manager's signing key would be in a file (mode 0600)"
    ),
}


def risk_sentence(token: str, risks: Iterable[TokenRisk]) -> str:
    """Return the message on a token's unaccepted risks and how to accept them."""
    ordered = sorted(risks)
    reasons = " and ".join(risk.weakness for risk in ordered)
    return (
        f"The token {token} {reasons}. To use it all the same, write accept: "
        f"[{', '.join(ordered)}] for this token; `rig hsm validate` tests it."
    )
