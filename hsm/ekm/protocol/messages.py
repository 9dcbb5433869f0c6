"""The messages between a tape drive and a key manager, and their encoding.

A message is a deterministic CBOR map with a ``type`` and exactly the fields listed here; anything
else (an additional or missing field, another type or size, trailing bytes) is refused. On a
connection each message is preceded by its length in four bytes, big endian, and has at most 64 KiB.

    Hello -> Challenge -> KeyRequest -> KeyReply -> Ack        Ping -> Ping        Error
    LabelQuery -> LabelAnswer

The two signed messages cover everything before them: see ``Transcript``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from types import MappingProxyType
from typing import Any, ClassVar, Self

from hsm import framing
from hsm.ekm.protocol.errors import MessageError
from hsm.ekm.protocol.fields import (
    TEXT_LIMIT,
    Converter,
    Field,
    KeyOperation,
    LabelState,
    integer,
    list_of,
    octets,
    pair_of,
    printable_text,
    read_flag,
    read_label,
    read_label_state,
    read_label_text,
    read_operation,
    read_volume,
    write_label,
    write_label_state,
)
from hsm.keys import deterministic_cbor
from hsm.keys.eedk import MAX_EEDK_BYTES, KeyLabel
from hsm.keys.signature import MAX_SIGNATURE_BYTES, MIN_SIGNATURE_BYTES

PROTOCOL_VERSION = 2
"""Version 2 also names the cartridge by its id (CART-4)."""
FRAME_LIMIT = 64 * 1024
"""Longest message, in bytes, without its four length bytes."""

NONCE_BYTES = 32
SESSION_BYTES = 16
CARTRIDGE_ID_BYTES = 16
"""The same as in the cartridge memory."""
CERTIFICATE_LIMIT = 4096
SEDK_LIMIT = 512
"""An RSA-4096 ciphertext; the largest drive key has 4096 bits."""
LABELS_LIMIT = 64
"""Two for each of a node's 32 pools."""
SEQUENCE_LIMIT = 2**63 - 1


_VERSION = integer(0, 255)
_CERTIFICATE = octets(1, CERTIFICATE_LIMIT)
_NONCE = octets(NONCE_BYTES, NONCE_BYTES)
_SESSION = octets(SESSION_BYTES, SESSION_BYTES)
_SIGNATURE = octets(MIN_SIGNATURE_BYTES, MAX_SIGNATURE_BYTES)
_SEQUENCE = integer(1, SEQUENCE_LIMIT)
_CARTRIDGE_ID = octets(CARTRIDGE_ID_BYTES, CARTRIDGE_ID_BYTES)
_FLAG = Field(read_flag, size=1)
_EEDKS = Field(pair_of(octets(1, MAX_EEDK_BYTES).read))


class Message:
    """The base of all messages: a type name and a description of each field."""

    TYPE: ClassVar[str]
    FIELDS: ClassVar[Mapping[str, Field]]
    MEMBERS: ClassVar[tuple[str, ...]]
    """The names of the map's members in the order of the encoding."""
    READS: ClassVar[tuple[tuple[str, Converter], ...]]
    AFTER_SIGNATURE: ClassVar[int]
    """Bytes that follow the signature in the encoding; their fields have a fixed size."""
    _UNSIGNED_READS: ClassVar[tuple[tuple[str, Converter], ...]]
    _WRITES: ClassVar[tuple[tuple[str, Converter], ...]]
    _VALUES: ClassVar[Callable[[Any], tuple[Any, ...]]]

    def __init_subclass__(cls) -> None:
        """Sort the members into the order of their encoding, once."""
        cls.MEMBERS = tuple(sorted(("type", *cls.FIELDS), key=deterministic_cbor.sort_key))
        cls.READS = tuple((name, field.read) for name, field in cls.FIELDS.items())
        if "signature" in cls.FIELDS:
            after = cls.MEMBERS[cls.MEMBERS.index("signature") + 1 :]
            cls._UNSIGNED_READS = tuple(each for each in cls.READS if each[0] != "signature")
            cls.AFTER_SIGNATURE = sum(map(cls._member_size, after))
        cls._WRITES = tuple(
            (name, field.write) for name, field in cls.FIELDS.items() if field.write is not None
        )
        # The additional first name makes it return a tuple for one member too.
        cls._VALUES = attrgetter(
            "TYPE", *("TYPE" if name == "type" else name for name in cls.MEMBERS)
        )

    @classmethod
    def _member_size(cls, name: str) -> int:
        size = cls.FIELDS[name].size
        assert size is not None, f"{name} follows the signature and has no fixed size"
        return 1 + len(name) + size

    def encode(self) -> bytes:
        """Return the encoding; raise MessageError for a field a peer would refuse."""
        content = self._content()
        _read(self.TYPE, self.READS, content)
        return deterministic_cbor.encode_ordered(content)

    def without_signature(self) -> bytes:
        """Return the encoding without the signature; raises as ``encode`` does."""
        content = self._content()
        _read(self.TYPE, self._UNSIGNED_READS, content)
        del content["signature"]
        return deterministic_cbor.encode_ordered(content)

    def _content(self) -> dict[str, Any]:
        content = dict(zip(self.MEMBERS, type(self)._VALUES(self)[1:], strict=True))
        for name, write in self._WRITES:
            content[name] = write(content[name])
        return content


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """The drive's signing certificate (X.509 DER) and a fresh nonce."""

    TYPE = "hello"
    FIELDS = MappingProxyType({"certificate": _CERTIFICATE, "nonce": _NONCE, "version": _VERSION})

    certificate: bytes
    nonce: bytes
    version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Challenge(Message):
    """The key manager's certificate (X.509 DER), a fresh nonce and session id."""

    TYPE = "challenge"
    FIELDS = MappingProxyType({"certificate": _CERTIFICATE, "nonce": _NONCE, "session": _SESSION})

    certificate: bytes
    nonce: bytes
    session: bytes


@dataclass(frozen=True, slots=True)
class KeyRequest(Message):
    """The drive's request for one cartridge, signed by the drive.

    The cartridge is named by its VOLSER and by the id in its memory (CART-4).

    GENERATE carries one or two labels and no EEDK, TRANSLATE one or two EEDKs and no label, REKEY
    both.
    """

    TYPE = "key-request"
    FIELDS = MappingProxyType(
        {
            "session": _SESSION,
            "operation": Field(read_operation, str),
            "volume": Field(read_volume),
            "cartridge_id": _CARTRIDGE_ID,
            "labels": Field(pair_of(read_label), lambda pair: [write_label(each) for each in pair]),
            "allow_public_only": _FLAG,
            "eedks": _EEDKS,
            "sequence": _SEQUENCE,
            "signature": _SIGNATURE,
        }
    )

    session: bytes
    operation: KeyOperation
    volume: str
    cartridge_id: bytes
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
    KeyOperation.GENERATE: (True, False),
    KeyOperation.TRANSLATE: (False, True),
    KeyOperation.REKEY: (True, True),
}


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """The key material of an exchange, all of it ciphertext.

    ``sedk`` is the data key wrapped for the drive. ``eedks`` are the EEDKs for the cartridge; the
    key manager leaves them out for TRANSLATE, since the drive has them.
    """

    sedk: bytes
    eedks: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyReply(Message):
    """The signed reply: the SEDK, and new EEDKs unless for TRANSLATE."""

    TYPE = "key-reply"
    FIELDS = MappingProxyType(
        {
            "session": _SESSION,
            "sedk": octets(1, SEDK_LIMIT),
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

    @classmethod
    def from_grant(cls, grant: KeyGrant, session: bytes, sequence: int) -> Self:
        """Return an unsigned reply that carries a grant."""
        return cls(session, grant.sedk, grant.eedks, sequence)

    @property
    def grant(self) -> KeyGrant:
        """The key material of the reply."""
        return KeyGrant(self.sedk, self.eedks)


@dataclass(frozen=True, slots=True)
class Ack(Message):
    """The drive's signed acknowledgement (status 0: verified); no answer."""

    TYPE = "ack"
    FIELDS = MappingProxyType(
        {"session": _SESSION, "status": integer(0, 255), "signature": _SIGNATURE}
    )

    session: bytes
    status: int
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """A check of the connection, answered with the same message."""

    TYPE = "ping"
    FIELDS = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class LabelQuery(Message):
    """Asks which key labels are known ("verify connection", EKM-11).

    The relay sends it; no drive takes part.
    """

    TYPE = "label-query"
    FIELDS = MappingProxyType({"labels": Field(list_of(LABELS_LIMIT, read_label_text))})

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelAnswer(Message):
    """The state of each label of a query, in the query's order."""

    TYPE = "label-answer"
    FIELDS = MappingProxyType(
        {
            "states": Field(
                list_of(LABELS_LIMIT, read_label_state),
                lambda states: [write_label_state(each) for each in states],
            )
        }
    )

    states: tuple[LabelState, ...]


@dataclass(frozen=True, slots=True)
class Error(Message):
    """Ends the exchange; ``code`` is an ErrorCode. It gets no answer."""

    TYPE = "error"
    FIELDS = MappingProxyType({"code": integer(1, 255), "text": printable_text(TEXT_LIMIT)})

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
    """Return the message that ``data`` encodes; raise MessageError if none."""
    if len(data) > FRAME_LIMIT:
        raise MessageError(f"a message of {len(data)} bytes is over the limit of {FRAME_LIMIT}")
    try:
        content = deterministic_cbor.decode(data)
    except deterministic_cbor.CborError as error:
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
    type_name: str, reads: tuple[tuple[str, Converter], ...], content: Mapping[str, Any]
) -> list[Any]:
    """Return the fields in order; raise MessageError naming the first bad one."""
    try:
        return [read(content[name]) for name, read in reads]
    except MessageError:
        pass  # rare: find out below which field it was
    for name, read in reads:
        try:
            read(content[name])
        except MessageError as error:
            raise MessageError(f"{type_name}: {name} {error}") from None
    raise AssertionError("a field was refused and then accepted")


def frame(data: bytes) -> bytes:
    """Return a message with its length in front, as sent on a connection."""
    return framing.frame(data, FRAME_LIMIT)


assert all([field.name for field in fields(kind)] == [*kind.FIELDS] for kind in _TYPES.values())
