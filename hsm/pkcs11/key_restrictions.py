"""What keeps an RSA private half to its one use, as far as the token honours it.

A KEK, or a drive's wrapping key, is there to unwrap data keys to protected keys. That it does
nothing else, also for somebody who has the user's PIN, takes three guards, all given when the key
is made, since none can be given later:

- OAEP_ONLY: ALLOWED_MECHANISMS is RSA-OAEP, so it is no oracle for PKCS#1 v1.5 or raw RSA.
- UNWRAPS_PROTECTED: UNWRAP_TEMPLATE is what a data key is made from, so an EEDK is not unwrapped to
  a key that can be read, kept, used, or wrapped to a key that is not TRUSTED.
- UNCHANGEABLE: MODIFIABLE and COPYABLE are false, so it is not given the use DECRYPT, neither by a
  change nor in a copy. So its label and CKA_ID cannot be changed either: both are final from the
  start, and it is found by its modulus.

Some tokens do not know these attributes, others store them and do nothing; so each is tried on the
key that was made, and left out where it is not honoured (docs/tokens.md says what is lost then).
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


class Guard(StrEnum):
    """A guard of a private half."""

    OAEP_ONLY = "oaep-only"
    UNWRAPS_PROTECTED = "unwraps-protected"
    UNCHANGEABLE = "unchangeable"


ALL_GUARDS: Final = frozenset(Guard)
UNCHANGEABLE: Final = {Attribute.COPYABLE: False, Attribute.MODIFIABLE: False}
"""MODIFIABLE comes last: some tokens refuse what follows it."""


class MadeHalf(NamedTuple):
    """A private half in the token and the public key that belongs to it."""

    private: Any
    public_key: rsa.RSAPublicKey


Make = Callable[[Template], MadeHalf]
"""Makes a private half with these attributes too; raises PKCS11Error."""


def guard_template(guards: frozenset[Guard], data_key: Template) -> Template:
    """Return the attributes that these guards are; ``data_key`` is what data keys are made from."""
    template: dict[Attribute, Any] = {}
    if Guard.OAEP_ONLY in guards:
        template[Attribute.ALLOWED_MECHANISMS] = [Mechanism.RSA_PKCS_OAEP]
    if Guard.UNWRAPS_PROTECTED in guards:
        template[Attribute.UNWRAP_TEMPLATE] = {Attribute.KEY_TYPE: KeyType.AES, **data_key}
    if Guard.UNCHANGEABLE in guards:
        template |= UNCHANGEABLE
    return template


def make_guarded(
    make: Make, data_key: Template, oaep_hash: OaepHash
) -> tuple[MadeHalf, frozenset[Guard]]:
    """Make a private half with all guards that the token honours; return it and them.

    Raises PKCS11Error when it is refused without any guard too.
    """
    with suppress(refusals.PKCS11Error):
        made = make(guard_template(ALL_GUARDS, data_key))
        if all(_honoured(guard, made, data_key, oaep_hash) for guard in Guard):
            return made, ALL_GUARDS
        made.private.destroy()
    guards = frozenset(each for each in Guard if _honoured_alone(each, make, data_key, oaep_hash))
    return make(guard_template(guards, data_key)), guards


def _honoured_alone(guard: Guard, make: Make, data_key: Template, oaep_hash: OaepHash) -> bool:
    try:
        made = make(guard_template(frozenset({guard}), data_key))
    except refusals.PKCS11Error:
        return False
    try:
        return _honoured(guard, made, data_key, oaep_hash)
    finally:
        made.private.destroy()


def _honoured(guard: Guard, made: MadeHalf, data_key: Template, oaep_hash: OaepHash) -> bool:
    """Say whether the token does with this key as the guard says, by trying what it forbids."""
    match guard:
        case Guard.OAEP_ONLY:
            wrapped = made.public_key.encrypt(os.urandom(32), padding.PKCS1v15())
            return _refuses(lambda: _unwrapped(made, wrapped, data_key, Mechanism.RSA_PKCS, None))
        case Guard.UNWRAPS_PROTECTED:
            wrapped = made.public_key.encrypt(os.urandom(32), oaep_padding(oaep_hash))
            weak = {**data_key, Attribute.SENSITIVE: False}
            return _refuses(
                lambda: _unwrapped(made, wrapped, weak, Mechanism.RSA_PKCS_OAEP, OAEP[oaep_hash])
            )
        case Guard.UNCHANGEABLE:
            return _refuses(lambda: _let_decrypt(made.private)) and _refuses(
                lambda: made.private.copy({Attribute.TOKEN: False, Attribute.DECRYPT: True})
            )


def _unwrapped(
    made: MadeHalf, wrapped: bytes, template: Template, mechanism: Mechanism, parameter: Any
) -> Any:
    return made.private.unwrap_key(
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
    try:
        made = act()
    except refusals.PKCS11Error:
        return True
    if made is not None:
        made.destroy()
    return False
