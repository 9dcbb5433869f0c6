"""A PKCS#11 token as the rig uses it: keys are made, wrapped and unwrapped inside, never seen.

One process owns one PKCS#11 context and one open token, and uses it from one thread: SoftHSM's heap
does not survive two threads in one context. More speed means more processes.

Facts of SoftHSM 2.6 that shape this module:
- OAEP works with SHA-1 only (else CKR_ARGUMENTS_BAD), so the hash is probed when a token opens.
- CKA_TRUSTED can be set only while an object is being made, by the security officer; and the
  officer cannot make or see private objects.
- An unwrapped secret key reads CKA_VALUE_LEN 0 whatever its length; see hsm.pkcs11.length_check.
- A damaged ciphertext gives CKR_GENERAL_ERROR.
"""

import hashlib
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as refusals
from pkcs11.constants import DEFAULT
from pkcs11.types import Key, SignMixin, UnwrapMixin, WrapMixin

from hsm.errors import (
    KeyAbsentError,
    LimitNotAcceptedError,
    MechanismAbsentError,
    NotADataKeyError,
    TokenAbsentError,
    TokenBusyError,
    TokenError,
    TokenGoneError,
    TokenRefusedError,
    UnwrapRefusedError,
)
from hsm.pkcs11.accepted_risks import limit_sentence
from hsm.pkcs11.capabilities import NO_SUCH_ATTRIBUTE, Capabilities, try_out
from hsm.pkcs11.config import TokenConfig
from hsm.pkcs11.data_key import DataKey
from hsm.pkcs11.encoding import big_integer, p256_public, rsa_public, spki_hash
from hsm.pkcs11.fast_path import DirectCalls, aes_key
from hsm.pkcs11.key_restrictions import Guard, MadeHalf, Make, guard_template, make_guarded
from hsm.pkcs11.length_check import REFUSES_32_BYTES, TAKES_32_BYTES, has_32_bytes
from hsm.pkcs11.module import Module, TemplateMapper, login_error, refusal_name
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.templates import BARE_DATA_KEY, DATA_KEY, OAEP

__all__ = ["DataKey", "Token", "TokenConfig", "open_token"]

DATA_KEY_BYTES: Final = 32
SEALED_KEY_BYTES: Final = 40
"""A data key under AES key wrap: RFC 3394 adds one 64-bit block."""

_OPEN_ATTEMPTS: Final = 10
_OPEN_PAUSE_SECONDS: Final = 0.05

_DATA_KEY_KEEPS: Final[dict[Attribute, Any]] = {
    Attribute.KEY_TYPE: KeyType.AES,
    **{
        name: DATA_KEY[name]
        for name in (
            Attribute.TOKEN,
            Attribute.PRIVATE,
            Attribute.SENSITIVE,
            Attribute.EXTRACTABLE,
            Attribute.WRAP_WITH_TRUSTED,
            Attribute.ENCRYPT,
            Attribute.DECRYPT,
        )
    },
}
"""What an unwrapped key must say of itself."""
_BARE_DATA_KEY_KEEPS: Final[dict[Attribute, Any]] = {
    name: value
    for name, value in _DATA_KEY_KEEPS.items()
    if name is not Attribute.WRAP_WITH_TRUSTED
}
_SET_AFTERWARDS: Final = (Attribute.SENSITIVE, Attribute.EXTRACTABLE, Attribute.MODIFIABLE)
"""Left out of an unwrap template that a token does not honour."""


def open_token(config: TokenConfig) -> "Token":
    """Open the token, log in as its user and probe its OAEP hash. Use it as a context manager.

    Sets SOFTHSM2_CONF for this process and forbids it core files. Raises ModuleAbsentError,
    TokenAbsentError, TokenNotUniqueError, WrongPinError, PinLockedError, PinError, TokenBusyError
    (a token is open in this process already), MechanismAbsentError (no RSA-OAEP),
    LimitNotAcceptedError.

    SoftHSM writes a token's file at each login; a process that reads it in that moment does not
    find the token, or is refused with CKR_GENERAL_ERROR. So that is believed only when it lasts.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module = Module(config)
    try:
        for _ in range(_OPEN_ATTEMPTS - 1):
            try:
                return Token(config, module, module.find_token(config.label))
            except (TokenAbsentError, refusals.GeneralError):
                time.sleep(_OPEN_PAUSE_SECONDS)
                module.look_again()
        return Token(config, module, module.find_token(config.label))
    except refusals.GeneralError:
        module.close()
        raise TokenError(
            f"The token {config.label} cannot be opened (CKR_GENERAL_ERROR); check its files or "
            "device, and that this user may read them."
        ) from None
    except BaseException:
        module.close()
        raise


class Token:
    """An open token with its user logged in. Made by open_token."""

    def __init__(self, config: TokenConfig, module: Module, token: pkcs11.Token) -> None:
        """Log in as the user and probe the OAEP hash."""
        self._config = config
        self._module = module
        self._token = token
        self._data_keys: set[DataKey] = set()
        self._session: pkcs11.Session | None = self._log_in()
        try:
            self.abilities: Capabilities = self._try_out()
            self._held_objects = self._holds_objects()
        except BaseException:
            self._session.close()
            raise
        if self.abilities.trusts:
            self._template, self._keeps = DATA_KEY, _DATA_KEY_KEEPS
        else:
            self._template, self._keeps = BARE_DATA_KEY, _BARE_DATA_KEY_KEEPS
        self._guards: frozenset[Guard] | None = None
        """Which guards the token honours; None until the first key is made."""
        self._key_template = aes_key(self._template)
        self._direct = DirectCalls.to(module.path, self._session)
        self._unwraps_protected: bool | None = None
        """Whether an unwrap template protects; None until the first unwrap shows it."""

    # Life

    @property
    def oaep_hash(self) -> OaepHash:
        """The best OAEP hash that the token can do."""
        if self.abilities.oaep_hash is None:
            raise MechanismAbsentError(
                f"The token {self.label} wraps keys with RSA-OAEP neither with SHA-256 nor with "
                "SHA-1; the rig cannot use it."
            )
        return self.abilities.oaep_hash

    @property
    def label(self) -> str:
        """The token's label."""
        return self._config.label

    @property
    def makes_p256(self) -> bool:
        """Whether the token declares P-256 keys and their signatures."""
        return {Mechanism.EC_KEY_PAIR_GEN, Mechanism.ECDSA} <= self._token.slot.get_mechanisms()

    def open_session(self) -> pkcs11.Session:
        """Return a further session that shares the login of the moment; the caller closes it."""
        return self._token.open(rw=True, attribute_mapper=TemplateMapper())

    @property
    def session(self) -> pkcs11.Session:
        """The user's session; raises TokenError when the token is closed."""
        if self._session is None:
            raise TokenError(f"The token {self.label} is closed.")
        return self._session

    def try_out(self) -> None:
        """See that the token still answers and has its keys; raises TokenGoneError when not so.

        SoftHSM goes on giving random bytes and making session keys when its token is gone; it finds
        no object any more, also when the token is back. So the process has to open it anew.
        """
        try:
            with self.asking("give random bytes"):
                self.session.generate_random(64)
            gone = self._held_objects and not self._holds_objects()
        except TokenRefusedError as error:
            raise TokenGoneError(str(error)) from None
        if gone:
            raise TokenGoneError(
                f"The token {self.label} has lost all its keys since it was opened: it was taken "
                "away, or its files were; bring it back."
            )

    def _holds_objects(self) -> bool:
        return self.find_one({Attribute.TOKEN: True}) is not None

    def close(self) -> None:
        """Destroy what is left of data keys, log out, and give up the PKCS#11 context."""
        if self._session is None:
            return
        try:
            for key in tuple(self._data_keys):
                key.destroy()
            self._session.close()
        finally:
            self._session = self._direct = None
            self._module.close()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the token."""
        self.close()

    def _try_out(self) -> Capabilities:
        """See what the token can do; refuse what it does that the configuration does not accept."""
        with self.asking("show what it can do"):
            self.abilities = try_out(self.session)
        _ = self.oaep_hash
        unaccepted = self.abilities.limits - self._config.accept
        if unaccepted:
            raise LimitNotAcceptedError(limit_sentence(self.label, unaccepted))
        return self.abilities

    def _log_in(self, *, officer: bool = False) -> pkcs11.Session:
        source = self._config.so_pin if officer else self._config.pin
        who = "security officer" if officer else "user"
        if source is None:
            raise TokenError(
                f"The token {self.label} needs its security officer for this, and no security "
                "officer's PIN is configured."
            )
        pin = source.read()
        try:
            if officer:
                return self._token.open(rw=True, so_pin=pin, attribute_mapper=TemplateMapper())
            return self._token.open(rw=True, user_pin=pin, attribute_mapper=TemplateMapper())
        except refusals.PKCS11Error as error:
            raise login_error(error, self.label, who, self._token.slot.get_token().flags) from None
        finally:
            del pin

    @contextmanager
    def officer(self) -> Iterator[pkcs11.Session]:
        """Give the security officer's session; the user is logged out meanwhile.

        PKCS#11 lets one of the two be logged in. Data keys would die of it, so none may be alive;
        handles of other keys do die of it and have to be looked up again.
        """
        if self._data_keys:
            raise TokenBusyError(f"The token {self.label} holds data keys that are in use.")
        self.session.close()
        self._session = self._direct = None
        try:
            session = self._log_in(officer=True)
            try:
                yield session
            finally:
                session.close()
        finally:
            self._session = self._log_in()
            self._direct = DirectCalls.to(self._module.path, self._session)

    # Data keys

    def generate_data_key(self) -> DataKey:
        """Make a fresh random AES-256 data key in the token (KEY-1)."""
        with self.asking("make a data key"):
            key = self.session.generate_key(KeyType.AES, 256, template=self._template)
        return self._keep(key)

    def wrap_data_key(
        self, data_key: DataKey, public_key: WrapMixin, oaep_hash: OaepHash | None = None
    ) -> bytes:
        """Return the data key wrapped by RSA-OAEP under a public key of trusted_public_key().

        `oaep_hash` is the token's own unless the receiver can do another only.
        """
        chosen = self.oaep_hash if oaep_hash is None else oaep_hash
        if self._direct is not None:
            wrapped = self._direct.wrap(_handle(public_key), _handle(data_key.handle), chosen)
            if wrapped is not None:
                return wrapped
        with self.asking(f"wrap a data key with OAEP {chosen}"):
            return public_key.wrap_key(
                data_key.handle, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=OAEP[chosen]
            )

    def unwrap_data_key(
        self,
        wrapped: bytes,
        private_key: UnwrapMixin,
        oaep_hash: OaepHash,
        *,
        modulus_bytes: int | None = None,
        measure: bool = True,
    ) -> DataKey:
        """Return the data key that `wrapped` holds, after checking that it is one.

        `modulus_bytes` is the private key's size where the caller knows it. `measure=False` leaves
        out the costly check of the key's length, for what is known to have been wrapped from a
        data key. Raises UnwrapRefusedError (damaged, or wrapped for another key), NotADataKeyError.
        """
        if modulus_bytes is None:
            modulus_bytes = len(private_key[Attribute.MODULUS].lstrip(b"\0"))
        if len(wrapped) != modulus_bytes:
            raise UnwrapRefusedError(
                f"A key wrapped for an RSA key of {modulus_bytes * 8} bits has "
                f"{modulus_bytes} bytes; this has {len(wrapped)}."
            )
        try:
            key = self._unwrap(wrapped, private_key, oaep_hash)
        except refusals.PKCS11Error as error:
            raise UnwrapRefusedError(
                f"The token {self.label} could not unwrap the key ({refusal_name(error)}): it is "
                f"damaged, was wrapped for another RSA key, or not with OAEP {oaep_hash}."
            ) from None
        data_key = self._keep(key)
        try:
            self._check_data_key(data_key, measure=measure)
        except BaseException:
            data_key.destroy()
            raise
        return data_key

    def rewrap_data_key(
        self,
        wrapped: bytes,
        private_key: UnwrapMixin,
        oaep_hash: OaepHash,
        public_key: WrapMixin,
        receiver_hash: OaepHash,
    ) -> bytes | None:
        """Return the data key in `wrapped` wrapped by another public key, and keep nothing of it.

        For what unwrap_data_key() has unwrapped before, and looked at: here nobody looks. None when
        the token refuses any of it or cannot do it so; unwrap_data_key() and wrap_data_key() can,
        or say why not.
        """
        direct = self._direct
        if direct is None or not self._unwraps_protected:
            return None
        key = direct.unwrap(_handle(private_key), wrapped, oaep_hash, self._key_template)
        if key is None:
            return None
        try:
            return direct.wrap(_handle(public_key), key, receiver_hash)
        finally:
            if not direct.destroy(key):
                raise TokenRefusedError(f"The token {self.label} refused to destroy a data key.")

    def _unwrap(self, wrapped: bytes, private_key: UnwrapMixin, oaep_hash: OaepHash) -> Key:
        """Unwrap to a protected key, by template or, where that does not do it, afterwards.

        A token that refuses or drops SENSITIVE and EXTRACTABLE in a template gives a key without
        them; SENSITIVE is then set before anything else is done, and EXTRACTABLE is its default.
        The caller reads back what the key has. Raises PKCS11Error.
        """

        def unwrap(template: dict[Attribute, Any]) -> Key:
            return private_key.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                wrapped,
                mechanism=Mechanism.RSA_PKCS_OAEP,
                mechanism_param=OAEP[oaep_hash],
                template=template,
            )

        if self._unwraps_protected:
            return unwrap(self._template)
        if self._unwraps_protected is None:
            with suppress(*NO_SUCH_ATTRIBUTE):
                key = unwrap(self._template)
                if key[Attribute.SENSITIVE] and key[Attribute.EXTRACTABLE]:
                    self._unwraps_protected = True
                    return key
                key.destroy()
        key = unwrap(self._template | dict.fromkeys(_SET_AFTERWARDS, DEFAULT))
        try:
            key[Attribute.SENSITIVE] = True
        except BaseException:
            key.destroy()
            raise
        self._unwraps_protected = False
        return key

    def seal_data_key(self, data_key: DataKey, wrapping_key: WrapMixin) -> bytes:
        """Return the data key under AES key wrap (RFC 3394): 40 bytes."""
        with self.asking("wrap a data key with AES key wrap"):
            sealed: bytes = wrapping_key.wrap_key(data_key.handle, mechanism=Mechanism.AES_KEY_WRAP)
        if len(sealed) != SEALED_KEY_BYTES:
            raise NotADataKeyError("The key to be sealed has not 32 bytes.")
        return sealed

    def forget(self, data_key: DataKey) -> None:
        """Drop a data key that was destroyed from those that close() looks after."""
        self._data_keys.discard(data_key)

    def _keep(self, key: Key) -> DataKey:
        data_key = DataKey(key, self.forget)
        self._data_keys.add(data_key)
        return data_key

    def _check_data_key(self, data_key: DataKey, *, measure: bool) -> None:
        key = data_key.handle
        with self.asking("describe an unwrapped key"):
            told_all = key.get_attributes([*self._keeps, Attribute.VALUE_LEN])
        if any(told_all.get(name) != value for name, value in self._keeps.items()):
            raise NotADataKeyError(
                f"The token {self.label} did not give an unwrapped key the protection asked for."
            )
        told = told_all.get(Attribute.VALUE_LEN)
        measured = (
            told == DATA_KEY_BYTES
            if told
            else not measure
            or has_32_bytes(
                key, self._named_gauge(REFUSES_32_BYTES), self._named_gauge(TAKES_32_BYTES)
            )
        )
        if not measured:
            raise NotADataKeyError("What was unwrapped is not an AES-256 key of 32 bytes.")

    def _named_gauge(self, label: str) -> WrapMixin | None:
        found: WrapMixin | None = self.find_one(
            {
                Attribute.CLASS: ObjectClass.PUBLIC_KEY,
                Attribute.TRUSTED: True,
                Attribute.LABEL: label,
            }
        )
        return found

    # Keys of the rig's own

    def make_private_half(self, make: Make) -> MadeHalf:
        """Make a private half that unwraps data keys, guarded as far as the token honours it.

        ``make`` makes it with the attributes that it is given; raises TokenRefusedError.
        """
        with self.asking("make an RSA private key"):
            if self._guards is not None:
                return make(guard_template(self._guards, self._template))
            made, self._guards = make_guarded(make, self._template, self.oaep_hash)
            return made

    def unwrapping_key(self, label: str) -> tuple[UnwrapMixin, rsa.RSAPublicKey]:
        """Return the RSA private key `label` and its public half; raises KeyAbsentError."""
        found = self.find_one(
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: KeyType.RSA,
                Attribute.LABEL: label,
            }
        )
        if found is None:
            raise self._key_absent(label)
        with self.asking("describe an RSA key"):
            return found, rsa_public(found)

    def signing_key(self, label: str) -> SignMixin:
        """Return the P-256 private key `label`; raises KeyAbsentError."""
        found: SignMixin | None = self.find_one(
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: KeyType.EC,
                Attribute.LABEL: label,
            }
        )
        if found is None:
            raise self._key_absent(label)
        return found

    def p256_public_key(self, label: str) -> ec.EllipticCurvePublicKey:
        """Return the public half of the signing key `label`; raises KeyAbsentError."""
        found = self.find_one(
            {
                Attribute.CLASS: ObjectClass.PUBLIC_KEY,
                Attribute.KEY_TYPE: KeyType.EC,
                Attribute.LABEL: label,
            }
        )
        if found is None:
            raise self._key_absent(label)
        return p256_public(found)

    def sign_p256(self, key: SignMixin, data: bytes) -> bytes:
        """Return the ECDSA signature of the P-256 `key` over SHA-256 of `data`, DER."""
        digest = hashlib.sha256(data).digest()
        raw = None if self._direct is None else self._direct.sign_p256(_handle(key), digest)
        if raw is None:
            with self.asking("sign"):
                raw = key.sign(digest, mechanism=Mechanism.ECDSA)
        r, s = (int.from_bytes(half, "big") for half in (raw[:32], raw[32:]))
        return encode_dss_signature(r, s)

    # Finding

    def trusted_public_key(self, identity: bytes) -> WrapMixin | None:
        """Return the RSA public key `identity` (CKA_ID, spki_hash) that data keys may go to.

        The officer made it TRUSTED; where the token knows no such thing, it is a key that really
        has this hash, whatever its CKA_ID says.
        """
        wanted = {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.KEY_TYPE: KeyType.RSA,
            Attribute.ID: identity,
        }
        if self.abilities.trusts:
            found: WrapMixin | None = self.find_one({**wanted, Attribute.TRUSTED: True})
            return found
        for key in self.find(wanted):
            with self.asking("describe a public key"):
                if spki_hash(rsa_public(key)) == identity:
                    named: WrapMixin = key
                    return named
        return None

    def private_half(self, public_key: rsa.RSAPublicKey) -> UnwrapMixin | None:
        """Return the private half of an RSA public key, if it is in the token.

        One that cannot be changed was made before its public half was known, so its CKA_ID does not
        tell: it is found by its modulus. Others have spki_hash of the public half.
        """
        wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.KEY_TYPE: KeyType.RSA}
        modulus = big_integer(public_key.public_numbers().n)
        found: UnwrapMixin | None = self.find_one({**wanted, Attribute.MODULUS: modulus})
        if found is None:
            found = self.find_one({**wanted, Attribute.ID: spki_hash(public_key)})
        return found

    def find_secret(self, label: str) -> WrapMixin | None:
        """Return the AES key `label` kept in the token, if any."""
        found: WrapMixin | None = self.find_one(
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.AES,
                Attribute.TOKEN: True,
                Attribute.LABEL: label,
            }
        )
        return found

    def find(self, template: dict[Attribute, Any]) -> list[Any]:
        """Return the objects that match the template."""
        with self.asking("look for a key"):
            return list(self.session.get_objects(template))

    def find_one(self, template: dict[Attribute, Any]) -> Any:
        """Return one object that matches the template, or None."""
        return next(iter(self.find(template)), None)

    # Errors

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Turn the token's refusal to do `what` into a TokenRefusedError."""
        try:
            yield
        except refusals.PKCS11Error as error:
            raise TokenRefusedError(
                f"The token {self.label} refused to {what} ({refusal_name(error)})."
            ) from None

    def _key_absent(self, label: str) -> KeyAbsentError:
        return KeyAbsentError(
            f"The token {self.label} lacks the key {label!r}; run `rig hsm init`."
        )


def _handle(key: Any) -> int:
    """Return the number by which the module knows a key."""
    handle: int = key.handle
    return handle
