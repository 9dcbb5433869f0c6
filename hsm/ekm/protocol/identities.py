"""Identities of drives and key managers: certificates and signatures."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hsm.ekm.protocol.errors import ErrorCode, ExchangeError
from hsm.keys.pki import Role
from hsm.keys.signature import signature_is_valid

CACHED_CERTIFICATES = 1024
"""Cached certificates, which are not parsed and verified again; only valid ones."""
_ROLE_NAMES = {Role.DRIVE: "drive", Role.KEY_MANAGER: "key manager"}
PublicKey = ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class Identity:
    """The holder of a certificate: its name and its P-256 public key.

    A drive's name is its serial number. ``fingerprint`` is SHA-256 of the certificate.
    """

    name: str
    public_key: PublicKey
    fingerprint: bytes


def fingerprint(certificate_der: bytes) -> bytes:
    """Return SHA-256 of a certificate, by which the drive table identifies it."""
    return hashlib.sha256(certificate_der).digest()


def verify_identity(certificate_der: bytes, authority: x509.Certificate, role: Role) -> Identity:
    """Verify a signing certificate; return the identity of its holder.

    Raises ExchangeError (UNTRUSTED_CERTIFICATE) unless ``authority`` issued it for this role and
    for a P-256 key, and it is valid today.
    """
    identity, begins, ends = _verify_certificate(certificate_der, authority, role)
    if not begins <= datetime.now(UTC) <= ends:
        raise _untrusted(role, f"is valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d} only")
    return identity


@lru_cache(CACHED_CERTIFICATES)
def _verify_certificate(
    certificate_der: bytes, authority: x509.Certificate, role: Role
) -> tuple[Identity, datetime, datetime]:
    """Check a certificate except for its dates; return its identity and dates."""
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        certificate.verify_directly_issued_by(authority)
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        public_key = certificate.public_key()
    except InvalidSignature:
        raise _untrusted(role, "was not issued by this lab's authority") from None
    except x509.ExtensionNotFound:
        raise _untrusted(role, "names no role") from None
    except Exception as error:  # the parser raises many kinds; none quotes the bytes
        raise _untrusted(role, f"cannot be read ({type(error).__name__})") from None
    if list(usages) != [role.value]:
        raise _untrusted(role, f"is not that of a {_ROLE_NAMES[role]}")
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, ec.SECP256R1
    ):
        raise _untrusted(role, "holds no P-256 key")
    if len(names) != 1:
        raise _untrusted(role, "does not have exactly one common name")
    return (
        Identity(str(names[0].value), public_key, fingerprint(certificate_der)),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def _untrusted(role: Role, why: str) -> ExchangeError:
    return ExchangeError(
        ErrorCode.UNTRUSTED_CERTIFICATE, f"The certificate shown by the {_ROLE_NAMES[role]} {why}."
    )


def verify_signature(public_key: PublicKey, signature: bytes, data: bytes, message: str) -> None:
    """Raise ExchangeError (BAD_SIGNATURE) unless the signature is valid."""
    if not signature_is_valid(public_key, signature, data):
        raise ExchangeError(ErrorCode.BAD_SIGNATURE, message)
