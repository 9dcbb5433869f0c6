"""The token under test: a session of its user, test keys and templates.

Every object made here is tagged (hsm.validate.tagged_objects). Nearly all are session objects,
which end with the process; only what another process must see is stored on the token.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass

from hsm.pkcs11.encoding import big_integer
from hsm.pkcs11.key_restrictions import ALL_RESTRICTIONS, KeyRestriction, restriction_template
from hsm.pkcs11.structures import MechanismCall, oaep
from hsm.pkcs11.templates import BARE_DATA_KEY, DATA_KEY, NO_USE, PRIVATE_HALF, WRAPPING_PUBLIC
from hsm.validate.attempt import ProbeSkippedError, attempt
from hsm.validate.raw_pkcs11 import CKU_SO, RawModule, RefusedCallError, Session
from hsm.validate.return_codes import ReturnCode
from hsm.validate.tagged_objects import LABEL, Owner, tag_attributes

HASHES: Final[dict[str, tuple[Mechanism, MGF, type[hashes.HashAlgorithm]]]] = {
    "SHA-1": (Mechanism.SHA_1, MGF.SHA1, hashes.SHA1),
    "SHA-256": (Mechanism.SHA256, MGF.SHA256, hashes.SHA256),
    "SHA-384": (Mechanism.SHA384, MGF.SHA384, hashes.SHA384),
}
PROTECTION: Final = (Attribute.SENSITIVE, Attribute.EXTRACTABLE)


@dataclass(frozen=True, slots=True)
class KekPair:
    """A KEK: the handle of its private half and its public key."""

    private: int
    public_key: rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Pins:
    """The PINs of a validation."""

    user: str
    officer: str | None

    def __repr__(self) -> str:
        """Return a text without the PINs."""
        return "<Pins>"


class TokenUnderTest:
    """A token under validation, with its user logged in."""

    def __init__(
        self,
        library: RawModule,
        slot: int,
        pins: Pins,
        label: str,
        removal: tuple[str, str] | None = None,
    ) -> None:
        """Open a session and log in; raise RefusedCallError.

        `removal` are the shell commands that remove the token and bring it back.
        """
        self.library = library
        self.slot = slot
        self.pins = pins
        self.label = label
        self.removal = removal
        self.owner = Owner.current()
        self.session: Session = library.open_session(slot)
        self.session.login(pins.user)

    def reopen(self) -> None:
        """Open a new session in place of a closed one, and log in.

        Raises RefusedCallError.
        """
        self.session = self.library.open_session(self.slot)
        try:
            self.session.login(self.pins.user)
        except RefusedCallError as refusal:
            if refusal.code != ReturnCode.USER_ALREADY_LOGGED_IN:
                raise
        self.discard_cached_keys()

    def discard_cached_keys(self) -> None:
        """Discard the handles of keys that ended with a session or a login.

        The keys are made again when they are needed.
        """
        for name in ("kek", "restricted_kek", "outside_public"):
            self.__dict__.pop(name, None)

    # Templates

    def session_template(self, template: dict[Any, Any], label: str = LABEL) -> dict[Any, Any]:
        """Return the template of a tagged session object.

        The tag comes first: some tokens refuse the attributes that follow MODIFIABLE false.
        """
        return {Attribute.TOKEN: False, **tag_attributes(self.owner, label), **template}

    def token_template(self, template: dict[Any, Any], label: str = LABEL) -> dict[Any, Any]:
        """Return the template of a tagged object that is stored on the token."""
        return {**tag_attributes(self.owner, label), **template, Attribute.TOKEN: True}

    def aes_template(self, **more: Any) -> dict[Any, Any]:
        """Return the template of an AES key without any use.

        `more` are further attributes, by their names in Attribute.
        """
        return self.session_template(
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.AES,
                **NO_USE,
                Attribute.PRIVATE: True,
                **{Attribute[name]: value for name, value in more.items()},
            }
        )

    @cached_property
    def keeps_wrap_with_trusted(self) -> bool:
        """Whether a data key keeps the attribute WRAP_WITH_TRUSTED."""
        creation = attempt(
            self.session.generate_key, AES_256, self.session_template({**_AES_256_KEY, **DATA_KEY})
        )
        if creation.refused:
            return False
        try:
            return self.session.is_set(creation.value, Attribute.WRAP_WITH_TRUSTED)
        except RefusedCallError:
            return False
        finally:
            self.session.destroy(creation.value)

    @property
    def data_key_template(self) -> dict[Any, Any]:
        """The template of a data key of the rig on this token."""
        return dict(DATA_KEY if self.keeps_wrap_with_trusted else BARE_DATA_KEY)

    # Keys

    def data_key(self, **more: Any) -> int:
        """Make a data key as the rig does; `more` replaces attributes."""
        changed = {Attribute[name]: value for name, value in more.items()}
        return self.session.generate_key(
            AES_256, self.session_template({**_AES_256_KEY, **self.data_key_template, **changed})
        )

    def wrappable_data_key(self) -> int:
        """Make a data key that any public key may wrap, so that it can be read."""
        return self.session.generate_key(
            AES_256, self.session_template({**_AES_256_KEY, **BARE_DATA_KEY})
        )

    def import_aes_key(self, value: bytes, **more: Any) -> int:
        """Import an AES key; raise ProbeSkippedError when it is refused."""
        creation = attempt(
            self.session.create, {**self.aes_template(**more), Attribute.VALUE: value}
        )
        if creation.refused:
            raise ProbeSkippedError(f"an AES key cannot be imported ({creation.code})")
        return int(creation.value)

    @cached_property
    def outside(self) -> rsa.RSAPrivateKey:
        """An RSA key pair of 2048 bits outside the token; the attacker's."""
        return rsa.generate_private_key(65537, 2048)

    @cached_property
    def outside_public(self) -> int:
        """The public half of the outside key pair, imported by the user."""
        return self.import_public_key(self.outside.public_key())

    def import_public_key(self, public_key: rsa.RSAPublicKey, **more: Any) -> int:
        """Import a public key that may wrap and is not TRUSTED."""
        return self.session.create(self.public_template(public_key.public_numbers(), **more))

    def public_template(self, numbers: rsa.RSAPublicNumbers, **more: Any) -> dict[Any, Any]:
        """Return the template of a public key that may wrap.

        It is TRUSTED only if `more` says so.
        """
        template = dict(WRAPPING_PUBLIC)
        del template[Attribute.TRUSTED]
        return self.session_template(
            {
                **template,
                Attribute.TOKEN: False,
                Attribute.MODULUS: big_integer(numbers.n),
                Attribute.PUBLIC_EXPONENT: big_integer(numbers.e),
                **{Attribute[name]: value for name, value in more.items()},
            }
        )

    def make_kek(self, bits: int, *, token: bool = False, **more: Any) -> KekPair:
        """Make a KEK as the rig does; destroy its public object."""
        template = self.token_template if token else self.session_template
        public, private = self.session.generate_pair(
            MechanismCall(Mechanism.RSA_PKCS_KEY_PAIR_GEN),
            self.session_template(
                {
                    Attribute.MODULUS_BITS: bits,
                    Attribute.PUBLIC_EXPONENT: b"\x01\x00\x01",
                    Attribute.PRIVATE: False,
                    Attribute.ENCRYPT: False,
                    Attribute.VERIFY: False,
                    Attribute.WRAP: True,
                }
            ),
            template(
                {
                    **PRIVATE_HALF,
                    Attribute.UNWRAP: True,
                    Attribute.TOKEN: token,
                    **{Attribute[name]: value for name, value in more.items()},
                }
            ),
        )
        numbers = [
            int.from_bytes(self.session.get(public, name), "big")
            for name in (Attribute.PUBLIC_EXPONENT, Attribute.MODULUS)
        ]
        self.session.destroy(public)
        return KekPair(private, rsa.RSAPublicNumbers(*numbers).public_key())

    def private_template(self, key: rsa.RSAPrivateKey, **more: Any) -> dict[Any, Any]:
        """Return the template with which the rig imports an RSA private key."""
        numbers = key.private_numbers()
        return self.session_template(
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: KeyType.RSA,
                **PRIVATE_HALF,
                Attribute.UNWRAP: True,
                Attribute.TOKEN: False,
                Attribute.MODULUS: big_integer(numbers.public_numbers.n),
                Attribute.PUBLIC_EXPONENT: big_integer(numbers.public_numbers.e),
                Attribute.PRIVATE_EXPONENT: big_integer(numbers.d),
                Attribute.PRIME_1: big_integer(numbers.p),
                Attribute.PRIME_2: big_integer(numbers.q),
                Attribute.EXPONENT_1: big_integer(numbers.dmp1),
                Attribute.EXPONENT_2: big_integer(numbers.dmq1),
                Attribute.COEFFICIENT: big_integer(numbers.iqmp),
                **{Attribute[name]: value for name, value in more.items()},
            }
        )

    @cached_property
    def kek(self) -> KekPair:
        """A KEK of 2048 bits, made in the token or, if refused, imported."""
        with suppress(RefusedCallError):
            return self.make_kek(2048)
        outside = rsa.generate_private_key(65537, 2048)
        creation = attempt(self.session.create, self.private_template(outside))
        if creation.refused:
            raise ProbeSkippedError(
                f"RSA private keys are neither made nor imported ({creation.code})"
            )
        return KekPair(creation.value, outside.public_key())

    @cached_property
    def restricted_kek(self) -> KekPair:
        """A KEK with the restrictions that the token accepts; for the attacks."""
        return self.make_restricted_kek()

    def make_restricted_kek(self) -> KekPair:
        """Make a KEK with as many restrictions as the token accepts."""
        for restrictions in (ALL_RESTRICTIONS, self._restrictions_taken):
            with suppress(RefusedCallError):
                return self._make_kek_with(restrictions)
        return self.kek

    def _make_kek_with(self, restrictions: frozenset[KeyRestriction]) -> KekPair:
        template = restriction_template(restrictions, self.data_key_template)
        return self.make_kek(2048, **{name.name: value for name, value in template.items()})

    @cached_property
    def _restrictions_taken(self) -> frozenset[KeyRestriction]:
        """The restrictions with which a key pair can be made, honoured or not."""
        taken = set()
        for restriction in KeyRestriction:
            with suppress(RefusedCallError):
                self.session.destroy(self._make_kek_with(frozenset({restriction})).private)
                taken.add(restriction)
        return frozenset(taken)

    # OAEP

    @cached_property
    def best_hash(self) -> str:
        """The OAEP hash that the rig would choose; raises ProbeSkippedError."""
        key = self.wrappable_data_key()
        for name in ("SHA-256", "SHA-1"):
            mechanism, mgf, _ = HASHES[name]
            if not attempt(
                self.session.wrap, oaep(mechanism, mgf), self.outside_public, key
            ).refused:
                self.session.destroy(key)
                return name
        raise ProbeSkippedError("RSA-OAEP works neither with SHA-256 nor with SHA-1")

    @property
    def oaep(self) -> MechanismCall:
        """The mechanism RSA-OAEP with the best hash."""
        mechanism, mgf, _ = HASHES[self.best_hash]
        return oaep(mechanism, mgf)

    def wrap_outside(self, payload: bytes, kek: KekPair | None = None) -> bytes:
        """Wrap bytes outside the token to a KEK, with OAEP and the best hash."""
        return (kek or self.kek).public_key.encrypt(payload, outside_oaep(self.best_hash))

    def known_data_key(self, value: bytes | None = None) -> tuple[int, bytes]:
        """Unwrap a data key as the rig does; return its handle and its value.

        Raises RefusedCallError.
        """
        value = os.urandom(32) if value is None else value
        template = self.unwrap_template
        handle = self.session.unwrap(
            self.oaep, self.kek.private, self.wrap_outside(value), self.session_template(template)
        )
        self.protect(handle)
        return handle, value

    @cached_property
    def honours_protection(self) -> bool:
        """Whether the token honours SENSITIVE and EXTRACTABLE when it unwraps."""
        template = self.session_template({**UNWRAPPED, **BARE_DATA_KEY})
        del template[Attribute.MODIFIABLE]
        opened = attempt(
            self.session.unwrap,
            self.oaep,
            self.kek.private,
            self.wrap_outside(os.urandom(32)),
            template,
        )
        if opened.refused:
            return False
        has = [self.session.is_set(opened.value, name) for name in PROTECTION]
        self.session.destroy(opened.value)
        return has == [True, True]

    @property
    def unwrap_template(self) -> dict[Any, Any]:
        """The template with which the rig unwraps a data key on this token."""
        template = {**UNWRAPPED, **self.data_key_template}
        if not self.honours_protection:
            for name in (*PROTECTION, Attribute.MODIFIABLE):  # so that SENSITIVE can be set later
                del template[name]
        return template

    def protect(self, key: int) -> None:
        """Set SENSITIVE on an unwrapped key if the token dropped it before."""
        if not self.honours_protection:
            self.session.set(key, {Attribute.SENSITIVE: True})

    def read_by_wrapping(self, key: int) -> bytes:
        """Return the value of an extractable key, wrapped to the outside key."""
        return outside_decrypt(
            self.outside, self.session.wrap(self.oaep, self.outside_public, key), self.best_hash
        )

    # Security officer

    @contextmanager
    def officer(self) -> Iterator[Session]:
        """Give a session of the security officer; log the user out meanwhile.

        Raises ProbeSkippedError without the officer's PIN or when the login is refused. Handles of
        private objects become invalid.
        """
        if self.pins.officer is None:
            raise ProbeSkippedError("the security officer's PIN was not given")
        self.session.logout()
        try:
            login = attempt(self.session.login, self.pins.officer, CKU_SO)
            if login.refused:
                raise ProbeSkippedError(f"the security officer cannot log in ({login.code})")
            try:
                yield self.session
            finally:
                self.session.logout()
        finally:
            self.session.login(self.pins.user)
            self.discard_cached_keys()


AES_256: Final = MechanismCall(Mechanism.AES_KEY_GEN)
_AES_256_KEY: Final = {
    Attribute.CLASS: ObjectClass.SECRET_KEY,
    Attribute.KEY_TYPE: KeyType.AES,
    Attribute.VALUE_LEN: 32,
}
UNWRAPPED: Final = {
    Attribute.CLASS: ObjectClass.SECRET_KEY,
    Attribute.KEY_TYPE: KeyType.AES,
}


def outside_oaep(name: str, label: bytes | None = None) -> padding.OAEP:
    """Return OAEP of the `cryptography` library with a hash of HASHES."""
    kind = HASHES[name][2]
    return padding.OAEP(padding.MGF1(kind()), kind(), label)


def outside_decrypt(
    key: rsa.RSAPrivateKey, wrapped: bytes, name: str, label: bytes | None = None
) -> bytes:
    """Decrypt RSA-OAEP outside the token; raise ValueError."""
    return key.decrypt(wrapped, outside_oaep(name, label))
