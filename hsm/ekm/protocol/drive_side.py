"""The drive's side of a key exchange.

The drive trusts nothing between itself and the key manager. It checks the key manager's certificate
against the lab's authority, the signature over the transcript, the session, the sequence number,
and that the EEDKs belong to its volume and name the keys that it requested.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from cryptography import x509

from hsm.ekm.protocol import identities, messages
from hsm.ekm.protocol.errors import ErrorCode, ExchangeError, ExchangeRefusedError, MessageError
from hsm.ekm.protocol.fields import KeyOperation, printable
from hsm.ekm.protocol.messages import (
    Ack,
    Challenge,
    Error,
    Hello,
    KeyGrant,
    KeyReply,
    KeyRequest,
    LabelAnswer,
    LabelQuery,
    Ping,
)
from hsm.ekm.protocol.transcript import Transcript
from hsm.errors import EedkMalformedError
from hsm.keys.eedk import Eedk, KeyLabel, KeyMode
from hsm.keys.labels import label_key
from hsm.keys.pki import Role


class Signer(Protocol):
    """What a key exchange needs of the drive's secure element."""

    @property
    def certificate_der(self) -> bytes:
        """The drive's signing certificate (X.509 DER)."""

    def sign(self, data: bytes) -> bytes:
        """Return the ECDSA P-256 signature, DER, over SHA-256 of ``data``."""


@dataclass(frozen=True, slots=True)
class Generate:
    """Requests a new data key for a cartridge that is written from BOT.

    With one label both EEDKs are wrapped by its KEK; with two, one by each. A pair of KEKs without
    a private half at the key manager is refused unless ``allow_public_only``.
    """

    volume: str
    cartridge_id: bytes
    labels: tuple[KeyLabel, ...]
    allow_public_only: bool = False


@dataclass(frozen=True, slots=True)
class Translate:
    """Requests the data key in a cartridge's EEDKs; either EEDK suffices."""

    volume: str
    cartridge_id: bytes
    eedks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Rekey:
    """Requests new EEDKs of a cartridge's data key; labels as in Generate."""

    volume: str
    cartridge_id: bytes
    eedks: tuple[bytes, ...]
    labels: tuple[KeyLabel, ...]
    allow_public_only: bool = False


DriveRequest = Generate | Translate | Rekey
"""A request that a drive may send to a key manager."""


class DriveSession:
    """The drive's side of one exchange: bytes in, bytes out.

    Send ``hello()``, pass each answer to ``on_message`` and send what it returns, until
    ``finished``. Then ``grant`` is the result, or raises the failure. ``hello()`` starts the
    exchange again, with another nonce, for another key manager or after a lost connection.
    """

    def __init__(
        self,
        element: Signer,
        ekm_trust_ca_der: bytes,
        serial: str,
        request: DriveRequest,
        next_sequence: Callable[[], int] | None = None,
    ) -> None:
        """Prepare an exchange.

        ``ekm_trust_ca_der`` is the authority that issues key managers' certificates;
        ``next_sequence`` returns numbers that grow over the drive's life, by default the time.
        """
        self.serial = serial
        self.request = request
        self._element = element
        self._trust_ca = x509.load_der_x509_certificate(ekm_trust_ca_der)
        self._next_sequence = next_sequence or _SEQUENCE.next
        self._transcript = Transcript()
        self._challenge: Challenge | None = None
        self._ekm_key: identities.PublicKey | None = None
        self._sequence = 0
        self._begun = False
        self._grant: KeyGrant | None = None
        self._failure: ExchangeError | None = None

    @property
    def finished(self) -> bool:
        """Whether the exchange has ended, with a grant or with a failure."""
        return self._grant is not None or self._failure is not None

    @property
    def failure(self) -> ExchangeError | None:
        """Why there is no grant; None while the exchange goes on or succeeded."""
        return self._failure

    @property
    def grant(self) -> KeyGrant:
        """The granted key material; raises ExchangeError when there is none."""
        if self._failure is not None:
            raise self._failure
        if self._grant is None:
            raise ExchangeError(
                ErrorCode.UNEXPECTED_MESSAGE,
                f"The key exchange of drive {self.serial} is not finished.",
            )
        return self._grant

    def hello(self) -> bytes:
        """Start the exchange, or start it again; return the message to send."""
        self._challenge = None
        self._grant = None
        self._failure = None
        self._begun = True
        hello = Hello(
            certificate=self._element.certificate_der,
            nonce=secrets.token_bytes(messages.NONCE_BYTES),
        ).encode()
        self._transcript = Transcript()
        self._transcript.add(hello)
        return hello

    def on_message(self, data: bytes) -> bytes | None:
        """Process an answer of the key manager; return what to send, if anything.

        A bad answer ends the exchange; an Error for the key manager is returned then.
        """
        if self.finished or not self._begun:
            raise ExchangeError(
                ErrorCode.UNEXPECTED_MESSAGE,
                f"Drive {self.serial} received a message outside of a key exchange.",
            )
        try:
            return self._on_message(data)
        except MessageError as error:
            text = f"Drive {self.serial} cannot read the key manager's message: {error}"
            return self._fail(ExchangeError(ErrorCode.MALFORMED_MESSAGE, text))
        except ExchangeRefusedError as refusal:
            self._failure = refusal
            return None
        except ExchangeError as error:
            return self._fail(error)

    def _fail(self, error: ExchangeError) -> bytes:
        self._failure = error
        return Error(error.code, printable(str(error))).encode()

    def _on_message(self, data: bytes) -> bytes:
        match messages.decode(data):
            case Error() as error:
                raise ExchangeRefusedError(_error_code(error.code), error.text)
            case Challenge() as challenge if self._challenge is None:
                return self._on_challenge(challenge, data)
            case KeyReply() as reply if self._challenge is not None:
                return self._on_reply(reply, data)
            case (Challenge() | KeyReply() | Hello() | KeyRequest() | Ack() | Ping()) | (
                LabelQuery() | LabelAnswer()
            ) as message:
                raise ExchangeError(
                    ErrorCode.UNEXPECTED_MESSAGE,
                    f"Drive {self.serial} received an unexpected {message.TYPE} message.",
                )

    def _on_challenge(self, challenge: Challenge, data: bytes) -> bytes:
        self._ekm_key = identities.verify_identity(
            challenge.certificate, self._trust_ca, Role.KEY_MANAGER
        ).public_key
        self._challenge = challenge
        self._transcript.add(data)
        self._sequence = self._next_sequence()
        request = self._unsigned_request(challenge.session)
        return self._transcript.signed(request, self._element.sign)

    def _unsigned_request(self, session: bytes) -> KeyRequest:
        match self.request:
            case Generate(volume, cartridge_id, labels, allow_public_only):
                operation, eedks = KeyOperation.GENERATE, ()
            case Translate(volume, cartridge_id, eedks):
                operation, labels, allow_public_only = KeyOperation.TRANSLATE, (), False
            case Rekey(volume, cartridge_id, eedks, labels, allow_public_only):
                operation = KeyOperation.REKEY
        return KeyRequest(
            session=session,
            operation=operation,
            volume=volume,
            cartridge_id=cartridge_id,
            labels=labels,
            allow_public_only=allow_public_only,
            eedks=eedks,
            sequence=self._sequence,
        )

    def _on_reply(self, reply: KeyReply, data: bytes) -> bytes:
        assert self._challenge is not None
        assert self._ekm_key is not None
        if reply.session != self._challenge.session:
            raise ExchangeError(
                ErrorCode.WRONG_SESSION, "The key reply belongs to another exchange."
            )
        identities.verify_signature(
            self._ekm_key,
            reply.signature,
            self._transcript.to_verify(reply, data),
            "The key reply's signature is not that of the key manager.",
        )
        if reply.sequence != self._sequence:
            raise ExchangeError(
                ErrorCode.STALE_SEQUENCE,
                f"The key reply answers request {reply.sequence}, not {self._sequence}.",
            )
        grant = replace(reply.grant, eedks=self._check_reply_eedks(reply.eedks))
        self._transcript.add(data)
        ack = self._transcript.signed(Ack(session=reply.session, status=0), self._element.sign)
        self._grant = grant
        return ack

    def _check_reply_eedks(self, eedks: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Return the EEDKs to store on the cartridge, after checking them."""
        if isinstance(self.request, Translate):
            if eedks:
                raise ExchangeError(
                    ErrorCode.BAD_REPLY, "The key reply has EEDKs that were not requested."
                )
            return self.request.eedks
        if len(eedks) != 2:
            raise ExchangeError(
                ErrorCode.BAD_REPLY,
                f"A cartridge has two EEDKs; the key reply has {len(eedks)}.",
            )
        labels = self.request.labels
        for data, label in zip(eedks, (labels[0], labels[-1]), strict=True):
            _check_eedk(data, label, self.request.volume)
        return eedks


def _check_eedk(data: bytes, requested: KeyLabel, volume: str) -> None:
    try:
        eedk = Eedk.decode(data)
    except EedkMalformedError as error:
        text = f"The key reply has a bad EEDK: {error}"
        raise ExchangeError(ErrorCode.CORRUPT_EEDK, text) from None
    if eedk.volume != volume:
        raise ExchangeError(
            ErrorCode.WRONG_VOLUME,
            f"The key reply has an EEDK of volume {eedk.volume}, not of {volume}.",
        )
    same_label = requested.mode is KeyMode.HASH or (
        eedk.label is not None and label_key(eedk.label) == label_key(requested.label)
    )
    if eedk.mode is not requested.mode or not same_label:
        raise ExchangeError(
            ErrorCode.BAD_REPLY,
            f"The key reply has an EEDK for a key other than {requested.label!r} in "
            f"{requested.mode} mode.",
        )


class _TimeBasedSequence:
    """Numbers that grow over restarts too: Unix time in ns, never repeated."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last = max(self._last + 1, time.time_ns())
        return self._last


_SEQUENCE = _TimeBasedSequence()


def _error_code(code: int) -> ErrorCode:
    try:
        return ErrorCode(code)
    except ValueError:  # from a key manager newer than this drive
        return ErrorCode.INTERNAL_FAILURE
