"""Who a peer is: signing certificates of drives and key managers, and their signatures."""

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
from hsm.keys.signature import signature_holds

REMEMBERED = 1024
"""Certificates that are not parsed and verified again; only sound ones are remembered."""
_WHOSE = {Role.DRIVE: "drive", Role.KEY_MANAGER: "key manager"}
PublicKey = ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate's holder: its name (a drive's serial number) and its P-256 public key.

    ``fingerprint`` is SHA-256 of the certificate.
    """

    name: str
    public_key: PublicKey
    fingerprint: bytes


def fingerprint(certificate_der: bytes) -> bytes:
    """Return the SHA-256 by which the drive table knows a drive's signing certificate."""
    return hashlib.sha256(certificate_der).digest()


def verify_identity(certificate_der: bytes, authority: x509.Certificate, role: Role) -> Identity:
    """Return who a signing certificate belongs to.

    Raises ExchangeError (UNTRUSTED_CERTIFICATE) unless ``authority`` issued it, for this role, for
    now, and for a P-256 key.
    """
    identity, begins, ends = _checked(certificate_der, authority, role)
    if not begins <= datetime.now(UTC) <= ends:
        raise _untrusted(role, f"is valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}, and not now")
    return identity


@lru_cache(REMEMBERED)
def _checked(
    certificate_der: bytes, authority: x509.Certificate, role: Role
) -> tuple[Identity, datetime, datetime]:
    """Check all of a certificate that does not change with time; return its dates too."""
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        certificate.verify_directly_issued_by(authority)
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        public_key = certificate.public_key()
    except InvalidSignature:
        raise _untrusted(role, "was not issued by this lab's authority") from None
    except x509.ExtensionNotFound:
        raise _untrusted(role, "says no role") from None
    except Exception as error:  # the parser raises many kinds; none quotes the bytes
        raise _untrusted(role, f"cannot be read ({type(error).__name__})") from None
    if list(usages) != [role.value]:
        raise _untrusted(role, f"is not that of a {_WHOSE[role]}")
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, ec.SECP256R1
    ):
        raise _untrusted(role, "holds no P-256 key")
    if len(names) != 1:
        raise _untrusted(role, "bears not exactly one name")
    return (
        Identity(str(names[0].value), public_key, fingerprint(certificate_der)),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def _untrusted(role: Role, why: str) -> ExchangeError:
    return ExchangeError(
        ErrorCode.UNTRUSTED_CERTIFICATE, f"The certificate shown by the {_WHOSE[role]} {why}."
    )


def verify_signature(public_key: PublicKey, signature: bytes, data: bytes, complaint: str) -> None:
    """Raise ExchangeError (BAD_SIGNATURE) with ``complaint`` unless the signature holds."""
    if not signature_holds(public_key, signature, data):
        raise ExchangeError(ErrorCode.BAD_SIGNATURE, complaint)
