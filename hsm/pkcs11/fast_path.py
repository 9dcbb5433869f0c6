"""The fast path: the few calls of a key exchange, without python-pkcs11.

A token is called in two ways: through python-pkcs11, and here (``hsm.pkcs11.structures`` binds to
the module). python-pkcs11 reads ten attributes of every key that it unwraps, makes a Python class
for it, and wraps each key twice: the first call only returns the length of the result. This module
calls the same functions of the same module in the same session, with structures that are built
once.

No call here raises: it returns None when the module refuses. The caller then repeats the call
through python-pkcs11, which gives the reason. No key's value passes through here; what is wrapped
is ciphertext.
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
    PackedTemplate,
    Template,
    load_functions,
    oaep,
)
from hsm.pkcs11.templates import OAEP

_MAX_RESULT_BYTES: Final = 1024
"""Longest result of a call; RSA 4096 needs 512 bytes."""
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


class FastPath:
    """The calls of a key exchange, in a session opened by python-pkcs11."""

    def __init__(self, functions: Mapping[str, Any], session: int) -> None:
        """Prepare the calls of a module's functions in the session of a handle.

        Callers use ``bind``.
        """
        self._session = session
        self._unwrap, self._wrap = functions["C_UnwrapKey"], functions["C_WrapKey"]
        self._destroy = functions["C_DestroyObject"]
        self._sign_init, self._sign = functions["C_SignInit"], functions["C_Sign"]
        mechanisms = {name: oaep(*parameters[:2]) for name, parameters in OAEP.items()}
        ecdsa = MechanismCall(Mechanism.ECDSA)
        self._result = ctypes.create_string_buffer(_MAX_RESULT_BYTES)
        self._length, self._handle = c_ulong(), c_ulong()
        self._pointed_to = (mechanisms, ecdsa)
        # The calls take addresses, so these structures must live as long as this object.
        self._oaep = {name: addressof(each.structure) for name, each in mechanisms.items()}
        self._ecdsa = addressof(ecdsa.structure)
        self._length_address = addressof(self._length)
        self._handle_address = addressof(self._handle)

    @classmethod
    def bind(cls, module: Path, session: Any) -> Self | None:
        """Bind to a session of a module; return None where that cannot work.

        p11-kit's proxy gives each of its callers a context of its own, so that the session of
        python-pkcs11 does not exist for this caller.
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
        self, private_key: int, wrapped: bytes, oaep_hash: OaepHash, template: PackedTemplate
    ) -> int | None:
        """Unwrap an AES key with RSA-OAEP; return its handle.

        The caller destroys the key after use.
        """
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
        """Return a key wrapped with RSA-OAEP."""
        self._length.value = _MAX_RESULT_BYTES
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
        self._length.value = _MAX_RESULT_BYTES
        refused = self._sign_init(self._session, self._ecdsa, private_key) or self._sign(
            self._session, digest, len(digest), self._result, self._length_address
        )
        return None if refused else string_at(self._result, self._length.value)

    def destroy(self, key: int) -> bool:
        """Destroy a key; return whether the token did it."""
        return not self._destroy(self._session, key)


def pack_aes_key_template(template: Template) -> PackedTemplate:
    """Return the packed unwrap template of an AES key."""
    return PackedTemplate(
        {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES, **template}
    )
