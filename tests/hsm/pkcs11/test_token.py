"""Token on SoftHSM: opening, data keys, unwrapping, signing."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, TokenFlag
from pkcs11 import exceptions as refusals

from hsm.errors import (
    KeyAbsentError,
    ModuleAbsentError,
    NotADataKeyError,
    PinLockedError,
    PinUnsetError,
    TokenAbsentError,
    TokenBusyError,
    TokenError,
    TokenRefusedError,
    UnwrapRefusedError,
    UserPinAbsentError,
    WrongPinError,
)
from hsm.keys.keystore import Keystore
from hsm.keys.signature import signature_is_valid
from hsm.pkcs11.length_check import REFERENCE_MODULI
from hsm.pkcs11.module import Module, login_error
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.pins import PinSource
from hsm.pkcs11.token import Token, open_token
from hsm.provisioning import ProvisionedLab
from tests.support.outside import OutsidePair


@pytest.fixture(scope="session")
def outside_in_token(lab_state: ProvisionedLab, outside: OutsidePair) -> OutsidePair:
    """Import the private half of the outside key pair into the token."""
    with open_token(lab_state.ekm_token) as token:
        Keystore(token).import_kek("known plaintext", outside.pem, outside.certificate)
    return outside


# Opening


def test_open_token_refuses_a_wrong_pin(
    lab_state: ProvisionedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRONG_PIN", "8675309867")
    config = lab_state.ekm_token.replace(pin=PinSource(env="WRONG_PIN"))
    with pytest.raises(WrongPinError, match="taperig-ekm refused the user's PIN") as caught:
        open_token(config)
    assert "8675309867" not in str(caught.value)
    with open_token(lab_state.ekm_token):  # nothing is left open behind the failure
        pass


def test_open_token_reads_the_pin_from_the_environment(
    lab_state: ProvisionedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = lab_state.ekm_token.replace(pin=PinSource(env="EKM_PIN"))
    monkeypatch.delenv("EKM_PIN", raising=False)
    with pytest.raises(PinUnsetError, match="EKM_PIN"):
        open_token(config)
    monkeypatch.setenv("EKM_PIN", lab_state.ekm_token.pin.read())
    with open_token(config) as token:
        assert token.label == "taperig-ekm"


OPEN_40_TIMES = """
import pickle, sys
from hsm.pkcs11.token import open_token
config = pickle.load(sys.stdin.buffer)
for _ in range(40):
    with open_token(config) as token:
        assert token.label == "taperig-ekm"
"""


def test_open_token_looks_again_when_a_token_seems_to_have_no_pin(
    lab_state: ProvisionedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So SoftHSM says now and then, while another process writes the token."""
    log_in = Token._log_in
    refused: list[TokenError] = []

    def log_in_second(self: Token, **options: bool) -> pkcs11.Session:
        if not refused:
            refused.append(
                login_error(refusals.UserPinNotInitialized(), self.label, "user", TokenFlag(0))
            )
            raise refused[0]
        return log_in(self, **options)

    monkeypatch.setattr(Token, "_log_in", log_in_second)
    with open_token(lab_state.ekm_token) as token:
        assert token.label == "taperig-ekm"
    assert len(refused) == 1


def test_open_token_succeeds_while_other_processes_log_in(lab_state: ProvisionedLab) -> None:
    """SoftHSM writes its token at each login and misses one being written."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_40_TIMES], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(lab_state.ekm_token))
        process.stdin.flush()
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors


class TokenBeingWritten:
    """A token whose file is empty at one login, as if just being written."""

    logins = 0

    def __init__(self, token: pkcs11.Token, file: Path, disturbed: int) -> None:
        self._token, self._file, self._disturbed = token, file, disturbed

    def __getattr__(self, name: str) -> object:
        return getattr(self._token, name)

    def open(self, **arguments: Any) -> pkcs11.Session:
        TokenBeingWritten.logins += 1
        whole = self._file.read_bytes()
        if TokenBeingWritten.logins == self._disturbed:
            self._file.write_bytes(b"")
        try:
            return self._token.open(**arguments)
        finally:
            self._file.write_bytes(whole)


@pytest.mark.parametrize("disturbed", [1, 2, 3], ids=["user", "officer", "user again"])
def test_token_logs_in_again_when_its_file_was_being_written(
    lab_state: ProvisionedLab, monkeypatch: pytest.MonkeyPatch, disturbed: int
) -> None:
    files = (lab_state.state_dir / "tokens").glob("*/token.object")
    (file,) = [path for path in files if b"taperig-ekm " in path.read_bytes()]
    find = Module.find_token

    def find_being_written(module: Module, label: str) -> TokenBeingWritten:
        return TokenBeingWritten(find(module, label), file, disturbed)

    monkeypatch.setattr(TokenBeingWritten, "logins", 0)
    monkeypatch.setattr(Module, "find_token", find_being_written)
    with open_token(lab_state.ekm_token) as token, token.officer():
        pass
    assert TokenBeingWritten.logins == 4, "three logins, one of them twice"


def test_open_token_names_an_absent_token_and_those_present(lab_state: ProvisionedLab) -> None:
    config = lab_state.ekm_token.replace(label="TAPERIG-EKM")
    with pytest.raises(TokenAbsentError) as caught:
        open_token(config)
    assert "no token TAPERIG-EKM" in str(caught.value)
    assert "taperig-drive-TEST-DRIVE-1, taperig-ekm" in str(caught.value)


def test_open_token_names_an_absent_module(lab_state: ProvisionedLab) -> None:
    config = lab_state.ekm_token.replace(module=Path("/nowhere/libsofthsm2.so"))
    with pytest.raises(ModuleAbsentError, match=r"/nowhere/libsofthsm2\.so"):
        open_token(config)


@pytest.mark.parametrize(
    ("change", "cure", "not_said"),
    [
        ({"module": Path("/nowhere/lib.so")}, "softhsm2", "HSM's"),
        (
            {"module": Path("/nowhere/lib.so"), "softhsm_conf": None},
            "your HSM's module",
            "softhsm2",
        ),
        ({"label": "none"}, "run `rig hsm init`", "HSM's own tool"),
        ({"label": "none", "softhsm_conf": None}, "make it with the HSM's own tool", "hsm init"),
    ],
)
def test_open_token_advises_what_fits_the_cause(
    lab_state: ProvisionedLab, change: dict[str, object], cure: str, not_said: str
) -> None:
    with pytest.raises(TokenError) as caught:
        open_token(lab_state.ekm_token.replace(**change))
    assert cure in str(caught.value)
    assert not_said not in str(caught.value)


def test_open_token_refuses_a_file_that_is_no_module(
    lab_state: ProvisionedLab, tmp_path: Path
) -> None:
    module = tmp_path / "module.so"
    module.write_text("not a library")
    with pytest.raises(ModuleAbsentError, match=r"module\.so could not be started"):
        open_token(lab_state.ekm_token.replace(module=module))


def test_open_token_names_an_absent_softhsm_configuration(
    lab_state: ProvisionedLab, tmp_path: Path
) -> None:
    config = lab_state.ekm_token.replace(softhsm_conf=tmp_path / "none.conf")
    with pytest.raises(TokenAbsentError, match=r"none\.conf does not exist; run `rig hsm init`"):
        open_token(config)


def test_open_token_refuses_a_second_token_in_one_process(lab_state: ProvisionedLab) -> None:
    with (
        open_token(lab_state.ekm_token),
        pytest.raises(TokenBusyError, match="has taperig-ekm open"),
    ):
        open_token(lab_state.drives[0].token)


@pytest.mark.parametrize(
    ("refusal", "error", "text"),
    [
        (refusals.PinLocked(), PinLockedError, "has locked the user's PIN"),
        (refusals.PinLenRange(), WrongPinError, "refused the user's PIN"),
        (refusals.UserPinNotInitialized(), UserPinAbsentError, "has no user PIN yet"),
        (refusals.UserAlreadyLoggedIn(), TokenBusyError, "logged in at the token T already"),
        (refusals.DeviceError(), TokenRefusedError, "DeviceError"),
    ],
)
def test_login_error_fits_the_return_code(
    refusal: refusals.PKCS11Error, error: type[TokenError], text: str
) -> None:
    # SoftHSM never locks a PIN, so the exceptions of other tokens are raised here.
    reported = login_error(refusal, "T", "user", TokenFlag(0))
    assert type(reported) is error
    assert text in str(reported)


def test_login_error_warns_before_the_last_attempt() -> None:
    last = login_error(refusals.PinIncorrect(), "T", "user", TokenFlag.USER_PIN_FINAL_TRY)
    assert "one more wrong PIN locks it" in str(last)
    assert "locks" not in str(login_error(refusals.PinIncorrect(), "T", "user", TokenFlag(0)))


def test_open_token_disables_core_files(token: Token) -> None:
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)


def test_token_refuses_calls_after_close(lab_state: ProvisionedLab) -> None:
    with open_token(lab_state.ekm_token) as token:
        data_key = token.generate_data_key()
    token.close()
    with pytest.raises(TokenError, match="taperig-ekm is closed"):
        token.generate_data_key()
    with pytest.raises(TokenError, match="has been destroyed"):
        _ = data_key.handle


def test_keystore_finds_a_kek_imported_by_another_process(
    lab_state: ProvisionedLab, token: Token
) -> None:
    """A running key manager finds what another process imports."""
    script = (
        "import sys; from pathlib import Path; from tests.support.provisioned import provision_lab;"
        "provision_lab(Path(sys.argv[1]), ['imported later'], [])"
    )
    subprocess.run([sys.executable, "-c", script, lab_state.state_dir], check=True)
    assert Keystore(token).find("Imported Later").has_private


# Data keys


def test_data_key_has_the_attributes_of_its_template(token: Token) -> None:
    with token.generate_data_key() as data_key:
        key = data_key.handle
        for name, value in {
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: True,
            Attribute.WRAP_WITH_TRUSTED: True,
            Attribute.PRIVATE: True,
            Attribute.TOKEN: False,
            Attribute.ENCRYPT: False,
            Attribute.DECRYPT: False,
            Attribute.WRAP: False,
            Attribute.UNWRAP: False,
            Attribute.SIGN: False,
            Attribute.DERIVE: False,
            Attribute.VALUE_LEN: 32,
        }.items():
            assert key[name] == value, name
        with pytest.raises(refusals.AttributeSensitive):
            _ = key[Attribute.VALUE]
    assert repr(data_key) == "<DataKey, destroyed>"


@pytest.mark.rule("KEY-12")
def test_data_key_is_wrapped_by_trusted_keys_only(token: Token) -> None:
    untrusted = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    public_key = token.session.create_object(
        {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.KEY_TYPE: KeyType.RSA,
            Attribute.MODULUS: untrusted.n.to_bytes(256, "big"),
            Attribute.PUBLIC_EXPONENT: b"\x01\x00\x01",
            Attribute.WRAP: True,
        }
    )
    with token.generate_data_key() as data_key, pytest.raises(TokenRefusedError):
        token.wrap_data_key(data_key, public_key)  # type: ignore[arg-type] # an Object that wraps
    with pytest.raises(refusals.PKCS11Error):
        public_key[Attribute.TRUSTED] = True


def test_data_key_leaves_no_object_when_destroyed(token: Token) -> None:
    session_keys = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.TOKEN: False}
    with token.generate_data_key():
        assert len(token.find(session_keys)) == 1
    assert token.find(session_keys) == []


def test_token_never_downgrades_the_oaep_hash(token: Token) -> None:
    """SoftHSM 2.6 has SHA-1 only; a request for SHA-256 is refused."""
    assert token.oaep_hash is OaepHash.SHA1
    kek = Keystore(token).find("KEK 1")
    with (
        token.generate_data_key() as data_key,
        pytest.raises(TokenRefusedError, match="OAEP SHA-256"),
    ):
        token.wrap_data_key(data_key, Keystore(token).public_key(kek), OaepHash.SHA256)


def test_token_wraps_and_unwraps_the_same_data_key(
    token: Token, outside_in_token: OutsidePair
) -> None:
    keystore = Keystore(token)
    kek = keystore.find("known plaintext")
    with token.generate_data_key() as data_key:
        first = token.wrap_data_key(data_key, keystore.public_key(kek))
    with token.unwrap_data_key(first, keystore.private_key(kek), OaepHash.SHA1) as data_key:
        second = token.wrap_data_key(data_key, keystore.public_key(kek))
    assert first != second
    assert outside_in_token.unwrap(first) == outside_in_token.unwrap(second)


@pytest.mark.parametrize("length", [0, 1, 16, 24, 25, 31, 33, 40, 64])
def test_unwrap_data_key_refuses_any_length_but_32_bytes(
    token: Token, outside_in_token: OutsidePair, length: int
) -> None:
    """SoftHSM unwraps any length as AES and reports VALUE_LEN 0."""
    keystore = Keystore(token)
    private_key = keystore.private_key(keystore.find("known plaintext"))
    wrapped = outside_in_token.wrap(os.urandom(length))
    with pytest.raises((NotADataKeyError, UnwrapRefusedError)):
        token.unwrap_data_key(wrapped, private_key, OaepHash.SHA1)
    wrapped = outside_in_token.wrap(os.urandom(32))
    token.unwrap_data_key(wrapped, private_key, OaepHash.SHA1).destroy()


@pytest.mark.parametrize(
    "damage",
    [
        lambda wrapped: bytes([wrapped[0] ^ 1]) + wrapped[1:],
        lambda wrapped: wrapped[:-1] + bytes([wrapped[-1] ^ 0x80]),
        lambda wrapped: wrapped[:-1],
        lambda wrapped: wrapped + b"\0",
        lambda wrapped: b"",
        lambda wrapped: b"\xff" * len(wrapped),
        lambda wrapped: bytes(len(wrapped)),
    ],
)
def test_unwrap_data_key_refuses_a_damaged_ciphertext(
    token: Token, damage: Callable[[bytes], bytes]
) -> None:
    keystore = Keystore(token)
    kek = keystore.find("KEK 1")
    with token.generate_data_key() as data_key:
        wrapped = token.wrap_data_key(data_key, keystore.public_key(kek))
    damaged = damage(wrapped)
    text = (
        "is damaged"
        if len(damaged) == 256
        else f"2048 bits it has 256 bytes; this has {len(damaged)}"
    )
    with pytest.raises(UnwrapRefusedError, match=text):
        token.unwrap_data_key(damaged, keystore.private_key(kek), OaepHash.SHA1)


def test_private_half_of_a_kek_does_nothing_but_unwrap(
    token: Token, outside_in_token: OutsidePair
) -> None:
    keystore = Keystore(token)
    for kek in keystore.list():
        if not kek.has_private:
            continue
        key = keystore.private_key(kek)
        expected = {
            Attribute.UNWRAP: True,
            Attribute.DECRYPT: False,
            Attribute.SIGN: False,
            Attribute.DERIVE: False,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.PRIVATE: True,
        }
        assert {name: key[name] for name in expected} == expected
        with pytest.raises(refusals.AttributeSensitive):
            _ = key[Attribute.PRIVATE_EXPONENT]


# Signing and reference keys


def test_token_signs_with_its_p256_key(token: Token) -> None:
    key = token.signing_key("taperig ekm signing")
    public_key = token.p256_public_key("taperig ekm signing")
    signature = token.sign_p256(key, b"message")
    assert signature_is_valid(public_key, signature, b"message")
    assert not signature_is_valid(public_key, signature, b"massage")
    assert not signature_is_valid(public_key, signature[:-1], b"message")
    assert not signature_is_valid(public_key, b"", b"message")
    with pytest.raises(KeyAbsentError, match="'no such key'"):
        token.signing_key("no such key")


@pytest.mark.parametrize(
    "mechanism", [Mechanism.RSA_PKCS, Mechanism.RSA_PKCS_OAEP, Mechanism.RSA_X_509]
)
def test_reference_keys_reveal_nothing_of_a_data_key(
    token: Token, outside_in_token: OutsidePair, mechanism: Mechanism
) -> None:
    """They are TRUSTED and small; every message becomes 1."""
    keystore = Keystore(token)
    private_key = keystore.private_key(keystore.find("known plaintext"))
    with token.unwrap_data_key(
        outside_in_token.wrap(os.urandom(32)), private_key, OaepHash.SHA1
    ) as data_key:
        for label, modulus in REFERENCE_MODULI.items():
            reference_key = token.find_one({Attribute.LABEL: label})
            assert reference_key[Attribute.TRUSTED]
            try:
                wrapped = reference_key.wrap_key(data_key.handle, mechanism=mechanism)
            except refusals.PKCS11Error:
                continue
            assert int.from_bytes(wrapped, "big") == 1
            assert len(wrapped) == modulus.bit_length() // 8


def test_reference_moduli_are_primes() -> None:
    for modulus in REFERENCE_MODULI.values():
        assert all(pow(witness, modulus - 1, modulus) == 1 for witness in range(2, 40))


def test_unwrap_data_key_needs_the_reference_keys(
    token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hsm.pkcs11.token.TAKES_32_BYTES", "no such reference key")
    keystore = Keystore(token)
    kek = keystore.find("KEK 1")
    with token.generate_data_key() as data_key:
        wrapped = token.wrap_data_key(data_key, keystore.public_key(kek))
    with pytest.raises(KeyAbsentError, match="run `rig hsm init`"):
        token.unwrap_data_key(wrapped, keystore.private_key(kek), OaepHash.SHA1)


def test_officer_cannot_log_in_while_data_keys_exist(token: Token) -> None:
    with token.generate_data_key(), pytest.raises(TokenBusyError, match="in use"), token.officer():
        pass
    with token.officer():
        pass
    token.generate_data_key().destroy()  # the user is logged in again


def test_officer_needs_a_configured_pin(lab_state: ProvisionedLab) -> None:
    config = lab_state.ekm_token.replace(so_pin=None)
    with open_token(config) as token:
        with pytest.raises(TokenError, match="security officer's PIN"), token.officer():
            pass
        token.generate_data_key().destroy()
