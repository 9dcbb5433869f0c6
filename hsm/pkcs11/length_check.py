"""Verify the length of an unwrapped key when CKA_VALUE_LEN is unreliable.

SoftHSM unwraps a payload of any length as an AES key and reports CKA_VALUE_LEN 0. Its AES key wrap
does not show the length either: it pads with zeros, so that 25 to 32 bytes all give 40.

RSA-OAEP refuses a message that is longer than the modulus allows: with SHA-1 (20 bytes), modulus
bytes minus 42 (RFC 8017, 7.1.1). So a key has 32 bytes if a modulus of 74 bytes wraps it and one
of 73 bytes does not. The security officer makes two such reference keys. They must be TRUSTED,
since no other key wraps a data key, and so must not reveal it: each modulus is a prime p and its
exponent is p - 1, with which every message becomes 1 (Fermat). What they wrap cannot be recovered,
by whatever mechanism.
"""

from typing import Final

from pkcs11 import Attribute, Mechanism
from pkcs11 import exceptions as refusals
from pkcs11.types import Key, WrapMixin

from hsm.errors import KeyAbsentError
from hsm.pkcs11.encoding import big_integer
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.templates import OAEP, WRAPPING_PUBLIC

REFUSES_32_BYTES: Final = "taperig gauge 31"
TAKES_32_BYTES: Final = "taperig gauge 32"
REFERENCE_MODULI: Final = {REFUSES_32_BYTES: 2**584 - 195, TAKES_32_BYTES: 2**592 - 935}
"""Moduli of the reference keys by label: the largest primes of 73 and 74 bytes."""


def reference_key_template(label: str) -> dict[Attribute, object]:
    """Return the template of the reference key `label`."""
    prime = REFERENCE_MODULI[label]
    return {
        **WRAPPING_PUBLIC,
        Attribute.LABEL: label,
        Attribute.MODULUS: big_integer(prime),
        Attribute.PUBLIC_EXPONENT: big_integer(prime - 1),
    }


def has_32_bytes(key: Key, refuses: WrapMixin | None, takes: WrapMixin | None) -> bool:
    """Return whether `key` has 32 bytes, by the reference keys of its token.

    Raises KeyAbsentError when a reference key is absent.
    """
    if refuses is None or takes is None:
        raise KeyAbsentError(
            f"The token {key.session.token.label} lacks the reference keys that verify the length "
            "of an unwrapped key; run `rig hsm init`."
        )
    return _wraps(takes, key) and not _wraps(refuses, key)


def _wraps(reference_key: WrapMixin, key: Key) -> bool:
    try:
        reference_key.wrap_key(
            key, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=OAEP[OaepHash.SHA1]
        )
    except refusals.PKCS11Error:
        return False
    return True
