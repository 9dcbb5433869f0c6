"""Capabilities of a token, probed with temporary session keys.

A token's list of mechanisms is not enough: SoftHSM lists OAEP but refuses SHA-256 in it; NSS stores
WRAP_WITH_TRUSTED and EXTRACTABLE false but wraps the keys all the same.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11 import exceptions as refusals
from pkcs11.types import Key

from hsm.pkcs11.accepted_risks import TokenRisk
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.templates import BARE_DATA_KEY, DATA_KEY, OAEP, UNTRUSTED_PUBLIC

_NO_SUCH_HASH: Final = (
    refusals.ArgumentsBad,
    refusals.MechanismParamInvalid,
    refusals.MechanismInvalid,
)
"""Return codes for an OAEP hash that the token lacks.

Any other refusal is a fault and no reason to choose a weaker hash.
"""
NO_SUCH_ATTRIBUTE: Final = (
    refusals.AttributeTypeInvalid,
    refusals.AttributeValueInvalid,
    refusals.AttributeReadOnly,
    refusals.TemplateInconsistent,
)
"""Return codes for an attribute that the token does not support."""
_REFUSES_TO_WRAP: Final = (
    refusals.KeyUnextractable,
    refusals.KeyNotWrappable,
    refusals.WrappingKeyHandleInvalid,
    refusals.FunctionRejected,
)
"""Return codes by which a token refuses to wrap a key; any other one is a fault."""
_UNNAMED_REFUSALS: Final = ("0x1b", "0x68")
"""CKR_ACTION_PROHIBITED, CKR_KEY_FUNCTION_NOT_PERMITTED: python-pkcs11 has no class for them."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a token can do, as probed when it was opened."""

    oaep_hash: OaepHash | None
    """The best OAEP hash that wraps; None when none does."""
    enforces_trusted: bool
    """Whether a key with WRAP_WITH_TRUSTED is wrapped by TRUSTED keys only."""
    enforces_extractable: bool
    """Whether a key that is not EXTRACTABLE is not wrapped."""

    @property
    def risks(self) -> frozenset[TokenRisk]:
        """The risks that a lab has to accept."""
        present = {
            TokenRisk.UNTRUSTED_WRAPPING: not self.enforces_trusted,
            TokenRisk.HANDS_OUT_KEYS: not self.enforces_extractable,
        }
        return frozenset(risk for risk, is_present in present.items() if is_present)


def probe_capabilities(session: pkcs11.Session) -> Capabilities:
    """Probe the token of a session in which the user is logged in.

    Raises PKCS11Error.
    """
    public_key: Any = session.create_object(
        {
            **UNTRUSTED_PUBLIC,
            Attribute.TOKEN: False,
            Attribute.MODULUS: _PROBE_MODULUS,
            Attribute.PUBLIC_EXPONENT: b"\x01\x00\x01",
        }
    )
    try:
        oaep_hash = _oaep_hash(session, public_key)
        if oaep_hash is None:
            return Capabilities(None, enforces_trusted=False, enforces_extractable=False)
        unextractable = {**BARE_DATA_KEY, Attribute.EXTRACTABLE: False}
        return Capabilities(
            oaep_hash,
            enforces_trusted=_refuses(session, public_key, oaep_hash, DATA_KEY),
            enforces_extractable=_refuses(session, public_key, oaep_hash, unextractable),
        )
    finally:
        public_key.destroy()


def _oaep_hash(session: pkcs11.Session, public_key: Any) -> OaepHash | None:
    """Return the best hash with which the token wraps a key; None if none."""
    key = session.generate_key(KeyType.AES, 256, template=BARE_DATA_KEY)
    try:
        for oaep_hash in OAEP:
            with suppress(*_NO_SUCH_HASH):
                _wrap(public_key, key, oaep_hash)
                return oaep_hash
    finally:
        key.destroy()
    return None


def _refuses(
    session: pkcs11.Session,
    public_key: Any,
    oaep_hash: OaepHash,
    template: dict[Attribute, Any],
) -> bool:
    """Return whether a public key that is not TRUSTED cannot wrap such a key.

    Raises PKCS11Error for a failure that says nothing about it.
    """
    try:
        key = session.generate_key(KeyType.AES, 256, template=template)
    except NO_SUCH_ATTRIBUTE:
        return False
    try:
        _wrap(public_key, key, oaep_hash)
    except _REFUSES_TO_WRAP:
        return True
    except refusals.PKCS11Error as error:
        if str(error).lower().endswith(_UNNAMED_REFUSALS):
            return True
        raise
    finally:
        key.destroy()
    return False


def _wrap(public_key: Any, key: Key, oaep_hash: OaepHash) -> None:
    public_key.wrap_key(key, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=OAEP[oaep_hash])


def _probe_modulus() -> bytes:
    """Return a 2048-bit modulus whose factors nobody knows.

    With it, wrapping can be probed without making an RSA key pair.
    """
    modulus = bytearray(hashlib.shake_256(b"taperig OAEP probe").digest(256))
    modulus[0] |= 0x80
    modulus[-1] |= 0x01
    return bytes(modulus)


_PROBE_MODULUS: Final = _probe_modulus()
