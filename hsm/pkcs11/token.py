"""A PKCS#11 token: makes, wraps and unwraps keys that stay inside.

One process owns one PKCS#11 context and one open token, and uses it from one thread: two threads in
one context corrupt the heap of SoftHSM. More speed needs more processes.

Facts of SoftHSM 2.6 that shape this module:
- OAEP works with SHA-1 only (else CKR_ARGUMENTS_BAD), so the hash is probed when a token opens.
- CKA_TRUSTED can be set only while an object is made, and only by the security officer, who cannot
  make or see private objects.
- An unwrapped secret key has CKA_VALUE_LEN 0, whatever its length; see hsm.pkcs11.length_check.
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
    MechanismAbsentError,
    NotADataKeyError,
    RiskNotAcceptedError,
    TokenAbsentError,
    TokenBusyError,
    TokenError,
    TokenGoneError,
    TokenRefusedError,
    UnwrapRefusedError,
    UserPinAbsentError,
)
from hsm.pkcs11.accepted_risks import risk_sentence
from hsm.pkcs11.capabilities import NO_SUCH_ATTRIBUTE, Capabilities, probe_capabilities
from hsm.pkcs11.config import TokenConfig, TokenIdentity
from hsm.pkcs11.data_key import DataKey
from hsm.pkcs11.encoding import big_integer, p256_public, rsa_public, spki_hash
from hsm.pkcs11.fast_path import FastPath, pack_aes_key_template
from hsm.pkcs11.key_restrictions import (
    KeyRestriction,
    MakePair,
    RsaKeyPair,
    make_restricted,
    restriction_template,
)
from hsm.pkcs11.length_check import REFUSES_32_BYTES, TAKES_32_BYTES, has_32_bytes
from hsm.pkcs11.module import Module, TemplateMapper, login_error, refusal_name
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.templates import BARE_DATA_KEY, DATA_KEY, OAEP
from hsm.pkcs11.token_storage import require_file_size, storage_failure

__all__ = ["DataKey", "Token", "TokenConfig", "open_token"]

DATA_KEY_BYTES: Final = 32
SEALED_KEY_BYTES: Final = 40
"""A data key under AES key wrap: RFC 3394 adds one 64-bit block."""

_OPEN_ATTEMPTS: Final = 10
_OPEN_PAUSE_SECONDS: Final = 0.05

_DATA_KEY_REQUIRED: Final[dict[Attribute, Any]] = {
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
"""Attributes that an unwrapped data key must have."""
_BARE_DATA_KEY_REQUIRED: Final[dict[Attribute, Any]] = {
    name: value
    for name, value in _DATA_KEY_REQUIRED.items()
    if name is not Attribute.WRAP_WITH_TRUSTED
}
_OMITTED_FROM_TEMPLATE: Final = (Attribute.SENSITIVE, Attribute.EXTRACTABLE, Attribute.MODIFIABLE)
"""Attributes left out of the unwrap template where the token does not honour them."""


def open_token(config: TokenConfig) -> "Token":
    """Open a token, log in as its user and probe its capabilities.

    The token is a context manager. Sets SOFTHSM2_CONF in this process and disables its core files.
    Raises ModuleAbsentError, TokenAbsentError, TokenNotUniqueError, WrongPinError, PinLockedError,
    PinError, TokenBusyError (a token is open in this process already), MechanismAbsentError (no
    RSA-OAEP), RiskNotAcceptedError, TokenError (it cannot be read, or must not be written).

    SoftHSM writes a token's file at each login. A process that reads it in that moment does not
    find the token, finds it without a PIN of its user, or gets CKR_GENERAL_ERROR. So these count
    only after several attempts.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if config.softhsm_conf is not None:
        require_file_size(config.label)
    module = Module(config)
    try:
        for _ in range(_OPEN_ATTEMPTS - 1):
            try:
                return Token(config, module, module.find_token(config.label))
            except (TokenAbsentError, UserPinAbsentError, refusals.GeneralError):
                time.sleep(_OPEN_PAUSE_SECONDS)
                module.reinitialize()
        return Token(config, module, module.find_token(config.label))
    except refusals.GeneralError:
        module.close()
        raise _unreadable(config.label) from None
    except BaseException:
        module.close()
        raise


def _unreadable(label: str) -> TokenError:
    return TokenError(
        f"The token {label} cannot be opened (CKR_GENERAL_ERROR); check its files or device, and "
        "that this user may read them."
    )


class Token:
    """An open token in which the user is logged in; see open_token."""

    def __init__(self, config: TokenConfig, module: Module, token: pkcs11.Token) -> None:
        """Log in as the user and probe the capabilities."""
        self._config = config
        self._module = module
        self._token = token
        self._data_keys: set[DataKey] = set()
        self._session: pkcs11.Session | None = self._log_in()
        try:
            self.capabilities: Capabilities = self._probe_capabilities()
            self._held_objects = self._holds_objects()
        except BaseException:
            self._session.close()
            raise
        if self.capabilities.enforces_trusted:
            self._template, self._required = DATA_KEY, _DATA_KEY_REQUIRED
        else:
            self._template, self._required = BARE_DATA_KEY, _BARE_DATA_KEY_REQUIRED
        self._restrictions: frozenset[KeyRestriction] | None = None
        """Key restrictions that the token honours; None until the first key is made."""
        self._key_template = pack_aes_key_template(self._template)
        self._fast_path = FastPath.bind(module.path, self._session)
        self._unwraps_protected: bool | None = None
        """Whether the token honours an unwrap template; None until the first unwrap."""

    # Opening and closing

    @property
    def oaep_hash(self) -> OaepHash:
        """The best OAEP hash of the token; raises MechanismAbsentError."""
        if self.capabilities.oaep_hash is None:
            raise MechanismAbsentError(
                f"The token {self.label} cannot be used: it wraps keys with RSA-OAEP neither with "
                "SHA-256 nor with SHA-1; use another token."
            )
        return self.capabilities.oaep_hash

    @property
    def label(self) -> str:
        """The token's label."""
        return self._config.label

    @property
    def identity(self) -> TokenIdentity:
        """What the token says of itself."""
        found = self._token
        return TokenIdentity(
            manufacturer=found.manufacturer_id.strip(),
            model=found.model.strip(),
            serial=found.serial.decode(errors="replace").strip(),
            firmware=".".join(map(str, found.firmware_version)),
        )

    @property
    def makes_p256(self) -> bool:
        """Whether the token declares P-256 keys and their signatures."""
        return {Mechanism.EC_KEY_PAIR_GEN, Mechanism.ECDSA} <= self._token.slot.get_mechanisms()

    def open_session(self) -> pkcs11.Session:
        """Open another session under the current login; the caller closes it."""
        return self._token.open(rw=True, attribute_mapper=TemplateMapper())

    @property
    def session(self) -> pkcs11.Session:
        """The user's session; raises TokenError when the token is closed."""
        if self._session is None:
            raise TokenError(f"The token {self.label} is closed.")
        return self._session

    def check_present(self) -> None:
        """Check that the token answers and has its keys.

        Raises TokenGoneError. SoftHSM still gives random bytes and makes session keys when its
        token is gone, but finds no object, even when the token is back: then this process must open
        the token again.
        """
        try:
            with self.translate_refusal("give random bytes"):
                self.session.generate_random(64)
            gone = self._held_objects and not self._holds_objects()
        except TokenRefusedError as error:
            raise TokenGoneError(str(error)) from None
        if gone:
            raise TokenGoneError(
                f"The token {self.label} has lost all its keys since it was opened: the token or "
                "its files were removed; bring it back."
            )

    def _holds_objects(self) -> bool:
        return self.find_one({Attribute.TOKEN: True}) is not None

    def close(self) -> None:
        """Destroy the remaining data keys, log out, and finalize the module."""
        if self._session is None:
            return
        try:
            for key in tuple(self._data_keys):
                key.destroy()
            self._session.close()
        finally:
            self._session = self._fast_path = None
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

    def _probe_capabilities(self) -> Capabilities:
        """Probe the token; refuse risks that the configuration does not accept."""
        with self.translate_refusal("show what it can do"):
            self.capabilities = probe_capabilities(self.session)
        _ = self.oaep_hash  # raises when there is none
        unaccepted = self.capabilities.risks - self._config.accept
        if unaccepted:
            raise RiskNotAcceptedError(risk_sentence(self.label, unaccepted))
        return self.capabilities

    def _log_in(self, *, officer: bool = False) -> pkcs11.Session:
        source = self._config.so_pin if officer else self._config.pin
        who = "security officer" if officer else "user"
        if source is None:
            raise TokenError(
                f"The security officer cannot log in to the token {self.label}: no security "
                "officer's PIN is configured; set so_pin."
            )
        pin = source.read()
        try:
            if officer:
                return self._token.open(rw=True, so_pin=pin, attribute_mapper=TemplateMapper())
            return self._token.open(rw=True, user_pin=pin, attribute_mapper=TemplateMapper())
        except refusals.GeneralError:
            raise  # to try again: another process may be writing the token
        except refusals.PKCS11Error as error:
            raise login_error(error, self.label, who, self._token.slot.get_token().flags) from None
        finally:
            del pin

    def _log_in_again(self, *, officer: bool = False) -> pkcs11.Session:
        """Log in after a logout, in several attempts as open_token does."""
        for _ in range(_OPEN_ATTEMPTS - 1):
            with suppress(UserPinAbsentError, refusals.GeneralError):
                return self._log_in(officer=officer)
            time.sleep(_OPEN_PAUSE_SECONDS)
        try:
            return self._log_in(officer=officer)
        except refusals.GeneralError:
            raise _unreadable(self.label) from None

    @contextmanager
    def officer(self) -> Iterator[pkcs11.Session]:
        """Give the security officer's session; log the user out meanwhile.

        PKCS#11 lets only one of the two be logged in. This destroys data keys, so none may exist,
        and it invalidates the handles of other keys, which must be found again.
        """
        if self._data_keys:
            raise TokenBusyError(
                f"The security officer cannot log in to the token {self.label}: data keys are in "
                "use; destroy them first."
            )
        self.session.close()
        self._session = self._fast_path = None
        try:
            session = self._log_in_again(officer=True)
            try:
                yield session
            finally:
                session.close()
        finally:
            self._session = self._log_in_again()
            self._fast_path = FastPath.bind(self._module.path, self._session)

    # Data keys

    def generate_data_key(self) -> DataKey:
        """Make a random AES-256 data key in the token (KEY-1)."""
        with self.translate_refusal("make a data key"):
            key = self.session.generate_key(KeyType.AES, 256, template=self._template)
        return self._track(key)

    def wrap_data_key(
        self, data_key: DataKey, public_key: WrapMixin, oaep_hash: OaepHash | None = None
    ) -> bytes:
        """Return the data key wrapped with RSA-OAEP under a public key.

        The public key comes from trusted_public_key(). `oaep_hash` is the token's best hash unless
        the receiver supports only another one.
        """
        chosen = self.oaep_hash if oaep_hash is None else oaep_hash
        if self._fast_path is not None:
            wrapped = self._fast_path.wrap(_handle(public_key), _handle(data_key.handle), chosen)
            if wrapped is not None:
                return wrapped
        with self.translate_refusal(f"wrap a data key with OAEP {chosen}"):
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
        check_length: bool = True,
    ) -> DataKey:
        """Unwrap a data key and verify its attributes and length.

        `modulus_bytes` is the size of the private key, where the caller knows it.
        `check_length=False` omits the costly check of the length, for ciphertext that is known to
        hold a data key. Raises UnwrapRefusedError (damaged, or wrapped for another key) and
        NotADataKeyError.
        """
        if modulus_bytes is None:
            modulus_bytes = len(private_key[Attribute.MODULUS].lstrip(b"\0"))
        if len(wrapped) != modulus_bytes:
            raise UnwrapRefusedError(
                f"The wrapped key cannot be unwrapped: for an RSA key of {modulus_bytes * 8} bits "
                f"it has {modulus_bytes} bytes; this has {len(wrapped)}."
            )
        try:
            key = self._unwrap(wrapped, private_key, oaep_hash)
        except refusals.PKCS11Error as error:
            raise UnwrapRefusedError(
                f"The token {self.label} could not unwrap the key ({refusal_name(error)}): it is "
                f"damaged, was wrapped for another RSA key, or not with OAEP {oaep_hash}."
            ) from None
        data_key = self._track(key)
        try:
            self._check_data_key(data_key, check_length=check_length)
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
        """Rewrap the data key in `wrapped` under another public key.

        The data key is destroyed in the token afterwards. Only for ciphertext that
        unwrap_data_key() has verified before: nothing is verified here. Returns None when the token
        refuses a call or cannot rewrap in this way; unwrap_data_key() and wrap_data_key() then do
        it, or raise the reason.
        """
        fast_path = self._fast_path
        if fast_path is None or not self._unwraps_protected:
            return None
        key = fast_path.unwrap(_handle(private_key), wrapped, oaep_hash, self._key_template)
        if key is None:
            return None
        try:
            return fast_path.wrap(_handle(public_key), key, receiver_hash)
        finally:
            if not fast_path.destroy(key):
                raise TokenRefusedError(f"The token {self.label} refused to destroy a data key.")

    def _unwrap(self, wrapped: bytes, private_key: UnwrapMixin, oaep_hash: OaepHash) -> Key:
        """Unwrap to a protected key, by template or by SENSITIVE set afterwards.

        Some tokens refuse or drop SENSITIVE and EXTRACTABLE in a template. There SENSITIVE is set
        before anything else, and EXTRACTABLE is true by default. The caller reads the attributes
        back. Raises PKCS11Error.
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
        key = unwrap(self._template | dict.fromkeys(_OMITTED_FROM_TEMPLATE, DEFAULT))
        try:
            key[Attribute.SENSITIVE] = True
        except BaseException:
            key.destroy()
            raise
        self._unwraps_protected = False
        return key

    def seal_data_key(self, data_key: DataKey, wrapping_key: WrapMixin) -> bytes:
        """Return the data key wrapped with AES key wrap (RFC 3394), 40 bytes."""
        with self.translate_refusal("wrap a data key with AES key wrap"):
            sealed: bytes = wrapping_key.wrap_key(data_key.handle, mechanism=Mechanism.AES_KEY_WRAP)
        if len(sealed) != SEALED_KEY_BYTES:
            raise NotADataKeyError("The data key cannot be sealed: it does not have 32 bytes.")
        return sealed

    def _track(self, key: Key) -> DataKey:
        """Return a data key that close() destroys unless it was destroyed before."""
        data_key = DataKey(key, self._data_keys.discard)
        self._data_keys.add(data_key)
        return data_key

    def _check_data_key(self, data_key: DataKey, *, check_length: bool) -> None:
        key = data_key.handle
        with self.translate_refusal("describe an unwrapped key"):
            attributes = key.get_attributes([*self._required, Attribute.VALUE_LEN])
        if any(attributes.get(name) != value for name, value in self._required.items()):
            raise NotADataKeyError(
                f"The unwrapped key cannot be used: the token {self.label} did not give it the "
                "attributes of a data key, so it was destroyed."
            )
        length = attributes.get(Attribute.VALUE_LEN)
        length_is_right = (
            length == DATA_KEY_BYTES
            if length
            else not check_length
            or has_32_bytes(
                key, self._reference_key(REFUSES_32_BYTES), self._reference_key(TAKES_32_BYTES)
            )
        )
        if not length_is_right:
            raise NotADataKeyError("The unwrapped key is no data key: it does not have 32 bytes.")

    def _reference_key(self, label: str) -> WrapMixin | None:
        found: WrapMixin | None = self.find_one(
            {
                Attribute.CLASS: ObjectClass.PUBLIC_KEY,
                Attribute.TRUSTED: True,
                Attribute.LABEL: label,
            }
        )
        return found

    # RSA keys and the signing key

    def make_private_half(self, make: MakePair) -> RsaKeyPair:
        """Make a private half that unwraps data keys and nothing else.

        It gets the restrictions that the token honours (hsm.pkcs11.key_restrictions). ``make``
        makes it with the attributes that it is given. Raises TokenRefusedError.
        """
        with self.translate_refusal("make an RSA private key"):
            if self._restrictions is not None:
                return make(restriction_template(self._restrictions, self._template))
            pair, self._restrictions = make_restricted(make, self._template, self.oaep_hash)
            return pair

    def unwrapping_key(self, label: str) -> tuple[UnwrapMixin, rsa.RSAPublicKey]:
        """Return the RSA private key `label` and its public half.

        Raises KeyAbsentError.
        """
        found = self.find_one(
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: KeyType.RSA,
                Attribute.LABEL: label,
            }
        )
        if found is None:
            raise self._key_absent(label)
        with self.translate_refusal("describe an RSA key"):
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
        """Return the public half of the signing key `label`.

        Raises KeyAbsentError.
        """
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
        """Return the ECDSA signature (DER) of SHA-256 of `data`."""
        digest = hashlib.sha256(data).digest()
        raw = None if self._fast_path is None else self._fast_path.sign_p256(_handle(key), digest)
        if raw is None:
            with self.translate_refusal("sign"):
                raw = key.sign(digest, mechanism=Mechanism.ECDSA)
        r, s = (int.from_bytes(half, "big") for half in (raw[:32], raw[32:]))
        return encode_dss_signature(r, s)

    # Finding objects

    def trusted_public_key(self, identity: bytes) -> WrapMixin | None:
        """Return the RSA public key `identity` that may wrap data keys.

        `identity` is its CKA_ID and its spki_hash. The security officer made the key TRUSTED. Where
        the token does not enforce that, the hash of the key itself is compared, since anyone can
        write a CKA_ID.
        """
        wanted = {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.KEY_TYPE: KeyType.RSA,
            Attribute.ID: identity,
        }
        if self.capabilities.enforces_trusted:
            found: WrapMixin | None = self.find_one({**wanted, Attribute.TRUSTED: True})
            return found
        for key in self.find(wanted):
            with self.translate_refusal("describe a public key"):
                if spki_hash(rsa_public(key)) == identity:
                    match: WrapMixin = key
                    return match
        return None

    def private_half(self, public_key: rsa.RSAPublicKey) -> UnwrapMixin | None:
        """Return the private half of an RSA public key, if it is in the token.

        A restricted private half gets its CKA_ID before its public half is known, and keeps it; it
        is found by its modulus. Others have spki_hash of the public half as CKA_ID.
        """
        wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.KEY_TYPE: KeyType.RSA}
        modulus = big_integer(public_key.public_numbers().n)
        found: UnwrapMixin | None = self.find_one({**wanted, Attribute.MODULUS: modulus})
        if found is None:
            found = self.find_one({**wanted, Attribute.ID: spki_hash(public_key)})
        return found

    def find_secret(self, label: str) -> WrapMixin | None:
        """Return the stored AES key `label`, if any."""
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
        with self.translate_refusal("look for a key"):
            return list(self.session.get_objects(template))

    def find_one(self, template: dict[Attribute, Any]) -> Any:
        """Return one object that matches the template, or None."""
        return next(iter(self.find(template)), None)

    # Errors

    @contextmanager
    def translate_refusal(self, what: str) -> Iterator[None]:
        """Raise TokenRefusedError when the token refuses to do `what`."""
        try:
            yield
        except refusals.PKCS11Error as error:
            if failure := storage_failure(self._config.softhsm_conf, error):
                raise TokenRefusedError(
                    f"The token {self.label} failed to {what}: {failure}."
                ) from None
            raise TokenRefusedError(
                f"The token {self.label} refused to {what} ({refusal_name(error)})."
            ) from None

    def _key_absent(self, label: str) -> KeyAbsentError:
        return KeyAbsentError(
            f"The token {self.label} lacks the key {label!r}; run `rig hsm init`."
        )


def _handle(key: Any) -> int:
    """Return the object handle of a key."""
    handle: int = key.handle
    return handle
