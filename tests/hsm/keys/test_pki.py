"""The lab's CA: TLS, identity and KEK certificates, and their files."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from hsm.configuration.tls_files import TlsFiles
from hsm.errors import PkiError
from hsm.keys.pki import CertificateAuthority, Role, load_certificate


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path / "pki")


def handshake(server: TlsFiles, client: TlsFiles, host: str) -> str | None:
    """Return the protocol of a mutual TLS handshake; raises its errors."""
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(server.certificate, server.key)
    there.load_verify_locations(server.ca)
    there.verify_mode = ssl.CERT_REQUIRED
    there.minimum_version = ssl.TLSVersion.TLSv1_3
    here = ssl.create_default_context(cafile=str(client.ca))
    here.verify_flags |= ssl.VERIFY_X509_STRICT
    here.load_cert_chain(client.certificate, client.key)
    left, right = socket.socketpair()
    failures: list[Exception] = []

    def serve() -> None:
        try:
            with there.wrap_socket(right, server_side=True) as link:
                link.recv(1)
                link.sendall(b"x")
        except (ssl.SSLError, OSError) as error:
            failures.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with here.wrap_socket(left, server_hostname=host) as link:
            link.sendall(b"x")
            link.recv(1)
            version = link.version()
    finally:
        left.close()
        thread.join(timeout=10)
    if failures:
        raise failures[0]
    return version


def test_tls_files_serve_mutual_tls(authority: CertificateAuthority, tmp_path: Path) -> None:
    hosts = ("localhost", "127.0.0.1", "::1", "ekm.example")
    server = authority.issue_tls("server", hosts, server=True)
    client = authority.issue_tls("client", server=False)
    for host in hosts:
        assert handshake(server, client, host) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client, "other.example")
    with pytest.raises(ssl.SSLError):
        handshake(client, client, "localhost")  # a client's certificate does not serve
    stranger = CertificateAuthority(tmp_path / "strangers").issue_tls("client", server=False)
    with pytest.raises((ssl.SSLError, OSError)):
        handshake(server, stranger.replace(ca=client.ca), "localhost")


def test_certificate_authority_keeps_its_files(authority: CertificateAuthority) -> None:
    files = authority.issue_tls("server", ("localhost",), server=True)
    before = files.certificate.read_bytes(), files.key.read_bytes()
    again = CertificateAuthority(authority.certificate_path.parent)
    assert again.certificate == authority.certificate
    assert again.issue_tls("server", ("localhost",), server=True) == files
    assert (files.certificate.read_bytes(), files.key.read_bytes()) == before
    assert files.key.stat().st_mode & 0o777 == 0o600
    files.key.unlink()
    again.issue_tls("server", ("localhost",), server=True)
    assert files.certificate.read_bytes() != before[0]


def test_identity_certificate_has_its_role(authority: CertificateAuthority) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    for role in Role:
        certificate = authority.issue_identity("S-1", key, role)
        certificate.verify_directly_issued_by(authority.certificate)
        (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        assert name.value == "S-1"
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [role.value]
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert not constraints.value.ca


def test_identity_file_is_renewed_for_another_key(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()).public_key() for _ in range(2))
    path = authority.identity_file("drive-1", "1", key, Role.DRIVE)
    first = path.read_bytes()
    assert authority.identity_file("drive-1", "1", key, Role.DRIVE).read_bytes() == first
    authority.identity_file("drive-1", "1", other, Role.DRIVE)
    assert load_certificate(path).public_key() == other
    strangers = CertificateAuthority(tmp_path / "strangers")
    path.write_bytes(strangers.identity_file("drive-1", "1", other, Role.DRIVE).read_bytes())
    authority.identity_file("drive-1", "1", other, Role.DRIVE)
    load_certificate(path).verify_directly_issued_by(authority.certificate)


@pytest.mark.rule("KEY-3")
def test_kek_certificate_has_the_keks_public_key(authority: CertificateAuthority) -> None:
    public_key = rsa.generate_private_key(65537, 2048).public_key()
    certificate = authority.issue_kek("June 2007 Key", public_key)
    certificate.verify_directly_issued_by(authority.certificate)
    assert certificate.public_key() == public_key


def test_certificate_authority_reports_unusable_files(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    with pytest.raises(PkiError, match="cannot be read: No such file"):
        load_certificate(tmp_path / "none.pem")
    (tmp_path / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    with pytest.raises(PkiError, match="holds no certificate"):
        load_certificate(tmp_path / "bad.pem")
    directory = authority.certificate_path.parent
    (directory / "ca.key").write_text("nothing")
    with pytest.raises(PkiError, match="holds no private key"):
        CertificateAuthority(directory)
    (directory / "ca.key").unlink()
    with pytest.raises(PkiError, match=r"ca\.key cannot be read"):
        CertificateAuthority(directory)
