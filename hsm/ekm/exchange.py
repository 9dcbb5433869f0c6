"""The key manager's side of a key exchange: bytes in, bytes out.

One ``Exchange`` serves one connection, one exchange after the other. Whether the drive may have
keys is decided before the key service is used (EKM-2). Each decision is recorded in the audit log;
the caller must flush the log (``AuditLog.sync``) before it sends the answer.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from traceback import format_tb
from typing import Protocol, TypeVar

from cryptography import x509

from hsm.ekm.audit.hash_chain import AuditEvent
from hsm.ekm.audit.log import AuditLog
from hsm.ekm.drive_table import (
    DriveTable,
    DriveTableError,
    EnrolledDrive,
)
from hsm.ekm.protocol import identities, messages
from hsm.ekm.protocol.errors import ErrorCode, ExchangeError, MessageError
from hsm.ekm.protocol.fields import KeyOperation, LabelState, printable
from hsm.ekm.protocol.messages import (
    Ack,
    AnyMessage,
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
from hsm.errors import TaperigError, TokenGoneError
from hsm.keys.eedk import Eedk, KeyLabel
from hsm.keys.pki import Role

_LOG = logging.getLogger(__name__)

_OneStepMessage = Hello | Challenge | KeyReply | Ping | LabelQuery | LabelAnswer | Error
_Result = TypeVar("_Result")
_Details = dict[str, str | int | list[str]]
Steps = Generator[None, None, _Result]
"""Work that is done in steps and returns a result."""


class KeyService(Protocol):
    """What an exchange needs of a keystore; a refusal is an ExchangeError."""

    def generate(
        self,
        drive: EnrolledDrive,
        volume: str,
        labels: Sequence[KeyLabel],
        allow_public_only: bool,
    ) -> KeyGrant:
        """Generate a data key; return it wrapped for the drive, and its EEDKs."""

    def translate(
        self, drive: EnrolledDrive, volume: str, eedks: Sequence[bytes]
    ) -> Steps[KeyGrant]:
        """Unwrap the data key from either EEDK; return it wrapped for the drive.

        In two steps: find the keys, then have the token rewrap.
        """

    def rekey(
        self,
        drive: EnrolledDrive,
        volume: str,
        eedks: Sequence[bytes],
        labels: Sequence[KeyLabel],
        allow_public_only: bool,
    ) -> KeyGrant:
        """Unwrap the data key from either EEDK; return it with two new EEDKs."""

    def label_states(self, labels: Sequence[str]) -> tuple[LabelState, ...]:
        """Return the state of each label, in order."""


@dataclass(frozen=True)
class KeyManager:
    """What all connections share."""

    certificate_der: bytes
    sign: Callable[[bytes], bytes]
    """Returns the ECDSA P-256 signature (DER) over SHA-256 of its argument."""
    drive_ca: x509.Certificate
    drives: DriveTable
    audit: AuditLog
    keys: KeyService
    observe: Callable[[str, str, str], None] = lambda event, operation, cause: None
    """Called for each record with its event, operation and cause; the last two may be empty."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a message, and whether the connection then ends."""

    frame: bytes | None
    close: bool = False


@dataclass(slots=True)
class _OpenExchange:
    """An exchange between Hello and Ack."""

    drive: identities.Identity
    drive_nonce: bytes
    session: bytes
    transcript: Transcript
    replied: bool = False

    @property
    def serial(self) -> str:
        """The drive's serial number."""
        return self.drive.name


class Exchange:
    """The key manager's side of one connection."""

    def __init__(self, manager: KeyManager) -> None:
        """Start with no exchange under way."""
        self._manager = manager
        self._exchange: _OpenExchange | None = None
        self._claimed_serial = ""
        self._details: _Details = {}
        """Details of the request, for the audit log."""

    def steps(self, data: bytes) -> Steps[Answer]:
        """Process one message in steps and return the answer.

        Hello, KeyRequest, LabelQuery and Ping get one answer each; Ack and Error none. A malformed
        message or a bad Ack gets an Error and the connection ends, because the peer would take
        that Error for the answer to its next message. The connection ends without an answer when
        the drive table cannot be written. Raises TokenGoneError.

        Each step is one kind of work, the same for all messages: decoding, verifying, the drive
        table, unwrapping in the token, signing in the token. Running one step of several
        connections together keeps its code in the processor's caches and shares the table's
        transaction.
        """
        message: AnyMessage | None = None
        try:
            message = messages.decode(data)
            if isinstance(message, KeyRequest):
                return (yield from self._on_request(message, data))
            if isinstance(message, Ack):
                return (yield from self._on_ack(message, data))
            yield
            return self._on_message(message, data)
        except MessageError as error:
            return self._refuse(ErrorCode.MALFORMED_MESSAGE, str(error), close=True)
        except ExchangeError as error:
            return self._refuse(error.code, str(error), close=isinstance(message, Ack))
        except TokenGoneError:
            raise  # the connection ends, so that the relay fails over
        except DriveTableError as error:
            # A worker that hangs may hold the table, so the drive gets no error for it.
            refusal = self._refuse(ErrorCode.INTERNAL_FAILURE, str(error), close=True)
            return replace(refusal, frame=None)
        except TaperigError as error:
            return self._refuse(ErrorCode.INTERNAL_FAILURE, str(error))
        except Exception as error:
            # Its text may hold anything: only its type and place are logged.
            _LOG.error(
                "unexpected %s\n%s", type(error).__name__, "".join(format_tb(error.__traceback__))
            )
            return self._refuse(
                ErrorCode.INTERNAL_FAILURE,
                f"The key manager failed unexpectedly ({type(error).__name__}); see its log.",
            )

    @property
    def under_way(self) -> bool:
        """Whether an exchange with a drive is under way."""
        return self._exchange is not None

    def connection_lost(self) -> None:
        """Record an exchange that the lost connection ended."""
        self._abandon()

    def refuse_connection(self, code: ErrorCode, text: str) -> Answer:
        """Record a message that is too large or too slow; return the answer."""
        return self._refuse(code, text, close=True)

    def _on_message(self, message: _OneStepMessage, data: bytes) -> Answer:
        match message:
            case Ping():
                return Answer(data)
            case Hello():
                return self._on_hello(message, data)
            case Error():
                return self._on_error(message)
            case LabelQuery():
                return self._on_label_query(message)
            case Challenge() | KeyReply() | LabelAnswer():
                raise ExchangeError(
                    ErrorCode.UNEXPECTED_MESSAGE, f"A drive may not send a {message.TYPE} message."
                )

    def _on_hello(self, hello: Hello, data: bytes) -> Answer:
        self._abandon()
        if hello.version != messages.PROTOCOL_VERSION:
            raise ExchangeError(
                ErrorCode.UNSUPPORTED_VERSION,
                f"The drive speaks version {hello.version} of the protocol, "
                f"this key manager version {messages.PROTOCOL_VERSION}.",
            )
        identity = identities.verify_identity(hello.certificate, self._manager.drive_ca, Role.DRIVE)
        self._claimed_serial = identity.name
        challenge = Challenge(
            certificate=self._manager.certificate_der,
            nonce=secrets.token_bytes(messages.NONCE_BYTES),
            session=secrets.token_bytes(messages.SESSION_BYTES),
        )
        answer = challenge.encode()
        transcript = Transcript()
        transcript.add(data)
        transcript.add(answer)
        self._exchange = _OpenExchange(identity, hello.nonce, challenge.session, transcript)
        return Answer(answer)

    def _on_request(self, request: KeyRequest, data: bytes) -> Steps[Answer]:
        exchange = self._exchange
        if exchange is None or exchange.replied:
            raise ExchangeError(
                ErrorCode.UNEXPECTED_MESSAGE, "A key request must follow a challenge."
            )
        self._details = _request_details(request)
        _check_session(exchange, request.session)
        digest = exchange.transcript.to_verify(request, data)
        yield
        identities.verify_signature(
            exchange.drive.public_key,
            request.signature,
            digest,
            f"The key request's signature is not that of drive {exchange.serial}.",
        )
        yield
        # Only now, so that a drive that was revoked after its Hello gets no key (EKM-2).
        drive, settle = self._manager.drives.consume(
            exchange.serial, exchange.drive.fingerprint, request.sequence, exchange.drive_nonce
        )
        yield
        settle()
        grant = yield from self._grant(drive, request)
        yield
        exchange.transcript.add(data)
        reply = KeyReply.from_grant(grant, request.session, request.sequence)
        draft = exchange.transcript.draft(reply)
        yield
        signature = self._manager.sign(draft.digest)
        yield
        answer = draft.signed(signature)
        self._record("key-reply", "ok", exchange.serial)
        exchange.replied = True
        return Answer(answer)

    def _grant(self, drive: EnrolledDrive, request: KeyRequest) -> Steps[KeyGrant]:
        keys = self._manager.keys
        match request.operation:
            case KeyOperation.GENERATE:
                return keys.generate(
                    drive, request.volume, request.labels, request.allow_public_only
                )
            case KeyOperation.TRANSLATE:
                return (yield from keys.translate(drive, request.volume, request.eedks))
            case KeyOperation.REKEY:
                return keys.rekey(
                    drive,
                    request.volume,
                    request.eedks,
                    request.labels,
                    request.allow_public_only,
                )

    def _on_ack(self, ack: Ack, data: bytes) -> Steps[Answer]:
        exchange = self._exchange
        if exchange is None or not exchange.replied:
            raise ExchangeError(
                ErrorCode.UNEXPECTED_MESSAGE, "An acknowledgement must follow a key reply."
            )
        _check_session(exchange, ack.session)
        digest = exchange.transcript.to_verify(ack, data)
        yield
        identities.verify_signature(
            exchange.drive.public_key,
            ack.signature,
            digest,
            f"The acknowledgement's signature is not that of drive {exchange.serial}.",
        )
        yield
        outcome = "ok" if ack.status == 0 else "failed"
        self._record("ack", outcome, exchange.serial, status=ack.status)
        self._end()
        return Answer(None)

    def _on_label_query(self, query: LabelQuery) -> Answer:
        """Answer which labels are known; an exchange under way continues."""
        states = self._manager.keys.label_states(query.labels)
        unknown = [state.label for state in states if not state.known]
        self._manager.audit.note(
            "label-query", outcome="ok", keys=list(query.labels), unknown=unknown
        )
        return Answer(LabelAnswer(states).encode())

    def _on_error(self, error: Error) -> Answer:
        """Record the drive's Error, which is unsigned, with the serial it claims."""
        self._record(
            "drive-error", "failed", self._claimed_serial, code=error.code, text=error.text
        )
        self._end()
        return Answer(None)

    def _refuse(self, code: ErrorCode, text: str, close: bool = False) -> Answer:
        text = printable(text)
        try:
            self._record("refusal", "refused", self._claimed_serial, code=code, text=text)
            self._abandon()
        except TaperigError:
            self._end()
            close = True  # the log failed: the drive gets the error, and no key
        return Answer(Error(code, text).encode(), close)

    def _abandon(self) -> None:
        """End the exchange; record it if a reply got no Ack."""
        exchange = self._exchange
        if exchange is not None and exchange.replied:
            self._record("no-ack", "unknown", exchange.serial)
        self._end()

    def _end(self) -> None:
        self._exchange = None
        self._claimed_serial = ""
        self._details = {}

    def _record(
        self, event: AuditEvent, outcome: str, serial: str, code: int = 0, **more: str | int
    ) -> None:
        cause = _cause(code) if code else ""
        details = self._details
        self._manager.audit.note(
            event,
            serial=serial,
            outcome=outcome,
            code=int(code),
            cause=cause,
            **more,
            **details,
        )
        self._manager.observe(event, str(details.get("operation", "")), cause)


def _check_session(exchange: _OpenExchange, session: bytes) -> None:
    if session != exchange.session:
        raise ExchangeError(
            ErrorCode.WRONG_SESSION,
            f"Drive {exchange.serial} sent a message of another session.",
        )


def _request_details(request: KeyRequest) -> _Details:
    """Return the details of a request that are recorded."""
    return {
        "operation": request.operation.value,
        "volume": request.volume,
        "cartridge_id": request.cartridge_id.hex(),
        "sequence": request.sequence,
        "keys": [*map(_label_name, request.labels), *map(_eedk_name, request.eedks)],
    }


def _cause(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:  # from a drive newer than this key manager
        return "UNKNOWN"


def _label_name(key_label: KeyLabel) -> str:
    return f"{key_label.label} ({key_label.mode})"


def _eedk_name(data: bytes) -> str:
    """Return the label or hash that an EEDK names; never fails."""
    try:
        eedk = Eedk.decode(data)
    except TaperigError:
        return "unreadable EEDK"
    return f"{eedk.label} (clear)" if eedk.label else f"{(eedk.kek_hash or b'').hex()} (hash)"
