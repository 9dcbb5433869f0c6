"""The EEDK as bytes: one encoding, small, and nothing else is let in."""

from __future__ import annotations

import dataclasses
from typing import Any

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hsm.errors import EedkMalformedError, LabelInvalidError
from hsm.keys.eedk import MAX_EEDK_BYTES, Eedk, KeyLabel, KeyMode
from hsm.keys.labels import normalize_label
from hsm.pkcs11.oaep import OaepHash


def _is_normalized(label: str) -> bool:
    try:
        return normalize_label(label) == label
    except LabelInvalidError:
        return False


LABELS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=64).filter(
    _is_normalized
)


@st.composite
def eedks(draw: st.DrawFn) -> Eedk:
    mode = draw(st.sampled_from(KeyMode))
    clear = mode is KeyMode.CLEAR
    return Eedk(
        version=1,
        algorithm="RSA-OAEP",
        oaep_hash=draw(st.sampled_from(OaepHash)),
        mode=mode,
        label=draw(LABELS) if clear else None,
        kek_hash=None if clear else draw(st.binary(min_size=32, max_size=32)),
        wrapped=draw(st.binary(min_size=256, max_size=512)),
        volume=draw(st.text("ABCXYZ0189", min_size=6, max_size=6)),
        signature=draw(st.binary(min_size=8, max_size=72)),
    )


SAMPLE = Eedk(
    version=1,
    algorithm="RSA-OAEP",
    oaep_hash=OaepHash.SHA1,
    mode=KeyMode.CLEAR,
    label="KEK 1",
    kek_hash=None,
    wrapped=bytes(range(256)),
    volume="VOL001",
    signature=bytes(70),
)
HASHED = dataclasses.replace(SAMPLE, mode=KeyMode.HASH, label=None, kek_hash=bytes(range(32)))
FIELDS: dict[str, Any] = cbor2.loads(SAMPLE.encode())


def encoded(**changes: object) -> bytes:
    return cbor2.dumps({**FIELDS, **changes}, canonical=True)


@given(eedks())
@example(SAMPLE)
@example(HASHED)
def test_eedk_is_the_same_after_encoding_and_decoding(eedk: Eedk) -> None:
    data = eedk.encode()
    assert len(data) <= MAX_EEDK_BYTES
    assert Eedk.decode(data) == eedk
    assert cbor2.dumps(cbor2.loads(data), canonical=True) == data


@pytest.mark.rule("KEY-6")
@given(eedks())
def test_eedk_has_a_label_in_clear_mode_and_none_in_hash_mode(eedk: Eedk) -> None:
    fields = cbor2.loads(eedk.encode())
    if eedk.mode is KeyMode.CLEAR:
        assert fields["label"] == eedk.label
        assert "kek_sha256" not in fields
    else:
        assert fields["kek_sha256"] == eedk.kek_hash
        assert "label" not in fields


@given(eedks())
def test_eedk_signature_covers_everything_else(eedk: Eedk) -> None:
    assert eedk.with_signature(bytes(8)).signed_bytes() == eedk.signed_bytes()
    fields = cbor2.loads(eedk.encode())
    del fields["signature"]
    assert eedk.signed_bytes() == b"taperig EEDK 1\0" + cbor2.dumps(fields, canonical=True)


@given(st.binary(max_size=MAX_EEDK_BYTES + 8))
@example(b"")
@example(b"\xa0")
@example(b"\x9f" * 3200)  # arrays within arrays without end
@example(b"\x81" * 3200)
@example(b"\xd8\x1c" * 500)  # shared references
@example(b"\xc2\x5b" + b"\xff" * 8)  # a bignum that claims to be huge
@example(b"\xbb" + b"\xff" * 8)
@example(cbor2.dumps(["version", 1]))
@example(cbor2.dumps({1: 2}))
@example(SAMPLE.encode() + b"\0")
def test_eedk_refuses_other_bytes(data: bytes) -> None:
    with pytest.raises(EedkMalformedError):
        Eedk.decode(data)


@given(st.sampled_from([SAMPLE, HASHED]), st.data())
def test_eedk_damage_is_refused_or_breaks_the_signature(eedk: Eedk, data: st.DataObject) -> None:
    good = bytearray(eedk.encode())
    at = data.draw(st.integers(0, len(good) - 1))
    kind = data.draw(st.sampled_from(["change", "drop", "double"]))
    if kind == "change":
        good[at] ^= data.draw(st.integers(1, 255))
    elif kind == "drop":
        del good[at]
    else:
        good.insert(at, good[at])
    try:
        other = Eedk.decode(bytes(good))
    except EedkMalformedError:
        return
    assert other != eedk
    assert other.encode() == bytes(good)
    assert other.signed_bytes() != eedk.signed_bytes() or other.signature != eedk.signature


@given(
    st.dictionaries(
        st.sampled_from(sorted(FIELDS)),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=80),
            st.binary(max_size=80),
            st.lists(st.integers(), max_size=3),
            st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
            st.datetimes().map(lambda when: cbor2.CBORTag(0, when.isoformat() + "Z")),
        ),
        min_size=1,
    )
)
def test_eedk_refuses_fields_of_another_type(changes: dict[str, Any]) -> None:
    data = encoded(**changes)
    if data == SAMPLE.encode() or len(data) > MAX_EEDK_BYTES:
        return
    try:
        eedk = Eedk.decode(data)
    except EedkMalformedError:
        return
    assert eedk.encode() == data
    assert set(changes) <= {"label", "signature"}, "these two may hold other values of their type"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (bytes(3201), "at most 3200 bytes; this has 3201"),
        (b"\xff", "not CBOR"),
        (b"\x01", "not a CBOR map"),
        (encoded(version=2), "a version other than 1"),
        (encoded(version=True), "a version other than 1"),
        (encoded(algorithm="RSA-PKCS"), "an algorithm other than RSA-OAEP"),
        (encoded(oaep_hash="MD5"), "no known OAEP hash"),
        (encoded(mode="plain"), "exactly the fields"),
        (encoded(mode="hash"), "exactly the fields"),
        (encoded(kek_sha256=bytes(32)), "exactly the fields"),
        (encoded(more=1), "exactly the fields"),
        (encoded(label=""), "label is invalid"),
        (encoded(label=" KEK 1"), "not in the normalized form"),
        (encoded(label="x" * 65), "label is invalid"),
        (encoded(label=7), "has no label"),
        (encoded(wrapped_dk=bytes(255)), "wrapped data key is not a string of 256 to 512 bytes"),
        (encoded(wrapped_dk=bytes(513)), "wrapped data key is not a string of 256 to 512 bytes"),
        (encoded(signature=bytes(73)), "signature is not a string of 8 to 72 bytes"),
        (encoded(volume="VOL01"), "six characters"),
        (encoded(volume="vol001"), "six characters"),
        (encoded(volume="VOL001\n"), "six characters"),
        (encoded(volume=b"VOL001"), "six characters"),
        (cbor2.dumps(dict(reversed(FIELDS.items()))), "deterministic encoding"),
        (SAMPLE.encode() + b"\x00", "not CBOR|deterministic encoding"),
    ],
)
def test_eedk_refusals_name_their_cause(data: bytes, text: str) -> None:
    with pytest.raises(EedkMalformedError, match=text):
        Eedk.decode(data)


def test_eedk_refuses_duplicate_and_indefinite_maps() -> None:
    body = SAMPLE.encode()
    assert body[0] == 0xA8  # a map of eight pairs
    duplicate = b"\xa9" + cbor2.dumps("mode") + cbor2.dumps("clear") + body[1:]
    indefinite = b"\xbf" + body[1:] + b"\xff"
    for data in (duplicate, indefinite):
        with pytest.raises(EedkMalformedError):
            Eedk.decode(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "hash"},
        {"label": None},
        {"kek_hash": bytes(32)},
        {"mode": "hash", "label": None, "kek_hash": bytes(31)},
        {"wrapped": bytearray(256)},
    ],
)
def test_eedk_refuses_fields_that_cannot_be_encoded(changes: dict[str, Any]) -> None:
    with pytest.raises(EedkMalformedError):
        dataclasses.replace(SAMPLE, **changes)


@pytest.mark.rule("KEY-5", "KEY-6")
def test_key_label_is_normalized_and_checked() -> None:
    label = KeyLabel(" June 2007 Key ", "hash")  # type: ignore[arg-type] # as a pool's file gives it
    assert label == KeyLabel("June 2007 Key", KeyMode.HASH)
    assert KeyLabel("x").mode is KeyMode.CLEAR
    with pytest.raises(LabelInvalidError):
        KeyLabel("x" * 65)
    with pytest.raises(ValueError, match="hashed"):
        KeyLabel("x", "hashed")  # type: ignore[arg-type] # a mistake in a pool's file
