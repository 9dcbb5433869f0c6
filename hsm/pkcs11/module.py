"""Cryptoki, the PKCS#11 interface: loading a module, finding a token in it, saying what it refused.

One process has one module initialized, for one token at a time, and calls it from one thread.
"""

import ctypes
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar, Self

import pkcs11
from pkcs11 import Attribute, Mechanism, TokenFlag
from pkcs11 import exceptions as refusals
from pkcs11.attributes import AttributeMapper

from hsm.errors import (
    ModuleAbsentError,
    PinLockedError,
    TokenAbsentError,
    TokenBusyError,
    TokenError,
    TokenNotUniqueError,
    TokenRefusedError,
    WrongPinError,
)
from hsm.pkcs11.config import TokenConfig
from hsm.pkcs11.structures import Packed, Template


class TemplateMapper(AttributeMapper):
    """Packs attributes that hold templates or lists of mechanisms too, which python-pkcs11 lacks.

    A packed template points to its values, so these are kept; there are but few of them.
    """

    _kept: ClassVar[dict[str, Packed]] = {}

    def __init__(self) -> None:
        """Add to what the library knows."""
        super().__init__()
        self.register_handler(Attribute.UNWRAP_TEMPLATE, self._pack_template, bytes)
        self.register_handler(Attribute.ALLOWED_MECHANISMS, _pack_mechanisms, bytes)

    def _pack_template(self, template: Template) -> bytes:
        packed = self._kept.setdefault(repr(template), Packed(template))
        return bytes(packed.array)


def _pack_mechanisms(mechanisms: Sequence[Mechanism]) -> bytes:
    return bytes((ctypes.c_ulong * len(mechanisms))(*map(int, mechanisms)))


class Module:
    """An initialized PKCS#11 module. Close it after use, or use it as a context manager."""

    _in_use: str | None = None
    """Label of the token for which this process has a module initialized."""

    def __init__(self, config: TokenConfig) -> None:
        """Load and initialize the module; sets SOFTHSM2_CONF for this process.

        Raises ModuleAbsentError, TokenAbsentError (no SoftHSM configuration), TokenBusyError.
        """
        if Module._in_use is not None:
            raise TokenBusyError(
                f"The token {config.label} cannot be opened: this process has {Module._in_use} "
                "open and one process owns one token."
            )
        if not config.module.is_file():
            cure = (
                "correct the path of your HSM's module"
                if config.softhsm_conf is None
                else "install the Debian package softhsm2 or correct the path"
            )
            raise ModuleAbsentError(f"There is no PKCS#11 module at {config.module}; {cure}.")
        if config.softhsm_conf is not None:
            if not config.softhsm_conf.is_file():
                raise TokenAbsentError(
                    f"There is no token {config.label}: SoftHSM's configuration "
                    f"{config.softhsm_conf} does not exist; run `rig hsm init` or correct the path."
                )
            os.environ["SOFTHSM2_CONF"] = str(config.softhsm_conf)
        self.path = config.module
        self._is_softhsm = config.softhsm_conf is not None
        try:
            self._library: Any = pkcs11.lib(str(config.module))
        except refusals.PKCS11Error as error:
            raise ModuleAbsentError(
                f"The PKCS#11 module {config.module} could not be started "
                f"({refusal_name(error)}); check that it is one and that its configuration is "
                "readable."
            ) from None
        Module._in_use = config.label

    def look_again(self) -> None:
        """Have the module look for its tokens afresh; sessions and objects of before are void."""
        self._library.reinitialize()

    def close(self) -> None:
        """Give up the PKCS#11 context of this process."""
        Module._in_use = None
        self._library.finalize()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the module."""
        self.close()

    def tokens(self, *, initialized: bool = True) -> list[pkcs11.Token]:
        """Return the tokens that are present, those initialized or those that are not yet."""
        found = []
        for slot in self._library.get_slots(token_present=True):
            try:
                token = slot.get_token()
            except (
                refusals.TokenNotPresent,
                refusals.TokenNotRecognised,
                refusals.GeneralError,  # another process is writing it
            ):
                continue
            if bool(token.flags & TokenFlag.TOKEN_INITIALIZED) is initialized:
                found.append(token)
        return found

    def find_token(self, label: str) -> pkcs11.Token:
        """Return the token `label`; raises TokenAbsentError naming those present, or NotUnique."""
        present = self.tokens()
        named = [token for token in present if token.label == label]
        if len(named) == 1:
            return named[0]
        if named:
            raise TokenNotUniqueError(
                f"{len(named)} tokens of {self.path.name} bear the label {label}; labels must tell "
                "tokens apart."
            )
        made = "run `rig hsm init`" if self._is_softhsm else "make it with the HSM's own tool"
        cure = f"{made}, or correct the label"
        others = ", ".join(sorted(token.label for token in present)) or "none"
        raise TokenAbsentError(
            f"There is no token {label} in {self.path.name} (present: {others}); {cure}."
        )


def login_error(error: refusals.PKCS11Error, label: str, who: str, flags: TokenFlag) -> TokenError:
    """Return what a refused login means; `flags` are the token's after the attempt."""
    if isinstance(error, refusals.PinLocked):
        return PinLockedError(
            f"The token {label} has locked the {who}'s PIN after too many wrong ones; unlock it "
            "with the HSM's own tool."
        )
    if isinstance(error, refusals.PinIncorrect | refusals.PinInvalid | refusals.PinLenRange):
        last = TokenFlag.USER_PIN_FINAL_TRY if who == "user" else TokenFlag.SO_PIN_FINAL_TRY
        warning = "; one more wrong PIN locks it" if flags & last else ""
        return WrongPinError(
            f"The token {label} refused the {who}'s PIN{warning}; correct the environment variable "
            "or file that holds it."
        )
    if isinstance(error, refusals.UserPinNotInitialized):
        return TokenRefusedError(f"The token {label} has no user PIN yet; run `rig hsm init`.")
    if isinstance(error, refusals.UserAlreadyLoggedIn):
        return TokenBusyError(f"This process is logged in at the token {label} already.")
    return TokenRefusedError(
        f"The token {label} refused the {who}'s login ({refusal_name(error)})."
    )


def refusal_name(error: refusals.PKCS11Error) -> str:
    """Return what the module said, in a word or few."""
    return str(error) or type(error).__name__
