"""What a token can do, tried with throw-away session keys when it is opened.

Tokens differ, and their lists of mechanisms do not tell: SoftHSM lists OAEP and refuses SHA-256 in
it; NSS stores WRAP_WITH_TRUSTED and EXTRACTABLE false and wraps the keys all the same.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11 import exceptions as refusals
from pkcs11.types import Key

from hsm.pkcs11.accepted_risks import Limit
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.templates import BARE_DATA_KEY, DATA_KEY, OAEP, UNTRUSTED_PUBLIC

_NO_SUCH_HASH: Final = (
    refusals.ArgumentsBad,
    refusals.MechanismParamInvalid,
    refusals.MechanismInvalid,
)
"""What a token answers to an OAEP hash it lacks; any other refusal is a fault and no reason for a
lesser hash."""
NO_SUCH_ATTRIBUTE: Final = (
    refusals.AttributeTypeInvalid,
    refusals.AttributeValueInvalid,
    refusals.AttributeReadOnly,
    refusals.TemplateInconsistent,
)
"""What a token answers to an attribute that it does not take."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a token turned out to do."""

    oaep_hash: OaepHash | None
    """The best OAEP hash that wraps; None when none does."""
    trusts: bool
    """Whether a key with WRAP_WITH_TRUSTED is wrapped by TRUSTED keys only."""
    keeps: bool
    """Whether a key that is not EXTRACTABLE is not wrapped."""

    @property
    def limits(self) -> frozenset[Limit]:
        """The limits that a lab has to accept."""
        found = {
            Limit.UNTRUSTED_WRAPPING: not self.trusts,
            Limit.HANDS_OUT_KEYS: not self.keeps,
        }
        return frozenset(limit for limit, is_so in found.items() if is_so)


def try_out(session: pkcs11.Session) -> Capabilities:
    """Return what the token of a session with its user logged in can do; raises PKCS11Error."""
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
            return Capabilities(None, trusts=False, keeps=False)
        unextractable = {**BARE_DATA_KEY, Attribute.EXTRACTABLE: False}
        return Capabilities(
            oaep_hash,
            trusts=_refuses(session, public_key, oaep_hash, DATA_KEY),
            keeps=_refuses(session, public_key, oaep_hash, unextractable),
        )
    finally:
        public_key.destroy()


def _oaep_hash(session: pkcs11.Session, public_key: Any) -> OaepHash | None:
    """Wrap a key with each hash, the best first, and return the first that works."""
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
    """Say whether a key made from the template is refused to a public key that is not TRUSTED."""
    try:
        key = session.generate_key(KeyType.AES, 256, template=template)
    except NO_SUCH_ATTRIBUTE:
        return False
    try:
        _wrap(public_key, key, oaep_hash)
    except refusals.PKCS11Error:
        return True
    finally:
        key.destroy()
    return False


def _wrap(public_key: Any, key: Key, oaep_hash: OaepHash) -> None:
    public_key.wrap_key(key, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=OAEP[oaep_hash])


def _probe_modulus() -> bytes:
    """Return a 2048-bit number that nobody has the factors of: OAEP can be tried without a key."""
    modulus = bytearray(hashlib.shake_256(b"taperig OAEP probe").digest(256))
    modulus[0] |= 0x80
    modulus[-1] |= 0x01
    return bytes(modulus)


_PROBE_MODULUS: Final = _probe_modulus()
