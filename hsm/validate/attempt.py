"""Try one PKCS#11 call and keep its outcome."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from hsm.validate.raw_pkcs11 import RefusedCallError
from hsm.validate.return_codes import ReturnCode


class ProbeSkippedError(Exception):
    """A probe cannot be run, because something that it needs is missing."""


class NotDeterminedError(Exception):
    """A call failed for a reason that does not answer the probe's question."""


_DOES_NOT_WORK: Final = (
    ReturnCode.HOST_MEMORY,
    ReturnCode.DEVICE_ERROR,
    ReturnCode.DEVICE_MEMORY,
    ReturnCode.DEVICE_REMOVED,
    ReturnCode.TOKEN_NOT_PRESENT,
)
"""Return codes of a token that fails whatever it is asked for."""
_DENIALS: Final = {
    "C_WrapKey": (
        ReturnCode.ACTION_PROHIBITED,
        ReturnCode.KEY_FUNCTION_NOT_PERMITTED,
        ReturnCode.KEY_NOT_WRAPPABLE,
        ReturnCode.KEY_UNEXTRACTABLE,
        ReturnCode.WRAPPING_KEY_HANDLE_INVALID,
        ReturnCode.FUNCTION_REJECTED,
    ),
    "C_GetAttributeValue": (
        ReturnCode.ATTRIBUTE_SENSITIVE,
        ReturnCode.ATTRIBUTE_TYPE_INVALID,
        ReturnCode.ACTION_PROHIBITED,
        ReturnCode.FUNCTION_REJECTED,
    ),
}
"""Return codes by which a token refuses to hand out a key, by function."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The outcome of a call: its value, or None, and its return code."""

    value: Any
    code: str
    refused: bool
    reason: int = 0

    @property
    def denied(self) -> bool:
        """Whether the token refused to hand out a key.

        Raises NotDeterminedError when it failed for another reason.
        """
        if self.refused and self.reason not in _DENIALS[self.code.partition(":")[0]]:
            raise NotDeterminedError(self.code)
        return self.refused


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

    A refusal is an outcome, not an exception. Raises NotDeterminedError when the token does not
    work.
    """
    outcome = attempt_any(call, *arguments, **options)
    if outcome.refused and outcome.reason in _DOES_NOT_WORK:
        raise NotDeterminedError(outcome.code)
    return outcome


def attempt_any(call: Callable[..., Any], *arguments: Any, **options: Any) -> Attempt:
    """Make a call; return its outcome also when the token does not work."""
    try:
        value = call(*arguments, **options)
    except RefusedCallError as refusal:
        return Attempt(None, f"{refusal.function}: {refusal.name}", True, refusal.code)
    return Attempt(value, f"{_FUNCTION_OF[call.__name__]}: CKR_OK", False)
