"""RSA pairs and certificates made outside any token, and what they open."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class OutsidePair:
    """An RSA pair that was made outside any token, with a certificate."""

    private: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def wrap(self, plain: bytes) -> bytes:
        """RSA-OAEP SHA-1, as SoftHSM does it."""
        return self.private.public_key().encrypt(
            plain, padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
        )

    def unwrap(self, wrapped: bytes) -> bytes:
        return self.private.decrypt(
            wrapped, padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
        )


def outside_pair(name: str, bits: int = 2048) -> OutsidePair:
    private = rsa.generate_private_key(65537, bits)
    return OutsidePair(private, self_signed(name, private))


def self_signed(name: str, private: rsa.RSAPrivateKey) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(private, hashes.SHA256())
    )
