"""The fast path: the few calls of every key exchange, without python-pkcs11 in between.

A token is called in two ways: through python-pkcs11, and here (``hsm.pkcs11.structures`` binds to
the module). python-pkcs11 looks at what it unwraps (ten attributes, a Python class for each key)
and wraps each key twice, once to learn how long the result is. Here are the same functions of the
same module in the same session, with structures that are made once.

Nothing here raises: a call that the module refuses returns None, and is to be made again through
python-pkcs11, which says why. No key's value passes; what is wrapped is ciphertext.
"""

import ctypes
from collections.abc import Mapping
from ctypes import addressof, c_char_p, c_ulong, c_void_p, string_at
from pathlib import Path
from typing import Any, Final, Self

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.structures import (
    FunctionListError,
    MechanismCall,
    Packed,
    Template,
    load_functions,
    oaep,
)
from hsm.pkcs11.templates import OAEP

_LONGEST: Final = 1024
"""Bytes of the longest result: RSA 4096 needs 512."""
_ARGUMENTS: Final = {
    "C_GetSessionInfo": (c_ulong, c_void_p),
    "C_UnwrapKey": (c_ulong, c_void_p, c_ulong, c_char_p, c_ulong, c_void_p, c_ulong, c_void_p),
    "C_WrapKey": (c_ulong, c_void_p, c_ulong, c_ulong, c_char_p, c_void_p),
    "C_DestroyObject": (c_ulong, c_ulong),
    "C_SignInit": (c_ulong, c_void_p, c_ulong),
    "C_Sign": (c_ulong, c_char_p, c_ulong, c_char_p, c_void_p),
}


class _SessionInfo(ctypes.Structure):
    _fields_ = (("slot", c_ulong), ("state", c_ulong), ("flags", c_ulong), ("error", c_ulong))


class DirectCalls:
    """Calls in one session of a module that python-pkcs11 has initialized and logged in."""

    def __init__(self, functions: Mapping[str, Any], session: int) -> None:
        """Use ``to``; ``functions`` are the module's, ``session`` is a handle."""
        self._session = session
        self._unwrap, self._wrap = functions["C_UnwrapKey"], functions["C_WrapKey"]
        self._destroy = functions["C_DestroyObject"]
        self._sign_init, self._sign = functions["C_SignInit"], functions["C_Sign"]
        mechanisms = {name: oaep(*parameters[:2]) for name, parameters in OAEP.items()}
        ecdsa = MechanismCall(Mechanism.ECDSA)
        self._result = ctypes.create_string_buffer(_LONGEST)
        self._length, self._handle = c_ulong(), c_ulong()
        self._pointed_to = (mechanisms, ecdsa)
        # The calls take addresses; these stay where they are.
        self._oaep = {name: addressof(each.structure) for name, each in mechanisms.items()}
        self._ecdsa = addressof(ecdsa.structure)
        self._length_address = addressof(self._length)
        self._handle_address = addressof(self._handle)

    @classmethod
    def to(cls, module: Path, session: Any) -> Self | None:
        """Return the calls; None for a module that gives each of its callers a context of its own.

        p11-kit's proxy does so: there, python-pkcs11's ``session`` is not known to other callers.
        """
        try:
            # One thread owns a token, so Python's lock is kept.
            _, functions = load_functions(module, _ARGUMENTS, keep_lock=True)
        except (AttributeError, FunctionListError):
            return None
        if not _ARGUMENTS.keys() <= functions.keys():
            return None
        info = _SessionInfo()
        refused = functions["C_GetSessionInfo"](session.handle, addressof(info))
        if refused or info.slot != session.token.slot.slot_id:
            return None
        return cls(functions, session.handle)

    def unwrap(
        self, private_key: int, wrapped: bytes, oaep_hash: OaepHash, template: Packed
    ) -> int | None:
        """Return the handle of an AES key out of RSA-OAEP. Destroy it after use."""
        refused = self._unwrap(
            self._session,
            self._oaep[oaep_hash],
            private_key,
            wrapped,
            len(wrapped),
            template.address,
            template.count,
            self._handle_address,
        )
        return None if refused else self._handle.value

    def wrap(self, public_key: int, key: int, oaep_hash: OaepHash) -> bytes | None:
        """Return a key under RSA-OAEP."""
        self._length.value = _LONGEST
        refused = self._wrap(
            self._session,
            self._oaep[oaep_hash],
            public_key,
            key,
            self._result,
            self._length_address,
        )
        return None if refused else string_at(self._result, self._length.value)

    def sign_p256(self, private_key: int, digest: bytes) -> bytes | None:
        """Return the ECDSA signature of a digest: r and s, 32 bytes each."""
        self._length.value = _LONGEST
        refused = self._sign_init(self._session, self._ecdsa, private_key) or self._sign(
            self._session, digest, len(digest), self._result, self._length_address
        )
        return None if refused else string_at(self._result, self._length.value)

    def destroy(self, key: int) -> bool:
        """Remove a key; say whether the token did."""
        return not self._destroy(self._session, key)


def aes_key(template: Template) -> Packed:
    """Return what an unwrapped AES key is to be, packed once."""
    return Packed(
        {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES, **template}
    )
