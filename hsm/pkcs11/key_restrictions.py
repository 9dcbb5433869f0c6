"""Restrictions that let an RSA private key only unwrap data keys.

A KEK, or a drive's wrapping key, unwraps data keys to protected keys. Three restrictions keep it
from anything else, even for someone who has the user's PIN. They are given when the key is made,
since none can be given later:

- OAEP_ONLY: ALLOWED_MECHANISMS is RSA-OAEP, so that the key is no oracle for PKCS#1 v1.5 or
  raw RSA.
- UNWRAPS_PROTECTED: UNWRAP_TEMPLATE is the template of a data key, so that an EEDK is not unwrapped
  to a key that can be read, stored, used, or wrapped to a key that is not TRUSTED.
- UNCHANGEABLE: MODIFIABLE and COPYABLE are false, so that the key cannot be given the use DECRYPT,
  neither by a change nor in a copy. Its label and CKA_ID cannot be changed either: both are final
  from the start, and the key is found by its modulus.

Some tokens do not know these attributes, others store them without effect. So each restriction is
tried on the new key and left out where the token does not honour it (docs/tokens.md says what is
lost then).
"""

import os
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as refusals

from hsm.pkcs11.oaep import OaepHash, oaep_padding
from hsm.pkcs11.structures import Template
from hsm.pkcs11.templates import OAEP


class KeyRestriction(StrEnum):
    """A restriction of an RSA private key."""

    OAEP_ONLY = "oaep-only"
    UNWRAPS_PROTECTED = "unwraps-protected"
    UNCHANGEABLE = "unchangeable"


ALL_RESTRICTIONS: Final = frozenset(KeyRestriction)
UNCHANGEABLE: Final = {Attribute.COPYABLE: False, Attribute.MODIFIABLE: False}
"""MODIFIABLE comes last: some tokens refuse the attributes that follow it."""


class RsaKeyPair(NamedTuple):
    """A private key in the token and its public key outside."""

    private: Any
    public_key: rsa.RSAPublicKey


MakePair = Callable[[Template], RsaKeyPair]
"""Makes an RSA key pair whose private half also has these attributes.

Raises PKCS11Error.
"""


_DOES_NOT_WORK: Final = (
    refusals.DeviceError,
    refusals.DeviceMemory,
    refusals.DeviceRemoved,
    refusals.HostMemory,
    refusals.TokenNotPresent,
)
"""Return codes of a token that fails whatever it is asked for."""


def restriction_template(restrictions: frozenset[KeyRestriction], data_key: Template) -> Template:
    """Return the attributes of these restrictions.

    ``data_key`` is the template of data keys.
    """
    template: dict[Attribute, Any] = {}
    if KeyRestriction.OAEP_ONLY in restrictions:
        template[Attribute.ALLOWED_MECHANISMS] = [Mechanism.RSA_PKCS_OAEP]
    if KeyRestriction.UNWRAPS_PROTECTED in restrictions:
        template[Attribute.UNWRAP_TEMPLATE] = {Attribute.KEY_TYPE: KeyType.AES, **data_key}
    if KeyRestriction.UNCHANGEABLE in restrictions:
        template |= UNCHANGEABLE
    return template


def make_restricted(
    make: MakePair, data_key: Template, oaep_hash: OaepHash
) -> tuple[RsaKeyPair, frozenset[KeyRestriction]]:
    """Make a key pair with all restrictions that the token honours.

    Return the pair and these restrictions. Raises PKCS11Error when the token refuses the pair even
    without restrictions.
    """
    with suppress(refusals.PKCS11Error):
        pair = make(restriction_template(ALL_RESTRICTIONS, data_key))
        if all(_honoured(restriction, pair, data_key, oaep_hash) for restriction in KeyRestriction):
            return pair, ALL_RESTRICTIONS
        pair.private.destroy()
    restrictions = frozenset(
        each for each in KeyRestriction if _honoured_alone(each, make, data_key, oaep_hash)
    )
    return make(restriction_template(restrictions, data_key)), restrictions


def _honoured_alone(
    restriction: KeyRestriction, make: MakePair, data_key: Template, oaep_hash: OaepHash
) -> bool:
    try:
        pair = make(restriction_template(frozenset({restriction}), data_key))
    except refusals.PKCS11Error:
        return False
    try:
        return _honoured(restriction, pair, data_key, oaep_hash)
    finally:
        pair.private.destroy()


def _honoured(
    restriction: KeyRestriction, pair: RsaKeyPair, data_key: Template, oaep_hash: OaepHash
) -> bool:
    """Try what a restriction forbids; return whether the token honours it."""
    match restriction:
        case KeyRestriction.OAEP_ONLY:
            wrapped = pair.public_key.encrypt(os.urandom(32), padding.PKCS1v15())
            return _refuses(lambda: _unwrapped(pair, wrapped, data_key, Mechanism.RSA_PKCS, None))
        case KeyRestriction.UNWRAPS_PROTECTED:
            wrapped = pair.public_key.encrypt(os.urandom(32), oaep_padding(oaep_hash))
            weak = {**data_key, Attribute.SENSITIVE: False}
            return _refuses(
                lambda: _unwrapped(pair, wrapped, weak, Mechanism.RSA_PKCS_OAEP, OAEP[oaep_hash])
            )
        case KeyRestriction.UNCHANGEABLE:
            return _refuses(lambda: _let_decrypt(pair.private)) and _refuses(
                lambda: pair.private.copy({Attribute.TOKEN: False, Attribute.DECRYPT: True})
            )


def _unwrapped(
    pair: RsaKeyPair, wrapped: bytes, template: Template, mechanism: Mechanism, parameter: Any
) -> Any:
    return pair.private.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyType.AES,
        wrapped,
        mechanism=mechanism,
        mechanism_param=parameter,
        template=template,
    )


def _let_decrypt(private: Any) -> None:
    private[Attribute.DECRYPT] = True


def _refuses(act: Callable[[], Any]) -> bool:
    """Return whether the token refuses; raise PKCS11Error if it fails."""
    try:
        result = act()
    except _DOES_NOT_WORK:
        raise
    except refusals.PKCS11Error:
        return True
    if result is not None:
        result.destroy()
    return False
