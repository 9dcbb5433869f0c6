"""Try one PKCS#11 call and keep its outcome."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hsm.validate.raw_pkcs11 import RefusedCallError

if TYPE_CHECKING:
    pass


class ProbeSkippedError(Exception):
    """A probe cannot be made: what it stands on is not there."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call that may be refused: its value, or None, and what it returned."""

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
    """Make a call of Session or RawModule; return what came, or with what code it was refused."""
    try:
        value = call(*arguments, **options)
    except RefusedCallError as refusal:
        return Attempt(None, f"{refusal.function}: {refusal.name}", True, refusal.code)
    return Attempt(value, f"{_FUNCTION_OF[call.__name__]}: CKR_OK", False)
