"""Try one PKCS#11 call and keep its outcome."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from hsm.validate.raw_pkcs11 import RefusedCallError


class ProbeSkippedError(Exception):
    """A probe cannot be run, because something that it needs is missing."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The outcome of a call: its value, or None, and its return code."""

    value: Any
    code: str
    refused: bool
    reason: int = 0


_FUNCTION_OF: Final = {
    "create": "C_CreateObject",
    "copy": "C_CopyObject",
    "destroy": "C_DestroyObject",
    "get": "C_GetAttributeValue",
    "is_set": "C_GetAttributeValue",
    "number": "C_GetAttributeValue",
    "set": "C_SetAttributeValue",
    "find": "C_FindObjects",
    "generate_key": "C_GenerateKey",
    "generate_pair": "C_GenerateKeyPair",
    "make_kek": "C_GenerateKeyPair",
    "wrap": "C_WrapKey",
    "unwrap": "C_UnwrapKey",
    "known_data_key": "C_UnwrapKey",
    "derive": "C_DeriveKey",
    "encrypt": "C_Encrypt",
    "decrypt": "C_Decrypt",
    "sign": "C_Sign",
    "random": "C_GenerateRandom",
    "login": "C_Login",
    "reopen": "C_Login",
    "logout": "C_Logout",
    "close": "C_CloseSession",
    "open_session": "C_OpenSession",
    "close_all_sessions": "C_CloseAllSessions",
    "finalize": "C_Finalize",
    "initialize": "C_Initialize",
}


def attempt(call: Callable[..., Any], *arguments: Any, **options: Any) -> Attempt:
    """Make a call of Session or RawModule; return its outcome.

    A refusal is an outcome, not an exception.
    """
    try:
        value = call(*arguments, **options)
    except RefusedCallError as refusal:
        return Attempt(None, f"{refusal.function}: {refusal.name}", True, refusal.code)
    return Attempt(value, f"{_FUNCTION_OF[call.__name__]}: CKR_OK", False)
