"""A restricted KEK on SoftHSM does nothing but unwrap data keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as refusals

from hsm.keys.data_keys import DataKeys
from hsm.keys.eedk import KeyLabel
from hsm.keys.key_generation import generate_rsa
from hsm.keys.keystore import Kek, Keystore
from hsm.keys.pki import CertificateAuthority
from hsm.pkcs11.key_restrictions import (
    ALL_RESTRICTIONS,
    KeyRestriction,
    RsaKeyPair,
    make_restricted,
    restriction_template,
)
from hsm.pkcs11.oaep import OaepHash, oaep_padding
from hsm.pkcs11.structures import Template
from hsm.pkcs11.templates import BARE_DATA_KEY, DATA_KEY, OAEP
from hsm.pkcs11.token import Token
from hsm.provisioning import ProvisionedLab
from tests.support.outside import outside_pair

VOLUME = "VOL001"


@pytest.fixture
def authority(lab_state: ProvisionedLab) -> CertificateAuthority:
    return CertificateAuthority(lab_state.state_dir / "pki")


@pytest.fixture(params=["provisioned", "imported"])
def kek(request: pytest.FixtureRequest, keystore: Keystore) -> Iterator[Kek]:
    if request.param == "provisioned":
        yield keystore.find("KEK 1")
        return
    pair = outside_pair("restricted import")
    imported = keystore.import_kek("Restricted Import", pair.pem, pair.certificate)
    yield imported
    keystore.remove_kek(imported)


class Attacker:
    """An attacker with the user's PIN and an EEDK who wants the data key."""

    def __init__(self, token: Token, kek: Kek) -> None:
        self.token, self.kek = token, kek
        self.private: Any = token.private_half(kek.public_key)
        self.value = os.urandom(32)
        self.eedk = kek.public_key.encrypt(self.value, oaep_padding(token.oaep_hash))

    def unwrap(self, template: dict[Attribute, Any], kind: KeyType = KeyType.AES) -> Any:
        return self.private.unwrap_key(
            ObjectClass.SECRET_KEY,
            kind,
            self.eedk,
            mechanism=Mechanism.RSA_PKCS_OAEP,
            mechanism_param=OAEP[self.token.oaep_hash],
            template=template,
        )


@pytest.fixture
def attacker(token: Token, kek: Kek) -> Attacker:
    return Attacker(token, kek)


@pytest.mark.rule("KEY-12")
@pytest.mark.parametrize(
    "weaker",
    [
        {Attribute.SENSITIVE: False},
        {Attribute.WRAP_WITH_TRUSTED: False},
        {Attribute.TOKEN: True},
        {Attribute.DECRYPT: True},
        {Attribute.ENCRYPT: True},
        {Attribute.SIGN: True},
        {Attribute.MODIFIABLE: True},
        {Attribute.PRIVATE: False},
    ],
    ids=lambda changes: next(iter(changes)).name,
)
def test_kek_refuses_a_weaker_unwrap_template(
    attacker: Attacker, weaker: dict[Attribute, Any]
) -> None:
    with pytest.raises(refusals.TemplateInconsistent):
        attacker.unwrap({**DATA_KEY, **weaker})


@pytest.mark.rule("KEY-12")
@pytest.mark.parametrize("left_out", DATA_KEY, ids=lambda name: name.name)
def test_kek_adds_what_an_unwrap_template_omits(attacker: Attacker, left_out: Attribute) -> None:
    """Or refuses it, where python-pkcs11 writes a default value of its own."""
    template = {name: value for name, value in DATA_KEY.items() if name is not left_out}
    try:
        key = attacker.unwrap(template)
    except refusals.TemplateInconsistent:
        return
    assert all(key[name] == value for name, value in DATA_KEY.items())
    with pytest.raises(refusals.PKCS11Error):
        _ = key[Attribute.VALUE]
    with pytest.raises(refusals.PKCS11Error):
        key.copy({Attribute.WRAP_WITH_TRUSTED: False})
    key.destroy()


@pytest.mark.rule("KEY-12")
def test_kek_unwraps_no_key_without_wrap_with_trusted(
    attacker: Attacker,
) -> None:
    with pytest.raises(refusals.TemplateInconsistent):
        attacker.unwrap({**BARE_DATA_KEY, Attribute.WRAP_WITH_TRUSTED: False})
    with pytest.raises(refusals.TemplateInconsistent):
        attacker.unwrap(DATA_KEY, KeyType.GENERIC_SECRET)


@pytest.mark.rule("KEY-12")
def test_kek_does_not_decrypt_and_cannot_be_changed(attacker: Attacker) -> None:
    """The validator shows that C_Decrypt refuses the key."""
    private = attacker.private
    assert not hasattr(private, "decrypt")
    with pytest.raises(refusals.PKCS11Error):
        private[Attribute.DECRYPT] = True
    for template in ({Attribute.DECRYPT: True}, {Attribute.MODIFIABLE: True}, {}):
        with pytest.raises(refusals.PKCS11Error):
            private.copy({Attribute.TOKEN: False, **template})
    for change in (
        {Attribute.MODIFIABLE: True},
        {Attribute.ALLOWED_MECHANISMS: [Mechanism.RSA_PKCS]},
        {Attribute.UNWRAP_TEMPLATE: {Attribute.SENSITIVE: False}},
    ):
        ((name, value),) = change.items()
        with pytest.raises(refusals.PKCS11Error):
            private[name] = value


@pytest.mark.rule("KEY-12")
@pytest.mark.parametrize("mechanism", [Mechanism.RSA_PKCS, Mechanism.RSA_X_509])
def test_kek_is_no_padding_oracle(attacker: Attacker, mechanism: Mechanism) -> None:
    good = attacker.kek.public_key.encrypt(attacker.value, padding.PKCS1v15())
    for wrapped in (good, attacker.eedk, os.urandom(len(good) - 1).rjust(len(good), b"\0")):
        with pytest.raises(refusals.MechanismInvalid):
            attacker.private.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                wrapped,
                mechanism=mechanism,
                template=DATA_KEY,
            )


def test_data_keys_opens_eedks_of_restricted_and_unrestricted_keks(
    keystore: Keystore, token: Token, authority: CertificateAuthority
) -> None:
    restricted = keystore.create_kek("New Form", authority=authority)
    token._restrictions = frozenset()
    before = keystore.create_kek("Old Form", authority=authority)
    old: Any = token.private_half(before.public_key)
    assert old[Attribute.MODIFIABLE]
    assert old[Attribute.ID] == before.spki_hash
    data_keys = DataKeys(keystore)
    for label in ("New Form", "Old Form"):
        with data_keys.generate() as key:
            (eedk, _) = data_keys.make_pair(key, (KeyLabel(label),), VOLUME)
        with data_keys.open_eedk(eedk, VOLUME) as opened:
            assert opened.handle[Attribute.SENSITIVE]
    for kek in (restricted, before):
        keystore.remove_kek(kek)
        assert token.private_half(kek.public_key) is None
    assert {kek.label for kek in keystore.list()}.isdisjoint({"New Form", "Old Form"})


def test_wrapping_key_of_a_drive_is_restricted(token: Token) -> None:
    public_key = generate_rsa(token, 2048, "a drive's")
    private, _ = token.unwrapping_key("a drive's")
    with pytest.raises(refusals.PKCS11Error):
        private[Attribute.DECRYPT] = True
    wrapped = public_key.encrypt(os.urandom(32), oaep_padding(token.oaep_hash))
    token.unwrap_data_key(wrapped, private, token.oaep_hash).destroy()
    private.destroy()


# Restrictions that a token does not honour


class FakePrivateHalf:
    """A private half in a fake token that honours only some restrictions."""

    def __init__(self, template: dict[Attribute, Any], honoured: set[KeyRestriction]) -> None:
        self.template, self.honoured, self.alive = template, honoured, True

    def _is_restricted(self, restriction: KeyRestriction) -> bool:
        given = (
            restriction_template(frozenset({restriction}), DATA_KEY).keys() <= self.template.keys()
        )
        return given and restriction in self.honoured

    def unwrap_key(self, *_: Any, mechanism: Mechanism, **more: Any) -> Any:
        restriction = (
            KeyRestriction.OAEP_ONLY
            if mechanism is Mechanism.RSA_PKCS
            else KeyRestriction.UNWRAPS_PROTECTED
        )
        if self._is_restricted(restriction):
            raise refusals.MechanismInvalid
        return FakePrivateHalf({}, set())

    def __setitem__(self, name: Attribute, value: Any) -> None:
        if self._is_restricted(KeyRestriction.UNCHANGEABLE):
            raise refusals.AttributeReadOnly

    def copy(self, template: dict[Attribute, Any]) -> Any:
        return FakePrivateHalf({}, set())

    def destroy(self) -> None:
        self.alive = False


@pytest.mark.parametrize("stores", [True, False], ids=["stores the others", "refuses the others"])
@pytest.mark.parametrize(
    "honoured",
    [
        set(),
        {KeyRestriction.OAEP_ONLY},
        {KeyRestriction.OAEP_ONLY, KeyRestriction.UNWRAPS_PROTECTED},
    ],
)
def test_make_restricted_omits_what_the_token_does_not_honour(
    honoured: set[KeyRestriction], stores: bool
) -> None:
    public_key = rsa.generate_private_key(65537, 2048).public_key()
    halves: list[FakePrivateHalf] = []

    def make(template: Template) -> RsaKeyPair:
        known = restriction_template(frozenset(honoured), DATA_KEY)
        if not stores and template.keys() - known.keys():
            raise refusals.AttributeTypeInvalid
        halves.append(FakePrivateHalf(dict(template), honoured))
        return RsaKeyPair(halves[-1], public_key)

    half, restrictions = make_restricted(make, DATA_KEY, OaepHash.SHA1)
    assert restrictions == honoured < ALL_RESTRICTIONS
    assert half.private.template == restriction_template(restrictions, DATA_KEY)
    assert [each for each in halves if each.alive] == [half.private]
