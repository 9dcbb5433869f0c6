"""Make SoftHSM's tokens, with their PINs.

Every step can be repeated after an interruption: PIN files are written first and atomically; then
the token is made in a directory of its own, with its PINs, and moved in.
"""

import shutil
import time
from ctypes import c_char_p, c_ulong
from pathlib import Path
from typing import Final

import pkcs11
from pkcs11 import TokenFlag
from pkcs11 import exceptions as refusals

from hsm.errors import ProvisioningError
from hsm.files import private_directory, reason_and_cure, write_private
from hsm.pkcs11 import softhsm
from hsm.pkcs11.config import TokenConfig
from hsm.pkcs11.module import Module, login_error
from hsm.pkcs11.pins import ensure_pin_file
from hsm.pkcs11.structures import load_functions
from hsm.pkcs11.token_storage import storage_failure

_LOOK_ATTEMPTS: Final = 10
_LOOK_PAUSE_SECONDS: Final = 0.1


def ensure_token(state_dir: Path, label: str) -> TokenConfig:
    """Return the token `label`; make it with random PINs if it is absent.

    No token may be open in this process. Raises ProvisioningError, TokenError, PinError.
    """
    config = softhsm.token_config(state_dir, label)
    assert config.pin is not None and config.pin.file is not None  # noqa: PT018
    user_pin = ensure_pin_file(config.pin.file)
    so_pin = ensure_pin_file(config.pin.file.with_name(f"{config.pin.file.name}.so"))
    with Module(config) as module:
        token = _look_for(state_dir, module, label)
        if token is not None and not token.flags & TokenFlag.USER_PIN_INITIALIZED:
            _init_user_pin(token, so_pin.read(), user_pin.read(), config.softhsm_conf)
    if token is None:
        _make_token(state_dir, config, so_pin.read(), user_pin.read())
    return config


def _look_for(state_dir: Path, module: Module, wanted: str) -> pkcs11.Token | None:
    """Return a token; None where there is none.

    Another process that logs in writes the token, which then seems to be absent or without a PIN of
    its user. Raises ProvisioningError where a token that cannot be read may be the one wanted.
    """
    token = None
    for attempt in range(_LOOK_ATTEMPTS):
        if attempt:
            time.sleep(_LOOK_PAUSE_SECONDS)
            module.reinitialize()
        labels = [each.label for each in module.tokens()]
        files = sorted((state_dir / "tokens").glob("*/token.object"))
        token = module.find_token(wanted) if wanted in labels else None
        if token is None and len(files) <= len(labels):
            return None
        if token is not None and token.flags & TokenFlag.USER_PIN_INITIALIZED:
            return token
    if token is not None:
        return token
    smallest = min(files, key=lambda file: file.stat().st_size)
    raise ProvisioningError(
        f"The token {wanted} was not made: SoftHSM cannot read each token in "
        f"{state_dir / 'tokens'}, so {wanted} may be there with its keys. Put the damaged file "
        f"back from a backup, probably {smallest}, or remove its folder."
    )


def _make_token(state_dir: Path, config: TokenConfig, so_pin: str, user_pin: str) -> None:
    """Make the token in a directory of its own and move it in by one rename.

    SoftHSM lists no token at all if it finds one whose file is truncated.
    """
    aside = state_dir / "tokens.new"
    shutil.rmtree(aside, ignore_errors=True)
    private_directory(aside)
    configuration = state_dir / "softhsm2.new.conf"
    write_private(configuration, softhsm.configuration(aside))
    made = config.replace(softhsm_conf=configuration)
    with Module(made) as module:
        _init_token(module, config.label, so_pin, configuration)
        _init_user_pin(module.find_token(config.label), so_pin, user_pin, configuration)
    _require_complete(made, configuration)
    (folder,) = aside.iterdir()
    try:
        folder.rename(state_dir / "tokens" / folder.name)
        aside.rmdir()
        configuration.unlink()
    except OSError as error:
        raise ProvisioningError(
            f"The token {config.label} cannot be moved into {state_dir / 'tokens'}: "
            f"{reason_and_cure(error)}."
        ) from None


def _require_complete(config: TokenConfig, configuration: Path) -> None:
    """Read a new token back; SoftHSM does not notice each short write.

    Raises ProvisioningError.
    """
    with Module(config) as module:
        if any(
            token.label == config.label and token.flags & TokenFlag.USER_PIN_INITIALIZED
            for token in module.tokens()
        ):
            return
    why = storage_failure(configuration) or "its files are incomplete; run the command again"
    raise ProvisioningError(f"SoftHSM could not make the token {config.label}: {why}.")


def _init_token(module: Module, label: str, so_pin: str, configuration: Path) -> None:
    """Initialize a token in the free slot that SoftHSM always has.

    C_InitToken is called directly, since python-pkcs11 lacks it.
    """
    free = module.tokens(initialized=False)[0].slot
    pin = so_pin.encode()
    arguments = (c_ulong, c_char_p, c_ulong, c_char_p)
    _, functions = load_functions(module.path, {"C_InitToken": arguments})
    code = functions["C_InitToken"](free.slot_id, pin, len(pin), softhsm.padded_label(label))
    if code:
        why = storage_failure(configuration) or f"PKCS#11 error 0x{code:x}; run the command again"
        raise ProvisioningError(f"SoftHSM could not make the token {label}: {why}.")


def _init_user_pin(
    token: pkcs11.Token, so_pin: str, user_pin: str, configuration: Path | None
) -> None:
    try:
        with token.open(rw=True, so_pin=so_pin) as session:
            session.init_pin(user_pin)
    except refusals.PKCS11Error as error:
        if failure := storage_failure(configuration, error):
            raise ProvisioningError(
                f"SoftHSM could not set the PIN of the token {token.label}: {failure}."
            ) from None
        raise login_error(
            error, token.label, "security officer", token.slot.get_token().flags
        ) from None
