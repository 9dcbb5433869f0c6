"""A PKCS#11 module: load it, find its tokens, explain refused logins.

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
    UserPinAbsentError,
    WrongPinError,
)
from hsm.pkcs11.config import TokenConfig
from hsm.pkcs11.structures import PackedTemplate, Template


class TemplateMapper(AttributeMapper):
    """Attribute mapper that also packs templates and lists of mechanisms.

    python-pkcs11 lacks both. A packed template points to its values, so these are kept; there are
    only a few of them.
    """

    _kept: ClassVar[dict[str, PackedTemplate]] = {}

    def __init__(self) -> None:
        """Register the handlers that python-pkcs11 lacks."""
        super().__init__()
        self.register_handler(Attribute.UNWRAP_TEMPLATE, self._pack_template, bytes)
        self.register_handler(Attribute.ALLOWED_MECHANISMS, _pack_mechanisms, bytes)

    def _pack_template(self, template: Template) -> bytes:
        packed = self._kept.setdefault(repr(template), PackedTemplate(template))
        return bytes(packed.array)


def _pack_mechanisms(mechanisms: Sequence[Mechanism]) -> bytes:
    return bytes((ctypes.c_ulong * len(mechanisms))(*map(int, mechanisms)))


class Module:
    """An initialized PKCS#11 module; a context manager that finalizes it."""

    _in_use: str | None = None
    """Label of the token for which this process has a module initialized."""

    def __init__(self, config: TokenConfig) -> None:
        """Load and initialize the module; set SOFTHSM2_CONF in this process.

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

    def reinitialize(self) -> None:
        """Reinitialize the module, so that it looks for its tokens again.

        All sessions and handles become invalid.
        """
        self._library.reinitialize()

    def close(self) -> None:
        """Finalize the module in this process."""
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
        """Return the initialized tokens, or the uninitialized ones."""
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
        """Return the token `label`.

        Raises TokenAbsentError, which names the tokens present, and TokenNotUniqueError.
        """
        present = self.tokens()
        matches = [token for token in present if token.label == label]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise TokenNotUniqueError(
                f"{len(matches)} tokens in {self.path.name} have the label {label}; give each "
                "token a label of its own with the HSM's own tool."
            )
        creation = "run `rig hsm init`" if self._is_softhsm else "make it with the HSM's own tool"
        cure = f"{creation}, or correct the label"
        others = ", ".join(sorted(token.label for token in present)) or "none"
        raise TokenAbsentError(
            f"There is no token {label} in {self.path.name} (present: {others}); {cure}."
        )


def login_error(error: refusals.PKCS11Error, label: str, who: str, flags: TokenFlag) -> TokenError:
    """Return the error for a refused login.

    `flags` are the token's flags after the attempt.
    """
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
        return UserPinAbsentError(f"The token {label} has no user PIN yet; run `rig hsm init`.")
    if isinstance(error, refusals.UserAlreadyLoggedIn):
        return TokenBusyError(f"This process is logged in at the token {label} already.")
    return TokenRefusedError(
        f"The token {label} refused the {who}'s login ({refusal_name(error)})."
    )


def refusal_name(error: refusals.PKCS11Error) -> str:
    """Return a short text for what the module returned."""
    return str(error) or type(error).__name__
