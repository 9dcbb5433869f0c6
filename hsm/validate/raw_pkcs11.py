"""PKCS#11 called one to one: exact templates, exact return codes.

The rig uses python-pkcs11. A validation cannot: that library adds attributes of its own to
templates, reads attributes of new objects, has no name for some return codes, always passes null to
C_Initialize, and has neither C_InitToken nor a logout without closing the session. ctypes releases
Python's lock during a call, so that threads really call the module at the same time.
"""

import ctypes
from ctypes import byref, c_ulong, c_void_p
from pathlib import Path
from typing import Any, Final

from pkcs11 import Attribute

from hsm.errors import TokenAbsentError
from hsm.pkcs11.structures import (
    AttributeStructure,
    FunctionListError,
    MechanismCall,
    PackedTemplate,
    Template,
    Version,
    load_functions,
)
from hsm.validate.return_codes import ReturnCode, code_name

CKU_SO: Final = 0
CKU_USER: Final = 1
CKF_RW_SESSION: Final = 2
CKF_SERIAL_SESSION: Final = 4
CKF_OS_LOCKING_OK: Final = 2
_BUFFER_BYTES: Final = 16384
_UNAVAILABLE: Final = c_ulong(-1).value


class _InitializeArguments(ctypes.Structure):
    _fields_ = (
        ("create_mutex", c_void_p),
        ("destroy_mutex", c_void_p),
        ("lock_mutex", c_void_p),
        ("unlock_mutex", c_void_p),
        ("flags", c_ulong),
        ("reserved", c_void_p),
    )


class _Info(ctypes.Structure):
    _fields_ = (
        ("cryptoki", Version),
        ("manufacturer", ctypes.c_char * 32),
        ("flags", c_ulong),
        ("description", ctypes.c_char * 32),
        ("library", Version),
    )


class _TokenInfo(ctypes.Structure):
    _fields_ = (
        ("label", ctypes.c_char * 32),
        ("manufacturer", ctypes.c_char * 32),
        ("model", ctypes.c_char * 16),
        ("serial", ctypes.c_char * 16),
        ("flags", c_ulong),
        ("numbers", c_ulong * 10),
        ("hardware", Version),
        ("firmware", Version),
        ("time", ctypes.c_char * 16),
    )


class _MechanismInfo(ctypes.Structure):
    _fields_ = (("minimum", c_ulong), ("maximum", c_ulong), ("flags", c_ulong))


class RefusedCallError(Exception):
    """A PKCS#11 function returned a code other than CKR_OK."""

    def __init__(self, function: str, code: int) -> None:
        """Keep the function and its return code."""
        super().__init__(f"{function}: {code_name(code)}")
        self.function = function
        self.code = code

    @property
    def name(self) -> str:
        """The name of the return code in the standard."""
        return code_name(self.code)


class RawModule:
    """A PKCS#11 module, loaded and initialized."""

    def __init__(self, path: Path, *, locking: bool = False) -> None:
        """Load and initialize the module.

        `locking` passes CKF_OS_LOCKING_OK: the module must use the system's locks.
        Raises OSError (no library, or no C_GetFunctionList), RefusedCallError.
        """
        self.path = path
        try:
            self.list_version, self._functions = load_functions(path)
        except AttributeError:
            raise OSError(f"{path} has no C_GetFunctionList") from None
        except FunctionListError as error:
            raise RefusedCallError("C_GetFunctionList", error.code) from None
        self._locking = locking
        self.initialize()

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function; raise RefusedCallError for any code but CKR_OK."""
        function = self._functions.get(name)
        code = ReturnCode.FUNCTION_NOT_SUPPORTED if function is None else function(*arguments)
        if code:
            raise RefusedCallError(name, code)

    def initialize(self) -> None:
        """Call C_Initialize."""
        arguments = _InitializeArguments(flags=CKF_OS_LOCKING_OK)
        self.call("C_Initialize", byref(arguments) if self._locking else None)

    def finalize(self) -> None:
        """Call C_Finalize."""
        self.call("C_Finalize", None)

    def info(self) -> dict[str, str]:
        """Return what C_GetInfo reports."""
        info = _Info()
        self.call("C_GetInfo", byref(info))
        return {
            "description": _text(info.description),
            "manufacturer": _text(info.manufacturer),
            "library": str(info.library),
            "cryptoki": str(info.cryptoki),
        }

    def slots(self) -> list[int]:
        """Return the slots that hold a token."""
        count = c_ulong()
        self.call("C_GetSlotList", ctypes.c_ubyte(1), None, byref(count))
        slots = (c_ulong * max(count.value, 1))()
        self.call("C_GetSlotList", ctypes.c_ubyte(1), slots, byref(count))
        return list(slots[: count.value])

    def token_info(self, slot: int) -> dict[str, Any]:
        """Return what C_GetTokenInfo reports.

        Label, manufacturer, model, serial, flags, versions, shortest and longest PIN.
        """
        info = _TokenInfo()
        self.call("C_GetTokenInfo", c_ulong(slot), byref(info))
        return {
            "label": _text(info.label),
            "manufacturer": _text(info.manufacturer),
            "model": _text(info.model),
            "serial": _text(info.serial),
            "flags": int(info.flags),
            "hardware": str(info.hardware),
            "firmware": str(info.firmware),
            "pin_lengths": [int(info.numbers[5]), int(info.numbers[4])],
        }

    def mechanisms(self, slot: int) -> list[int]:
        """Return the numbers of the mechanisms that the token declares."""
        count = c_ulong()
        self.call("C_GetMechanismList", c_ulong(slot), None, byref(count))
        mechanisms = (c_ulong * max(count.value, 1))()
        self.call("C_GetMechanismList", c_ulong(slot), mechanisms, byref(count))
        return list(mechanisms[: count.value])

    def mechanism_info(self, slot: int, mechanism: int) -> tuple[int, int, int]:
        """Return a mechanism's smallest and largest key size and its flags."""
        info = _MechanismInfo()
        self.call("C_GetMechanismInfo", c_ulong(slot), c_ulong(mechanism), byref(info))
        return int(info.minimum), int(info.maximum), int(info.flags)

    def slot_of(self, label: str) -> int:
        """Return the first slot with a token of this label.

        Raises TokenAbsentError.
        """
        present = []
        for slot in self.slots():
            try:
                present.append(self.token_info(slot)["label"])
            except RefusedCallError:
                continue
            if present[-1] == label:
                return slot
        raise TokenAbsentError(
            f"There is no token {label} in {self.path.name} (present: "
            f"{', '.join(sorted(filter(None, present))) or 'none'}); correct the label."
        )

    def close_all_sessions(self, slot: int) -> None:
        """Call C_CloseAllSessions."""
        self.call("C_CloseAllSessions", c_ulong(slot))

    def open_session(self, slot: int, *, writable: bool = True) -> "Session":
        """Open a session."""
        flags = CKF_SERIAL_SESSION | (CKF_RW_SESSION if writable else 0)
        handle = c_ulong()
        self.call("C_OpenSession", c_ulong(slot), c_ulong(flags), None, None, byref(handle))
        return Session(self, handle.value)


class Session:
    """A session; each method is one PKCS#11 function.

    Encrypting, decrypting and signing are two: the Init function and its one-part call.
    """

    def __init__(self, library: RawModule, handle: int) -> None:
        """Keep the library and the session's handle."""
        self.library = library
        self._handle = c_ulong(handle)

    def _call(self, name: str, *arguments: Any) -> None:
        self.library.call(name, self._handle, *arguments)

    def close(self) -> None:
        """Call C_CloseSession."""
        self._call("C_CloseSession")

    def login(self, pin: str, user: int = CKU_USER) -> None:
        """Call C_Login."""
        secret = pin.encode()
        self._call("C_Login", c_ulong(user), secret, c_ulong(len(secret)))

    def logout(self) -> None:
        """Call C_Logout."""
        self._call("C_Logout")

    def create(self, template: Template) -> int:
        """Call C_CreateObject; return the handle."""
        packed, handle = PackedTemplate(template), c_ulong()
        self._call("C_CreateObject", packed.array, c_ulong(packed.count), byref(handle))
        return handle.value

    def copy(self, key: int, template: Template) -> int:
        """Call C_CopyObject; return the handle of the copy."""
        packed, handle = PackedTemplate(template), c_ulong()
        self._call("C_CopyObject", c_ulong(key), packed.array, c_ulong(packed.count), byref(handle))
        return handle.value

    def destroy(self, key: int) -> None:
        """Call C_DestroyObject."""
        self._call("C_DestroyObject", c_ulong(key))

    def get(self, key: int, name: Attribute) -> bytes:
        """Call C_GetAttributeValue for one attribute; return its bytes."""
        buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
        attribute = AttributeStructure(name, ctypes.addressof(buffer), len(buffer))
        self._call("C_GetAttributeValue", c_ulong(key), byref(attribute), c_ulong(1))
        if attribute.length == _UNAVAILABLE:  # some modules return CKR_OK all the same
            raise RefusedCallError("C_GetAttributeValue", ReturnCode.ATTRIBUTE_TYPE_INVALID)
        return buffer.raw[: attribute.length]

    def is_set(self, key: int, name: Attribute) -> bool:
        """Return a boolean attribute."""
        return any(self.get(key, name))

    def number(self, key: int, name: Attribute) -> int:
        """Return an attribute of type CK_ULONG."""
        return int.from_bytes(self.get(key, name), "little")

    def set(self, key: int, template: Template) -> None:
        """Call C_SetAttributeValue."""
        packed = PackedTemplate(template)
        self._call("C_SetAttributeValue", c_ulong(key), packed.array, c_ulong(packed.count))

    def find(self, template: Template) -> list[int]:
        """Return the handles of all objects that match the template."""
        packed = PackedTemplate(template)
        self._call("C_FindObjectsInit", packed.array, c_ulong(packed.count))
        found: list[int] = []
        batch, count = (c_ulong * 64)(), c_ulong()
        try:
            while True:
                self._call("C_FindObjects", batch, c_ulong(64), byref(count))
                if not count.value:
                    return found
                found.extend(batch[: count.value])
        finally:
            self._call("C_FindObjectsFinal")

    def generate_key(self, mechanism: MechanismCall, template: Template) -> int:
        """Call C_GenerateKey; return the handle."""
        packed, handle = PackedTemplate(template), c_ulong()
        self._call(
            "C_GenerateKey",
            byref(mechanism.structure),
            packed.array,
            c_ulong(packed.count),
            byref(handle),
        )
        return handle.value

    def generate_pair(
        self, mechanism: MechanismCall, public: Template, private: Template
    ) -> tuple[int, int]:
        """Call C_GenerateKeyPair; return the public and the private handle."""
        halves = PackedTemplate(public), PackedTemplate(private)
        handles = c_ulong(), c_ulong()
        self._call(
            "C_GenerateKeyPair",
            byref(mechanism.structure),
            halves[0].array,
            c_ulong(halves[0].count),
            halves[1].array,
            c_ulong(halves[1].count),
            byref(handles[0]),
            byref(handles[1]),
        )
        return handles[0].value, handles[1].value

    def wrap(self, mechanism: MechanismCall, wrapping_key: int, key: int) -> bytes:
        """Call C_WrapKey; return the wrapped key."""
        buffer, length = ctypes.create_string_buffer(_BUFFER_BYTES), c_ulong(_BUFFER_BYTES)
        self._call(
            "C_WrapKey",
            byref(mechanism.structure),
            c_ulong(wrapping_key),
            c_ulong(key),
            buffer,
            byref(length),
        )
        return buffer.raw[: length.value]

    def unwrap(
        self, mechanism: MechanismCall, unwrapping_key: int, wrapped: bytes, template: Template
    ) -> int:
        """Call C_UnwrapKey; return the handle."""
        packed, handle = PackedTemplate(template), c_ulong()
        self._call(
            "C_UnwrapKey",
            byref(mechanism.structure),
            c_ulong(unwrapping_key),
            wrapped,
            c_ulong(len(wrapped)),
            packed.array,
            c_ulong(packed.count),
            byref(handle),
        )
        return handle.value

    def derive(self, mechanism: MechanismCall, key: int, template: Template) -> int:
        """Call C_DeriveKey; return the handle."""
        packed, handle = PackedTemplate(template), c_ulong()
        self._call(
            "C_DeriveKey",
            byref(mechanism.structure),
            c_ulong(key),
            packed.array,
            c_ulong(packed.count),
            byref(handle),
        )
        return handle.value

    def encrypt(self, mechanism: MechanismCall, key: int, data: bytes) -> bytes:
        """Call C_EncryptInit and C_Encrypt."""
        self._call("C_EncryptInit", byref(mechanism.structure), c_ulong(key))
        return self._one_part("C_Encrypt", data)

    def decrypt(self, mechanism: MechanismCall, key: int, data: bytes) -> bytes:
        """Call C_DecryptInit and C_Decrypt."""
        self._call("C_DecryptInit", byref(mechanism.structure), c_ulong(key))
        return self._one_part("C_Decrypt", data)

    def sign(self, mechanism: MechanismCall, key: int, data: bytes) -> bytes:
        """Call C_SignInit and C_Sign."""
        self._call("C_SignInit", byref(mechanism.structure), c_ulong(key))
        return self._one_part("C_Sign", data)

    def random(self, count: int) -> bytes:
        """Call C_GenerateRandom."""
        buffer = ctypes.create_string_buffer(count)
        self._call("C_GenerateRandom", buffer, c_ulong(count))
        return buffer.raw

    def _one_part(self, name: str, data: bytes) -> bytes:
        buffer, length = ctypes.create_string_buffer(_BUFFER_BYTES), c_ulong(_BUFFER_BYTES)
        self._call(name, data, c_ulong(len(data)), buffer, byref(length))
        return buffer.raw[: length.value]


def _text(field: bytes) -> str:
    return field.decode("utf-8", "replace").rstrip(" \0")
