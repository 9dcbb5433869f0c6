"""Every error of the key side that a user is meant to read, in one tree.

The message is one sentence: what is wrong, where, and how to mend it. It is shown as it is, without
a traceback, so it never contains a key or a PIN.
"""


class TaperigError(Exception):
    """One sentence for the user: what is wrong, where, and how to mend it."""


class PinError(TaperigError):
    """The PIN of a token cannot be had from where the configuration says it is."""


class PinUnsetError(PinError):
    """The environment variable that should hold a PIN is unset or empty."""


class PinFileUnreadableError(PinError):
    """The file that should hold a PIN is absent, unreadable or holds no PIN."""


class PinFileExposedError(PinError):
    """The file that holds a PIN may be read by others; its mode must be 0600."""


class TokenError(TaperigError):
    """The PKCS#11 token cannot be reached or does not do what is asked."""


class ModuleAbsentError(TokenError):
    """The PKCS#11 module is not there or cannot be loaded."""


class TokenAbsentError(TokenError):
    """No token bears the configured label."""


class TokenGoneError(TokenError):
    """An open token has lost its keys: it was taken away, and this process must open it anew."""


class TokenNotUniqueError(TokenError):
    """Several tokens bear the configured label."""


class TokenBusyError(TokenError):
    """This process has a token open already; one process owns one PKCS#11 context."""


class WrongPinError(TokenError):
    """The token refused the PIN."""


class PinLockedError(TokenError):
    """The token has locked the PIN after too many wrong ones."""


class TokenRefusedError(TokenError):
    """The token answered a request with an error."""


class MechanismAbsentError(TokenError):
    """The token lacks a mechanism or a mechanism parameter that the rig needs."""


class RiskNotAcceptedError(TokenError):
    """The token does less for its keys than the rig wants, and nobody said that this will do."""


class KeyAbsentError(TokenError):
    """The token lacks a key of the rig's own (signing, transport, length check)."""


class UnwrapRefusedError(TokenError):
    """The token could not unwrap a key: damaged, or wrapped for another key."""


class NotADataKeyError(TokenError):
    """What was unwrapped is not an AES-256 key with the protection that data keys have."""


class KeystoreError(TaperigError):
    """A key-encryption key (KEK) is not usable as asked."""


class LabelInvalidError(KeystoreError):
    """A key label is not 1 to 64 printable characters (KEY-5)."""


class LabelUnknownError(KeystoreError):
    """The keystore has no KEK under this label (KEY-9, KEY-8 in clear mode)."""


class LabelDuplicateError(KeystoreError):
    """The keystore has another certificate under this label (KEY-10)."""


class KekDuplicateError(KeystoreError):
    """The keystore has this public key already, under another label."""


class KekHashUnknownError(KeystoreError):
    """The keystore has no KEK whose public key has this hash (KEY-8 in hash mode)."""


class KekPublicOnlyError(KeystoreError):
    """The KEK is here, but without its private half (KEY-4)."""


class KekInvalidError(KeystoreError):
    """The key or certificate offered cannot be a KEK (KEY-3)."""


class DriveKeyUnknownError(KeystoreError):
    """The drive's wrapping key has not been enrolled in the token by the security officer."""


class EedkError(TaperigError):
    """An externally encrypted data key (EEDK) cannot be made or opened."""


class EedkMalformedError(EedkError):
    """The bytes are not an EEDK."""


class EedkForgedError(EedkError):
    """The EEDK bears no signature of an EKM that this one trusts."""


class EedkWrongVolumeError(EedkError):
    """The EEDK belongs to another volume."""


class EedkUnopenedError(EedkError):
    """The KEK found does not open the EEDK."""


class PairUnreadableError(EedkError):
    """No KEK of the pair has a private half here: this site could not read the tape (KEY-11)."""


class PkiError(TaperigError):
    """A certificate or key file of the lab's certificate authority is unusable."""


class ProvisioningError(TaperigError):
    """The state directory cannot be provisioned."""
