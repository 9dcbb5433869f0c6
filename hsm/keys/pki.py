"""The lab's certificate authority (CA) and the certificates it issues.

The CA has a P-256 key in a file of mode 0600, and is trusted within one lab only. It issues the TLS
certificates of key managers and of the rig, the drives' identity certificates, the key managers'
signing certificates, and the certificates of KEKs that are generated in the lab.
"""

import datetime
import ipaddress
from enum import Enum
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hsm.configuration.tls_files import TlsFiles
from hsm.errors import PkiError
from hsm.files import private_directory, read_limited, write_private

ORGANIZATION: Final = "Taperig lab"
_VALID: Final = datetime.timedelta(days=20 * 365)
_BACKDATED: Final = datetime.timedelta(hours=1)
_RENEWED_BEFORE: Final = datetime.timedelta(days=30)
MAX_PEM_BYTES: Final = 64 * 1024
"""Largest file with a certificate or a key."""
_MAX_COMMON_NAME_BYTES: Final = 64


class Role(Enum):
    """The role of a certificate's holder, as its extended key usage.

    See RFC 5280, 4.2.1.12. The identifiers are UUIDs under 2.25 (ITU-T X.667), which need no
    registration.
    """

    DRIVE = x509.ObjectIdentifier("2.25.167273729618652200568379073662444793523")
    KEY_MANAGER = x509.ObjectIdentifier("2.25.154528437032782870066844433342154210227")


class CertificateAuthority:
    """The lab's CA, stored in a directory."""

    def __init__(self, directory: Path) -> None:
        """Open the CA in `directory`, or create it there. Raises PkiError."""
        self.certificate_path = directory / "ca.pem"
        self._directory = directory
        private_directory(directory)
        key_path = directory / "ca.key"
        if not self.certificate_path.exists():
            self._create(key_path)
        self._key = load_p256_key(key_path)
        self.certificate = load_certificate(self.certificate_path)
        if self.certificate.public_key() != self._key.public_key():
            raise PkiError(
                f"The lab CA's key {key_path} is not that of {self.certificate_path}; restore the "
                "pair from a backup, or remove the state directory and run `rig hsm init`."
            )

    def issue_tls(self, name: str, hosts: tuple[str, ...] = (), *, server: bool) -> TlsFiles:
        """Return the TLS identity `name`; issue it if it is absent or unsuitable.

        `hosts` are the DNS names and IP addresses of a server.
        """
        files = TlsFiles(
            certificate=self._directory / f"{name}.pem",
            key=self._directory / f"{name}.key",
            ca=self.certificate_path,
        )
        if not self._covers_hosts(files, hosts):
            key = ec.generate_private_key(ec.SECP256R1())
            usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
            builder = self._builder(name, key.public_key())
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            if hosts:
                names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
                builder = builder.add_extension(names, critical=False)
            write_private(files.key, _pem_key(key))
            write_private(files.certificate, _pem(self._sign(builder)))
        return files

    def issue_identity(
        self, name: str, public_key: ec.EllipticCurvePublicKey, role: Role
    ) -> x509.Certificate:
        """Return a certificate for the P-256 signing key of a drive or an EKM.

        `name` is a drive's serial number. The role is the only extended key usage, so neither is
        valid for the other role or in TLS.
        """
        usage = x509.ExtendedKeyUsage([role.value])
        return self._sign(self._builder(name, public_key).add_extension(usage, critical=True))

    def issue_kek(self, label: str, public_key: rsa.RSAPublicKey) -> x509.Certificate:
        """Return a certificate for a KEK that the keystore generated."""
        name = label if len(label.encode()) <= _MAX_COMMON_NAME_BYTES else "KEK"
        return self._sign(self._builder(name, public_key, wraps_keys=True))

    def identity_file(
        self, file_name: str, name: str, public_key: ec.EllipticCurvePublicKey, role: Role
    ) -> Path:
        """Return the file of an identity certificate; renew it for another key."""
        path = self._directory / f"{file_name}.pem"
        if not path.exists() or not self._is_current(load_certificate(path), public_key):
            write_private(path, _pem(self.issue_identity(name, public_key, role)))
        return path

    def _is_current(
        self, certificate: x509.Certificate, public_key: ec.EllipticCurvePublicKey
    ) -> bool:
        """Return whether this CA's certificate is for this key and still valid."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        ends = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        return certificate.public_key() == public_key and ends > _RENEWED_BEFORE

    def _covers_hosts(self, files: TlsFiles, hosts: tuple[str, ...]) -> bool:
        """Return whether a TLS identity exists, is valid and names all hosts."""
        if not (files.certificate.exists() and files.key.exists()):
            return False
        certificate = load_certificate(files.certificate)
        if not self._is_current(certificate, load_p256_key(files.key).public_key()):
            return False
        try:
            names = set(
                certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            )
        except x509.ExtensionNotFound:
            names = set()
        return {_general_name(host) for host in hosts} <= names

    def _create(self, key_path: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("CA")
        builder = (
            _dated(x509.CertificateBuilder())
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
        )
        write_private(key_path, _pem_key(key))
        write_private(self.certificate_path, _pem(builder.sign(key, hashes.SHA256())))

    def _builder(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        *,
        wraps_keys: bool = False,
    ) -> x509.CertificateBuilder:
        usage = _key_usage("key_encipherment" if wraps_keys else "digital_signature")
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            _dated(x509.CertificateBuilder())
            .subject_name(_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(issuer, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self._key, hashes.SHA256())


def load_certificate(path: Path) -> x509.Certificate:
    """Return the certificate in a PEM or DER file; raises PkiError."""
    try:
        content = read_limited(path, MAX_PEM_BYTES)
        if content.startswith(b"-----"):
            return x509.load_pem_x509_certificate(content)
        return x509.load_der_x509_certificate(content)
    except OSError as error:
        raise PkiError(f"The certificate {path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise PkiError(f"The file {path} holds no certificate.") from None


def ensure_p256_file(path: Path) -> ec.EllipticCurvePublicKey:
    """Return the public half of the P-256 key in a file; create it if absent."""
    if not path.exists():
        write_private(path, _pem_key(ec.generate_private_key(ec.SECP256R1())))
    return load_p256_key(path).public_key()


def load_p256_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the P-256 private key in a PEM file; raises PkiError."""
    try:
        key = serialization.load_pem_private_key(read_limited(path, MAX_PEM_BYTES), None)
    except OSError as error:
        raise PkiError(f"The key {path} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError):
        raise PkiError(f"The file {path} holds no private key.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError(f"The file {path} holds no P-256 key.")
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _dated(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _VALID)
    )


def _key_usage(*granted: str) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in granted for name in names})
