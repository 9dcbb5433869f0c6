"""What a probe works with: a session logged in as the user, and keys that it made itself.

Everything made here is tagged (hsm.validate.tagged_objects) and, but for what must be seen from
elsewhere, a session object, which dies with the process.
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
from hsm.pkcs11.templates import DATA_KEY, NO_USE, PRIVATE_HALF, WRAPPING_PUBLIC
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
BARE_DATA_KEY: Final = {
    name: value for name, value in DATA_KEY.items() if name is not Attribute.WRAP_WITH_TRUSTED
}
"""A data key's template for a token that does not know WRAP_WITH_TRUSTED."""


@dataclass(frozen=True, slots=True)
class KekPair:
    """An RSA pair in the token, as the rig makes KEKs: the private half unwraps only."""

    private: int
    public_key: rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Pins:
    """The PINs of a validation."""

    user: str
    officer: str | None

    def __repr__(self) -> str:
        """Tell nothing."""
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
        """Open a session and log in; raises RefusedCallError.

        `removal` are the shell commands that take the token away and bring it back.
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
        """Open a session in place of a dead one, and log in; raises RefusedCallError."""
        self.session = self.library.open_session(self.slot)
        try:
            self.session.login(self.pins.user)
        except RefusedCallError as refusal:
            if refusal.code != ReturnCode.USER_ALREADY_LOGGED_IN:
                raise
        self.discard_cached_keys()

    def discard_cached_keys(self) -> None:
        """Drop the keys that died with a session or a login; they are made anew when needed."""
        for name in ("kek", "restricted_kek", "outside_public"):
            self.__dict__.pop(name, None)

    # Templates

    def session_template(self, template: dict[Any, Any], label: str = LABEL) -> dict[Any, Any]:
        """Return the template of an object of the session, tagged.

        The tag comes first: some tokens refuse what follows a MODIFIABLE false.
        """
        return {Attribute.TOKEN: False, **tag_attributes(self.owner, label), **template}

    def token_template(self, template: dict[Any, Any], label: str = LABEL) -> dict[Any, Any]:
        """Return the template of an object that stays on the token, tagged."""
        return {**tag_attributes(self.owner, label), **template, Attribute.TOKEN: True}

    def aes_template(self, **more: Any) -> dict[Any, Any]:
        """Return the template of a secret AES key without any use; names as in Attribute."""
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
        """Whether a data key with WRAP_WITH_TRUSTED can be made and tells it."""
        made = attempt(
            self.session.generate_key, AES_256, self.session_template({**_NEW, **DATA_KEY})
        )
        if made.refused:
            return False
        try:
            return self.session.is_set(made.value, Attribute.WRAP_WITH_TRUSTED)
        except RefusedCallError:
            return False
        finally:
            self.session.destroy(made.value)

    @property
    def data_key_template(self) -> dict[Any, Any]:
        """What the rig makes a data key from, on this token."""
        return dict(DATA_KEY if self.keeps_wrap_with_trusted else BARE_DATA_KEY)

    # Keys

    def data_key(self, **more: Any) -> int:
        """Return a new data key as the rig makes it, but for what `more` says."""
        changed = {Attribute[name]: value for name, value in more.items()}
        return self.session.generate_key(
            AES_256, self.session_template({**_NEW, **self.data_key_template, **changed})
        )

    def wrappable_data_key(self) -> int:
        """Return a data key that any public key may wrap, to see what is in it."""
        return self.session.generate_key(AES_256, self.session_template({**_NEW, **BARE_DATA_KEY}))

    def import_aes_key(self, value: bytes, **more: Any) -> int:
        """Return an AES key whose value is known outside; raises ProbeSkippedError."""
        made = attempt(self.session.create, {**self.aes_template(**more), Attribute.VALUE: value})
        if made.refused:
            raise ProbeSkippedError(f"a key of known value cannot be made ({made.code})")
        return int(made.value)

    @cached_property
    def outside(self) -> rsa.RSAPrivateKey:
        """An RSA pair of 2048 bits that is not in the token."""
        return rsa.generate_private_key(65537, 2048)

    @cached_property
    def outside_public(self) -> int:
        """The public half of the outside pair, as an object that may wrap; the user's making."""
        return self.import_public_key(self.outside.public_key())

    def import_public_key(self, public_key: rsa.RSAPublicKey, **more: Any) -> int:
        """Return a public key as an object that may wrap; not TRUSTED."""
        return self.session.create(self.public_template(public_key.public_numbers(), **more))

    def public_template(self, numbers: rsa.RSAPublicNumbers, **more: Any) -> dict[Any, Any]:
        """Return what a public key that may wrap is made from; TRUSTED only if `more` says so."""
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
        """Make an RSA pair as the rig makes a KEK; the public half is not kept."""
        form = self.token_template if token else self.session_template
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
            form(
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
        """Return what a private key made outside is taken in from, as the rig does it."""
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
        """A KEK of 2048 bits, made in the token or, where that is refused, taken in."""
        with suppress(RefusedCallError):
            return self.make_kek(2048)
        outside = rsa.generate_private_key(65537, 2048)
        made = attempt(self.session.create, self.private_template(outside))
        if made.refused:
            raise ProbeSkippedError(f"the token takes no RSA private key ({made.code})")
        return KekPair(made.value, outside.public_key())

    @cached_property
    def restricted_kek(self) -> KekPair:
        """A KEK with the restrictions that the token accepts; for the attacks."""
        return self.make_restricted_kek()

    def make_restricted_kek(self) -> KekPair:
        """Make an RSA pair with as many key restrictions as the token takes."""
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
        """The OAEP hash that the rig would choose; raises ProbeSkippedError when there is none."""
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
        """RSA-OAEP with the best hash."""
        mechanism, mgf, _ = HASHES[self.best_hash]
        return oaep(mechanism, mgf)

    def wrap_outside(self, payload: bytes, kek: KekPair | None = None) -> bytes:
        """Return bytes wrapped outside to a KEK, by RSA-OAEP with the best hash."""
        return (kek or self.kek).public_key.encrypt(payload, outside_oaep(self.best_hash))

    def known_data_key(self, value: bytes | None = None) -> tuple[int, bytes]:
        """Return a data key, unwrapped and protected as the rig does it, and its value.

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
        """Whether SENSITIVE and EXTRACTABLE in an unwrap template are what the key then has."""
        template = self.session_template({**UNWRAPPED, **BARE_DATA_KEY})
        del template[Attribute.MODIFIABLE]
        made = attempt(
            self.session.unwrap,
            self.oaep,
            self.kek.private,
            self.wrap_outside(os.urandom(32)),
            template,
        )
        if made.refused:
            return False
        has = [self.session.is_set(made.value, name) for name in PROTECTION]
        self.session.destroy(made.value)
        return has == [True, True]

    @property
    def unwrap_template(self) -> dict[Any, Any]:
        """What the rig unwraps a data key with, on this token."""
        template = {**UNWRAPPED, **self.data_key_template}
        if not self.honours_protection:
            for name in (*PROTECTION, Attribute.MODIFIABLE):  # what is not there can be set
                del template[name]
        return template

    def protect(self, key: int) -> None:
        """Give an unwrapped key the protection that the token dropped from the template."""
        if not self.honours_protection:
            self.session.set(key, {Attribute.SENSITIVE: True})

    def read_by_wrapping(self, key: int) -> bytes:
        """Return the value of an extractable key, by wrapping it to the outside pair."""
        return outside_decrypt(
            self.outside, self.session.wrap(self.oaep, self.outside_public, key), self.best_hash
        )

    # The security officer

    @contextmanager
    def officer(self) -> Iterator[Session]:
        """Give a session with the officer logged in; the user is logged out meanwhile.

        Raises ProbeSkippedError without the officer's PIN or when the login is refused. Handles of
        private objects do not survive it.
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
_NEW: Final = {
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
    """Open RSA-OAEP outside; raises ValueError."""
    return key.decrypt(wrapped, outside_oaep(name, label))
