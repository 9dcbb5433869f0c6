"""Generate and import the keys that stay in a token, when a lab is set up.

Making a key TRUSTED needs the security officer's PIN (TokenConfig.so_pin) and no data key in use.
"""

import os
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.types import UnwrapMixin

from hsm.errors import KeyAbsentError, TokenRefusedError
from hsm.pkcs11.encoding import big_integer, p256_public, rsa_public, spki_hash
from hsm.pkcs11.key_restrictions import RsaKeyPair
from hsm.pkcs11.length_check import REFERENCE_MODULI, reference_key_template
from hsm.pkcs11.oaep import oaep_padding
from hsm.pkcs11.structures import Template
from hsm.pkcs11.templates import NO_USE, PRIVATE_HALF, UNTRUSTED_PUBLIC, WRAPPING_PUBLIC
from hsm.pkcs11.token import DATA_KEY_BYTES, Token

_STORED_PRIVATE: Final[dict[Attribute, Any]] = {Attribute.TOKEN: True, Attribute.PRIVATE: True}
_P256: Final = bytes.fromhex("06082a8648ce3d030107")  # OBJECT IDENTIFIER prime256v1, DER


def ensure_p256(token: Token, label: str) -> ec.EllipticCurvePublicKey:
    """Return the public half of the signing key `label`; make a missing pair."""
    halves = [
        token.find({Attribute.CLASS: half, Attribute.KEY_TYPE: KeyType.EC, Attribute.LABEL: label})
        for half in (ObjectClass.PUBLIC_KEY, ObjectClass.PRIVATE_KEY)
    ]
    if all(len(found) == 1 for found in halves):
        return token.p256_public_key(label)
    with token.translate_refusal("remove an unfinished key pair"):
        for found in halves:
            for half in found:
                half.destroy()
    with token.translate_refusal("make a P-256 key"):
        domain = token.session.create_domain_parameters(
            KeyType.EC, {Attribute.EC_PARAMS: _P256}, local=True
        )
        public_key, _ = domain.generate_keypair(
            label=label,
            store=True,
            public_template={Attribute.PRIVATE: False, Attribute.VERIFY: True},
            private_template={**PRIVATE_HALF, Attribute.SIGN: True},
        )
        return p256_public(public_key)


RESTRICTED_ID_PREFIX: Final = b"taperig "
"""The CKA_ID of a restricted private half begins with this; random bytes follow."""


def ensure_rsa(token: Token, bits: int, label: str) -> rsa.RSAPublicKey:
    """Return the public half of the unwrapping key `label`, or make the pair."""
    try:
        return token.unwrapping_key(label)[1]
    except KeyAbsentError:
        return generate_rsa(token, bits, label)


def generate_rsa(
    token: Token, bits: int, label: str, pending: str | None = None
) -> rsa.RSAPublicKey:
    """Generate an RSA pair; store its private half, return the public half.

    The private half only unwraps, and is restricted (hsm.pkcs11.key_restrictions) as far as the
    token enforces it. A restricted one has its label at once, and a CKA_ID that begins with
    RESTRICTED_ID_PREFIX. Any other one has the label `pending`, if given, and spki_hash of the
    public half for its CKA_ID. The public half is not stored: it wraps data keys only after
    trust_public_key has made it TRUSTED.
    """

    def make(restrictions: Template) -> RsaKeyPair:
        public_object, private_object = token.session.generate_keypair(
            KeyType.RSA,
            bits,
            label=_first_label(restrictions, label, pending),
            id=_random_id(),
            store=True,
            public_template={
                Attribute.TOKEN: False,
                Attribute.PRIVATE: False,
                Attribute.ENCRYPT: False,
                Attribute.VERIFY: False,
                Attribute.WRAP: True,
            },
            private_template={**PRIVATE_HALF, Attribute.UNWRAP: True, **restrictions},
        )
        public_key = rsa_public(public_object)
        public_object.destroy()
        if Attribute.MODIFIABLE not in restrictions:
            private_object[Attribute.ID] = spki_hash(public_key)
        return RsaKeyPair(private_object, public_key)

    return token.make_private_half(make).public_key


def _random_id() -> bytes:
    return RESTRICTED_ID_PREFIX + os.urandom(16)


def _first_label(restrictions: Template, label: str, pending: str | None) -> str:
    return label if pending is None or Attribute.MODIFIABLE in restrictions else pending


def import_rsa(
    token: Token, private_key: rsa.RSAPrivateKey, label: str, pending: str | None = None
) -> None:
    """Import a private key into the token, where it only unwraps.

    It is restricted, labelled and identified as in generate_rsa.
    """
    numbers, public_key = private_key.private_numbers(), private_key.public_key()

    def make(restrictions: Template) -> RsaKeyPair:
        changeable = Attribute.MODIFIABLE not in restrictions
        private_object = token.session.create_object(
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: KeyType.RSA,
                **PRIVATE_HALF,
                Attribute.UNWRAP: True,
                Attribute.LABEL: _first_label(restrictions, label, pending),
                Attribute.ID: spki_hash(public_key) if changeable else _random_id(),
                Attribute.MODULUS: big_integer(numbers.public_numbers.n),
                Attribute.PUBLIC_EXPONENT: big_integer(numbers.public_numbers.e),
                Attribute.PRIVATE_EXPONENT: big_integer(numbers.d),
                Attribute.PRIME_1: big_integer(numbers.p),
                Attribute.PRIME_2: big_integer(numbers.q),
                Attribute.EXPONENT_1: big_integer(numbers.dmp1),
                Attribute.EXPONENT_2: big_integer(numbers.dmq1),
                Attribute.COEFFICIENT: big_integer(numbers.iqmp),
                **restrictions,
            }
        )
        return RsaKeyPair(private_object, public_key)

    token.make_private_half(make)


def trust_public_key(token: Token, public_key: rsa.RSAPublicKey, label: str) -> None:
    """Import a key that may wrap data keys, unless the token has it.

    Its CKA_ID is spki_hash of the key. The security officer makes it TRUSTED; where the token does
    not support TRUSTED, the user imports it, and each use compares its bytes with its CKA_ID.
    """
    if token.trusted_public_key(spki_hash(public_key)) is not None:
        return
    numbers = public_key.public_numbers()
    _put_wrapping_key(
        token,
        {
            Attribute.LABEL: label,
            Attribute.ID: spki_hash(public_key),
            Attribute.MODULUS: big_integer(numbers.n),
            Attribute.PUBLIC_EXPONENT: big_integer(numbers.e),
        },
    )


def _put_wrapping_key(token: Token, template: dict[Attribute, Any]) -> None:
    if token.capabilities.enforces_trusted:
        with token.officer() as session, token.translate_refusal("take in a trusted public key"):
            session.create_object({**WRAPPING_PUBLIC, **template})
    else:
        with token.translate_refusal("take in a public key"):
            token.session.create_object({**UNTRUSTED_PUBLIC, **template})


def reports_key_length(
    token: Token, private_key: UnwrapMixin, public_key: rsa.RSAPublicKey
) -> bool:
    """Return whether the token reports the length of a key that it unwrapped."""
    wrapped = public_key.encrypt(os.urandom(32), oaep_padding(token.oaep_hash))
    with token.unwrap_data_key(wrapped, private_key, token.oaep_hash, check_length=False) as key:
        length: int = key.handle[Attribute.VALUE_LEN]
        return length == DATA_KEY_BYTES


def ensure_reference_keys(token: Token) -> None:
    """Import missing keys of hsm.pkcs11.length_check as security officer."""
    absent = [
        label
        for label in REFERENCE_MODULI
        if not token.find({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.LABEL: label})
    ]
    if absent:
        with token.officer() as session, token.translate_refusal("import a reference key"):
            for label in absent:
                session.create_object(reference_key_template(label))


def import_transport_key(token: Token, label: str, value: bytes) -> None:
    """Import an AES-256 key (32 bytes) that may only wrap data keys.

    Where data keys may be wrapped by TRUSTED keys only, only the officer can make such a key, and
    cannot make it private. So the officer makes a session object, which outlives the officer's
    login, and the user stores a private copy of it. Elsewhere the user makes it.
    """
    template = {
        **NO_USE,
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.AES,
        Attribute.VALUE: value,
        Attribute.LABEL: label,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.WRAP: True,
    }
    if token.capabilities.enforces_trusted:
        kept = _make_trusted_key(token, template)
    else:
        with token.translate_refusal("make a transport key"):
            kept = token.session.create_object({**template, **_STORED_PRIVATE})
    with token.translate_refusal("keep a transport key"):
        sound = (
            (not token.capabilities.enforces_trusted or kept[Attribute.TRUSTED])
            and kept[Attribute.PRIVATE]
            and kept[Attribute.SENSITIVE]
            and not kept[Attribute.EXTRACTABLE]
        )
        if not sound:
            kept.destroy()
            raise TokenRefusedError(
                f"The token {token.label} did not store {label!r} as private and trusted; use "
                "another token."
            )


def _make_trusted_key(token: Token, template: dict[Attribute, Any]) -> Any:
    """Make a TRUSTED key as officer; return the user's private copy of it."""
    carrier = token.open_session()
    try:
        with token.officer(), token.translate_refusal("make a transport key"):
            key: Any = carrier.create_object(
                {
                    **template,
                    Attribute.TOKEN: False,
                    Attribute.PRIVATE: False,
                    Attribute.TRUSTED: True,
                }
            )
        with token.translate_refusal("keep a transport key"):
            kept = key.copy(_STORED_PRIVATE)
            key.destroy()
            label = kept[Attribute.LABEL]
        return token.find_secret(label)  # the handle of the copy ends with the carrier
    finally:
        carrier.close()


def transport_key_matches(token: Token, label: str, value: bytes) -> bool:
    """Return whether the AES key `label` is `value`, by wrapping a known key."""
    transport = token.find_secret(label)
    if transport is None:
        return False
    known = bytes(range(32))
    with token.translate_refusal("try the transport key"):
        key: Any = token.session.create_object(
            {
                **NO_USE,
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.AES,
                Attribute.VALUE: known,
                Attribute.TOKEN: False,
                Attribute.EXTRACTABLE: True,
            }
        )
        wrapped = transport.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP)
        key.destroy()
    return wrapped == aes_key_wrap(value, known)


def random_bytes(token: Token, count: int) -> bytes:
    """Return `count` random bytes from the token."""
    with token.translate_refusal("give random bytes"):
        return token.session.generate_random(count * 8)
