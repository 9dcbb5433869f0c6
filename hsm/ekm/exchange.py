"""The key manager's half of a key exchange: bytes in, bytes out, no sockets.

One ``Exchange`` serves one connection, one exchange after the other. Whether the drive may have
keys at all is settled before the key service is touched (EKM-2). What was decided is noted in the
audit log; who sends the answer has the log on the disk first (``AuditLog.sync``).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from traceback import format_tb
from typing import Protocol, TypeVar

from cryptography import x509

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

_Undivided = Hello | Challenge | KeyReply | Ping | LabelQuery | LabelAnswer | Error
_Result = TypeVar("_Result")
_Details = dict[str, str | int | list[str]]
Steps = Generator[None, None, _Result]
"""Work that is done in steps, and what comes of it."""


def finished(steps: Steps[_Result]) -> _Result:
    """Take all steps, one after the other."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _Result = end.value
            return result


class KeyService(Protocol):
    """What the exchange needs of a keystore. Refusals are ExchangeErrors with their own codes."""

    def generate(
        self,
        drive: EnrolledDrive,
        volume: str,
        labels: Sequence[KeyLabel],
        allow_public_only: bool,
    ) -> KeyGrant:
        """Make a data key; return it wrapped for the drive, and its two EEDKs."""

    def translate(
        self, drive: EnrolledDrive, volume: str, eedks: Sequence[bytes]
    ) -> Steps[KeyGrant]:
        """Take the data key out of one of the EEDKs; return it wrapped for the drive.

        In two steps: its keys are looked for, and the token works.
        """

    def rekey(
        self,
        drive: EnrolledDrive,
        volume: str,
        eedks: Sequence[bytes],
        labels: Sequence[KeyLabel],
        allow_public_only: bool,
    ) -> KeyGrant:
        """Take the data key out of one of the EEDKs; return it wrapped, with two new EEDKs."""

    def label_states(self, labels: Sequence[str]) -> tuple[LabelState, ...]:
        """Tell of each label whether its key is known, in the order of the labels."""


@dataclass(frozen=True)
class KeyManager:
    """What all connections share."""

    certificate_der: bytes
    sign: Callable[[bytes], bytes]
    """ECDSA P-256 over SHA-256 of the argument, DER, with the certificate's key in the token."""
    drive_ca: x509.Certificate
    drives: DriveTable
    audit: AuditLog
    keys: KeyService
    observe: Callable[[str, str, str], None] = lambda event, operation, cause: None
    """Told of each record: the event, the operation asked for and the cause, if there are any."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back over the connection, and whether the connection then ends."""

    frame: bytes | None
    close: bool = False


@dataclass(slots=True)
class _Begun:
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
        """Begin with no exchange under way."""
        self._manager = manager
        self._begun: _Begun | None = None
        self._claimed = ""
        self._asked: _Details = {}
        """What records tell of the request."""

    def on_frame(self, data: bytes) -> Answer:
        """Take one message and return the answer.

        Hello, KeyRequest, LabelQuery and Ping get one answer each; Ack and Error none. A peer
        whose bytes are no message, or whose Ack is bad, gets an Error and the connection ends,
        because it would take that Error for the answer to its next message. The connection ends
        without a word when the drive table cannot be written. Raises TokenGoneError.
        """
        return finished(self.steps(data))

    def steps(self, data: bytes) -> Steps[Answer]:
        """Do as ``on_frame`` does, in steps.

        The steps are the same kinds of work for all messages: reading, verifying, the drive table,
        the token's unwrapping, its signing, with what prepares each in the step before. Taking
        those of several connections side by side keeps the code of each kind in the processor's
        caches, and shares the table's transaction.
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
            raise  # the connection ends, so that the drive is served elsewhere
        except DriveTableError as error:
            # So it does when another worker hangs and holds the table: that is no word to a drive.
            refusal = self._refuse(ErrorCode.INTERNAL_FAILURE, str(error), close=True)
            return replace(refusal, frame=None)
        except TaperigError as error:
            return self._refuse(ErrorCode.INTERNAL_FAILURE, str(error))
        except Exception as error:
            # Its text may hold anything: only its kind and place are told.
            _LOG.error(
                "unforeseen %s\n%s", type(error).__name__, "".join(format_tb(error.__traceback__))
            )
            return self._refuse(
                ErrorCode.INTERNAL_FAILURE,
                f"The key manager failed in an unforeseen way ({type(error).__name__}).",
            )

    @property
    def under_way(self) -> bool:
        """Whether a drive has begun an exchange and not ended it."""
        return self._begun is not None

    def connection_lost(self) -> None:
        """Record an exchange that ended without the drive's word."""
        self._forget()

    def refuse_connection(self, code: ErrorCode, text: str) -> Answer:
        """Record and answer what the transport found wrong (size, time) with the peer's bytes."""
        return self._refuse(code, text, close=True)

    def _on_message(self, message: _Undivided, data: bytes) -> Answer:
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
                    ErrorCode.UNEXPECTED_MESSAGE, f"A {message.TYPE} is not a drive's to send."
                )

    def _on_hello(self, hello: Hello, data: bytes) -> Answer:
        self._forget()
        if hello.version != messages.PROTOCOL_VERSION:
            raise ExchangeError(
                ErrorCode.UNSUPPORTED_VERSION,
                f"The drive speaks version {hello.version} of the protocol, "
                f"this key manager version {messages.PROTOCOL_VERSION}.",
            )
        identity = identities.verify_identity(hello.certificate, self._manager.drive_ca, Role.DRIVE)
        self._claimed = identity.name
        challenge = Challenge(
            certificate=self._manager.certificate_der,
            nonce=secrets.token_bytes(messages.NONCE_BYTES),
            session=secrets.token_bytes(messages.SESSION_BYTES),
        )
        answer = challenge.encode()
        transcript = Transcript()
        transcript.add(data)
        transcript.add(answer)
        self._begun = _Begun(identity, hello.nonce, challenge.session, transcript)
        return Answer(answer)

    def _on_request(self, request: KeyRequest, data: bytes) -> Steps[Answer]:
        begun = self._begun
        if begun is None or begun.replied:
            raise ExchangeError(
                ErrorCode.UNEXPECTED_MESSAGE, "A key request must follow a challenge."
            )
        self._asked = _request_details(request)
        _same_session(begun, request.session)
        digest = begun.transcript.to_verify(request, data)
        yield
        identities.verify_signature(
            begun.drive.public_key,
            request.signature,
            digest,
            f"The key request's signature is not that of drive {begun.serial}.",
        )
        yield
        # Only now, so that a drive that is revoked after its Hello gets no key either (EKM-2).
        drive, settle = self._manager.drives.take_together(
            begun.serial, begun.drive.fingerprint, request.sequence, begun.drive_nonce
        )
        yield
        settle()
        grant = yield from self._grant(drive, request)
        yield
        begun.transcript.add(data)
        reply = KeyReply.granting(grant, request.session, request.sequence)
        draft = begun.transcript.draft(reply)
        yield
        signature = self._manager.sign(draft.digest)
        yield
        answer = draft.signed(signature)
        self._record("key-reply", "ok", begun.serial)
        begun.replied = True
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
        begun = self._begun
        if begun is None or not begun.replied:
            raise ExchangeError(
                ErrorCode.UNEXPECTED_MESSAGE, "An acknowledgement must follow a key reply."
            )
        _same_session(begun, ack.session)
        digest = begun.transcript.to_verify(ack, data)
        yield
        identities.verify_signature(
            begun.drive.public_key,
            ack.signature,
            digest,
            f"The acknowledgement's signature is not that of drive {begun.serial}.",
        )
        yield
        outcome = "ok" if ack.status == 0 else "failed"
        self._record("ack", outcome, begun.serial, status=ack.status)
        self._end()
        return Answer(None)

    def _on_label_query(self, query: LabelQuery) -> Answer:
        """Tell which labels are known; what is under way with a drive goes on."""
        states = self._manager.keys.label_states(query.labels)
        unknown = [state.label for state in states if not state.known]
        self._manager.audit.note(
            "label-query", outcome="ok", keys=list(query.labels), unknown=unknown
        )
        return Answer(LabelAnswer(states).encode())

    def _on_error(self, error: Error) -> Answer:
        """The drive refuses; its word is unsigned, so it is recorded as a claim and no more."""
        self._record("drive-error", "failed", self._claimed, code=error.code, text=error.text)
        self._end()
        return Answer(None)

    def _refuse(self, code: ErrorCode, text: str, close: bool = False) -> Answer:
        text = printable(text)
        try:
            self._record("refusal", "refused", self._claimed, code=code, text=text)
            self._forget()
        except TaperigError:
            self._end()
            close = True  # The log itself fails: the drive is still told, and gets no key.
        return Answer(Error(code, text).encode(), close)

    def _forget(self) -> None:
        """End what was under way without an Ack, and say so."""
        begun = self._begun
        if begun is not None and begun.replied:
            self._record("no-ack", "unknown", begun.serial)
        self._end()

    def _end(self) -> None:
        self._begun = None
        self._claimed = ""
        self._asked = {}

    def _record(
        self, event: str, outcome: str, serial: str, code: int = 0, **more: str | int
    ) -> None:
        cause = _cause(code) if code else ""
        asked = self._asked
        self._manager.audit.note(
            event,
            serial=serial,
            outcome=outcome,
            code=int(code),
            cause=cause,
            **more,
            **asked,
        )
        self._manager.observe(event, str(asked.get("operation", "")), cause)


def _same_session(begun: _Begun, session: bytes) -> None:
    if session != begun.session:
        raise ExchangeError(
            ErrorCode.WRONG_SESSION,
            f"Drive {begun.serial} answered for another exchange than this.",
        )


def _request_details(request: KeyRequest) -> _Details:
    """Return what a record tells of a request."""
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
    """Return the label or hash that an EEDK names; for the log, so it never fails."""
    try:
        eedk = Eedk.decode(data)
    except TaperigError:
        return "unreadable EEDK"
    return f"{eedk.label} (clear)" if eedk.label else f"{(eedk.kek_hash or b'').hex()} (hash)"
