"""The hashes of RSA-OAEP that the rig knows."""

from enum import StrEnum


class OaepHash(StrEnum):
    """The hash of RSA-OAEP and of its mask generation function."""

    SHA1 = "SHA-1"
    SHA256 = "SHA-256"
