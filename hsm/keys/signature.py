"""ECDSA P-256 signatures over SHA-256, in DER (RFC 3279, 2.2.3)."""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

MIN_SIGNATURE_BYTES: Final = 8
MAX_SIGNATURE_BYTES: Final = 72
_ECDSA: Final = ec.ECDSA(hashes.SHA256())


def signature_is_valid(
    public_key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes
) -> bool:
    """Return whether `signature` (DER) is the key's P-256 signature of `data`."""
    if public_key.curve.name != ec.SECP256R1.name:
        return False
    try:
        public_key.verify(signature, data, _ECDSA)
    except InvalidSignature:
        return False
    return True
