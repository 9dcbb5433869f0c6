"""A keystore with a cache, for a process that serves many key exchanges.

Finding a key costs a token more than using it: SoftHSM reads all its objects. The cache has handles
and certificates, and no key. Entries expire after some seconds and whenever the token refuses a
request, since another process may remove a key. Absent keys are never cached, so a new key is seen
at once.
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

CACHE_SECONDS: Final = 10.0
CACHE_KEYS: Final = 4096

_Found = TypeVar("_Found")
_Key = TypeVar("_Key", bound=Any)  # the library's types lack copy() and destroy()
_Name = tuple[str, str | bytes]


class CachedKeystore(Keystore):
    """A keystore with a cache; the security officer must not log in meanwhile."""

    def __init__(self, token: Token, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with an empty cache; `clock` returns seconds."""
        super().__init__(token)
        self._clock = clock
        self._found: dict[_Name, tuple[float, Any]] = {}
        self._copies: dict[_Name, Any] = {}

    def clear_cache(self) -> bool:
        """Clear the cache; return whether it held anything."""
        known = bool(self._found)
        self._drop_all()
        return known

    def find(self, label: str) -> Kek:
        """Return the KEK under `label`, in any case; raises LabelUnknownError."""
        return self._cached(("label", label_key(label)), lambda: Keystore.find(self, label))

    def find_by_hash(self, kek_hash: bytes) -> Kek:
        """Return the KEK with this SPKI's SHA-256; raises KekHashUnknownError."""
        return self._cached(("hash", kek_hash), lambda: Keystore.find_by_hash(self, kek_hash))

    def public_key(self, kek: Kek) -> WrapMixin:
        """Return the token's TRUSTED public half; raises LabelUnknownError."""
        return self._cached(("public", kek.spki_hash), lambda: Keystore.public_key(self, kek))

    def private_key(self, kek: Kek) -> UnwrapMixin:
        """Return the token's private half; raises KekPublicOnlyError (KEY-4)."""
        return self._cached(("private", kek.spki_hash), lambda: Keystore.private_key(self, kek))

    def signing_key(self, label: str) -> SignMixin:
        """Return the token's P-256 private key `label`; raises KeyAbsentError."""
        name = ("signing", label)
        return self._cached(
            name, lambda: self._session_copy(name, Keystore.signing_key(self, label))
        )

    def drive_key(self, public_der: bytes) -> WrapMixin:
        """Return the enrolled public key of a drive; raises DriveKeyUnknownError."""
        name = ("drive", public_der)
        return self._cached(
            name, lambda: self._session_copy(name, Keystore.drive_key(self, public_der))
        )

    def _cached(self, name: _Name, look_up: Callable[[], _Found]) -> _Found:
        now = self._clock()
        remembered = self._found.get(name)
        if remembered is not None and now - remembered[0] < CACHE_SECONDS:
            found: _Found = remembered[1]
            return found
        self._drop(name)
        found = look_up()
        if isinstance(found, Kek) and not found.has_private:
            return found  # its private half may be imported at any time
        if len(self._found) >= CACHE_KEYS:
            self._drop_all(but=name)
        self._found[name] = (now, found)
        return found

    def _session_copy(self, name: _Name, key: _Key) -> _Key:
        """Return a session copy of a key; the key itself if it cannot be copied.

        SoftHSM reads the file of a token object at each use; a session object has no file.
        """
        with suppress(PKCS11Error):
            copy = self._copies[name] = key.copy({Attribute.TOKEN: False})
            return cast(_Key, copy)
        return key

    def _drop(self, name: _Name) -> None:
        self._found.pop(name, None)
        copy = self._copies.pop(name, None)
        if copy is not None:
            with suppress(PKCS11Error):  # it was removed already
                copy.destroy()

    def _drop_all(self, but: _Name | None = None) -> None:
        for name in self._found.keys() | self._copies.keys():
            if name != but:
                self._drop(name)
