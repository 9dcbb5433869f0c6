"""A key manager on a real token, used message by message."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from hsm.ekm.audit import log as audit_log
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.exchange import Answer, Exchange, KeyManager, Steps
from hsm.ekm.protocol import messages
from hsm.ekm.protocol.drive_side import DriveRequest, DriveSession
from hsm.ekm.protocol.errors import ErrorCode
from hsm.ekm.protocol.messages import AnyMessage, Challenge, Error, Hello, KeyReply, KeyRequest
from hsm.ekm.protocol.transcript import Transcript
from hsm.keys.keystore import Keystore
from hsm.keys.pki import load_certificate
from hsm.pkcs11.token import Token
from hsm.provisioning import ProvisionedLab
from tests.support.ekm_lab import SoftDrive, SoftKek, TokenWatch, der

PUBLIC_ONLY = ("Elsewhere One", "Elsewhere Two")

_Result = TypeVar("_Result")


def run_steps(steps: Steps[_Result]) -> _Result:
    """Run all steps and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _Result = end.value
            return result


class UnbatchedExchange(Exchange):
    """An exchange whose messages are processed one at a time."""

    def on_frame(self, data: bytes) -> Answer:
        return run_steps(self.steps(data))


@dataclasses.dataclass(frozen=True)
class Outsiders:
    """Keys from outside the lab: a KEK, public-only KEKs, a drive, a partner."""

    kek: SoftKek
    public_only: tuple[SoftKek, SoftKek]
    drive: SoftDrive
    partner: ec.EllipticCurvePrivateKey


@dataclasses.dataclass
class Site:
    """The key manager's open token, and the keys that tests add to it."""

    lab: ProvisionedLab
    token: Token
    keystore: Keystore
    outsiders: Outsiders


@dataclasses.dataclass
class ExchangeFixture:
    """One key manager, used message by message."""

    site: Site
    manager: KeyManager
    drives: DriveTable
    watch: TokenWatch

    @property
    def drive(self) -> SoftDrive:
        return self.site.outsiders.drive

    @property
    def trust(self) -> bytes:
        return der(load_certificate(self.site.lab.ca))

    def connect(self) -> UnbatchedExchange:
        return UnbatchedExchange(self.manager)

    def session(self, request: DriveRequest, drive: SoftDrive | None = None) -> DriveSession:
        drive = drive or self.drive
        return DriveSession(drive, self.trust, drive.serial, request)

    def run(self, session: DriveSession, exchange: UnbatchedExchange | None = None) -> DriveSession:
        """Run an exchange to its end, with its Ack or Error."""
        exchange = exchange or self.connect()
        outgoing: bytes | None = session.hello()
        while outgoing is not None and not session.finished:
            answer = exchange.on_frame(outgoing).frame
            assert answer is not None
            outgoing = session.on_message(answer)
        if outgoing is not None:
            assert exchange.on_frame(outgoing) == Answer(None)
        return session

    def refused(self, request: DriveRequest, drive: SoftDrive | None = None) -> Error:
        """Run an exchange that must be refused; return the refusal."""
        session = self.run(self.session(request, drive))
        assert session.failure is not None
        return Error(session.failure.code, str(session.failure))

    def records(self) -> list[dict[str, Any]]:
        self.manager.audit.write()
        return list(audit_log.records(self.manager.audit.path))

    def challenged(self, nonce: bytes) -> Challenged:
        """Return an exchange that began with a Hello with this nonce."""
        exchange = self.connect()
        hello = Hello(self.drive.certificate_der, nonce).encode()
        frame = exchange.on_frame(hello).frame
        assert frame is not None
        challenge = messages.decode(frame)
        assert isinstance(challenge, Challenge), challenge
        transcript = Transcript()
        transcript.add(hello)
        transcript.add(frame)
        return Challenged(exchange, transcript, challenge.session, self.drive)


@dataclasses.dataclass
class Challenged:
    """An exchange after the challenge, which signs any request correctly."""

    exchange: UnbatchedExchange
    transcript: Transcript
    session: bytes
    drive: SoftDrive

    def ask(self, request: KeyRequest) -> Answer:
        asked = dataclasses.replace(request, session=self.session)
        return self.exchange.on_frame(self.transcript.signed(asked, self.drive.sign))


def decoded(answer: Answer) -> AnyMessage:
    assert answer.frame is not None
    return messages.decode(answer.frame)


def error_of(answer: Answer) -> Error:
    message = decoded(answer)
    assert isinstance(message, Error), message
    assert ErrorCode(message.code)
    return message


def reply_of(answer: Answer) -> KeyReply:
    message = decoded(answer)
    assert isinstance(message, KeyReply), message
    return message
