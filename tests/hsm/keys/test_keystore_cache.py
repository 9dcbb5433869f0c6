"""The keystore's cache: what it keeps, and when it looks again."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pkcs11 import Attribute, ObjectClass

from hsm.ekm.drive_table import EnrolledDrive
from hsm.ekm.key_service import TokenKeyService
from hsm.ekm.protocol.errors import ErrorCode, ExchangeError
from hsm.errors import LabelUnknownError, NotADataKeyError
from hsm.keys.data_keys import EKM_SIGNING_LABEL, DataKeys
from hsm.keys.eedk import KeyLabel
from hsm.keys.keystore import Keystore
from hsm.keys.keystore_cache import CACHE_SECONDS, CachedKeystore
from hsm.keys.signature import signature_is_valid
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.token import Token
from hsm.provisioning import ProvisionedLab
from tests.support.ekm_lab import SoftKek, TokenWatch
from tests.support.exchange_fixture import run_steps

_REMOVE = """
import sys
from pathlib import Path
from pkcs11 import Attribute
from hsm.pkcs11 import softhsm
from hsm.pkcs11.token import open_token
with open_token(softhsm.token_config(Path(sys.argv[1]), softhsm.EKM_TOKEN_LABEL)) as token:
    for found in token.find({Attribute.LABEL: sys.argv[2]}):
        found.destroy()
"""


def remove_elsewhere(lab: ProvisionedLab, label: str) -> None:
    """Remove all objects of a label, in another process."""
    subprocess.run([sys.executable, "-c", _REMOVE, str(lab.state_dir), label], check=True)


@pytest.fixture
def now() -> list[float]:
    return [1000.0]


@pytest.fixture
def cached_keystore(token: Token, now: list[float]) -> CachedKeystore:
    return CachedKeystore(token, clock=lambda: now[0])


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> TokenWatch:
    watch = TokenWatch(Token.translate_refusal)
    monkeypatch.setattr(Token, "translate_refusal", lambda token, what: watch(token, what))
    return watch


def test_cached_keystore_looks_up_a_key_once(
    cached_keystore: CachedKeystore, watch: TokenWatch, now: list[float]
) -> None:
    def look() -> None:
        kek = cached_keystore.find("kek 1")
        assert cached_keystore.find_by_hash(kek.spki_hash) == kek
        cached_keystore.public_key(kek)
        cached_keystore.private_key(kek)
        cached_keystore.signing_key(EKM_SIGNING_LABEL)

    look()
    asked = watch.count
    look()
    assert watch.count == asked
    now[0] += CACHE_SECONDS
    look()
    assert watch.count == 2 * asked
    assert cached_keystore.clear_cache()
    assert not cached_keystore.clear_cache()
    look()
    assert watch.count == 3 * asked


def test_cached_keystore_looks_up_absent_keys_every_time(
    cached_keystore: CachedKeystore, keystore: Keystore
) -> None:
    kek = SoftKek.make("Remembered Later")
    with pytest.raises(LabelUnknownError):
        cached_keystore.find(kek.label)
    keystore.import_certificate(kek.label, kek.certificate)
    assert not cached_keystore.find(kek.label).has_private
    keystore.import_kek(kek.label, kek.pem, kek.certificate)
    assert cached_keystore.find(kek.label).has_private


def test_cached_keystore_does_not_use_a_key_removed_by_another_process(
    cached_keystore: CachedKeystore, keystore: Keystore, lab_state: ProvisionedLab
) -> None:
    kek = SoftKek.make("Removed Elsewhere")
    keystore.import_kek(kek.label, kek.pem, kek.certificate)
    drive = EnrolledDrive("D1", b"", lab_state.drives[0].wrap_public_der, OaepHash.SHA1)
    service = TokenKeyService(DataKeys(cached_keystore))
    made = service.generate(drive, "VOL001", (KeyLabel(kek.label),), False)
    assert run_steps(service.translate(drive, "VOL001", made.eedks)).sedk
    remove_elsewhere(lab_state, kek.label)
    with pytest.raises(ExchangeError) as refusal:
        run_steps(service.translate(drive, "VOL001", made.eedks))
    assert refusal.value.code is ErrorCode.KEK_ABSENT
    assert kek.label in str(refusal.value)
    with pytest.raises(ExchangeError) as refusal:
        service.generate(drive, "VOL001", (KeyLabel(kek.label),), False)
    assert refusal.value.code is ErrorCode.UNKNOWN_LABEL


def test_cached_keystore_looks_up_a_lost_handle_again(
    cached_keystore: CachedKeystore, lab_state: ProvisionedLab, token: Token
) -> None:
    """A login of the security officer invalidates handles of private keys."""
    drive = EnrolledDrive("D1", b"", lab_state.drives[0].wrap_public_der, OaepHash.SHA1)
    service = TokenKeyService(DataKeys(cached_keystore))
    made = service.generate(drive, "VOL001", (KeyLabel("KEK 1"),), False)
    with token.officer():
        pass
    assert run_steps(service.translate(drive, "VOL001", made.eedks)).sedk


def test_unwrap_data_key_verifies_the_length_unless_disabled(token: Token) -> None:
    """Only a key manager's own signature says that 32 bytes were wrapped."""
    kek = SoftKek.make("Measured")
    Keystore(token).import_kek(kek.label, kek.pem, kek.certificate)
    private = Keystore(token).private_key(Keystore(token).find(kek.label))
    with pytest.raises(NotADataKeyError):
        token.unwrap_data_key(kek.wrap(bytes(31)), private, OaepHash.SHA1)
    token.unwrap_data_key(kek.wrap(bytes(31)), private, OaepHash.SHA1, check_length=False).destroy()


def test_cached_keystore_does_not_accumulate_session_copies(
    cached_keystore: CachedKeystore, now: list[float]
) -> None:
    """A key that is used often is copied into the session once."""
    copies = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.TOKEN: False}
    token = cached_keystore.token
    public_key = token.p256_public_key(EKM_SIGNING_LABEL)
    for _ in range(3):
        key = cached_keystore.signing_key(EKM_SIGNING_LABEL)
        assert signature_is_valid(public_key, token.sign_p256(key, b"signed"), b"signed")
        assert len(token.find(copies)) == 1
        now[0] += CACHE_SECONDS
    cached_keystore.clear_cache()
    assert token.find(copies) == []
