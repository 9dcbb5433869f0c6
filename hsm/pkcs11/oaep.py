"""The hashes of RSA-OAEP that the rig knows."""

from enum import StrEnum

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding


class OaepHash(StrEnum):
    """The hash of RSA-OAEP and of its mask generation function."""

    SHA1 = "SHA-1"
    SHA256 = "SHA-256"


def oaep_padding(oaep_hash: OaepHash) -> padding.OAEP:
    """Return OAEP with this hash, without a label, as the `cryptography` library has it."""
    kind = hashes.SHA1 if oaep_hash is OaepHash.SHA1 else hashes.SHA256
    return padding.OAEP(padding.MGF1(kind()), kind(), None)
