"""Sense codes of a drive, with their meanings and remedies.

Key, ASC and ASCQ as IBM 3592 and LTO drives report them. The EF codes are not failures: with them
a drive under system-managed encryption asks the virtualization engine to begin a key exchange.
"""

from __future__ import annotations

from enum import Enum

from hsm.ekm.protocol.errors import EkmUnavailable, ErrorCode, ExchangeError
from hsm.errors import TaperigError

KEY_FAIL_LIMIT = 3
"""Number of wrong keys in one mount after which no other is accepted."""


class Sense(Enum):
    """Every condition that the drive reports."""

    # A key is needed (data protect); the key exchange follows.
    KEY_REQUIRED = (7, 0xEF, 0x10, "key required", "begin a key exchange")
    KEY_GENERATE = (7, 0xEF, 0x11, "key required: generate", "begin a key exchange")
    KEY_TRANSLATE = (7, 0xEF, 0x13, "key required: translate", "begin a key exchange")

    # Security (data protect).
    SECURITY_ERROR = (7, 0x74, 0x00, "security error", "provision the drive for this board again")
    UNABLE_TO_DECRYPT = (
        7,
        0x74,
        0x01,
        "unable to decrypt data",
        "the cartridge was altered: do not trust it, and take the data from another copy",
    )
    UNENCRYPTED_DATA = (
        7,
        0x74,
        0x02,
        "unencrypted data encountered while decrypting",
        "the cartridge was altered: do not trust it, and take the data from another copy",
    )
    WRONG_KEY = (
        7,
        0x74,
        0x03,
        "incorrect data encryption key",
        "the EEDKs are not this cartridge's: find out who changed them or the key manager's answer",
    )
    INTEGRITY = (
        7,
        0x74,
        0x04,
        "cryptographic integrity validation failed",
        "do not trust the cartridge, and take the data from another copy",
    )
    DECRYPTION_ERROR = (7, 0x74, 0x05, "error decrypting data", "demount, and mount again")
    KEY_FAIL_LIMIT = (
        7,
        0x26,
        0x10,
        "data decryption key fail limit",
        "demount the cartridge, and find out where the wrong keys come from",
    )
    WRITE_PROTECTED = (7, 0x27, 0x00, "write protected", "mount the cartridge for writing")

    # The exchange (illegal request).
    UNAUTHORIZED_DRIVE = (
        5,
        0xEE,
        0x26,
        "unauthorized request, drive authentication key",
        "enrol the drive in the key manager's drive table",
    )
    UNAUTHORIZED_DRIVE_KEY = (
        5,
        0xEE,
        0x27,
        "unauthorized request, drive session key",
        "enrol the drive's wrapping key in the key manager's token",
    )
    UNAUTHORIZED_EKM = (
        5,
        0xEE,
        0x28,
        "unauthorized request, EKM authentication key",
        "let the key manager answer with what was asked of it",
    )
    AUTHENTICATION_FAILURE = (5, 0xEE, 0x29, "authentication failure", "provision the lab again")
    WRONG_EEDK = (
        5,
        0xEE,
        0x2A,
        "invalid key identifier",
        "the EEDKs are not this cartridge's: take the data from another copy",
    )
    KEY_INCORRECT = (5, 0xEE, 0x2B, "key incorrect", "take the data from another copy")
    KEY_WRAPPING_FAILURE = (
        5,
        0xEE,
        0x2C,
        "key wrapping failure",
        "enrol this drive's wrapping key in the key manager again",
    )
    SEQUENCING_FAILURE = (5, 0xEE, 0x2D, "sequencing failure", "repeat the operation")
    UNSUPPORTED_TYPE = (
        5,
        0xEE,
        0x2E,
        "unsupported type",
        "bring drive and key manager to the same version",
    )
    PROHIBITED_REQUEST = (
        5,
        0xEE,
        0x30,
        "prohibited request",
        "set the pool so that the key manager may do it",
    )
    KEY_UNKNOWN = (5, 0xEE, 0x31, "key unknown", "put the key into the key manager's keystore")
    UNAUTHORIZED_CERTIFICATE = (
        5,
        0xEE,
        0x32,
        "unauthorized request, drive certificate",
        "have the certificate issued by the lab's authority",
    )
    KEY_SERVICE_TIMEOUT = (4, 0xEE, 0x0E, "key service timeout", "bring a key manager back")
    KEY_SERVICE_FAILURE = (4, 0xEE, 0x0F, "key service failure", "look into the key manager's log")

    # Other conditions.
    NO_CARTRIDGE = (2, 0x3A, 0x00, "medium not present", "load a cartridge")
    READ_ERROR = (
        3,
        0x11,
        0x00,
        "unrecovered read error",
        "take the data from another copy, and write the cartridge from BOT",
    )
    FORMAT_CORRUPTED = (
        3,
        0x31,
        0x00,
        "medium format corrupted",
        "take the data from another copy, and write the cartridge from BOT",
    )
    ENGINE_FAILURE = (
        4,
        0x44,
        0x00,
        "internal target failure",
        "switch the encryption hardware off and on",
    )
    COMMAND_SEQUENCE = (5, 0x2C, 0x00, "command sequence error", "give the commands in their order")
    POSITION = (5, 0x3B, 0x00, "sequential positioning error", "locate the append point first")

    def __init__(self, key: int, asc: int, ascq: int, meaning: str, remedy: str) -> None:
        """Give the parts their names."""
        self.key = key
        self.asc = asc
        self.ascq = ascq
        self.meaning = meaning
        self.remedy = remedy

    @property
    def code(self) -> str:
        """Sense key / ASC / ASCQ in hexadecimal, such as 7/EF/11."""
        return f"{self.key:X}/{self.asc:02X}/{self.ascq:02X}"


class DriveError(TaperigError):
    """A command of the drive ended with sense data."""

    def __init__(self, sense: Sense, detail: str) -> None:
        """Keep the sense; `detail` says what and where."""
        super().__init__(f"{detail} (sense {sense.code}, {sense.meaning}); {sense.remedy}.")
        self.sense = sense


class KeyRequired(DriveError):  # noqa: N818 - no failure: the drive asks for a key exchange
    """The drive needs a data key to go on (BOT-2b, APP-2c, READ-2b)."""


_EXCHANGE = {
    ErrorCode.MALFORMED_MESSAGE: Sense.UNSUPPORTED_TYPE,
    ErrorCode.UNEXPECTED_MESSAGE: Sense.SEQUENCING_FAILURE,
    ErrorCode.UNSUPPORTED_VERSION: Sense.UNSUPPORTED_TYPE,
    ErrorCode.FRAME_TOO_LARGE: Sense.UNSUPPORTED_TYPE,
    ErrorCode.FRAME_TIMEOUT: Sense.KEY_SERVICE_TIMEOUT,
    ErrorCode.UNSUPPORTED_OPERATION: Sense.UNSUPPORTED_TYPE,
    ErrorCode.UNTRUSTED_CERTIFICATE: Sense.UNAUTHORIZED_CERTIFICATE,
    ErrorCode.UNKNOWN_DRIVE: Sense.UNAUTHORIZED_DRIVE,
    ErrorCode.REVOKED_DRIVE: Sense.UNAUTHORIZED_DRIVE,
    ErrorCode.CERTIFICATE_MISMATCH: Sense.UNAUTHORIZED_CERTIFICATE,
    ErrorCode.BAD_SIGNATURE: Sense.AUTHENTICATION_FAILURE,
    ErrorCode.REPLAYED_NONCE: Sense.SEQUENCING_FAILURE,
    ErrorCode.STALE_SEQUENCE: Sense.SEQUENCING_FAILURE,
    ErrorCode.WRONG_SESSION: Sense.SEQUENCING_FAILURE,
    ErrorCode.DRIVE_KEY_ABSENT: Sense.UNAUTHORIZED_DRIVE_KEY,
    ErrorCode.UNKNOWN_LABEL: Sense.KEY_UNKNOWN,
    ErrorCode.PUBLIC_ONLY_PAIR: Sense.PROHIBITED_REQUEST,
    ErrorCode.KEK_ABSENT: Sense.KEY_UNKNOWN,
    ErrorCode.CORRUPT_EEDK: Sense.KEY_INCORRECT,
    ErrorCode.WRONG_VOLUME: Sense.WRONG_EEDK,
    ErrorCode.FORGED_EEDK: Sense.KEY_INCORRECT,
    ErrorCode.WRONG_KEK: Sense.KEY_INCORRECT,
    ErrorCode.KEK_PUBLIC_ONLY: Sense.KEY_UNKNOWN,
    ErrorCode.KEYSTORE_FAILURE: Sense.KEY_SERVICE_FAILURE,
    ErrorCode.INTERNAL_FAILURE: Sense.KEY_SERVICE_FAILURE,
    ErrorCode.BAD_REPLY: Sense.UNAUTHORIZED_EKM,
}


def sense_of(error: BaseException) -> Sense | None:
    """Return the sense of an error of a command or of a key exchange."""
    if isinstance(error, DriveError):
        return error.sense
    if isinstance(error, EkmUnavailable):
        return Sense.KEY_SERVICE_TIMEOUT
    if isinstance(error, ExchangeError):
        return _EXCHANGE.get(error.code, Sense.KEY_SERVICE_FAILURE)
    return None
