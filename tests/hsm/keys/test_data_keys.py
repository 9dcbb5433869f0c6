"""Data keys and their EEDKs, made in a token and opened by its KEKs."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from hsm.errors import (
    EedkError,
    EedkForgedError,
    EedkUnopenedError,
    EedkWrongVolumeError,
    KekHashUnknownError,
    KekPublicOnlyError,
    LabelUnknownError,
    PairUnreadableError,
)
from hsm.keys.data_keys import EKM_SIGNING_LABEL, DataKeys
from hsm.keys.eedk import MAX_EEDK_BYTES, Eedk, KeyLabel, KeyMode
from hsm.keys.keystore import Keystore
from hsm.keys.pki import load_certificate
from hsm.pkcs11.encoding import spki_hash
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.token import open_token
from hsm.provisioning import ProvisionedLab
from tests.support.outside import OutsidePair, outside_pair
from tests.support.provisioned import provision_lab

VOLUME = "VOL001"
BOTH = (KeyLabel("KEK 1"), KeyLabel("KEK 2", KeyMode.HASH))


@pytest.fixture(scope="session")
def known(lab_state: ProvisionedLab) -> OutsidePair:
    """Return a pair whose private half is also in the token, labelled `known`."""
    pair = outside_pair("known")
    with open_token(lab_state.ekm_token) as token:
        Keystore(token).import_kek("known", pair.pem, pair.certificate)
    return pair


@pytest.mark.rule("KEY-1")
def test_data_keys_are_all_different(data_keys: DataKeys, known: OutsidePair) -> None:
    seen = set()
    for _ in range(16):
        with data_keys.generate() as data_key:
            eedk, _ = data_keys.make_pair(data_key, [KeyLabel("known")], VOLUME)
        seen.add(known.unwrap(eedk.wrapped))
    assert len(seen) == 16
    assert {len(data_key) for data_key in seen} == {32}


@pytest.mark.rule("KEY-1")
def test_data_key_from_an_eedk_is_the_same_key(data_keys: DataKeys, known: OutsidePair) -> None:
    """What an append goes on with."""
    with data_keys.generate() as data_key:
        eedk, _ = data_keys.make_pair(data_key, [KeyLabel("known")], VOLUME)
    with data_keys.open_eedk(eedk, VOLUME) as data_key:
        again, _ = data_keys.make_pair(data_key, [KeyLabel("known")], VOLUME)
    assert known.unwrap(eedk.wrapped) == known.unwrap(again.wrapped)


def test_prepare_rewrap_serves_only_eedks_that_were_opened_before(
    data_keys: DataKeys, lab_state: ProvisionedLab, known: OutsidePair
) -> None:
    drive = lab_state.drives[0].wrap_public_der
    with data_keys.generate() as data_key:
        pair = data_keys.make_pair(data_key, [KeyLabel("known"), KeyLabel("KEK 1")], VOLUME)
    eedks = [eedk.encode() for eedk in pair]
    forged = pair[0].with_signature(bytes(70))

    def rewrapped(*asked: bytes, volume: str = VOLUME) -> bool:
        rewrap = data_keys.prepare_rewrap(asked, volume, drive, OaepHash.SHA1)
        return rewrap is not None and rewrap() is not None

    assert not rewrapped(*eedks)
    data_keys.open_eedk(pair[1], VOLUME).destroy()
    assert rewrapped(*eedks)
    assert not rewrapped(eedks[0])
    assert not rewrapped(*eedks, volume="VOL002")
    with pytest.raises(EedkForgedError):
        data_keys.open_eedk(forged, VOLUME)
    assert not rewrapped(forged.encode())
    data_keys.clear_cache()
    assert not rewrapped(*eedks)


@pytest.mark.rule("KEY-3", "KEY-2")
def test_eedk_can_be_opened_by_the_cryptography_package(
    data_keys: DataKeys, lab_state: ProvisionedLab, known: OutsidePair
) -> None:
    """Written from the format's description; the KEK was made outside."""
    with data_keys.generate() as data_key:
        pair = data_keys.make_pair(data_key, [KeyLabel("known"), KeyLabel("KEK 1")], VOLUME)
        sedk = data_keys.wrap_for_drive(data_key, lab_state.drives[0].wrap_public_der)
    encoded = [eedk.encode() for eedk in pair]
    fields = cbor2.loads(encoded[0])
    signature = fields.pop("signature")
    assert fields["version"] == 1
    assert fields["algorithm"] == "RSA-OAEP"
    assert fields["oaep_hash"] == "SHA-1"
    assert fields["volume"] == VOLUME
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    assert len(known.private.decrypt(fields["wrapped_dk"], oaep)) == 32
    ekm_key = load_certificate(lab_state.ekm_certificate).public_key()
    assert isinstance(ekm_key, ec.EllipticCurvePublicKey)
    ekm_key.verify(
        signature,
        b"taperig EEDK 1\0" + cbor2.dumps(fields, canonical=True),
        ec.ECDSA(hashes.SHA256()),
    )
    assert encoded[0] != encoded[1]
    assert sedk not in {eedk.wrapped for eedk in pair}


@pytest.mark.rule("KEY-2", "KEY-11")
def test_make_pair_makes_both_eedks_from_one_label(data_keys: DataKeys, known: OutsidePair) -> None:
    with data_keys.generate() as data_key:
        first, second = data_keys.make_pair(data_key, [KeyLabel("known", KeyMode.HASH)], VOLUME)
    assert first.kek_hash == second.kek_hash
    assert first.wrapped != second.wrapped
    assert known.unwrap(first.wrapped) == known.unwrap(second.wrapped)
    for labels in ([], [KeyLabel("known")] * 3):
        with data_keys.generate() as data_key, pytest.raises(EedkError, match="one or two"):
            data_keys.make_pair(data_key, labels, VOLUME)


@pytest.mark.rule("KEY-6")
@pytest.mark.parametrize("modes", list(itertools.product(KeyMode, KeyMode)))
def test_make_pair_uses_the_mode_of_each_label(
    data_keys: DataKeys, modes: tuple[KeyMode, KeyMode]
) -> None:
    labels = [KeyLabel("kek 1", modes[0]), KeyLabel("kek 2", modes[1])]
    with data_keys.generate() as data_key:
        pair = data_keys.make_pair(data_key, labels, VOLUME)
    for eedk, label, name in zip(pair, labels, ("KEK 1", "KEK 2"), strict=True):
        assert eedk.mode is label.mode
        if label.mode is KeyMode.CLEAR:
            assert eedk.label == name
            assert b"kek_sha256" not in eedk.encode()
        else:
            assert eedk.label is None
            assert name.encode() not in eedk.encode()
        data_keys.open_eedk(eedk, VOLUME).destroy()


@pytest.mark.rule("KEY-9")
def test_make_pair_names_an_unknown_label_before_a_key_is_made(data_keys: DataKeys) -> None:
    with pytest.raises(LabelUnknownError, match="'Nobody'"):
        data_keys.check_labels([KeyLabel("KEK 1"), KeyLabel("Nobody")])
    with data_keys.generate() as data_key, pytest.raises(LabelUnknownError, match="'Nobody'"):
        data_keys.make_pair(data_key, [KeyLabel("KEK 1"), KeyLabel("Nobody")], VOLUME)


@pytest.mark.rule("KEY-4", "KEY-11")
def test_make_pair_refuses_public_only_keks_unless_allowed(
    data_keys: DataKeys, keystore: Keystore
) -> None:
    pairs = [outside_pair(f"partner {number}") for number in (1, 2)]
    for number, pair in enumerate(pairs, 1):
        keystore.import_certificate(f"partner {number}", pair.certificate)
    partners = [KeyLabel("partner 1"), KeyLabel("partner 2")]
    with data_keys.generate() as data_key:
        with pytest.raises(PairUnreadableError, match="'partner 1' and 'partner 2'"):
            data_keys.make_pair(data_key, partners, VOLUME)
        mixed = data_keys.make_pair(data_key, [partners[0], KeyLabel("KEK 1")], VOLUME)
        sent = data_keys.make_pair(data_key, partners, VOLUME, allow_public_only=True)
    with pytest.raises(KekPublicOnlyError, match="'partner 1'"):
        data_keys.open_eedk(mixed[0], VOLUME)
    data_keys.open_eedk(mixed[1], VOLUME).destroy()
    plain = {pair.unwrap(eedk.wrapped) for pair, eedk in zip(pairs, sent, strict=True)}
    assert len(plain) == 1
    for number, eedk in enumerate(sent, 1):
        with pytest.raises(KekPublicOnlyError, match=f"'partner {number}'"):
            data_keys.open_eedk(eedk, VOLUME)


@pytest.mark.rule("KEY-8")
def test_open_eedk_names_an_absent_kek_by_label_or_hash(
    data_keys: DataKeys, keystore: Keystore, tmp_path: Path
) -> None:
    """In clear mode the error names the key; in hash mode it cannot."""
    with data_keys.generate() as data_key:
        clear = data_keys.make_eedk(data_key, keystore.find("KEK 1"), KeyMode.CLEAR, VOLUME)
        hashed = data_keys.make_eedk(data_key, keystore.find("KEK 1"), KeyMode.HASH, VOLUME)
    signer = keystore.token.p256_public_key(EKM_SIGNING_LABEL)
    keystore.token.close()
    bare = provision_lab(tmp_path / "bare", [], [])
    with open_token(bare.ekm_token) as token:
        elsewhere = DataKeys(Keystore(token), [signer])
        with pytest.raises(LabelUnknownError, match="'KEK 1'"):
            elsewhere.open_eedk(clear, VOLUME)
        with pytest.raises(KekHashUnknownError) as caught:
            elsewhere.open_eedk(hashed, VOLUME)
    assert "KEK 1" not in str(caught.value)
    assert "label is not known" in str(caught.value)


@pytest.mark.rule("KEY-7")
def test_open_eedk_finds_the_kek_by_hash_where_labels_differ(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The source's example, both modes, with the keys as each site holds them."""
    main_key, dr_key = outside_pair("main site"), outside_pair("DR site")
    labels = ("June 2007 Key", "June 2007 DR Site Key")
    main = provision_lab(tmp_path_factory.mktemp("main"), [], [])
    with open_token(main.ekm_token) as token:
        keystore = Keystore(token)
        keystore.import_kek(labels[0], main_key.pem, main_key.certificate)
        keystore.import_certificate(labels[1], dr_key.certificate)
        data_keys = DataKeys(keystore)
        written = {}
        for mode in KeyMode:
            with data_keys.generate() as data_key:
                pair = data_keys.make_pair(
                    data_key, [KeyLabel(label, mode) for label in labels], VOLUME
                )
            written[mode] = pair
            data_keys.open_eedk(pair[0], VOLUME).destroy()  # the main site reads both tapes
        signer = token.p256_public_key(EKM_SIGNING_LABEL)

    dr = provision_lab(tmp_path_factory.mktemp("dr"), [], [])
    with open_token(dr.ekm_token) as token:
        keystore = Keystore(token)
        keystore.import_certificate("June 2007 Main Site Key", main_key.certificate)
        keystore.import_kek("June 2007 Key", dr_key.pem, dr_key.certificate)
        data_keys = DataKeys(keystore, [signer])
        # The first label means another key here, the second none at all.
        with pytest.raises(EedkUnopenedError, match="'June 2007 Key' does not open"):
            data_keys.open_eedk(written[KeyMode.CLEAR][0], VOLUME)
        with pytest.raises(LabelUnknownError, match="no key labelled 'June 2007 DR Site Key'"):
            data_keys.open_eedk(written[KeyMode.CLEAR][1], VOLUME)
        with data_keys.open_eedk(written[KeyMode.HASH][1], VOLUME) as data_key:
            again = data_keys.make_eedk(
                data_key, keystore.find("June 2007 Key"), KeyMode.HASH, VOLUME
            )
    plain = main_key.unwrap(written[KeyMode.HASH][0].wrapped)
    assert dr_key.unwrap(again.wrapped) == plain


def test_open_eedk_checks_signature_volume_and_ciphertext(
    data_keys: DataKeys, known: OutsidePair
) -> None:
    with data_keys.generate() as data_key:
        eedk, other = data_keys.make_pair(data_key, [KeyLabel("known"), KeyLabel("KEK 2")], VOLUME)
    with pytest.raises(EedkWrongVolumeError, match="volume VOL001 and not to VOL002"):
        data_keys.open_eedk(eedk, "VOL002")
    for forged in (
        dataclasses.replace(eedk, volume="VOL002"),
        dataclasses.replace(eedk, wrapped=bytes([eedk.wrapped[0] ^ 1]) + eedk.wrapped[1:]),
        dataclasses.replace(eedk, wrapped=other.wrapped),
        dataclasses.replace(eedk, label="KEK 1"),
        dataclasses.replace(eedk, oaep_hash=OaepHash.SHA256),
        eedk.with_signature(other.signature),
        eedk.with_signature(bytes(64)),
    ):
        with pytest.raises(EedkForgedError):
            data_keys.open_eedk(forged, forged.volume)
    # Signed and yet unusable: a damaged wrap, another KEK, a hash that the token lacks.
    for unusable in (
        dataclasses.replace(eedk, wrapped=bytes([eedk.wrapped[0] ^ 1]) + eedk.wrapped[1:]),
        dataclasses.replace(eedk, label="KEK 1"),
        dataclasses.replace(eedk, oaep_hash=OaepHash.SHA256),
        dataclasses.replace(eedk, wrapped=eedk.wrapped + bytes(128)),
    ):
        signed = unusable.with_signature(data_keys.sign(unusable.signed_bytes()))
        with pytest.raises(EedkUnopenedError, match="EEDK of volume VOL001"):
            data_keys.open_eedk(signed, VOLUME)


def test_eedk_of_the_largest_kek_is_within_the_limit(
    data_keys: DataKeys, keystore: Keystore
) -> None:
    label = "\U0001f5dd" * 64
    pair = outside_pair("large", 4096)
    kek = keystore.import_certificate(label, pair.certificate)
    with data_keys.generate() as data_key:
        eedk = data_keys.make_eedk(data_key, kek, KeyMode.CLEAR, VOLUME)
    assert len(eedk.wrapped) == 512
    largest = eedk.with_signature(bytes(72))
    assert 900 < len(largest.encode()) <= MAX_EEDK_BYTES
    assert Eedk.decode(largest.encode()) == largest


def test_eedk_hash_is_that_of_the_certificates_public_key(
    data_keys: DataKeys, keystore: Keystore
) -> None:
    kek = keystore.find("KEK 1")
    public_key = kek.certificate.public_key()
    with data_keys.generate() as data_key:
        eedk = data_keys.make_eedk(data_key, kek, KeyMode.HASH, VOLUME)
    assert eedk.kek_hash == spki_hash(public_key)  # type: ignore[arg-type] # an RSA key


@pytest.mark.rule("KEY-12")
def test_data_key_is_in_no_output(
    data_keys: DataKeys, lab_state: ProvisionedLab, known: OutsidePair
) -> None:
    with data_keys.generate() as data_key:
        pair = data_keys.make_pair(data_key, [KeyLabel("known"), KeyLabel("KEK 1")], VOLUME)
        sedk = data_keys.wrap_for_drive(data_key, lab_state.drives[0].wrap_public_der)
        shown = repr(data_key)
    plain = known.unwrap(pair[0].wrapped)
    everything = b"".join([*(eedk.encode() for eedk in pair), sedk, shown.encode()])
    assert plain not in everything
    assert all(plain[at : at + 8] not in everything for at in range(25))
    stored = [path for path in lab_state.state_dir.rglob("*") if path.is_file()]
    assert stored
    assert not any(plain in path.read_bytes() for path in stored)
