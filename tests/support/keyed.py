"""A data key in software, for cartridges without a drive."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rig.drive.cartridge import Cartridge


@dataclass(frozen=True)
class SoftKeyed:
    """AES-256-GCM under a key."""

    key: bytes

    def tag(self, iv: bytes, aad: bytes) -> bytes:
        """Return the tag of an empty record."""
        return AESGCM(self.key).encrypt(iv, b"", aad)

    def matches(self, iv: bytes, aad: bytes, tag: bytes) -> bool:
        """Whether an empty record has this tag."""
        try:
            AESGCM(self.key).decrypt(iv, tag, aad)
        except InvalidTag:
            return False
        return True


def keyed_by(key_check: bytes) -> SoftKeyed:
    """Return hardware with a data key that belongs to this key check alone."""
    return SoftKeyed(hashlib.sha256(key_check).digest())


def unlocked(cartridge: Cartridge) -> Cartridge:
    """Unlock a cartridge as a drive does after the key exchange."""
    cartridge.unlock(keyed_by(cartridge.memory.key_check))
    return cartridge
