"""The few calls to a token that every key exchange makes, without python-pkcs11 in between.

That library looks at what it unwraps (ten attributes, a Python class for each key) and wraps each
key twice, once to learn how long the result is. Here are the same functions of the same module in
the same session, with structures that are made once.

Nothing here raises: a call that the module refuses returns None, and is to be made again through
python-pkcs11, which says why. No key's value passes; what is wrapped is ciphertext.
"""

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import addressof, c_char_p, c_ulong, c_void_p, sizeof
from pathlib import Path
from typing import Any, Final, Self

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from hsm.cryptoki import OAEP
from hsm.cryptoki_c import (
    AttributeStructure,
    FunctionListError,
    MechanismCall,
    Packed,
    functions_of,
    oaep,
)
from hsm.oaep import OaepHash

_LONGEST: Final = 1024
"""Bytes of the longest result: RSA 4096 needs 512."""
_ARGUMENTS: Final = {
    "C_GetSessionInfo": (c_ulong, c_void_p),
    "C_UnwrapKey": (c_ulong, c_void_p, c_ulong, c_char_p, c_ulong, c_void_p, c_ulong, c_void_p),
    "C_WrapKey": (c_ulong, c_void_p, c_ulong, c_ulong, c_char_p, c_void_p),
    "C_GetAttributeValue": (c_ulong, c_ulong, c_void_p, c_ulong),
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
        self._get_attributes = functions["C_GetAttributeValue"]
        self._unwrap, self._wrap = functions["C_UnwrapKey"], functions["C_WrapKey"]
        self._destroy = functions["C_DestroyObject"]
        self._sign_init, self._sign = functions["C_SignInit"], functions["C_Sign"]
        self._oaep: dict[OaepHash, MechanismCall] = {
            name: oaep(parameters[0], parameters[1]) for name, parameters in OAEP.items()
        }
        self._ecdsa = MechanismCall(Mechanism.ECDSA)
        self._result = ctypes.create_string_buffer(_LONGEST)
        self._length, self._handle = c_ulong(), c_ulong()

    @classmethod
    def to(cls, module: Path, session: Any) -> Self | None:
        """Return the calls; None for a module that gives each of its callers a context of its own.

        p11-kit's proxy does so: there, python-pkcs11's ``session`` is not known to other callers.
        """
        library = ctypes.PyDLL(str(module))  # one thread owns a token, so Python's lock is kept
        try:
            _, addresses = functions_of(library)
        except (AttributeError, FunctionListError):
            return None
        if not _ARGUMENTS.keys() <= addresses.keys():
            return None
        functions = {
            name: ctypes.PYFUNCTYPE(c_ulong, *arguments)(addresses[name])
            for name, arguments in _ARGUMENTS.items()
        }
        info = _SessionInfo()
        refused = functions["C_GetSessionInfo"](session.handle, addressof(info))
        if refused or info.slot != session.token.slot.slot_id:
            return None
        return cls(functions, session.handle)

    def unwrap(
        self, private_key: int, wrapped: bytes, oaep_hash: OaepHash, template: "KeyTemplate"
    ) -> int | None:
        """Return the handle of an AES key out of RSA-OAEP. Destroy it after use."""
        refused = self._unwrap(
            self._session,
            addressof(self._oaep[oaep_hash].structure),
            private_key,
            wrapped,
            len(wrapped),
            addressof(template.asked.array),
            template.asked.count,
            addressof(self._handle),
        )
        return None if refused else self._handle.value

    def has(self, key: int, template: "KeyTemplate") -> bool:
        """Say whether a key tells all of itself that it should."""
        array, count = template.ask()
        return not self._get_attributes(self._session, key, array, count) and template.told()

    def wrap(self, public_key: int, key: int, oaep_hash: OaepHash) -> bytes | None:
        """Return a key under RSA-OAEP."""
        self._length.value = _LONGEST
        refused = self._wrap(
            self._session,
            addressof(self._oaep[oaep_hash].structure),
            public_key,
            key,
            self._result,
            addressof(self._length),
        )
        return None if refused else self._result.raw[: self._length.value]

    def sign_p256(self, private_key: int, digest: bytes) -> bytes | None:
        """Return the ECDSA signature of a digest: r and s, 32 bytes each."""
        self._length.value = _LONGEST
        refused = self._sign_init(
            self._session, addressof(self._ecdsa.structure), private_key
        ) or self._sign(self._session, digest, len(digest), self._result, addressof(self._length))
        return None if refused else self._result.raw[: self._length.value]

    def destroy(self, key: int) -> bool:
        """Remove a key; say whether the token did."""
        return not self._destroy(self._session, key)


class KeyTemplate:
    """What an unwrapped AES key is to be, and what it must then tell of itself."""

    def __init__(
        self, template: Mapping[Attribute, Any], keeps: Mapping[Attribute, Any], length: int
    ) -> None:
        """Pack both, once.

        A key must tell all of ``keeps``, and a length of ``length`` or, where the token does not
        know it, 0.
        """
        self.asked = Packed(
            {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES, **template}
        )
        names = (*keeps, Attribute.VALUE_LEN)
        right = [_value(keeps[name]) for name in keeps]
        self._count = len(names)
        self._block = ctypes.create_string_buffer(
            sizeof(AttributeStructure) * len(names) + sum(map(len, right)) + sizeof(c_ulong)
        )
        # Asked with values that are wrong, so that what a token does not tell is not right.
        blank = [b"\xff" * len(value) for value in (*right, _value(0))]
        self._question = self._image(names, blank)
        self._answers = [self._image(names, [*right, _value(each)]) for each in (0, length)]

    def ask(self) -> tuple[int, int]:
        """Return address and length of the array of CK_ATTRIBUTE to be filled in."""
        address = addressof(self._block)
        ctypes.memmove(address, self._question, len(self._question))
        return address, self._count

    def told(self) -> bool:
        """Say whether it was filled in with what is right."""
        return self._block.raw in self._answers

    def _image(self, names: Sequence[Attribute], values: Sequence[bytes]) -> bytes:
        """Return the block as it is with these values: the array, and what it points to."""
        array, tail = (AttributeStructure * len(names))(), b""
        first = addressof(self._block) + sizeof(array)
        for place, (name, value) in enumerate(zip(names, values, strict=True)):
            array[place] = AttributeStructure(name, first + len(tail), len(value))
            tail += value
        return bytes(array) + tail


def _value(value: bool | int) -> bytes:
    """Return a CK_BBOOL or CK_ULONG as it lies in memory."""
    return bytes((value,)) if isinstance(value, bool) else bytes(c_ulong(value))
