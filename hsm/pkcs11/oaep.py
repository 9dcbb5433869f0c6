"""RSA-OAEP: its hashes and its padding."""

from enum import StrEnum

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding


class OaepHash(StrEnum):
    """The hash of RSA-OAEP and of its mask generation function."""

    SHA1 = "SHA-1"
    SHA256 = "SHA-256"


def oaep_padding(oaep_hash: OaepHash) -> padding.OAEP:
    """Return OAEP padding of `cryptography` with this hash, without a label."""
    kind = hashes.SHA1 if oaep_hash is OaepHash.SHA1 else hashes.SHA256
    return padding.OAEP(padding.MGF1(kind()), kind(), None)
