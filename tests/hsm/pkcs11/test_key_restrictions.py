"""A KEK on SoftHSM unwraps to data keys and does nothing else, whoever has the user's PIN."""

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
from hsm.pkcs11.key_restrictions import ALL_GUARDS, Guard, MadeHalf, guard_template, make_guarded
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
    pair = outside_pair("guarded import")
    imported = keystore.import_kek("Guarded Import", pair.pem, pair.certificate)
    yield imported
    keystore.remove_kek(imported)


class Attacker:
    """Has the user's PIN and an EEDK; wants the data key's bytes."""

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
def test_no_weaker_unwrap_template_does(attacker: Attacker, weaker: dict[Attribute, Any]) -> None:
    with pytest.raises(refusals.TemplateInconsistent):
        attacker.unwrap({**DATA_KEY, **weaker})


@pytest.mark.rule("KEY-12")
@pytest.mark.parametrize("left_out", DATA_KEY, ids=lambda name: name.name)
def test_what_a_template_leaves_out_the_kek_adds(attacker: Attacker, left_out: Attribute) -> None:
    """Or it is refused, where python-pkcs11 puts something else in its place."""
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
def test_without_wrap_with_trusted_nothing_is_unwrapped_to_wrap_elsewhere(
    attacker: Attacker,
) -> None:
    with pytest.raises(refusals.TemplateInconsistent):
        attacker.unwrap({**BARE_DATA_KEY, Attribute.WRAP_WITH_TRUSTED: False})
    with pytest.raises(refusals.TemplateInconsistent):
        attacker.unwrap(DATA_KEY, KeyType.GENERIC_SECRET)


@pytest.mark.rule("KEY-12")
def test_a_kek_does_not_decrypt_and_cannot_be_made_to(attacker: Attacker) -> None:
    """That C_Decrypt itself refuses, the validator shows."""
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
def test_a_kek_is_no_oracle(attacker: Attacker, mechanism: Mechanism) -> None:
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


def test_the_rig_opens_eedks_of_guarded_keks_and_of_those_made_before(
    keystore: Keystore, token: Token, authority: CertificateAuthority
) -> None:
    guarded = keystore.create_kek("New Form", authority=authority)
    token._guards = frozenset()
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
    for kek in (guarded, before):
        keystore.remove_kek(kek)
        assert token.private_half(kek.public_key) is None
    assert {kek.label for kek in keystore.list()}.isdisjoint({"New Form", "Old Form"})


def test_a_drives_wrapping_key_is_guarded_too(token: Token) -> None:
    public_key = generate_rsa(token, 2048, "a drive's")
    private, _ = token.unwrapping_key("a drive's")
    with pytest.raises(refusals.PKCS11Error):
        private[Attribute.DECRYPT] = True
    wrapped = public_key.encrypt(os.urandom(32), oaep_padding(token.oaep_hash))
    token.unwrap_data_key(wrapped, private, token.oaep_hash).destroy()
    private.destroy()


# What a token does not honour is left out


class Half:
    """A private half of a token that honours some guards, and stores or refuses the others."""

    def __init__(self, template: dict[Attribute, Any], honoured: set[Guard]) -> None:
        self.template, self.honoured, self.alive = template, honoured, True

    def _guarded(self, guard: Guard) -> bool:
        given = guard_template(frozenset({guard}), DATA_KEY).keys() <= self.template.keys()
        return given and guard in self.honoured

    def unwrap_key(self, *_: Any, mechanism: Mechanism, **more: Any) -> Any:
        guard = Guard.OAEP_ONLY if mechanism is Mechanism.RSA_PKCS else Guard.UNWRAPS_PROTECTED
        if self._guarded(guard):
            raise refusals.MechanismInvalid
        return Half({}, set())

    def __setitem__(self, name: Attribute, value: Any) -> None:
        if self._guarded(Guard.UNCHANGEABLE):
            raise refusals.AttributeReadOnly

    def copy(self, template: dict[Attribute, Any]) -> Any:
        return Half({}, set())

    def destroy(self) -> None:
        self.alive = False


@pytest.mark.parametrize("stores", [True, False], ids=["stores the others", "refuses the others"])
@pytest.mark.parametrize(
    "honoured", [set(), {Guard.OAEP_ONLY}, {Guard.OAEP_ONLY, Guard.UNWRAPS_PROTECTED}]
)
def test_guards_that_are_not_honoured_are_left_out(honoured: set[Guard], stores: bool) -> None:
    public_key = rsa.generate_private_key(65537, 2048).public_key()
    made: list[Half] = []

    def make(template: Template) -> MadeHalf:
        known = guard_template(frozenset(honoured), DATA_KEY)
        if not stores and template.keys() - known.keys():
            raise refusals.AttributeTypeInvalid
        made.append(Half(dict(template), honoured))
        return MadeHalf(made[-1], public_key)

    half, guards = make_guarded(make, DATA_KEY, OaepHash.SHA1)
    assert guards == honoured < ALL_GUARDS
    assert half.private.template == guard_template(guards, DATA_KEY)
    assert [each for each in made if each.alive] == [half.private]
