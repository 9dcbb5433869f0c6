"""The messages between a tape drive and the key manager, and their bytes.

A message is a deterministic CBOR map with a ``type`` and exactly the fields listed here; anything
else (a field more, one less, another type or size, bytes after the end) is refused. On a connection
each message is preceded by its length in four bytes, big endian, and is at most 64 KiB.

    Hello -> Challenge -> KeyRequest -> KeyReply -> Ack        Ping -> Ping        Error
    LabelQuery -> LabelAnswer

The two signed messages cover everything before them: see ``Transcript``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from types import MappingProxyType
from typing import Any, ClassVar

from hsm import strict_cbor
from hsm.eedk import KEK_HASH_BYTES, MAX_EEDK_BYTES, KeyLabel, KeyMode
from hsm.ekm.errors import MessageError
from hsm.errors import LabelInvalidError
from hsm.signature import MAX_SIGNATURE_BYTES, MIN_SIGNATURE_BYTES

PROTOCOL_VERSION = 1
LENGTH_BYTES = 4
FRAME_LIMIT = 64 * 1024
"""Longest message, in bytes, without its four length bytes."""

NONCE_BYTES = 32
SESSION_BYTES = 16
CERTIFICATE_LIMIT = 4096
SEDK_LIMIT = 512
"""RSA 4096, the largest drive key."""
TEXT_LIMIT = 500
LABELS_LIMIT = 64
"""Two for each of a node's 32 pools."""
SEQUENCE_LIMIT = 2**63 - 1


class Operation(StrEnum):
    """What a drive may ask for."""

    GENERATE = "generate"
    """A fresh data key, and its two EEDKs, for a cartridge written from BOT."""
    TRANSLATE = "translate"
    """The data key out of a cartridge's EEDKs, to append or read."""
    REKEY = "rekey"
    """Two new EEDKs for the data key in a cartridge's EEDKs."""


_OPERATIONS: Mapping[str, Operation] = {each.value: each for each in Operation}
Wire = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """How one field is checked on the way in and, where it is another value there, written."""

    read: Wire
    write: Wire | None = None


def _octets(least: int, most: int) -> Field:
    def read(value: object) -> bytes:
        if isinstance(value, bytes) and least <= len(value) <= most:
            return value
        if not isinstance(value, bytes):
            raise MessageError("must be bytes")
        raise MessageError(f"must be {least} to {most} bytes, not {len(value)}")

    return Field(read)


def _integer(least: int, most: int) -> Field:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise MessageError("must be a whole number")
        if not least <= value <= most:
            raise MessageError(f"must be {least} to {most}")
        return value

    return Field(read)


def _text(most: int) -> Field:
    def read(value: object) -> str:
        if not isinstance(value, str):
            raise MessageError("must be text")
        if len(value) > most or not value.isprintable():
            raise MessageError(f"must be printable and at most {most} characters")
        return value

    return Field(read)


def _read_volume(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Z0-9]{6}", value):
        raise MessageError("must be a VOLSER: six characters A-Z 0-9")
    return value


def _read_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise MessageError("must be true or false")
    return value


def _read_operation(value: object) -> Operation:
    operation = _OPERATIONS.get(value) if isinstance(value, str) else None
    if operation is None:
        raise MessageError(f"must be one of {', '.join(Operation)}")
    return operation


def _some_of(most: int, read_item: Wire) -> Wire:
    def read(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) > most:
            raise MessageError(f"must be a list of at most {most}")
        return tuple(read_item(item) for item in value)

    return read


def _pair_of(read_item: Wire) -> Wire:
    return _some_of(2, read_item)


def _read_label(value: object) -> KeyLabel:
    if isinstance(value, KeyLabel):
        return value
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(v, str) for v in value):
        raise MessageError("must hold pairs of label and mode")
    label, mode = value
    try:
        key_label = KeyLabel(label, mode)
    except (LabelInvalidError, ValueError):
        key_label = None
    if key_label is None or key_label.label != label:
        raise MessageError(
            "must hold labels of 1 to 64 printable characters in NFC with no blanks around them, "
            "and modes 'clear' or 'hash'"
        )
    return key_label


def _write_label(key_label: KeyLabel) -> list[str]:
    return [key_label.label, key_label.mode.value]


def _read_label_text(value: object) -> str:
    if not isinstance(value, str):
        raise MessageError("must hold texts")
    return _read_label([value, KeyMode.CLEAR.value]).label


@dataclass(frozen=True, slots=True)
class LabelState:
    """What a keystore has under a label.

    ``kek_hash`` is SHA-256 of the KEK's SubjectPublicKeyInfo, empty when the label is unknown.
    """

    label: str
    kek_hash: bytes = b""
    has_private: bool = False

    @property
    def known(self) -> bool:
        """Whether there is a KEK of this label."""
        return bool(self.kek_hash)


def _read_label_state(value: object) -> LabelState:
    match value:
        case LabelState():
            return value
        case [str() as label, bytes() as kek_hash, bool() as has_private] if len(
            kek_hash
        ) == KEK_HASH_BYTES or not (kek_hash or has_private):
            return LabelState(_read_label_text(label), kek_hash, has_private)
    raise MessageError("must hold triples of label, hash of its key, and whether it is private")


def _write_label_state(state: LabelState) -> list[str | bytes | bool]:
    return [state.label, state.kek_hash, state.has_private]


_VERSION = _integer(0, 255)
_CERTIFICATE = _octets(1, CERTIFICATE_LIMIT)
_NONCE = _octets(NONCE_BYTES, NONCE_BYTES)
_SESSION = _octets(SESSION_BYTES, SESSION_BYTES)
_SIGNATURE = _octets(MIN_SIGNATURE_BYTES, MAX_SIGNATURE_BYTES)
_SEQUENCE = _integer(1, SEQUENCE_LIMIT)
_FLAG = Field(_read_flag)
_EEDKS = Field(_pair_of(_octets(1, MAX_EEDK_BYTES).read))


class Message:
    """What all messages have in common: a type name and a description of each field."""

    TYPE: ClassVar[str]
    FIELDS: ClassVar[Mapping[str, Field]]
    MEMBERS: ClassVar[tuple[str, ...]]
    """The names of its map's members in their order."""
    READS: ClassVar[tuple[tuple[str, Wire], ...]]
    AFTER_SIGNATURE: ClassVar[int]
    """Bytes that follow the signature in the encoding: those of flags."""
    _UNSIGNED_READS: ClassVar[tuple[tuple[str, Wire], ...]]
    _WRITES: ClassVar[tuple[tuple[str, Wire], ...]]
    _VALUES: ClassVar[Callable[[Any], tuple[Any, ...]]]

    def __init_subclass__(cls) -> None:
        """Bring the members into the order of their encoding, once."""
        cls.MEMBERS = tuple(sorted(("type", *cls.FIELDS), key=strict_cbor.in_order))
        cls.READS = tuple((name, field.read) for name, field in cls.FIELDS.items())
        if "signature" in cls.FIELDS:
            after = cls.MEMBERS[cls.MEMBERS.index("signature") + 1 :]
            assert all(cls.FIELDS[name] is _FLAG for name in after)
            cls._UNSIGNED_READS = tuple(each for each in cls.READS if each[0] != "signature")
            cls.AFTER_SIGNATURE = sum(len(name) + 2 for name in after)
        cls._WRITES = tuple(
            (name, field.write) for name, field in cls.FIELDS.items() if field.write is not None
        )
        # With a name twice in front, it gives a tuple for one member too.
        cls._VALUES = attrgetter(
            "TYPE", *("TYPE" if name == "type" else name for name in cls.MEMBERS)
        )

    def encode(self) -> bytes:
        """Return the message's bytes; raise MessageError for a field a peer would refuse."""
        content = self._content()
        _read(self.TYPE, self.READS, content)
        return strict_cbor.encode_ordered(content)

    def without_signature(self) -> bytes:
        """Return the message's bytes as they are without its signature; raises as ``encode``."""
        content = self._content()
        _read(self.TYPE, self._UNSIGNED_READS, content)
        del content["signature"]
        return strict_cbor.encode_ordered(content)

    def _content(self) -> dict[str, Any]:
        content = dict(zip(self.MEMBERS, type(self)._VALUES(self)[1:], strict=True))
        for name, write in self._WRITES:
            content[name] = write(content[name])
        return content


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """The drive introduces itself: its signing certificate (X.509 DER) and a fresh nonce."""

    TYPE = "hello"
    FIELDS = MappingProxyType({"certificate": _CERTIFICATE, "nonce": _NONCE, "version": _VERSION})

    certificate: bytes
    nonce: bytes
    version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Challenge(Message):
    """The key manager's certificate (X.509 DER), its fresh nonce and a name for the exchange."""

    TYPE = "challenge"
    FIELDS = MappingProxyType({"certificate": _CERTIFICATE, "nonce": _NONCE, "session": _SESSION})

    certificate: bytes
    nonce: bytes
    session: bytes


@dataclass(frozen=True, slots=True)
class KeyRequest(Message):
    """What the drive wants, for one volume, signed by the drive.

    GENERATE carries one or two labels and no EEDK, TRANSLATE one or two EEDKs and no label, REKEY
    both.
    """

    TYPE = "key-request"
    FIELDS = MappingProxyType(
        {
            "session": _SESSION,
            "operation": Field(_read_operation, str),
            "volume": Field(_read_volume),
            "labels": Field(
                _pair_of(_read_label), lambda pair: [_write_label(each) for each in pair]
            ),
            "allow_public_only": _FLAG,
            "eedks": _EEDKS,
            "sequence": _SEQUENCE,
            "signature": _SIGNATURE,
        }
    )

    session: bytes
    operation: Operation
    volume: str
    labels: tuple[KeyLabel, ...]
    allow_public_only: bool
    eedks: tuple[bytes, ...]
    sequence: int
    signature: bytes = b""

    def __post_init__(self) -> None:
        """Refuse a request whose contents do not fit its operation."""
        has_labels, has_eedks = _CONTENTS[self.operation]
        if bool(self.labels) != has_labels or bool(self.eedks) != has_eedks:
            raise MessageError(
                f"key-request: {self.operation} carries {'' if has_labels else 'no '}labels and "
                f"{'' if has_eedks else 'no '}EEDKs"
            )


_CONTENTS = {
    Operation.GENERATE: (True, False),
    Operation.TRANSLATE: (False, True),
    Operation.REKEY: (True, True),
}


@dataclass(frozen=True, slots=True)
class KeyReply(Message):
    """The data key wrapped for this drive (SEDK), with new EEDKs unless for TRANSLATE, signed."""

    TYPE = "key-reply"
    FIELDS = MappingProxyType(
        {
            "session": _SESSION,
            "sedk": _octets(1, SEDK_LIMIT),
            "eedks": _EEDKS,
            "sequence": _SEQUENCE,
            "signature": _SIGNATURE,
        }
    )

    session: bytes
    sedk: bytes
    eedks: tuple[bytes, ...]
    sequence: int
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class Ack(Message):
    """The drive has verified the reply (status 0), signed. It gets no answer."""

    TYPE = "ack"
    FIELDS = MappingProxyType(
        {"session": _SESSION, "status": _integer(0, 255), "signature": _SIGNATURE}
    )

    session: bytes
    status: int
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Are you there; answered with the same."""

    TYPE = "ping"
    FIELDS = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class LabelQuery(Message):
    """Which of these key labels are known ("verify connection", EKM-11). No drive takes part."""

    TYPE = "label-query"
    FIELDS = MappingProxyType({"labels": Field(_some_of(LABELS_LIMIT, _read_label_text))})

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelAnswer(Message):
    """What the keystore has under each label of a query, in its order."""

    TYPE = "label-answer"
    FIELDS = MappingProxyType(
        {
            "states": Field(
                _some_of(LABELS_LIMIT, _read_label_state),
                lambda states: [_write_label_state(each) for each in states],
            )
        }
    )

    states: tuple[LabelState, ...]


@dataclass(frozen=True, slots=True)
class Error(Message):
    """The sender ends the exchange. ``code`` is an ErrorCode. It gets no answer."""

    TYPE = "error"
    FIELDS = MappingProxyType({"code": _integer(1, 255), "text": _text(TEXT_LIMIT)})

    code: int
    text: str


AnyMessage = (
    Hello | Challenge | KeyRequest | KeyReply | Ack | Ping | LabelQuery | LabelAnswer | Error
)
_KINDS: tuple[type[AnyMessage], ...] = (
    *(Hello, Challenge, KeyRequest, KeyReply, Ack, Ping, LabelQuery, LabelAnswer, Error),
)
_TYPES: Mapping[str, type[AnyMessage]] = {kind.TYPE: kind for kind in _KINDS}


def decode(data: bytes) -> AnyMessage:
    """Return the message whose bytes these are; raise MessageError for anything else."""
    if len(data) > FRAME_LIMIT:
        raise MessageError(f"a message of {len(data)} bytes is over the limit of {FRAME_LIMIT}")
    try:
        content = strict_cbor.decode(data)
    except strict_cbor.CborError as error:
        raise MessageError(f"not a message: {error}") from error
    if not isinstance(content, dict):
        raise MessageError("not a message: not a map")
    type_name = content.get("type")
    kind = _TYPES.get(type_name) if isinstance(type_name, str) else None
    if kind is None:
        raise MessageError(f"not a message: its type is not one of {', '.join(_TYPES)}")
    if tuple(content) != kind.MEMBERS:
        raise MessageError(f"{kind.TYPE}: has fields other than {', '.join(kind.FIELDS) or 'none'}")
    return kind(*_read(kind.TYPE, kind.READS, content))


def _read(
    type_name: str, reads: tuple[tuple[str, Wire], ...], content: Mapping[str, Any]
) -> list[Any]:
    """Return the fields in their order; raise MessageError naming the first that is not right."""
    try:
        return [read(content[name]) for name, read in reads]
    except MessageError:
        pass  # which one it was is asked only now: this way is seldom gone
    for name, read in reads:
        try:
            read(content[name])
        except MessageError as error:
            raise MessageError(f"{type_name}: {name} {error}") from None
    raise AssertionError("a field is right that was not")


def frame(data: bytes) -> bytes:
    """Return a message's bytes with their length in front, as they go over a connection."""
    if not 0 < len(data) <= FRAME_LIMIT:
        raise MessageError(f"a message is 1 to {FRAME_LIMIT} bytes, not {len(data)}")
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def frame_length(header: bytes | bytearray) -> int:
    """Return the length, in bytes, that four header bytes announce; refuse one out of range."""
    length = int.from_bytes(header, "big")
    if not 0 < length <= FRAME_LIMIT:
        raise MessageError(f"a message is 1 to {FRAME_LIMIT} bytes, not {length}")
    return length


def printable(text: str) -> str:
    """Return the text as an Error message may carry it."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown[:TEXT_LIMIT]


Signed = KeyRequest | KeyReply | Ack


class Transcript:
    """SHA-256 over the exact bytes of an exchange so far.

    A signed message is signed over this hash continued by the message's own bytes without the
    signature, each preceded by its length, and by the role that signs. So a signature made for one
    message, role or exchange never fits another.
    """

    def __init__(self) -> None:
        """Begin an exchange."""
        self._hash = hashlib.sha256(b"taperig key exchange 1")

    def add(self, data: bytes) -> None:
        """Take a message that was sent or received."""
        self._hash.update(len(data).to_bytes(LENGTH_BYTES, "big") + data)

    def to_verify(self, message: Signed, data: bytes) -> bytes:
        """Return the 32 bytes that the signature of ``message``, which came as ``data``, is over.

        The signature is cut out of ``data``.
        """
        member = _signature_member(message.signature)
        end = len(data) - message.AFTER_SIGNATURE
        begin = end - len(member)
        return self._digest(message, b"%c%b%b" % (data[0] - 1, data[1:begin], data[end:]))

    def signed(self, message: Signed, sign: Callable[[bytes], bytes]) -> bytes:
        """Return the bytes of ``message`` with the signature that ``sign`` makes; take them.

        Raises MessageError for a field a peer would refuse.
        """
        draft = self.draft(message)
        return draft.signed(sign(draft.digest))

    def draft(self, message: Signed) -> Draft:
        """Return ``message`` as it awaits its signature; raises as ``signed`` does."""
        part = message.without_signature()
        return Draft(self, message, part, self._digest(message, part))

    def _digest(self, message: Signed, part: bytes) -> bytes:
        continued = self._hash.copy()
        length = len(part).to_bytes(LENGTH_BYTES, "big")
        continued.update(b"signature over %b%b%b" % (message.TYPE.encode(), length, part))
        return continued.digest()


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that lacks but its signature, which is to be made over ``digest``."""

    _transcript: Transcript
    _message: Signed
    _part: bytes
    digest: bytes

    def signed(self, signature: bytes) -> bytes:
        """Return the message's bytes with the signature; the transcript takes them."""
        part, member = self._part, _signature_member(signature)
        end = len(part) - self._message.AFTER_SIGNATURE
        data = b"%c%b%b%b" % (part[0] + 1, part[1:end], member, part[end:])
        self._transcript.add(data)
        return data


def _signature_member(signature: bytes) -> bytes:
    """Return the encoded member of a map: without the head of the map that is only it."""
    return strict_cbor.encode_ordered({"signature": signature})[1:]


assert all([field.name for field in fields(kind)] == [*kind.FIELDS] for kind in _TYPES.values())
