"""The errors of a key exchange: one code for each cause.

Messages and logs have the same codes. They are sent as numbers and never change their meaning; new
causes get new numbers.
"""

from __future__ import annotations

from enum import IntEnum

from hsm.errors import TaperigError


class ErrorCode(IntEnum):
    """Why an exchange ended without a key; the tens digit says who must act."""

    # 1..9: the messages themselves (drive firmware, VE relay).
    MALFORMED_MESSAGE = 1
    UNEXPECTED_MESSAGE = 2
    UNSUPPORTED_VERSION = 3
    FRAME_TOO_LARGE = 4
    FRAME_TIMEOUT = 5
    UNSUPPORTED_OPERATION = 6

    # 10..19: the requesting drive (drive table, certificates).
    UNTRUSTED_CERTIFICATE = 10
    UNKNOWN_DRIVE = 11
    REVOKED_DRIVE = 12
    CERTIFICATE_MISMATCH = 13
    BAD_SIGNATURE = 14
    REPLAYED_NONCE = 15
    STALE_SEQUENCE = 16
    WRONG_SESSION = 17
    DRIVE_KEY_ABSENT = 18

    # 20..29: what is requested (pool settings, cartridge, keystore contents).
    UNKNOWN_LABEL = 20
    PUBLIC_ONLY_PAIR = 21
    KEK_ABSENT = 22
    CORRUPT_EEDK = 23
    WRONG_VOLUME = 24
    FORGED_EEDK = 25
    WRONG_KEK = 26
    KEK_PUBLIC_ONLY = 27

    # 30..39: the key manager itself.
    KEYSTORE_FAILURE = 30
    INTERNAL_FAILURE = 31

    # 40..49: what only the drive can detect.
    BAD_REPLY = 40


class EkmError(TaperigError):
    """The configuration, files, port or connection of a key manager is wrong."""


class EkmUnavailable(EkmError):  # noqa: N818 - the field's word for the state, not for an error
    """No key manager is reachable, or the connection was lost in an exchange."""


class MessageError(EkmError):
    """Bytes are not a message of the key exchange; the text says why."""


class ExchangeError(EkmError):
    """A key exchange that ended without a key.

    ``code`` is the cause; the text is for the operator and names labels, hashes, volumes and
    serial numbers, never a key.
    """

    def __init__(self, code: ErrorCode, text: str) -> None:
        """Store the cause and the text."""
        super().__init__(text)
        self.code = code


class ExchangeRefusedError(ExchangeError):
    """The key manager refused a request with an Error message."""
