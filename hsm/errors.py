"""The errors of the key side that users read, in one hierarchy.

A message says what failed, on what, why, and what to do. It is shown unchanged, without a
traceback, so it never has a key or a PIN.
"""


class TaperigError(Exception):
    """An error that a user reads: what failed, on what, why, and what to do."""


class PinError(TaperigError):
    """The PIN of a token cannot be read from its configured source."""


class PinUnsetError(PinError):
    """The environment variable that should hold a PIN is unset or empty."""


class PinFileUnreadableError(PinError):
    """The file that should hold a PIN is absent, unreadable or holds no PIN."""


class PinFileExposedError(PinError):
    """The file that holds a PIN may be read by others; its mode must be 0600."""


class TokenError(TaperigError):
    """The PKCS#11 token cannot be reached or does not carry out a request."""


class ModuleAbsentError(TokenError):
    """The PKCS#11 module is absent or cannot be loaded."""


class TokenAbsentError(TokenError):
    """No token has the configured label."""


class TokenGoneError(TokenError):
    """An open token was removed; this process must open it again."""


class TokenNotUniqueError(TokenError):
    """Several tokens have the configured label."""


class TokenBusyError(TokenError):
    """Another token is open in this process, which has one PKCS#11 context."""


class WrongPinError(TokenError):
    """The token refused the PIN."""


class PinLockedError(TokenError):
    """The token has locked the PIN after too many wrong ones."""


class TokenRefusedError(TokenError):
    """The token answered a request with an error."""


class UserPinAbsentError(TokenRefusedError):
    """The token says that its user has no PIN yet."""


class MechanismAbsentError(TokenError):
    """The token lacks a mechanism or a mechanism parameter that the rig needs."""


class RiskNotAcceptedError(TokenError):
    """The token has a weakness that the configuration does not accept."""


class KeyAbsentError(TokenError):
    """The token lacks a key of the rig (signing, transport, length check)."""


class UnwrapRefusedError(TokenError):
    """The token cannot unwrap a key: it is damaged, or wrapped by another key."""


class NotADataKeyError(TokenError):
    """The unwrapped object is not an AES-256 key protected as data keys are."""


class KeystoreError(TaperigError):
    """A key-encryption key (KEK) cannot be used as requested."""


class LabelInvalidError(KeystoreError):
    """A key label is not 1 to 64 printable characters (KEY-5)."""


class LabelUnknownError(KeystoreError):
    """The keystore has no KEK under this label (KEY-9, KEY-8 in clear mode)."""


class LabelDuplicateError(KeystoreError):
    """The keystore has another certificate under this label (KEY-10)."""


class KekDuplicateError(KeystoreError):
    """The keystore has this public key already, under another label."""


class KekHashUnknownError(KeystoreError):
    """The keystore has no KEK with this public-key hash (KEY-8 in hash mode)."""


class KekPublicOnlyError(KeystoreError):
    """The keystore has the KEK without its private half (KEY-4)."""


class KekInvalidError(KeystoreError):
    """The key or certificate offered cannot be a KEK (KEY-3)."""


class DriveKeyUnknownError(KeystoreError):
    """The drive's wrapping key is not enrolled in the token."""


class EedkError(TaperigError):
    """An externally encrypted data key (EEDK) cannot be made or opened."""


class EedkMalformedError(EedkError):
    """The bytes are not an EEDK."""


class EedkForgedError(EedkError):
    """The EEDK has no signature of an EKM that this one trusts."""


class EedkWrongVolumeError(EedkError):
    """The EEDK belongs to another volume."""


class EedkUnopenedError(EedkError):
    """The KEK that the EEDK names does not open it."""


class PairUnreadableError(EedkError):
    """No KEK of a pair has its private half here (KEY-11)."""


class PkiError(TaperigError):
    """A certificate or key file of the lab's CA cannot be used."""


class ProvisioningError(TaperigError):
    """The state folder cannot be provisioned."""
