"""A lab for tests of the key exchange: a real token, software drives.

A software drive has its keys in this process, so a test can sign what a real drive never would and
read the data key that it received.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from hsm.keys.eedk import MIN_KEK_BITS
from hsm.keys.pki import CertificateAuthority, Role
from hsm.pkcs11.oaep import OaepHash
from hsm.provisioning import ProvisionedDrive, ProvisionedLab
from tests.support.provisioned import provision_lab

MAIN_KEY = "June 2007 Key"
DR_KEY = "June 2007 DR Site Key"
REAL_SERIAL = "TAPE000001"
SOFT_SERIAL = "SOFT000001"
CARTRIDGE_ID = bytes(range(16))

_OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)


def make_lab(folder: Path, kek_bits: int = MIN_KEK_BITS) -> ProvisionedLab:
    """Provision tokens, certificates, two KEKs and one drive."""
    return provision_lab(folder, [MAIN_KEY, DR_KEY], [REAL_SERIAL], kek_bits=kek_bits)


def authority(lab: ProvisionedLab) -> CertificateAuthority:
    return CertificateAuthority(lab.state_dir / "pki")


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@dataclass
class SoftDrive:
    """A software drive, whose keys the test has."""

    serial: str
    certificate_der: bytes
    key: ec.EllipticCurvePrivateKey
    wrap_key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(65537, 2048)
    )

    @classmethod
    def issued_by(
        cls, ca: CertificateAuthority, serial: str = SOFT_SERIAL, role: Role = Role.DRIVE
    ) -> SoftDrive:
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(serial, der(ca.issue_identity(serial, key.public_key(), role)), key)

    @property
    def wrap_spki(self) -> bytes:
        return self.wrap_key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def oaep_hash(self) -> OaepHash:
        return OaepHash.SHA1

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))

    def data_key(self, sedk: bytes) -> bytes:
        return self.wrap_key.decrypt(sedk, _OAEP)


@dataclass
class SoftKek:
    """A KEK made outside of the token; the test has its private half."""

    label: str
    key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, label: str) -> SoftKek:
        key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, label)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        return cls(label, key, certificate)

    @property
    def pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def open(self, wrapped: bytes) -> bytes:
        return self.key.decrypt(wrapped, _OAEP)

    def wrap(self, data_key: bytes) -> bytes:
        return self.key.public_key().encrypt(data_key, _OAEP)


def unsealed(drive: ProvisionedDrive, blob: bytes) -> bytes:
    """Return the data key in a sealed key, unwrapped with the transport key."""
    return aes_key_unwrap(bytes.fromhex(drive.transport_key.read_text()), blob)


def end(child: subprocess.Popen[Any]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()


class TokenWatch:
    """Counts the calls of the token."""

    def __init__(self, asking: Callable[..., Any]) -> None:
        self.count = 0
        self._asking = asking

    def __call__(self, token: Any, what: str) -> Any:
        self.count += 1
        return self._asking(token, what)
