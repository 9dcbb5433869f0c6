"""Making and taking in the keys that stay in a token, when a lab is set up.

TRUSTED keys need the security officer's PIN (TokenConfig.so_pin) and no data key in use.
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

_KEPT_PRIVATE: Final[dict[Attribute, Any]] = {Attribute.TOKEN: True, Attribute.PRIVATE: True}
_P256: Final = bytes.fromhex("06082a8648ce3d030107")  # OBJECT IDENTIFIER prime256v1, DER


def ensure_p256(token: Token, label: str) -> ec.EllipticCurvePublicKey:
    """Return the public half of the signing key `label`, making the pair unless it is whole."""
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


MADE_ID: Final = b"taperig "
"""What the CKA_ID of a private half begins with that cannot be changed; random bytes follow."""


def ensure_rsa(token: Token, bits: int, label: str) -> rsa.RSAPublicKey:
    """Return the public half of the unwrapping key `label`, making the pair if it is absent."""
    try:
        return token.unwrapping_key(label)[1]
    except KeyAbsentError:
        return generate_rsa(token, bits, label)


def generate_rsa(
    token: Token, bits: int, label: str, pending: str | None = None
) -> rsa.RSAPublicKey:
    """Make an RSA pair of `bits`; keep the private half (unwrap only), return the public one.

    The private half is guarded (hsm.pkcs11.key_restrictions) as far as the token honours it.
    One that can be changed bears the label `pending`, if given, and gets spki_hash of the
    public one for its CKA_ID; one that cannot be has its label at once, and a CKA_ID that begins
    with MADE_ID. The public half is not kept: it wraps data keys only once trust_public_key has
    made it TRUSTED.
    """

    def make(guards: Template) -> RsaKeyPair:
        public_object, private_object = token.session.generate_keypair(
            KeyType.RSA,
            bits,
            label=_first_label(guards, label, pending),
            id=_made_id(),
            store=True,
            public_template={
                Attribute.TOKEN: False,
                Attribute.PRIVATE: False,
                Attribute.ENCRYPT: False,
                Attribute.VERIFY: False,
                Attribute.WRAP: True,
            },
            private_template={**PRIVATE_HALF, Attribute.UNWRAP: True, **guards},
        )
        public_key = rsa_public(public_object)
        public_object.destroy()
        if Attribute.MODIFIABLE not in guards:
            private_object[Attribute.ID] = spki_hash(public_key)
        return RsaKeyPair(private_object, public_key)

    return token.make_private_half(make).public_key


def _made_id() -> bytes:
    return MADE_ID + os.urandom(16)


def _first_label(guards: Template, label: str, pending: str | None) -> str:
    return label if pending is None or Attribute.MODIFIABLE in guards else pending


def import_rsa(
    token: Token, private_key: rsa.RSAPrivateKey, label: str, pending: str | None = None
) -> None:
    """Bring a private key made elsewhere into the token: unwrap only, for good.

    It is guarded, labelled and identified as generate_rsa does it.
    """
    numbers, public_key = private_key.private_numbers(), private_key.public_key()

    def make(guards: Template) -> RsaKeyPair:
        changeable = Attribute.MODIFIABLE not in guards
        private_object = token.session.create_object(
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: KeyType.RSA,
                **PRIVATE_HALF,
                Attribute.UNWRAP: True,
                Attribute.LABEL: _first_label(guards, label, pending),
                Attribute.ID: spki_hash(public_key) if changeable else _made_id(),
                Attribute.MODULUS: big_integer(numbers.public_numbers.n),
                Attribute.PUBLIC_EXPONENT: big_integer(numbers.public_numbers.e),
                Attribute.PRIVATE_EXPONENT: big_integer(numbers.d),
                Attribute.PRIME_1: big_integer(numbers.p),
                Attribute.PRIME_2: big_integer(numbers.q),
                Attribute.EXPONENT_1: big_integer(numbers.dmp1),
                Attribute.EXPONENT_2: big_integer(numbers.dmq1),
                Attribute.COEFFICIENT: big_integer(numbers.iqmp),
                **guards,
            }
        )
        return RsaKeyPair(private_object, public_key)

    token.make_private_half(make)


def trust_public_key(token: Token, public_key: rsa.RSAPublicKey, label: str) -> None:
    """Put a key that data keys may be wrapped to into the token, if it lacks it.

    Its CKA_ID is spki_hash of the key. The security officer makes it TRUSTED; where the token knows
    no such thing, the user makes it, and its bytes are compared with its CKA_ID when it is used.
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


def tells_length(token: Token, private_key: UnwrapMixin, public_key: rsa.RSAPublicKey) -> bool:
    """Say whether the token tells how long a key is that it has unwrapped, by unwrapping one."""
    wrapped = public_key.encrypt(os.urandom(32), oaep_padding(token.oaep_hash))
    with token.unwrap_data_key(wrapped, private_key, token.oaep_hash, check_length=False) as key:
        told: int = key.handle[Attribute.VALUE_LEN]
        return told == DATA_KEY_BYTES


def ensure_reference_keys(token: Token) -> None:
    """Have the security officer make the keys of hsm.pkcs11.length_check where they lack."""
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
    """Put an AES-256 key (32 bytes) into the token that may wrap data keys and do nothing else.

    Where data keys go to TRUSTED keys only, the officer alone can make such a key and cannot make a
    private one; so the officer makes a session object, which outlives the officer's login, and the
    user keeps a private copy of it. Elsewhere the user makes it.
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
        kept = _trusted_by_officer(token, template)
    else:
        with token.translate_refusal("make a transport key"):
            kept = token.session.create_object({**template, **_KEPT_PRIVATE})
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
                f"The token {token.label} did not keep {label!r} private and trusted."
            )


def _trusted_by_officer(token: Token, template: dict[Attribute, Any]) -> Any:
    """Return a private copy on the token of a TRUSTED key that the officer makes."""
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
            kept = key.copy(_KEPT_PRIVATE)
            key.destroy()
            label = kept[Attribute.LABEL]
        return token.find_secret(label)  # the handle of the copy ends with the carrier
    finally:
        carrier.close()


def transport_key_is(token: Token, label: str, value: bytes) -> bool:
    """Say whether the AES key `label` is `value`, by wrapping a key that everybody knows."""
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
    """Return `count` random bytes of the token's generator."""
    with token.translate_refusal("give random bytes"):
        return token.session.generate_random(count * 8)
