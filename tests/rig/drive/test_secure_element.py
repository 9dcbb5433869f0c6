"""The drive's secure element: it turns an SEDK into a sealed key."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509 import load_der_x509_certificate
from cryptography.x509.oid import NameOID

from hsm.errors import TaperigError
from hsm.pkcs11.pins import PinSource
from hsm.provisioning import ProvisionedLab
from rig.drive.secure_element import (
    SecureElement,
    SecureElementConfig,
    SecureElementError,
    SecureElementGoneError,
    SedkError,
)
from tests.support.process_memory import find_in_file, snapshot
from tests.support.provisioned import provision_lab
from tests.support.waiting import has_ended, wait_until

OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> ProvisionedLab:
    return provision_lab(tmp_path_factory.mktemp("drives"), [], ["SE-1", "SE-2"])


@pytest.fixture(scope="module")
def element(lab: ProvisionedLab) -> Iterator[SecureElement]:
    with SecureElement.start(SecureElementConfig.of(lab.drive("SE-1"))) as started:
        yield started


def wrapped_for(element: SecureElement, payload: bytes) -> bytes:
    public_key = load_der_public_key(element.wrap_public_der)
    assert isinstance(public_key, rsa.RSAPublicKey)
    return public_key.encrypt(payload, OAEP)


def transport_key(lab: ProvisionedLab, serial: str = "SE-1") -> bytes:
    return bytes.fromhex(lab.drive(serial).transport_key.read_text())


@pytest.mark.rule("BOT-2d", "KEY-12")
def test_secure_element_rewraps_what_the_gates_unwrap(
    lab: ProvisionedLab, element: SecureElement
) -> None:
    for _ in range(8):
        data_key = os.urandom(32)
        sealed = element.rewrap_for_engine(wrapped_for(element, data_key))
        assert len(sealed) == 40
        assert data_key not in sealed
        assert aes_key_unwrap(transport_key(lab), sealed) == data_key


@pytest.mark.parametrize("length", [0, 16, 24, 25, 31, 33, 48])
def test_secure_element_takes_aes_256_keys_only(element: SecureElement, length: int) -> None:
    with pytest.raises(SedkError):
        element.rewrap_for_engine(wrapped_for(element, os.urandom(length)))


def test_secure_element_refuses_a_damaged_sedk(element: SecureElement) -> None:
    sedk = wrapped_for(element, os.urandom(32))
    for damaged in (b"", sedk[:-1], sedk + b"\0", sedk[:-1] + bytes([sedk[-1] ^ 1]), bytes(256)):
        with pytest.raises(SedkError, match="Secure element of drive SE-1"):
            element.rewrap_for_engine(damaged)
    assert len(element.rewrap_for_engine(sedk)) == 40


def test_secure_element_refuses_the_sedk_of_another_drive(
    lab: ProvisionedLab, element: SecureElement
) -> None:
    with SecureElement.start(SecureElementConfig.of(lab.drive("SE-2"))) as other:
        assert other.wrap_public_der != element.wrap_public_der
        sedk = wrapped_for(other, os.urandom(32))
        with pytest.raises(SedkError):
            element.rewrap_for_engine(sedk)
        assert len(other.rewrap_for_engine(sedk)) == 40
    assert transport_key(lab, "SE-1") != transport_key(lab, "SE-2")


def test_secure_element_signs_with_its_identity(
    lab: ProvisionedLab, element: SecureElement
) -> None:
    certificate = load_der_x509_certificate(element.certificate_der)
    assert element.certificate_der == lab.drive("SE-1").certificate_der
    assert element.wrap_public_der == lab.drive("SE-1").wrap_public_der
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == element.serial == "SE-1"
    public_key = certificate.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    public_key.verify(element.sign(b"transcript"), b"transcript", ec.ECDSA(hashes.SHA256()))


def test_secure_element_configuration_is_found_by_serial(lab: ProvisionedLab) -> None:
    config = SecureElementConfig.under(lab.state_dir, "SE-1")
    assert config == SecureElementConfig.of(lab.drive("SE-1"))
    with pytest.raises(TaperigError, match="A drive serial has"):
        SecureElementConfig.under(lab.state_dir, "../SE-1")


def test_secure_element_refuses_a_message_that_is_too_long(element: SecureElement) -> None:
    with pytest.raises(SecureElementError, match="at most 65536 bytes"):
        element.sign(bytes(70_000))
    assert element.sign(bytes(60_000))


@pytest.mark.rule("KEY-12")
def test_secure_element_leaves_no_data_key_in_either_process(
    lab: ProvisionedLab, element: SecureElement, tmp_path: Path
) -> None:
    """The key is made in a third process, so that this one is searched too."""
    maker = (
        "import os, sys\n"
        "from cryptography.hazmat.primitives import hashes\n"
        "from cryptography.hazmat.primitives.asymmetric import padding\n"
        "from cryptography.hazmat.primitives.serialization import load_der_public_key\n"
        "oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)\n"
        "key = load_der_public_key(bytes.fromhex(sys.argv[1]))\n"
        "print(key.encrypt(os.urandom(32), oaep).hex())\n"
    )
    sedk = bytes.fromhex(
        subprocess.run(
            [sys.executable, "-c", maker, element.wrap_public_der.hex()],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    sealed = element.rewrap_for_engine(sedk)
    for pid, name in ((element.pid, "element"), (os.getpid(), "drive")):
        snapshot(pid, tmp_path / name)
    data_key = aes_key_unwrap(transport_key(lab), sealed)
    secrets = {"data key": data_key, "half": data_key[:16], "other half": data_key[16:]}
    assert find_in_file(tmp_path / "element", secrets) == []
    assert find_in_file(tmp_path / "drive", secrets) == []
    snapshot(os.getpid(), tmp_path / "now")
    assert find_in_file(tmp_path / "now", secrets) != []


# Failures


def test_secure_element_reports_a_wrong_pin(
    lab: ProvisionedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIVE_PIN", "1234567890")
    config = SecureElementConfig.of(lab.drive("SE-1"))
    config = config.replace(token=config.token.replace(pin=PinSource(env="DRIVE_PIN")))
    with pytest.raises(SecureElementError, match="SE-1 refused the user's PIN") as caught:
        SecureElement.start(config)
    assert "1234567890" not in str(caught.value)
    pin = lab.drive("SE-1").token.pin.read()
    monkeypatch.setenv("DRIVE_PIN", pin)
    with SecureElement.start(config) as element:
        assert element.sign(b"x")
        command = Path(f"/proc/{element.pid}/cmdline").read_bytes()
        assert pin.encode() not in command


def test_secure_element_refuses_a_pin_file_others_may_read(
    lab: ProvisionedLab, tmp_path: Path
) -> None:
    (tmp_path / "pin").write_text("123456")
    (tmp_path / "pin").chmod(0o644)
    config = SecureElementConfig.of(lab.drive("SE-1"))
    config = config.replace(token=config.token.replace(pin=PinSource(file=tmp_path / "pin")))
    with pytest.raises(SecureElementError, match="chmod 600"):
        SecureElement.start(config)


def test_secure_element_reports_an_absent_token(lab: ProvisionedLab) -> None:
    config = SecureElementConfig.under(lab.state_dir, "SE-3")
    with pytest.raises(SecureElementError, match=r"drive-SE-3\.pem cannot be read"):
        SecureElement.start(config)
    config = config.replace(certificate=lab.drive("SE-1").certificate)
    with pytest.raises(SecureElementError, match="no token taperig-drive-SE-3"):
        SecureElement.start(config)


def test_secure_element_refuses_the_certificate_of_another_drive(lab: ProvisionedLab) -> None:
    config = SecureElementConfig.of(lab.drive("SE-1"))
    config = config.replace(certificate=lab.drive("SE-2").certificate)
    with pytest.raises(SecureElementError, match="not that of the drive's identity key"):
        SecureElement.start(config)


def test_secure_element_reports_that_its_process_was_killed(lab: ProvisionedLab) -> None:
    with SecureElement.start(SecureElementConfig.of(lab.drive("SE-1"))) as element:
        os.kill(element.pid, signal.SIGKILL)
        with pytest.raises(SecureElementGoneError, match="SE-1 does not answer"):
            element.sign(b"x")
        with pytest.raises(SecureElementGoneError):
            element.sign(b"x")


def test_secure_element_reports_that_its_process_is_silent(
    lab: ProvisionedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SecureElement.start(SecureElementConfig.of(lab.drive("SE-1"))) as element:
        element._link.settimeout(0.2)
        os.kill(element.pid, signal.SIGSTOP)
        with pytest.raises(SecureElementGoneError, match="timed out"):
            element.sign(b"x")
        assert has_ended(element.pid), "so no late answer is taken for the next one"
        with pytest.raises(SecureElementGoneError):
            element.sign(b"y")


@pytest.mark.usefixtures("interruptible")
def test_secure_element_ignores_an_interrupt(lab: ProvisionedLab) -> None:
    with SecureElement.start(SecureElementConfig.of(lab.drive("SE-1"))) as element:
        os.kill(element.pid, signal.SIGINT)
        assert element.sign(b"x")
    element.close()


@pytest.mark.parametrize(
    "request_",
    [{}, {"do": "export"}, {"do": "rewrap"}, {"do": "sign", "data": "text"}, {1: 2}],
)
def test_secure_element_refuses_unknown_requests(
    element: SecureElement, request_: dict[object, object]
) -> None:
    with pytest.raises(SecureElementError, match="not one that a secure element knows"):
        element._ask(request_)  # type: ignore[arg-type] # what no drive would send


@pytest.mark.parametrize("frame", [b"\xff\xff\xff\xff", b"\0\0\0\1\xff", b"\0\0\0\1\x01", b"\0\0"])
def test_secure_element_process_ends_at_a_broken_frame(lab: ProvisionedLab, frame: bytes) -> None:
    with SecureElement.start(SecureElementConfig.of(lab.drive("SE-1"))) as element:
        element._link.sendall(frame)
        element._link.shutdown(socket.SHUT_WR)
        assert element._process.wait(timeout=10) == 0


def test_secure_element_process_ends_with_its_drive(lab: ProvisionedLab) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from rig.drive.secure_element import SecureElement, SecureElementConfig\n"
        "e = SecureElement.start(SecureElementConfig.under(Path(sys.argv[1]), 'SE-1'))\n"
        "print(e.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, lab.state_dir], stdout=subprocess.PIPE, text=True
    ) as drive:
        assert drive.stdout
        pid = int(drive.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        drive.kill()
    wait_until(lambda: has_ended(pid))


def test_secure_element_first_message_has_no_pin(lab: ProvisionedLab) -> None:
    from rig.drive.secure_element import decode_config, encode_config

    config = SecureElementConfig.of(lab.drive("SE-1"))
    message = encode_config(config)
    assert isinstance(config.token.pin, PinSource)
    assert config.token.pin.read().encode() not in cbor2.dumps(message)
    without_officer = config.token.replace(so_pin=None)
    assert decode_config(message) == config.replace(token=without_officer)
