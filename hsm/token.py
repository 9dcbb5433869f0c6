"""A PKCS#11 token as the rig uses it: keys are made, wrapped and unwrapped inside, never seen.

One process owns one PKCS#11 context and one open token, and uses it from one thread: SoftHSM's heap
does not survive two threads in one context. More speed means more processes.

Facts of SoftHSM 2.6 that shape this module:
- OAEP works with SHA-1 only (else CKR_ARGUMENTS_BAD), so the hash is probed when a token opens.
- CKA_TRUSTED can be set only while an object is being made, by the security officer; and the
  officer cannot make or see private objects.
- An unwrapped secret key reads CKA_VALUE_LEN 0, so its length is measured by wrapping it once more.
- A damaged ciphertext gives CKR_GENERAL_ERROR.
"""

import hashlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pkcs11
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass, TokenFlag
from pkcs11 import exceptions as refusals
from pkcs11.types import Key, SignMixin, UnwrapMixin, WrapMixin

from hsm.errors import (
    KeyAbsentError,
    MechanismAbsentError,
    ModuleAbsentError,
    NotADataKeyError,
    PinLockedError,
    TokenAbsentError,
    TokenBusyError,
    TokenError,
    TokenNotUniqueError,
    TokenRefusedError,
    UnwrapRefusedError,
    WrongPinError,
)
from hsm.oaep import OaepHash
from hsm.pins import PinSource

DATA_KEY_BYTES: Final = 32
SEALED_KEY_BYTES: Final = 40
"""A data key under AES key wrap: RFC 3394 adds one 64-bit block."""
LENGTH_CHECK_LABEL: Final = "taperig length check"
TRANSPORT_LABEL: Final = "taperig transport"
P256_OID_DER: Final = bytes.fromhex("06082a8648ce3d030107")

_OAEP: Final[dict[OaepHash, Any]] = {  # typed as bytes by the library, which takes tuples
    OaepHash.SHA256: (Mechanism.SHA256, MGF.SHA256, None),
    OaepHash.SHA1: (Mechanism.SHA_1, MGF.SHA1, None),
}
_NO_USE: Final = {
    Attribute.ENCRYPT: False,
    Attribute.DECRYPT: False,
    Attribute.SIGN: False,
    Attribute.VERIFY: False,
    Attribute.WRAP: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}
_DATA_KEY: Final = {
    **_NO_USE,
    Attribute.TOKEN: False,
    Attribute.PRIVATE: True,  # SoftHSM keeps the value of private objects encrypted in memory
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: True,
    Attribute.WRAP_WITH_TRUSTED: True,
    Attribute.MODIFIABLE: False,
}
_PRIVATE_HALF: Final = {
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.DECRYPT: False,
    Attribute.SIGN: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}
_WRAPPING_PUBLIC: Final = {
    Attribute.CLASS: ObjectClass.PUBLIC_KEY,
    Attribute.KEY_TYPE: KeyType.RSA,
    Attribute.TOKEN: True,
    Attribute.PRIVATE: False,
    Attribute.TRUSTED: True,
    Attribute.WRAP: True,
    Attribute.ENCRYPT: False,
    Attribute.VERIFY: False,
}


@dataclass(frozen=True, slots=True)
class TokenConfig:
    """Which token, through which module, with whose PINs.

    `so_pin` is needed only to enrol keys. `softhsm_conf` is set for SoftHSM and no other module.
    """

    module: Path
    label: str
    pin: PinSource
    so_pin: PinSource | None = None
    softhsm_conf: Path | None = None


class DataKey:
    """A data key (DK) inside the token: a handle, no bytes. Destroy it as soon as it was used.

    Works as a context manager that destroys the key on leaving.
    """

    __slots__ = ("_key", "_token")

    def __init__(self, token: "Token", key: Key) -> None:
        """Take over the session object `key` of `token`."""
        self._token = token
        self._key: Key | None = key

    @property
    def handle(self) -> Key:
        """The PKCS#11 object; raises TokenError after destroy()."""
        if self._key is None:
            raise TokenError("This data key has been destroyed.")
        return self._key

    def destroy(self) -> None:
        """Remove the key from the token; a second call does nothing."""
        if self._key is not None:
            key, self._key = self._key, None
            self._token.forget(self)
            key.destroy()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Destroy the key."""
        self.destroy()

    def __repr__(self) -> str:
        """Tell nothing about the key."""
        return "<DataKey>" if self._key is not None else "<DataKey, destroyed>"


_open_token: "Token | None" = None


def open_token(config: TokenConfig) -> "Token":
    """Open the token, log in as its user and probe its OAEP hash. Use it as a context manager.

    Sets SOFTHSM2_CONF for this process and forbids it core files. Raises ModuleAbsentError,
    TokenAbsentError, TokenNotUniqueError, WrongPinError, PinLockedError, PinError, TokenBusyError
    (a token is open in this process already), MechanismAbsentError (no RSA-OAEP).
    """
    global _open_token
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    library = load_module(config)
    try:
        token = Token(config, library, _find_token(config, library))
    except BaseException:
        library.finalize()
        raise
    _open_token = token
    return token


def load_module(config: TokenConfig) -> Any:
    """Return the initialized PKCS#11 module; finalize it after use.

    Raises ModuleAbsentError, TokenAbsentError, TokenBusyError (a token is open in this process).
    """
    if _open_token is not None:
        raise TokenBusyError(
            f"The token {config.label} cannot be opened: this process has {_open_token.label} open "
            "and one process owns one token."
        )
    if not config.module.is_file():
        raise ModuleAbsentError(
            f"There is no PKCS#11 module at {config.module}; install the Debian package softhsm2 "
            "or configure the path of your HSM's module."
        )
    if config.softhsm_conf is not None:
        if not config.softhsm_conf.is_file():
            raise TokenAbsentError(
                f"There is no token {config.label}: SoftHSM's configuration {config.softhsm_conf} "
                "does not exist; run `rig hsm init`."
            )
        os.environ["SOFTHSM2_CONF"] = str(config.softhsm_conf)
    try:
        return pkcs11.lib(str(config.module))
    except refusals.PKCS11Error as error:
        raise ModuleAbsentError(
            f"The PKCS#11 module {config.module} could not be started ({_name(error)}); check that "
            "it is one and that its configuration is readable."
        ) from None


def _find_token(config: TokenConfig, library: Any) -> pkcs11.Token:
    present: list[pkcs11.Token] = []
    for slot in library.get_slots(token_present=True):
        try:
            token = slot.get_token()
        except (refusals.TokenNotPresent, refusals.TokenNotRecognised):
            continue
        if token.flags & TokenFlag.TOKEN_INITIALIZED:
            present.append(token)
    named = [token for token in present if token.label == config.label]
    if len(named) == 1:
        return named[0]
    if named:
        raise TokenNotUniqueError(
            f"{len(named)} tokens of {config.module.name} bear the label {config.label}; "
            "labels must tell tokens apart."
        )
    others = ", ".join(sorted(token.label for token in present)) or "none"
    raise TokenAbsentError(
        f"There is no token {config.label} in {config.module.name} (present: {others}); "
        "run `rig hsm init` or correct the label."
    )


class Token:
    """An open token with its user logged in. Made by open_token."""

    def __init__(self, config: TokenConfig, library: Any, token: pkcs11.Token) -> None:
        """Log in as the user and probe the OAEP hash."""
        self._config = config
        self._library = library
        self._token = token
        self._data_keys: set[DataKey] = set()
        self._session: pkcs11.Session | None = self._log_in()
        try:
            self.oaep_hash: OaepHash = self._probe_oaep_hash()
        except BaseException:
            self._session.close()
            raise

    # Life

    @property
    def label(self) -> str:
        """The token's label."""
        return self._config.label

    @property
    def session(self) -> pkcs11.Session:
        """The user's session; raises TokenError when the token is closed."""
        if self._session is None:
            raise TokenError(f"The token {self.label} is closed.")
        return self._session

    def close(self) -> None:
        """Destroy what is left of data keys, log out, and give up the PKCS#11 context."""
        global _open_token
        if self._session is None:
            return
        try:
            for key in tuple(self._data_keys):
                key.destroy()
            self._session.close()
        finally:
            self._session = None
            _open_token = None
            self._library.finalize()

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
                return self._token.open(rw=True, so_pin=pin)
            return self._token.open(rw=True, user_pin=pin)
        except refusals.PKCS11Error as error:
            raise login_error(error, self.label, who, self._token.slot.get_token().flags) from None
        finally:
            del pin

    @contextmanager
    def officer(self) -> Iterator[pkcs11.Session]:
        """Give the security officer's session; the user is logged out meanwhile.

        PKCS#11 lets one of the two be logged in. Data keys would die of it, so none may be alive.
        """
        if self._data_keys:
            raise TokenBusyError(f"The token {self.label} holds data keys that are in use.")
        self.session.close()
        self._session = None
        try:
            session = self._log_in(officer=True)
            try:
                yield session
            finally:
                session.close()
        finally:
            self._session = self._log_in()

    # Data keys

    def generate_data_key(self) -> DataKey:
        """Make a fresh random AES-256 data key in the token (KEY-1)."""
        with self.asking("make a data key"):
            key = self.session.generate_key(KeyType.AES, 256, template=_DATA_KEY)
        return self._keep(key)

    def wrap_data_key(
        self, data_key: DataKey, public_key: WrapMixin, oaep_hash: OaepHash | None = None
    ) -> bytes:
        """Return the data key wrapped by RSA-OAEP under a TRUSTED public key of this token.

        `oaep_hash` is the token's own unless the receiver can do another only.
        """
        chosen = self.oaep_hash if oaep_hash is None else oaep_hash
        with self.asking(f"wrap a data key with OAEP {chosen}"):
            return public_key.wrap_key(
                data_key.handle, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=_OAEP[chosen]
            )

    def unwrap_data_key(
        self, wrapped: bytes, private_key: UnwrapMixin, oaep_hash: OaepHash
    ) -> DataKey:
        """Return the data key that `wrapped` holds, after checking that it is one.

        Raises UnwrapRefusedError (damaged, or wrapped for another key), NotADataKeyError.
        """
        modulus_bytes = len(private_key[Attribute.MODULUS].lstrip(b"\0"))
        if len(wrapped) != modulus_bytes:
            raise UnwrapRefusedError(
                f"A key wrapped for an RSA key of {modulus_bytes * 8} bits has "
                f"{modulus_bytes} bytes; this has {len(wrapped)}."
            )
        try:
            key = private_key.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                wrapped,
                mechanism=Mechanism.RSA_PKCS_OAEP,
                mechanism_param=_OAEP[oaep_hash],
                template=_DATA_KEY,
            )
        except refusals.PKCS11Error as error:
            raise UnwrapRefusedError(
                f"The token {self.label} could not unwrap the key ({_name(error)}): it is damaged, "
                f"was wrapped for another RSA key, or not with OAEP {oaep_hash}."
            ) from None
        data_key = self._keep(key)
        try:
            self._check_data_key(data_key)
        except BaseException:
            data_key.destroy()
            raise
        return data_key

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
        data_key = DataKey(self, key)
        self._data_keys.add(data_key)
        return data_key

    def _check_data_key(self, data_key: DataKey) -> None:
        key = data_key.handle
        with self.asking("describe an unwrapped key"):
            kept = key.key_type is KeyType.AES and all(
                key[name] is _DATA_KEY[name]
                for name in (
                    Attribute.TOKEN,
                    Attribute.PRIVATE,
                    Attribute.SENSITIVE,
                    Attribute.EXTRACTABLE,
                    Attribute.WRAP_WITH_TRUSTED,
                    Attribute.ENCRYPT,
                    Attribute.DECRYPT,
                )
            )
        if not kept:
            raise NotADataKeyError(
                f"The token {self.label} did not give an unwrapped key the protection asked for."
            )
        if self._length(data_key) != DATA_KEY_BYTES:
            raise NotADataKeyError("What was unwrapped is not an AES-256 key of 32 bytes.")

    def _length(self, data_key: DataKey) -> int:
        """Return the key's length in bytes; SoftHSM tells it only through a wrap's length."""
        told: int = data_key.handle[Attribute.VALUE_LEN]
        if told:
            return told
        ruler = self.find_secret(LENGTH_CHECK_LABEL) or self.find_secret(TRANSPORT_LABEL)
        if ruler is None:
            raise KeyAbsentError(
                f"The token {self.label} lacks the key {LENGTH_CHECK_LABEL!r}; run `rig hsm init`."
            )
        try:
            wrapped: bytes = ruler.wrap_key(data_key.handle, mechanism=Mechanism.AES_KEY_WRAP)
        except refusals.PKCS11Error:
            return 0  # RFC 3394 takes whole 64-bit blocks only
        return len(wrapped) - 8

    def _probe_oaep_hash(self) -> OaepHash:
        """Wrap a throw-away key with each hash, the best first, and return the first that works."""
        session = self.session
        with self.asking("try RSA-OAEP"):
            public_key: Any = session.create_object(
                {
                    **_WRAPPING_PUBLIC,
                    Attribute.TOKEN: False,
                    Attribute.TRUSTED: False,
                    Attribute.MODULUS: _PROBE_MODULUS,
                    Attribute.PUBLIC_EXPONENT: b"\x01\x00\x01",
                }
            )
            template = {**_DATA_KEY, Attribute.WRAP_WITH_TRUSTED: False}
            key = session.generate_key(KeyType.AES, 256, template=template)
        try:
            for oaep_hash, parameters in _OAEP.items():
                try:
                    public_key.wrap_key(
                        key, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=parameters
                    )
                except (
                    refusals.ArgumentsBad,
                    refusals.MechanismParamInvalid,
                    refusals.MechanismInvalid,
                ):
                    continue
                return oaep_hash
        finally:
            key.destroy()
            public_key.destroy()
        raise MechanismAbsentError(
            f"The token {self.label} wraps keys with RSA-OAEP neither with SHA-256 nor with SHA-1; "
            "the rig cannot use it."
        )

    # Keys of the rig's own

    def ensure_p256(self, label: str) -> ec.EllipticCurvePublicKey:
        """Return the public half of the signing key `label`, making the pair unless it is whole."""
        halves = {
            kind: self.find(
                {
                    Attribute.CLASS: kind,
                    Attribute.KEY_TYPE: KeyType.EC,
                    Attribute.LABEL: label,
                }
            )
            for kind in (ObjectClass.PUBLIC_KEY, ObjectClass.PRIVATE_KEY)
        }
        if all(len(found) == 1 for found in halves.values()):
            return self.p256_public_key(label)
        with self.asking("remove an unfinished key pair"):
            for found in halves.values():
                for half in found:
                    half.destroy()
        return self.generate_p256(label)

    def ensure_rsa(self, bits: int, label: str) -> rsa.RSAPublicKey:
        """Return the public half of the unwrapping key `label`, making the pair if it is absent."""
        try:
            return self.unwrapping_key(label)[1]
        except KeyAbsentError:
            return self.generate_rsa(bits, label)

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
            return found, _rsa_public(found)

    def generate_p256(self, label: str) -> ec.EllipticCurvePublicKey:
        """Make a P-256 signing key that stays in the token; return its public half."""
        with self.asking("make a P-256 key"):
            domain = self.session.create_domain_parameters(
                KeyType.EC, {Attribute.EC_PARAMS: P256_OID_DER}, local=True
            )
            public_key, _ = domain.generate_keypair(
                label=label,
                store=True,
                public_template={Attribute.PRIVATE: False, Attribute.VERIFY: True},
                private_template={**_PRIVATE_HALF, Attribute.SIGN: True},
            )
            return _p256_public(public_key)

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
        return _p256_public(found)

    def sign_p256(self, key: SignMixin, data: bytes) -> bytes:
        """Return the ECDSA signature of the P-256 `key` over SHA-256 of `data`, DER."""
        with self.asking("sign"):
            raw: bytes = key.sign(hashlib.sha256(data).digest(), mechanism=Mechanism.ECDSA)
        r, s = (int.from_bytes(half, "big") for half in (raw[:32], raw[32:]))
        return encode_dss_signature(r, s)

    def generate_rsa(self, bits: int, label: str) -> rsa.RSAPublicKey:
        """Make an RSA pair of `bits`; keep the private half (unwrap only), return the public one.

        The private half's CKA_ID becomes spki_hash of the public one. The public half is not kept:
        it wraps data keys only once trust_public_key has made it TRUSTED.
        """
        with self.asking(f"make an RSA pair of {bits} bits"):
            public_object, private_object = self.session.generate_keypair(
                KeyType.RSA,
                bits,
                label=label,
                store=True,
                public_template={
                    Attribute.TOKEN: False,
                    Attribute.PRIVATE: False,
                    Attribute.ENCRYPT: False,
                    Attribute.VERIFY: False,
                    Attribute.WRAP: True,
                },
                private_template={**_PRIVATE_HALF, Attribute.UNWRAP: True},
            )
            public_key = _rsa_public(public_object)
            private_object[Attribute.ID] = spki_hash(public_key)
            public_object.destroy()
        return public_key

    def import_rsa(self, private_key: rsa.RSAPrivateKey, label: str) -> None:
        """Bring a private key made elsewhere into the token: unwrap only, for good."""
        numbers = private_key.private_numbers()
        with self.asking("take in an RSA private key"):
            self.session.create_object(
                {
                    Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                    Attribute.KEY_TYPE: KeyType.RSA,
                    **_PRIVATE_HALF,
                    Attribute.UNWRAP: True,
                    Attribute.LABEL: label,
                    Attribute.ID: spki_hash(private_key.public_key()),
                    Attribute.MODULUS: _big(numbers.public_numbers.n),
                    Attribute.PUBLIC_EXPONENT: _big(numbers.public_numbers.e),
                    Attribute.PRIVATE_EXPONENT: _big(numbers.d),
                    Attribute.PRIME_1: _big(numbers.p),
                    Attribute.PRIME_2: _big(numbers.q),
                    Attribute.EXPONENT_1: _big(numbers.dmp1),
                    Attribute.EXPONENT_2: _big(numbers.dmq1),
                    Attribute.COEFFICIENT: _big(numbers.iqmp),
                }
            )

    def trust_public_key(self, public_key: rsa.RSAPublicKey, label: str) -> None:
        """Have the security officer put a TRUSTED wrapping key into the token, if it lacks it.

        Its CKA_ID is spki_hash of the key.
        """
        if self.trusted_public_key(spki_hash(public_key)) is not None:
            return
        numbers = public_key.public_numbers()
        with self.officer() as session, self.asking("take in a trusted public key"):
            session.create_object(
                {
                    **_WRAPPING_PUBLIC,
                    Attribute.LABEL: label,
                    Attribute.ID: spki_hash(public_key),
                    Attribute.MODULUS: _big(numbers.n),
                    Attribute.PUBLIC_EXPONENT: _big(numbers.e),
                }
            )

    def create_trusted_aes(self, label: str, value: bytes | None = None) -> None:
        """Put an AES-256 key into the token that may wrap data keys and do nothing else.

        `value` (32 bytes) is given for a key that others hold too; without it the token makes one.
        The officer alone can make a TRUSTED key and cannot make a private one; so the officer makes
        a session object, which outlives the officer's login, and the user keeps a private copy.
        """
        template = {
            **_NO_USE,
            Attribute.LABEL: label,
            Attribute.TOKEN: False,
            Attribute.PRIVATE: False,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.TRUSTED: True,
            Attribute.WRAP: True,
        }
        carrier = self._token.open(rw=True)
        try:
            with self.officer(), self.asking("make a trusted AES key"):
                if value is None:
                    key: Any = carrier.generate_key(KeyType.AES, 256, template=template)
                else:
                    key = carrier.create_object(
                        {
                            **template,
                            Attribute.CLASS: ObjectClass.SECRET_KEY,
                            Attribute.KEY_TYPE: KeyType.AES,
                            Attribute.VALUE: value,
                        }
                    )
            with self.asking("keep a trusted AES key"):
                kept = key.copy({Attribute.TOKEN: True, Attribute.PRIVATE: True})
                key.destroy()
                sound = (
                    kept[Attribute.TRUSTED]
                    and kept[Attribute.PRIVATE]
                    and kept[Attribute.SENSITIVE]
                    and not kept[Attribute.EXTRACTABLE]
                )
                if not sound:
                    kept.destroy()
                    raise TokenRefusedError(
                        f"The token {self.label} did not keep {label!r} private and trusted."
                    )
        finally:
            carrier.close()

    def random(self, count: int) -> bytes:
        """Return `count` random bytes of the token's generator."""
        with self.asking("give random bytes"):
            return self.session.generate_random(count * 8)

    # Finding

    def trusted_public_key(self, identity: bytes) -> WrapMixin | None:
        """Return the TRUSTED RSA public key whose CKA_ID is `identity` (spki_hash), if any."""
        found: WrapMixin | None = self.find_one(
            {
                Attribute.CLASS: ObjectClass.PUBLIC_KEY,
                Attribute.KEY_TYPE: KeyType.RSA,
                Attribute.TRUSTED: True,
                Attribute.ID: identity,
            }
        )
        return found

    def rsa_private_key(self, identity: bytes) -> UnwrapMixin | None:
        """Return the RSA private key whose CKA_ID is `identity` (spki_hash), if any."""
        found: UnwrapMixin | None = self.find_one(
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: KeyType.RSA,
                Attribute.ID: identity,
            }
        )
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
                f"The token {self.label} refused to {what} ({_name(error)})."
            ) from None

    def _key_absent(self, label: str) -> KeyAbsentError:
        return KeyAbsentError(
            f"The token {self.label} lacks the key {label!r}; run `rig hsm init`."
        )


def login_error(error: refusals.PKCS11Error, label: str, who: str, flags: TokenFlag) -> TokenError:
    """Return what a refused login means; `flags` are the token's after the attempt."""
    if isinstance(error, refusals.PinLocked):
        return PinLockedError(
            f"The token {label} has locked the {who}'s PIN after too many wrong ones; unlock it "
            "with the HSM's own tool."
        )
    if isinstance(error, refusals.PinIncorrect | refusals.PinInvalid | refusals.PinLenRange):
        officer = who != "user"
        last = TokenFlag.SO_PIN_FINAL_TRY if officer else TokenFlag.USER_PIN_FINAL_TRY
        warning = "; one more wrong PIN locks it" if flags & last else ""
        return WrongPinError(
            f"The token {label} refused the {who}'s PIN{warning}; correct the environment variable "
            "or file that holds it."
        )
    if isinstance(error, refusals.UserPinNotInitialized):
        return TokenRefusedError(f"The token {label} has no user PIN yet; run `rig hsm init`.")
    if isinstance(error, refusals.UserAlreadyLoggedIn):
        return TokenBusyError(f"This process is logged in at the token {label} already.")
    return TokenRefusedError(f"The token {label} refused the {who}'s login ({_name(error)}).")


def spki_der(public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    """Return the key's SubjectPublicKeyInfo, DER."""
    return public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def spki_hash(public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    """Return SHA-256 of the key's SubjectPublicKeyInfo: how EEDKs and CKA_ID name a key."""
    return hashlib.sha256(spki_der(public_key)).digest()


def _rsa_public(key: pkcs11.Object) -> rsa.RSAPublicKey:
    e, n = (
        int.from_bytes(key[name], "big") for name in (Attribute.PUBLIC_EXPONENT, Attribute.MODULUS)
    )
    return rsa.RSAPublicNumbers(e, n).public_key()


def _p256_public(key: pkcs11.Object) -> ec.EllipticCurvePublicKey:
    point: bytes = key[Attribute.EC_POINT]  # the point within a DER OCTET STRING
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point[-65:])


def _big(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _name(error: refusals.PKCS11Error) -> str:
    return str(error) or type(error).__name__


def _probe_modulus() -> bytes:
    """Return a 2048-bit number that nobody has the factors of: OAEP can be tried without a key."""
    modulus = bytearray(hashlib.shake_256(b"taperig OAEP probe").digest(256))
    modulus[0] |= 0x80
    modulus[-1] |= 0x01
    return bytes(modulus)


_PROBE_MODULUS: Final = _probe_modulus()
