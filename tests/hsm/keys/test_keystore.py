"""The keystore: KEKs as certificates, found by label or by hash."""

from __future__ import annotations

import dataclasses
import os
import unicodedata

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from pkcs11 import Attribute, CertificateType, ObjectClass

from hsm.errors import (
    DriveKeyUnknownError,
    KekDuplicateError,
    KekHashUnknownError,
    KekInvalidError,
    KekPublicOnlyError,
    LabelDuplicateError,
    LabelInvalidError,
    LabelUnknownError,
    TokenError,
)
from hsm.keys import keystore as keystore_module
from hsm.keys.keystore import PENDING_LABEL, Keystore
from hsm.keys.labels import label_key, normalize_label
from hsm.keys.pki import CertificateAuthority
from hsm.pkcs11.encoding import spki_der, spki_hash
from hsm.pkcs11.key_restrictions import KeyRestriction
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.token import Token, open_token
from hsm.provisioning import ProvisionedLab
from tests.support.outside import OutsidePair, outside_pair, self_signed


@pytest.fixture(scope="module")
def pair() -> OutsidePair:
    return outside_pair("for the keystore")


@pytest.fixture
def authority(lab_state: ProvisionedLab) -> CertificateAuthority:
    return CertificateAuthority(lab_state.ca.parent)


# Labels


@pytest.mark.rule("KEY-5")
@pytest.mark.parametrize("label", ["K", "June 2007 Key", "x" * 64, "€" * 64, "Größe", "a/b:c*?"])
def test_label_has_1_to_64_printable_characters(label: str) -> None:
    assert normalize_label(label) == label
    assert normalize_label(f"  {label}\u00a0") == label


@pytest.mark.rule("KEY-5")
@pytest.mark.parametrize("label", ["", "   ", "x" * 65, "a\nb", "a\0b", "a\u200bb", "\x7f"])
def test_label_that_is_invalid_is_refused(label: str) -> None:
    with pytest.raises(LabelInvalidError, match=r"1 to 64 printable|the most is 64"):
        normalize_label(label)


@pytest.mark.rule("KEY-5")
@given(st.text(min_size=1, max_size=64))
def test_label_is_compared_without_case(label: str) -> None:
    try:
        kept = normalize_label(label)
    except LabelInvalidError:
        return
    assert normalize_label(kept) == kept
    assert label_key(kept) == label_key(label)
    assert label_key(unicodedata.normalize("NFD", kept)) == label_key(kept)
    for other in (kept.upper(), kept.lower()):
        if len(other) == len(kept) and other.casefold() == kept.casefold():
            assert label_key(other) == label_key(kept)


@pytest.mark.rule("KEY-5")
def test_keystore_finds_a_label_in_any_case(keystore: Keystore) -> None:
    assert keystore.find("kek 1") == keystore.find("KEK 1") == keystore.find(" Kek 1 ")
    assert keystore.find("kek 1").label == "KEK 1"


@pytest.mark.rule("KEY-5")
def test_keystore_stores_the_longest_label_in_the_widest_characters(
    keystore: Keystore, authority: CertificateAuthority
) -> None:
    label = "\U0001f511" * 64
    kek = keystore.create_kek(label, authority=authority)
    assert keystore.find(label) == kek
    assert kek.label == label


@pytest.mark.rule("KEY-9")
def test_keystore_names_an_unknown_label(keystore: Keystore) -> None:
    with pytest.raises(LabelUnknownError, match="no key labelled 'Mai 2026'"):
        keystore.find("Mai 2026")


@pytest.mark.rule("KEY-10")
def test_keystore_refuses_a_second_certificate_under_one_label(
    keystore: Keystore, authority: CertificateAuthority
) -> None:
    before = keystore.list()
    other = outside_pair("other")
    with pytest.raises(LabelDuplicateError, match="'KEK 1'"):
        keystore.create_kek("kek 1", authority=authority)
    with pytest.raises(LabelDuplicateError, match="'KEK 1'"):
        keystore.import_certificate("Kek 1", other.certificate)
    with pytest.raises(LabelDuplicateError, match="'KEK 1'"):
        keystore.import_kek("KEK 1", other.pem, other.certificate)
    assert keystore.list() == before


@pytest.mark.rule("KEY-10")
def test_keystore_refuses_a_renewed_certificate_under_one_label(
    keystore: Keystore, pair: OutsidePair
) -> None:
    kek = keystore.import_certificate("renewed", pair.certificate)
    renewed = self_signed("for the keystore", pair.private)
    with pytest.raises(LabelDuplicateError):
        keystore.import_certificate("renewed", renewed)
    with pytest.raises(KekDuplicateError, match="labelled 'renewed'"):
        keystore.import_certificate("under a second label", pair.certificate)
    assert keystore.find("renewed") == kek


# KEKs


@pytest.mark.rule("KEY-3")
def test_create_kek_makes_a_restricted_kek_with_a_certificate(
    keystore: Keystore, token: Token
) -> None:
    kek = keystore.find("KEK 1")
    public_key = kek.certificate.public_key()
    assert isinstance(public_key, rsa.RSAPublicKey)
    assert public_key.key_size == kek.bits == 2048
    assert kek.spki_hash == spki_hash(public_key)
    assert kek.has_private
    public = token.find_one({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: kek.spki_hash})
    assert public[Attribute.TRUSTED]
    assert public[Attribute.WRAP]
    assert not public[Attribute.ENCRYPT]
    assert not public[Attribute.VERIFY]
    usage = kek.certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_encipherment
    assert not usage.digital_signature


@pytest.mark.rule("KEY-3")
@pytest.mark.parametrize("bits", [512, 1024, 2047, 2100, 4352, 8192])
def test_create_kek_refuses_sizes_outside_2048_to_4096(
    keystore: Keystore, authority: CertificateAuthority, bits: int
) -> None:
    with pytest.raises(KekInvalidError, match=f"this has {bits}|{bits} is none"):
        keystore.create_kek("odd size", bits, authority=authority)
    with pytest.raises(LabelUnknownError):
        keystore.find("odd size")


@pytest.mark.rule("KEY-3")
def test_import_refuses_a_kek_of_1024_bits(keystore: Keystore) -> None:
    small = outside_pair("small", 1024)
    with pytest.raises(KekInvalidError, match="this has 1024"):
        keystore.import_kek("small", small.pem, small.certificate)
    with pytest.raises(KekInvalidError, match="this has 1024"):
        keystore.import_certificate("small", small.certificate)


@pytest.mark.rule("KEY-3")
@pytest.mark.parametrize("bits", [2048, 2056, 3072, 4096])
def test_import_kek_opens_what_was_wrapped_outside(keystore: Keystore, bits: int) -> None:
    pair = outside_pair(f"imported {bits}", bits)
    kek = keystore.import_kek(f"imported {bits}", pair.pem, pair.certificate)
    assert kek.bits == bits
    assert kek.certificate == pair.certificate
    data_key = os.urandom(32)
    token = keystore.token
    with token.unwrap_data_key(
        pair.wrap(data_key), keystore.private_key(kek), OaepHash.SHA1
    ) as handle:
        wrapped = token.wrap_data_key(handle, keystore.public_key(kek))
    assert pair.unwrap(wrapped) == data_key


@pytest.mark.rule("KEY-4")
def test_public_only_kek_wraps_and_does_not_unwrap(keystore: Keystore, token: Token) -> None:
    pair = outside_pair("public only")
    kek = keystore.import_certificate("public only", pair.certificate)
    assert not kek.has_private
    with token.generate_data_key() as data_key:
        assert len(pair.unwrap(token.wrap_data_key(data_key, keystore.public_key(kek)))) == 32
    with pytest.raises(KekPublicOnlyError, match="'public only' without its private half"):
        keystore.private_key(kek)
    assert keystore.import_certificate("Public Only", pair.certificate) == kek

    complete = keystore.import_kek("public only", pair.pem, pair.certificate)
    assert complete == dataclasses.replace(kek, has_private=True)
    assert [k.label for k in keystore.list()].count("public only") == 1


@pytest.mark.rule("KEY-6")
def test_find_by_hash_returns_the_kek_or_names_the_hash(keystore: Keystore) -> None:
    kek = keystore.find("KEK 2")
    assert keystore.find_by_hash(kek.spki_hash) == kek
    with pytest.raises(KekHashUnknownError, match="its label is not known"):
        keystore.find_by_hash(bytes(32))


def test_import_refuses_what_cannot_be_a_kek(keystore: Keystore, pair: OutsidePair) -> None:
    other = outside_pair("stranger")
    with pytest.raises(KekInvalidError, match="do not belong together"):
        keystore.import_kek("no pair", other.pem, pair.certificate)
    with pytest.raises(KekInvalidError, match="cannot be read"):
        keystore.import_kek("no key", b"-----BEGIN NOTHING", pair.certificate)
    with pytest.raises(KekInvalidError, match="cannot be read"):
        keystore.import_kek("needless password", other.pem, other.certificate, b"password")
    elliptic = ec.generate_private_key(ec.SECP256R1())
    pem = elliptic.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with pytest.raises(KekInvalidError, match="not an RSA key"):
        keystore.import_kek("elliptic", pem, pair.certificate)
    for label in ("no pair", "no key", "needless password", "elliptic"):
        with pytest.raises(LabelUnknownError):
            keystore.find(label)


def test_import_kek_accepts_an_encrypted_private_key(keystore: Keystore) -> None:
    pair = outside_pair("encrypted")
    pem = pair.private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    with pytest.raises(KekInvalidError, match="cannot be read"):
        keystore.import_kek("encrypted", pem, pair.certificate)
    assert keystore.import_kek("encrypted", pem, pair.certificate, b"password").has_private


def test_keystore_needs_the_security_officer_for_keks(lab_state: ProvisionedLab) -> None:
    pair = outside_pair("without officer")
    config = lab_state.ekm_token.replace(so_pin=None)
    with open_token(config) as token:
        keystore = Keystore(token)
        with pytest.raises(TokenError, match="security officer"):
            keystore.import_certificate("without officer", pair.certificate)
        with pytest.raises(LabelUnknownError):
            keystore.find("without officer")


@pytest.mark.parametrize(
    ("guards", "label"), [(None, "cut short"), (frozenset(), PENDING_LABEL)], ids=["guarded", "not"]
)
def test_create_kek_removes_an_interrupted_kek(
    keystore: Keystore,
    token: Token,
    authority: CertificateAuthority,
    monkeypatch: pytest.MonkeyPatch,
    guards: frozenset[KeyRestriction] | None,
    label: str,
) -> None:
    for old in keystore.list():
        if old.label == "cut short":
            keystore.remove_kek(old)
    token._restrictions = guards
    pending = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: label}
    with monkeypatch.context() as patch:
        patch.setattr(keystore_module, "trust_public_key", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            keystore.create_kek("cut short", authority=authority)
    assert len(token.find(pending)) == 1
    with pytest.raises(LabelUnknownError):
        keystore.find("cut short")

    assert keystore.create_kek("cut short", authority=authority).has_private
    assert len(token.find(pending)) == (1 if label == "cut short" else 0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# Drives


def test_drive_keys_are_enrolled_by_the_security_officer(keystore: Keystore) -> None:
    pair = outside_pair("drive")
    public_der = spki_der(pair.private.public_key())
    with pytest.raises(DriveKeyUnknownError, match="is not enrolled"):
        keystore.drive_key(public_der)
    keystore.enroll_drive_key("D9", public_der)
    keystore.enroll_drive_key("D9", public_der)
    with keystore.token.generate_data_key() as data_key:
        wrapped = keystore.token.wrap_data_key(data_key, keystore.drive_key(public_der))
    assert len(pair.unwrap(wrapped)) == 32
    assert "drive D9" not in {kek.label for kek in keystore.list()}


@pytest.mark.parametrize("public_der", [b"", b"nonsense", bytes(100)])
def test_enroll_drive_key_refuses_unsuitable_keys(keystore: Keystore, public_der: bytes) -> None:
    with pytest.raises(KekInvalidError, match="wrapping key of drive D8 is not a public key"):
        keystore.enroll_drive_key("D8", public_der)


def test_keystore_ignores_other_certificates_in_the_token(
    keystore: Keystore, token: Token, lab_state: ProvisionedLab
) -> None:
    before = keystore.list()
    drive_certificate = lab_state.drives[0].certificate_der
    made = [
        token.session.create_object(
            {
                Attribute.CLASS: ObjectClass.CERTIFICATE,
                Attribute.CERTIFICATE_TYPE: CertificateType.X_509,
                Attribute.LABEL: "KEK 1",
                Attribute.ID: identity,
                Attribute.SUBJECT: b"",
                Attribute.VALUE: value,
            }
        )
        for value, identity in (
            (drive_certificate, b""),
            (b"no certificate", before[0].spki_hash),
            (before[0].certificate.public_bytes(serialization.Encoding.DER), b"another id"),
        )
    ]
    assert keystore.list() == before
    assert keystore.find("KEK 1").has_private
    for certificate in made:
        certificate.destroy()


def test_keystore_lists_keks_in_order(keystore: Keystore) -> None:
    labels = [label_key(kek.label) for kek in keystore.list()]
    assert labels == sorted(labels)
    assert "kek 1" in labels
