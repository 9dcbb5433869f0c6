"""A keystore that remembers what it found, for a process that serves many key exchanges.

Looking for a key costs a token more than using it: SoftHSM walks through all its objects. What is
remembered are handles and certificates, no key. It is looked up again after a few seconds and
whenever the token refuses something, since another process may remove a key meanwhile; what
was not found is never remembered, so a key that was added is seen at once.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

from pkcs11 import Attribute
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import SignMixin, UnwrapMixin, WrapMixin

from hsm.keys.keystore import Kek, Keystore
from hsm.keys.labels import label_key
from hsm.pkcs11.token import Token

REMEMBERED_SECONDS: Final = 10.0
REMEMBERED_KEYS: Final = 4096

_Found = TypeVar("_Found")
_Key = TypeVar("_Key", bound=Any)  # the library's types do not tell of copy() and destroy()
_Name = tuple[str, str | bytes]


class RememberingKeystore(Keystore):
    """The keystore of a process in which the security officer never logs in."""

    def __init__(self, token: Token, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing remembered; `clock` gives seconds."""
        super().__init__(token)
        self._clock = clock
        self._found: dict[_Name, tuple[float, Any]] = {}
        self._copies: dict[_Name, Any] = {}

    def forget(self) -> bool:
        """Look at the token afresh from now on; say whether anything was remembered."""
        known = bool(self._found)
        self._drop_all()
        return known

    def find(self, label: str) -> Kek:
        """Return the KEK under `label`, whatever its case; raises LabelUnknownError naming it."""
        return self._recall(("label", label_key(label)), lambda: Keystore.find(self, label))

    def find_by_hash(self, kek_hash: bytes) -> Kek:
        """Return the KEK with this SHA-256 of its SPKI; raises KekHashUnknownError."""
        return self._recall(("hash", kek_hash), lambda: Keystore.find_by_hash(self, kek_hash))

    def public_key(self, kek: Kek) -> WrapMixin:
        """Return the token's TRUSTED public half; raises LabelUnknownError if it has gone."""
        return self._recall(("public", kek.spki_hash), lambda: Keystore.public_key(self, kek))

    def private_key(self, kek: Kek) -> UnwrapMixin:
        """Return the token's private half; raises KekPublicOnlyError (KEY-4)."""
        return self._recall(("private", kek.spki_hash), lambda: Keystore.private_key(self, kek))

    def signing_key(self, label: str) -> SignMixin:
        """Return the token's P-256 private key `label`; raises KeyAbsentError."""
        name = ("signing", label)
        return self._recall(name, lambda: self._at_hand(name, Keystore.signing_key(self, label)))

    def drive_key(self, public_der: bytes) -> WrapMixin:
        """Return the enrolled public key of a drive; raises DriveKeyUnknownError."""
        name = ("drive", public_der)
        return self._recall(name, lambda: self._at_hand(name, Keystore.drive_key(self, public_der)))

    def _recall(self, name: _Name, look: Callable[[], _Found]) -> _Found:
        now = self._clock()
        remembered = self._found.get(name)
        if remembered is not None and now - remembered[0] < REMEMBERED_SECONDS:
            found: _Found = remembered[1]
            return found
        self._drop(name)
        found = look()
        if isinstance(found, Kek) and not found.has_private:
            return found  # its private half may be brought in at any time
        if len(self._found) >= REMEMBERED_KEYS:
            self._drop_all(but=name)
        self._found[name] = (now, found)
        return found

    def _at_hand(self, name: _Name, key: _Key) -> _Key:
        """Return a copy of a key that lives in the session; the key where the token makes none.

        SoftHSM reads the file of a token's object at each use, and a session's has none.
        """
        with suppress(PKCS11Error):
            copy = self._copies[name] = key.copy({Attribute.TOKEN: False})
            return cast(_Key, copy)
        return key

    def _drop(self, name: _Name) -> None:
        self._found.pop(name, None)
        copy = self._copies.pop(name, None)
        if copy is not None:
            with suppress(PKCS11Error):  # it is gone already
                copy.destroy()

    def _drop_all(self, but: _Name | None = None) -> None:
        for name in self._found.keys() | self._copies.keys():
            if name != but:
                self._drop(name)
