"""The encoding of key exchange messages: one for each, no other accepted."""

from __future__ import annotations

import dataclasses
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.ekm.protocol import messages
from hsm.ekm.protocol.errors import MessageError
from hsm.ekm.protocol.fields import KeyOperation, LabelState, printable
from hsm.ekm.protocol.messages import (
    Ack,
    AnyMessage,
    Challenge,
    Error,
    Hello,
    KeyReply,
    KeyRequest,
    LabelAnswer,
    LabelQuery,
    Ping,
)
from hsm.ekm.protocol.transcript import SignedMessage, Transcript
from hsm.framing import FrameError, frame_length
from hsm.keys import deterministic_cbor
from hsm.keys.eedk import KeyLabel, KeyMode
from hsm.keys.signature import MAX_SIGNATURE_BYTES, MIN_SIGNATURE_BYTES

SIGNATURE = b"\x30" * 70
REQUEST = KeyRequest(
    session=b"s" * 16,
    operation=KeyOperation.GENERATE,
    volume="VOL001",
    cartridge_id=b"c" * 16,
    labels=(KeyLabel("June 2007 Key"), KeyLabel("DR", KeyMode.HASH)),
    allow_public_only=False,
    eedks=(),
    sequence=7,
    signature=SIGNATURE,
)
EXAMPLES: list[AnyMessage] = [
    Hello(certificate=b"certificate", nonce=b"n" * 32),
    Challenge(certificate=b"certificate", nonce=b"n" * 32, session=b"s" * 16),
    REQUEST,
    dataclasses.replace(REQUEST, operation=KeyOperation.TRANSLATE, labels=(), eedks=(b"e",)),
    dataclasses.replace(REQUEST, operation=KeyOperation.REKEY, eedks=(b"e", b"f")),
    KeyReply(
        session=b"s" * 16, sedk=b"w" * 256, eedks=(b"a", b"b"), sequence=7, signature=SIGNATURE
    ),
    Ack(session=b"s" * 16, status=0, signature=SIGNATURE),
    Ping(),
    LabelQuery(("June 2007 Key", "DR")),
    LabelAnswer((LabelState("June 2007 Key", b"h" * 32, True), LabelState("DR"))),
    Error(code=20, text="No such label."),
]


def as_map(message: AnyMessage) -> dict[str, Any]:
    content = deterministic_cbor.decode(message.encode())
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_message_is_the_same_after_encoding_and_decoding(message: AnyMessage) -> None:
    data = message.encode()
    assert messages.decode(data) == message
    assert messages.decode(data).encode() == data


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_message_refuses_added_and_missing_fields(message: AnyMessage) -> None:
    content = as_map(message)
    with pytest.raises(MessageError, match="fields other than"):
        messages.decode(deterministic_cbor.encode(content | {"extra": 1}))
    for name in content.keys() - {"type"}:
        short = {key: value for key, value in content.items() if key != name}
        with pytest.raises(MessageError, match="fields other than"):
            messages.decode(deterministic_cbor.encode(short))


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_message_refuses_trailing_bytes(message: AnyMessage) -> None:
    for tail in (b"\x00", b"\xf6", message.encode()):
        with pytest.raises(MessageError):
            messages.decode(message.encode() + tail)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_message_refuses_every_truncation(message: AnyMessage) -> None:
    data = message.encode()
    for end in range(len(data)):
        with pytest.raises(MessageError):
            messages.decode(data[:end])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("session", b"s" * 15),
        ("session", "s" * 16),
        ("operation", "destroy"),
        ("operation", ["generate"]),
        ("volume", "vol001"),
        ("volume", "VOL01"),
        ("volume", "VOL001\n"),
        ("labels", "June"),
        ("labels", [["a", "clear"]] * 3),
        ("labels", [["", "clear"]]),
        ("labels", [["x" * 65, "clear"]]),
        ("labels", [[" June", "clear"]]),
        ("labels", [["Ju\nne", "clear"]]),
        ("labels", [["June", "open"]]),
        ("labels", [["June"]]),
        ("labels", [[1, "clear"]]),
        ("allow_public_only", 1),
        ("eedks", [b""]),
        ("eedks", [b"e" * 3201]),
        ("eedks", [b"e"]),  # GENERATE carries none
        ("labels", []),  # and needs a label
        ("sequence", 0),
        ("sequence", -1),
        ("sequence", 2**63),
        ("sequence", True),
        ("signature", b""),
        ("signature", b"s" * 73),
    ],
)
def test_message_refuses_a_field_of_the_wrong_type_or_size(field: str, value: object) -> None:
    content = as_map(REQUEST)
    messages.decode(deterministic_cbor.encode(content))
    with pytest.raises(MessageError, match="key-request"):
        messages.decode(deterministic_cbor.encode(content | {field: value}))


def test_message_that_a_peer_would_refuse_is_not_encoded() -> None:
    with pytest.raises(MessageError, match="nonce"):
        Hello(certificate=b"c", nonce=b"short").encode()
    with pytest.raises(MessageError, match="signature"):
        dataclasses.replace(REQUEST, signature=b"").encode()
    with pytest.raises(MessageError, match="text"):
        Error(code=1, text="two\nlines").encode()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x01", id="a number"),
        pytest.param(cbor2.dumps(["ping"]), id="a list"),
        pytest.param(cbor2.dumps({"type": "pong"}), id="another type"),
        pytest.param(cbor2.dumps({"type": 1}), id="a type that is no text"),
        pytest.param(cbor2.dumps({"kind": "ping"}), id="no type"),
        pytest.param(bytes.fromhex("bf647479706564 70696e67ff"), id="indefinite map"),
        pytest.param(bytes.fromhex("a1 7804 74797065 64 70696e67"), id="length in a longer form"),
        pytest.param(bytes.fromhex("a2 6474797065 6470696e67 6474797065 6470696e67"), id="twice"),
        pytest.param(bytes.fromhex("c1 a1 6474797065 6470696e67"), id="tagged"),
        pytest.param(cbor2.dumps({"type": "ping", "x": 1.5}), id="a float"),
        pytest.param(cbor2.dumps({"type": "ping", "x": None}), id="null"),
        pytest.param(bytes.fromhex("d81c a1 61 61 d81d 00"), id="a value that holds itself"),
        pytest.param(bytes.fromhex("d823 64 282e2a29"), id="a regular expression"),
        pytest.param(b"\x81" * 60000 + b"\x01", id="deep"),
        pytest.param(b"\x9b" + b"\x7f" + b"\xff" * 7, id="a list of 2^63"),
        pytest.param(b"\x5b" + b"\x7f" + b"\xff" * 7, id="a string of 2^63"),
        pytest.param(b"\x00" * (messages.FRAME_LIMIT + 1), id="too long"),
    ],
)
def test_message_refuses_other_cbor(data: bytes) -> None:
    with pytest.raises(MessageError):
        messages.decode(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("c000", "tags"),
        ("d9d9f700", "tags"),
        ("81c000", "tags"),
        ("f6", "floats, null"),
        ("f7", "floats, null"),
        ("f90000", "floats, null"),
        ("fb3ff0000000000000", "floats, null"),
        ("e0", "floats, null"),
        ("f8ff", "floats, null"),
        ("9fff", "indefinite"),
        ("5fff", "indefinite"),
        ("1c", "unknown"),
    ],
)
def test_message_refuses_cbor_types_that_no_field_has(data: str, words: str) -> None:
    with pytest.raises(deterministic_cbor.CborError, match=words):
        deterministic_cbor.decode(bytes.fromhex(data))


def test_message_over_the_size_limit_is_refused() -> None:
    with pytest.raises(MessageError, match="over the limit of 65536"):
        messages.decode(
            deterministic_cbor.encode({"type": "ping", "x": bytes(messages.FRAME_LIMIT)})
        )


@given(st.binary(max_size=300))
def test_message_of_random_bytes_is_decoded_or_refused(data: bytes) -> None:
    try:
        message = messages.decode(data)
    except MessageError:
        return
    assert message.encode() == data


_SCALARS = (
    st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=80) | st.text(max_size=70) | st.booleans()
)
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@given(st.sampled_from(EXAMPLES), st.data())
def test_message_with_any_field_replaced_is_refused_or_exact(
    message: AnyMessage, data: st.DataObject
) -> None:
    content = as_map(message)
    name = data.draw(st.sampled_from(sorted(content)))
    changed = deterministic_cbor.encode(content | {name: data.draw(_VALUES)})
    try:
        decoded = messages.decode(changed)
    except MessageError:
        return
    assert decoded.encode() == changed


@given(st.sampled_from(EXAMPLES), st.data())
def test_message_with_any_byte_changed_is_refused_or_differs(
    message: AnyMessage, data: st.DataObject
) -> None:
    encoded = bytearray(message.encode())
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        decoded = messages.decode(bytes(encoded))
    except MessageError:
        return
    assert decoded != message
    assert decoded.encode() == bytes(encoded)


def test_frame_has_its_length_in_front_and_a_limit() -> None:
    assert messages.frame(b"abc") == b"\x00\x00\x00\x03abc"
    limit = messages.FRAME_LIMIT
    assert frame_length(b"\x00\x01\x00\x00", limit) == limit
    for header in (b"\x00\x00\x00\x00", b"\x00\x01\x00\x01", b"\xff\xff\xff\xff"):
        with pytest.raises(FrameError, match="1 to 65536 bytes"):
            frame_length(header, limit)
    with pytest.raises(FrameError):
        messages.frame(b"x" * (limit + 1))


def test_transcript_digest_depends_on_every_byte_and_on_the_message() -> None:
    def to_sign(*sent: bytes, message: KeyRequest | Ack = REQUEST) -> bytes:
        transcript = Transcript()
        for data in sent:
            transcript.add(data)
        return transcript.draft(message).digest

    ack = Ack(session=b"s" * 16, status=0)
    digests = [
        to_sign(b"hello", b"challenge"),
        to_sign(b"hello", b"challengf"),
        to_sign(b"hellochallenge"),
        to_sign(b"helloc", b"hallenge"),
        to_sign(b"hello"),
        to_sign(b"hello", b"challenge", message=dataclasses.replace(REQUEST, sequence=8)),
        to_sign(b"hello", b"challenge", message=dataclasses.replace(REQUEST, volume="VOL002")),
        to_sign(b"hello", b"challenge", message=ack),
    ]
    assert len(set(digests)) == len(digests)
    unsigned = dataclasses.replace(REQUEST, signature=b"")
    assert to_sign(b"hello", b"challenge", message=unsigned) == digests[0]


@given(
    st.sampled_from([each for each in EXAMPLES if isinstance(each, SignedMessage)]),
    st.binary(min_size=MIN_SIGNATURE_BYTES, max_size=MAX_SIGNATURE_BYTES)
    | st.integers(MIN_SIGNATURE_BYTES, MAX_SIGNATURE_BYTES).map(
        lambda length: deterministic_cbor.encode("signature")[:length].ljust(length, b"i")
    ),
)
def test_transcript_inserts_and_cuts_out_the_signature_at_its_place(
    message: SignedMessage, signature: bytes
) -> None:
    drive, key_manager = Transcript(), Transcript()
    digests = []

    def sign(digest: bytes) -> bytes:
        digests.append(digest)
        return signature

    unsigned = dataclasses.replace(message, signature=b"")
    data = drive.signed(unsigned, sign)
    signed = dataclasses.replace(message, signature=signature)
    assert data == signed.encode()
    assert digests == [key_manager.draft(message).digest] == [key_manager.to_verify(signed, data)]
    key_manager.add(data)
    assert drive.draft(message).digest == key_manager.draft(message).digest


def test_transcript_does_not_sign_a_message_that_a_peer_would_refuse() -> None:
    bad = dataclasses.replace(REQUEST, volume="vol001", signature=b"")
    with pytest.raises(MessageError, match="key-request: volume must be a VOLSER"):
        Transcript().signed(bad, lambda digest: SIGNATURE)


def test_error_text_is_cut_and_made_printable() -> None:
    text = printable("a\nb\x00" + "c" * 1000)
    assert text.startswith("a?b?c")
    Error(code=1, text=text).encode()


_MAPS = st.dictionaries(st.sampled_from(["a", "b", "type", "é"]) | st.text(max_size=25), _VALUES)


@given(_MAPS, st.booleans(), st.lists(st.tuples(st.integers(0, 4095), st.binary(max_size=2))))
def test_message_that_is_decoded_has_exactly_that_encoding(
    content: dict[str, Any], ordered: bool, changes: list[tuple[int, bytes]]
) -> None:
    encoded = bytearray(cbor2.dumps(content, canonical=ordered))
    for place, patch in changes[:2]:
        encoded[place % 64 : place % 64 + 1] = patch
    data = bytes(encoded)
    try:
        value = deterministic_cbor.decode(data)
    except deterministic_cbor.CborError:
        return
    assert deterministic_cbor.encode(value) == data


@pytest.mark.parametrize("tag", [*range(0, 300), 1004, 43000, 55799, 2**32, 2**64 - 1])
@pytest.mark.parametrize("inside", [False, True])
def test_cbor_tags_are_all_refused(tag: int, inside: bool) -> None:
    tagged = cbor2.dumps(cbor2.CBORTag(tag, b"12"))
    with pytest.raises(deterministic_cbor.CborError, match="tags"):
        deterministic_cbor.decode(b"\xa1ax" + tagged if inside else tagged)


def test_cbor_map_with_too_many_members_is_refused() -> None:
    names = {f"{number:02d}": 0 for number in range(deterministic_cbor.MAX_MEMBERS)}
    assert deterministic_cbor.decode(deterministic_cbor.encode(names)) == names
    with pytest.raises(deterministic_cbor.CborError, match="at most 32"):
        deterministic_cbor.decode(deterministic_cbor.encode(names | {"x1": 0}))


@pytest.mark.parametrize(
    "longer",
    [
        "a161787817" + "00" * 23,
        "a161785817" + "00" * 23,
        "a16178590017" + "00" * 23,
        "a161781817",
        "a161781900ff",
        "a161781a0000ffff",
        "a161781b00000000ffffffff",
        "a2616200616100",
        "a2616100616100",
        "a16161f400",
    ],
)
def test_cbor_that_is_not_shortest_or_not_ordered_is_refused(longer: str) -> None:
    with pytest.raises(deterministic_cbor.CborError):
        deterministic_cbor.decode(bytes.fromhex(longer))
