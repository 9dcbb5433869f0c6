"""Cryptoki, the PKCS#11 interface: loading a module, finding a token in it, saying what it refused.

One process has one module initialized, for one token at a time, and calls it from one thread.
"""

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self

import pkcs11
from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass, TokenFlag
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
from hsm.limits import Limit
from hsm.oaep import OaepHash
from hsm.pins import PinSource, pin_as_plain, pin_from_plain

OAEP: Final[dict[OaepHash, Any]] = {  # typed as bytes by the library, which takes tuples
    OaepHash.SHA256: (Mechanism.SHA256, MGF.SHA256, None),
    OaepHash.SHA1: (Mechanism.SHA_1, MGF.SHA1, None),
}
"""Mechanism parameters of RSA-OAEP without a label, the better hash first."""
NO_USE: Final = {
    Attribute.ENCRYPT: False,
    Attribute.DECRYPT: False,
    Attribute.SIGN: False,
    Attribute.VERIFY: False,
    Attribute.WRAP: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}
DATA_KEY: Final[dict[Attribute, Any]] = {
    **NO_USE,
    Attribute.TOKEN: False,
    Attribute.PRIVATE: True,  # SoftHSM keeps the value of private objects encrypted in memory
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: True,
    Attribute.WRAP_WITH_TRUSTED: True,
    Attribute.MODIFIABLE: False,
}
BARE_DATA_KEY: Final[dict[Attribute, Any]] = {
    name: value for name, value in DATA_KEY.items() if name is not Attribute.WRAP_WITH_TRUSTED
}
"""A data key of a token that does not enforce WRAP_WITH_TRUSTED."""
PRIVATE_HALF: Final = {
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.DECRYPT: False,
    Attribute.SIGN: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}
WRAPPING_PUBLIC: Final = {
    Attribute.CLASS: ObjectClass.PUBLIC_KEY,
    Attribute.KEY_TYPE: KeyType.RSA,
    Attribute.TOKEN: True,
    Attribute.PRIVATE: False,
    Attribute.TRUSTED: True,
    Attribute.WRAP: True,
    Attribute.ENCRYPT: False,
    Attribute.VERIFY: False,
}
UNTRUSTED_PUBLIC: Final[dict[Attribute, Any]] = {
    name: value for name, value in WRAPPING_PUBLIC.items() if name is not Attribute.TRUSTED
}
"""A wrapping key of a token that does not enforce WRAP_WITH_TRUSTED; the user makes it."""


class _CkAttribute(ctypes.Structure):
    """CK_ATTRIBUTE."""

    _fields_ = (("type", ctypes.c_ulong), ("value", ctypes.c_void_p), ("length", ctypes.c_ulong))


class TemplateMapper(AttributeMapper):
    """Packs attributes that hold templates or lists of mechanisms too, which python-pkcs11 lacks.

    A packed template points to its values, so these are kept; there are but few of them.
    """

    _kept: ClassVar[dict[bytes, list[Any]]] = {}

    def __init__(self) -> None:
        """Add to what the library knows."""
        super().__init__()
        self.register_handler(Attribute.UNWRAP_TEMPLATE, self._pack_template, bytes)
        self.register_handler(Attribute.ALLOWED_MECHANISMS, _pack_mechanisms, bytes)

    def _pack_template(self, template: dict[Attribute, Any]) -> bytes:
        values = {name: self.pack_attribute(name, value) for name, value in template.items()}
        content = repr(values).encode()
        if content not in self._kept:
            self._kept[content] = [ctypes.create_string_buffer(v, len(v)) for v in values.values()]
        array = (_CkAttribute * len(values))(
            *(
                _CkAttribute(int(name), ctypes.addressof(buffer), len(buffer))
                for name, buffer in zip(values, self._kept[content], strict=True)
            )
        )
        return bytes(array)


def _pack_mechanisms(mechanisms: Sequence[Mechanism]) -> bytes:
    return bytes((ctypes.c_ulong * len(mechanisms))(*map(int, mechanisms)))


@dataclass(frozen=True, slots=True)
class TokenConfig:
    """Which token, through which module, with whose PINs.

    `so_pin` is needed only to enrol keys. `softhsm_conf` is set for SoftHSM and no other module.
    `accept` are the limits with which the token is taken.
    """

    module: Path
    label: str
    pin: PinSource
    so_pin: PinSource | None = None
    softhsm_conf: Path | None = None
    accept: frozenset[Limit] = frozenset()


def token_as_plain(config: TokenConfig) -> dict[str, Any]:
    """Return a configuration as plain values: where the PINs are, never the PINs."""
    return {
        "module": str(config.module.absolute()),
        "label": config.label,
        "pin": pin_as_plain(config.pin),
        "so_pin": None if config.so_pin is None else pin_as_plain(config.so_pin),
        "softhsm_conf": None if config.softhsm_conf is None else str(config.softhsm_conf),
        "accept": sorted(limit.value for limit in config.accept),
    }


def token_from_plain(plain: dict[str, Any]) -> TokenConfig:
    """Return the configuration that token_as_plain gave."""
    so_pin, conf = plain["so_pin"], plain["softhsm_conf"]
    return TokenConfig(
        module=Path(plain["module"]),
        label=plain["label"],
        pin=pin_from_plain(plain["pin"]),
        so_pin=None if so_pin is None else pin_from_plain(so_pin),
        softhsm_conf=None if conf is None else Path(conf),
        accept=frozenset(Limit(word) for word in plain["accept"]),
    )


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
            raise ModuleAbsentError(
                f"There is no PKCS#11 module at {config.module}; install the Debian package "
                "softhsm2 or configure the path of your HSM's module."
            )
        if config.softhsm_conf is not None:
            if not config.softhsm_conf.is_file():
                raise TokenAbsentError(
                    f"There is no token {config.label}: SoftHSM's configuration "
                    f"{config.softhsm_conf} does not exist; run `rig hsm init`."
                )
            os.environ["SOFTHSM2_CONF"] = str(config.softhsm_conf)
        self.path = config.module
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
        others = ", ".join(sorted(token.label for token in present)) or "none"
        raise TokenAbsentError(
            f"There is no token {label} in {self.path.name} (present: {others}); "
            "run `rig hsm init` or correct the label."
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
