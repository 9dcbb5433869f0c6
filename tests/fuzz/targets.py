"""The parsers of the key side, as functions that a fuzzer calls.

Each takes any bytes and returns; it raises only when something is wrong: an exception that nobody
catches in service, an answer that is none, a value that was accepted and does not come back as the
bytes it came from. ``tests/fuzz/run.py`` drives them by coverage, ``test_targets.py`` by
hypothesis.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hsm.ekm.admin import channel
from hsm.ekm.audit.log import AuditLog
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.exchange import Answer, Exchange, KeyManager, Steps
from hsm.ekm.protocol import messages
from hsm.ekm.protocol.drive_side import DriveSession, Generate
from hsm.ekm.protocol.errors import EkmError, ErrorCode, ExchangeError, MessageError
from hsm.ekm.protocol.fields import LabelState
from hsm.ekm.protocol.messages import KeyGrant
from hsm.ekm.service import http_status
from hsm.ekm.service.connection import Connection
from hsm.ekm.service.event_loop import Timer
from hsm.ekm.service.tls_stream import TlsStream
from hsm.errors import EedkMalformedError
from hsm.keys.eedk import Eedk, KeyLabel
from hsm.keys.pki import Role
from hsm.pkcs11.oaep import OaepHash
from tests.support.ekm_lab import CARTRIDGE_ID
from tests.support.exchange_fixture import run_steps

SERIAL = "FUZZ000001"


def message(data: bytes) -> None:
    """One message of the key exchange."""
    try:
        decoded = messages.decode(data)
    except MessageError:
        return
    assert decoded.encode() == data


def eedk(data: bytes) -> None:
    """One EEDK, as a drive sends it."""
    try:
        decoded = Eedk.decode(data)
    except EedkMalformedError:
        return
    assert decoded.encode() == data


def stream(data: bytes) -> None:
    """Feed an exchange without a token with the frames of a relay."""
    _site().serve(data)


def reply(data: bytes) -> None:
    """Feed a drive with two answers; the first byte says where to split."""
    site = _site()
    session = DriveSession(
        site.drive,
        site.authority_der,
        SERIAL,
        Generate("VOL001", CARTRIDGE_ID, (KeyLabel("label"),)),
    )
    session.hello()
    length = data[0] * 4 + 1 if data else 0
    for part in (data[1 : 1 + length], data[1 + length :]):
        if not session.finished:
            session.on_message(part)
    assert not session.finished or session.failure is not None


def admin(data: bytes) -> None:
    """A request at the administrators' socket."""
    try:
        secret, command, arguments = channel._parse_request(data)
    except EkmError:
        return
    assert isinstance(secret, str)
    assert isinstance(command, str)
    assert isinstance(arguments, dict)


def http_head(data: bytes) -> None:
    """The head of a request at the metrics port."""

    class Idle:
        serving = 1

        @staticmethod
        def metrics_page() -> bytes:
            return b"page"

    server: Any = object.__new__(http_status.StatusServer)
    server._pool = Idle
    answer = server._answer(data)
    assert answer.startswith(b"HTTP/1.0 ")
    assert b"\r\n\r\n" in answer


TARGETS: dict[str, Callable[[bytes], None]] = {
    "message": message,
    "eedk": eedk,
    "stream": stream,
    "reply": reply,
    "admin": admin,
    "http_head": http_head,
}


class _NoKeys:
    """A key service that has no key: what is fuzzed lies before it."""

    def generate(self, *asked: object) -> KeyGrant:
        raise ExchangeError(ErrorCode.UNKNOWN_LABEL, "There is no key here.")

    rekey = generate

    def translate(self, *asked: object) -> Steps[KeyGrant]:
        raise ExchangeError(ErrorCode.UNKNOWN_LABEL, "There is no key here.")

    def label_states(self, labels: Sequence[str]) -> tuple[LabelState, ...]:
        return tuple(LabelState(label) for label in labels)


class _Drive:
    """A drive with a certificate of the site's authority."""

    def __init__(self, certificate_der: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate_der = certificate_der
        self._key = key

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))


class Site:
    """A key manager without its token; drive table and log are real.

    Keys and certificates are the same in every run (the keys are small numbers), so that a corpus
    stays useful.
    """

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="taperig-fuzz-"))
        atexit.register(shutil.rmtree, folder, True)
        authority_key = ec.derive_private_key(11, ec.SECP256R1())
        authority = _certificate("CA", authority_key.public_key(), authority_key, None, "CA")
        drive_key = ec.derive_private_key(12, ec.SECP256R1())
        certificate = _certificate(
            SERIAL, drive_key.public_key(), authority_key, Role.DRIVE.value, "CA"
        )
        ekm_key = ec.derive_private_key(13, ec.SECP256R1())
        self.drive = _Drive(certificate.public_bytes(Encoding.DER), drive_key)
        self.authority_der = authority.public_bytes(Encoding.DER)
        self.table = DriveTable(folder / "drives", logged=True)
        self.table.enrol(SERIAL, self.drive.certificate_der, b"spki", OaepHash.SHA1)
        self.manager = KeyManager(
            certificate_der=_certificate(
                "EKM", ekm_key.public_key(), authority_key, Role.KEY_MANAGER.value, "CA"
            ).public_bytes(Encoding.DER),
            sign=_Drive(b"", ekm_key).sign,
            drive_ca=authority,
            drives=self.table,
            audit=AuditLog(folder / "audit"),
            keys=_NoKeys(),
        )

    def serve(self, data: bytes) -> list[Answer]:
        """Feed a connection in two parts, and answer all whole messages."""
        self.manager.audit.write()  # what the last run left, so that it does not pile up
        answers: list[Answer] = []
        queue: list[Connection] = []

        class Owner:
            def ready(self, connection: Connection) -> None:
                queue.append(connection)

            def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
                return Timer(0.0, callback)  # nothing is too slow here

            def closed(self, connection: Connection) -> None:
                pass

        class Stream:
            def pause_reading(self) -> None:
                pass

        connection = _Looking(Owner(), cast(TlsStream, Stream()), Exchange(self.manager), 10.0)
        half = len(data) // 2
        for part in (data[:half], data[half:]):
            connection.data_received(part)
            while queue:
                answer = run_steps(queue.pop().answer())
                assert answer is not None
                answers.append(answer)
                if answer.frame is not None:
                    message = messages.decode(answer.frame)
                    assert getattr(message, "code", 0) != ErrorCode.INTERNAL_FAILURE, message
                if answer.close:
                    return answers
                connection.look()
        connection.exchange.connection_lost()
        return answers


class _Looking(Connection):
    """A connection without a stream: nothing is sent."""

    def look(self) -> None:
        self._process_input()


@cache
def _site() -> Site:
    return Site()


def site() -> Site:
    """Return the one key manager of this process."""
    return _site()


def _certificate(
    name: str,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    usage: x509.ObjectIdentifier | None,
    issuer: str,
) -> x509.Certificate:
    builder = x509.CertificateBuilder(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
        public_key,
        1000,
        datetime(2020, 1, 1, tzinfo=UTC),
        datetime(2120, 1, 1, tzinfo=UTC),
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
    return builder.sign(issuer_key, hashes.SHA256(), ecdsa_deterministic=True)
