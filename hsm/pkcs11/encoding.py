"""Encodings of public keys: PKCS#11, `cryptography`, SubjectPublicKeyInfo."""

import hashlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pkcs11 import Attribute
from pkcs11.types import Object


def spki_der(public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    """Return the key's SubjectPublicKeyInfo, DER."""
    return public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def spki_hash(public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    """Return SHA-256 of the key's SubjectPublicKeyInfo.

    EEDKs in hash mode and CKA_ID identify a key by it.
    """
    return hashlib.sha256(spki_der(public_key)).digest()


def rsa_public(key: Object) -> rsa.RSAPublicKey:
    """Return the public half of a token's RSA object, public or private."""
    exponent, modulus = key[Attribute.PUBLIC_EXPONENT], key[Attribute.MODULUS]
    return rsa.RSAPublicNumbers(
        int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")
    ).public_key()


def p256_public(key: Object) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key of a token's public-key object."""
    point: bytes = key[Attribute.EC_POINT]  # a DER OCTET STRING that ends with the point
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point[-65:])


def big_integer(number: int) -> bytes:
    """Return a positive number as a PKCS#11 big integer.

    Big endian, no leading zeros (PKCS#11 2.40, section 4.1).
    """
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def der_integer(number: int) -> bytes:
    """Return a positive number as a DER INTEGER, as in CKA_SERIAL_NUMBER.

    Raises ValueError for more than 127 bytes.
    """
    content = number.to_bytes(number.bit_length() // 8 + 1, "big")
    if len(content) > 127:
        raise ValueError("a serial number has at most 20 bytes (RFC 5280, 4.1.2.2)")
    return bytes((2, len(content))) + content
