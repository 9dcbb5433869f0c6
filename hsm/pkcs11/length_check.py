"""Verify the length of an unwrapped key when CKA_VALUE_LEN is unreliable.

SoftHSM unwraps a payload of any length as an AES key and reads its CKA_VALUE_LEN as 0. Its AES key
wrap is no measure either: it pads with zeros, so that 25 to 32 bytes all come out as 40.

RSA-OAEP refuses a message that is longer than the modulus allows: with SHA-1 (20 bytes), modulus
bytes minus 42 (RFC 8017, 7.1.1). So a key that a modulus of 73 bytes is too short for and one of 74
bytes is not has 32 bytes. The two gauge keys must be TRUSTED, as a data key is wrapped by no other,
and so must not give anything away: each modulus is a prime p and its exponent is p - 1, with which
every message becomes 1 (Fermat). What they wrap is lost, by whatever mechanism.
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
GAUGES: Final = {REFUSES_32_BYTES: 2**584 - 195, TAKES_32_BYTES: 2**592 - 935}
"""Label and modulus of the gauge keys; the moduli are the largest primes of 73 and 74 bytes."""


def gauge_template(label: str) -> dict[Attribute, object]:
    """Return what the security officer makes the gauge key `label` from."""
    prime = GAUGES[label]
    return {
        **WRAPPING_PUBLIC,
        Attribute.LABEL: label,
        Attribute.MODULUS: big_integer(prime),
        Attribute.PUBLIC_EXPONENT: big_integer(prime - 1),
    }


def has_32_bytes(key: Key, refuses: WrapMixin | None, takes: WrapMixin | None) -> bool:
    """Say whether `key` has 32 bytes, by the two gauge keys of its token.

    Raises KeyAbsentError when a gauge key is absent.
    """
    if refuses is None or takes is None:
        raise KeyAbsentError(
            f"The token {key.session.token.label} lacks the keys that measure what was unwrapped; "
            "run `rig hsm init`."
        )
    return _fits(takes, key) and not _fits(refuses, key)


def _fits(gauge: WrapMixin, key: Key) -> bool:
    try:
        gauge.wrap_key(key, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=OAEP[OaepHash.SHA1])
    except refusals.PKCS11Error:
        return False
    return True
