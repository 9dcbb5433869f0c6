"""PKCS#11 2.40 through ctypes: functions, mechanisms, templates.

The rig calls a token through python-pkcs11. ``hsm.pkcs11.fast_path`` makes the few calls of every
key exchange through this module, and so does the validator.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from ctypes import byref, c_ulong, c_void_p, sizeof
from pathlib import Path
from typing import Any, Final

from pkcs11 import MGF, Attribute, Mechanism

Template = Mapping[Attribute, Any]
"""Attributes and values: bool, int, bytes, str, a list of mechanisms, or a template."""

_FUNCTION_NAMES: Final = """
    Initialize Finalize GetInfo GetFunctionList GetSlotList GetSlotInfo GetTokenInfo
    GetMechanismList GetMechanismInfo InitToken InitPIN SetPIN OpenSession CloseSession
    CloseAllSessions GetSessionInfo GetOperationState SetOperationState Login Logout
    CreateObject CopyObject DestroyObject GetObjectSize GetAttributeValue SetAttributeValue
    FindObjectsInit FindObjects FindObjectsFinal EncryptInit Encrypt EncryptUpdate EncryptFinal
    DecryptInit Decrypt DecryptUpdate DecryptFinal DigestInit Digest DigestUpdate DigestKey
    DigestFinal SignInit Sign SignUpdate SignFinal SignRecoverInit SignRecover VerifyInit Verify
    VerifyUpdate VerifyFinal VerifyRecoverInit VerifyRecover DigestEncryptUpdate
    DecryptDigestUpdate SignEncryptUpdate DecryptVerifyUpdate GenerateKey GenerateKeyPair
    WrapKey UnwrapKey DeriveKey SeedRandom GenerateRandom GetFunctionStatus CancelFunction
    WaitForSlotEvent
"""
"""Names in CK_FUNCTION_LIST, in order, without C_ (PKCS#11 2.40, section 3.6)."""
_FUNCTIONS: Final = tuple(f"C_{name}" for name in _FUNCTION_NAMES.split())


class Version(ctypes.Structure):
    """CK_VERSION."""

    _fields_ = (("major", ctypes.c_ubyte), ("minor", ctypes.c_ubyte))

    def __str__(self) -> str:
        """Return ``major.minor``."""
        return f"{self.major}.{self.minor}"


class FunctionListError(Exception):
    """C_GetFunctionList failed with the return code ``code``."""

    def __init__(self, code: int) -> None:
        """Keep the return code."""
        super().__init__(f"C_GetFunctionList returned {code:#x}")
        self.code = code


class FunctionList(ctypes.Structure):
    """CK_FUNCTION_LIST."""

    _fields_ = (("version", Version), ("functions", c_void_p * len(_FUNCTIONS)))


class AttributeStructure(ctypes.Structure):
    """CK_ATTRIBUTE."""

    _fields_ = (("type", c_ulong), ("value", c_void_p), ("length", c_ulong))


class MechanismStructure(ctypes.Structure):
    """CK_MECHANISM."""

    _fields_ = (("type", c_ulong), ("parameter", c_void_p), ("length", c_ulong))


class OaepStructure(ctypes.Structure):
    """CK_RSA_PKCS_OAEP_PARAMS."""

    _fields_ = (
        ("hash", c_ulong),
        ("mgf", c_ulong),
        ("source", c_ulong),
        ("label", c_void_p),
        ("label_length", c_ulong),
    )


class MechanismCall:
    """A CK_MECHANISM that keeps its parameter alive."""

    def __init__(self, mechanism: int, parameter: Any = None, *pointed_to: Any) -> None:
        """Build the structure.

        ``parameter`` is bytes (an IV) or a C structure; ``pointed_to`` are the buffers that the
        structure points to.
        """
        self.mechanism = mechanism
        self._kept = parameter
        self._pointed_to = pointed_to
        self.structure = MechanismStructure(mechanism, None, 0)
        if isinstance(parameter, bytes):
            self._kept = ctypes.create_string_buffer(parameter, len(parameter))
        if self._kept is not None:
            self.structure.parameter = ctypes.addressof(self._kept)
            self.structure.length = sizeof(self._kept)


def oaep(hash_mechanism: Mechanism, mgf: MGF, label: bytes = b"") -> MechanismCall:
    """Return the mechanism RSA-OAEP (RFC 8017) with a hash and a label."""
    parameters = OaepStructure(hash_mechanism, mgf, 1, None, len(label))  # CKZ_DATA_SPECIFIED
    kept = ctypes.create_string_buffer(label, max(len(label), 1))
    if label:
        parameters.label = ctypes.addressof(kept)
    return MechanismCall(Mechanism.RSA_PKCS_OAEP, parameters, kept)


class PackedTemplate:
    """A template as an array of CK_ATTRIBUTE that keeps its values alive."""

    def __init__(self, template: Template) -> None:
        """Pack the template."""
        self._kept: list[Any] = []
        self.array = (AttributeStructure * max(len(template), 1))()
        self.address = ctypes.addressof(self.array)
        self.count = len(template)
        for place, (name, value) in enumerate(template.items()):
            buffer, length = self._buffer(value)
            self._kept.append(buffer)
            self.array[place] = AttributeStructure(
                name, None if length == 0 else ctypes.addressof(buffer), length
            )

    def _buffer(self, value: Any) -> tuple[Any, int]:
        if isinstance(value, bool):
            return ctypes.c_ubyte(value), 1
        if isinstance(value, int):
            return c_ulong(value), sizeof(c_ulong)
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, bytes):
            return ctypes.create_string_buffer(value, len(value)), len(value)
        if isinstance(value, Mapping):
            inner = PackedTemplate(value)
            self._kept.append(inner)
            return inner.array, inner.count * sizeof(AttributeStructure)
        numbers = (c_ulong * len(value))(*value)
        return numbers, sizeof(numbers)


Functions = dict[str, Callable[..., int]]
"""The functions of a module by name; each returns a CKR code."""


def load_functions(
    module: Path, arguments: Mapping[str, Sequence[Any]] | None = None, *, keep_lock: bool = False
) -> tuple[str, Functions]:
    """Load a module; return its function list's version and its functions.

    ``arguments`` are the C types of the arguments, by the names of the functions wanted. Without
    it, all functions are returned and their callers pass C values. ``keep_lock`` keeps Python's
    lock during a call: faster, but no other thread runs meanwhile. Raises OSError (no library),
    AttributeError (no C_GetFunctionList), FunctionListError.
    """
    library = ctypes.PyDLL(str(module)) if keep_lock else ctypes.CDLL(str(module))
    prototype = ctypes.PYFUNCTYPE if keep_lock else ctypes.CFUNCTYPE
    pointer = ctypes.POINTER(FunctionList)()
    code = library.C_GetFunctionList(byref(pointer))
    if code:
        raise FunctionListError(code)
    return str(pointer.contents.version), {
        name: prototype(c_ulong, *(arguments[name] if arguments is not None else ()))(address)
        for name, address in zip(_FUNCTIONS, pointer.contents.functions, strict=True)
        if address and (arguments is None or name in arguments)
    }
