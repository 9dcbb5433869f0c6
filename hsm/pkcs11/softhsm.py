"""SoftHSM, the default token: its configuration, tokens and PINs.

All files are under the state directory; the system's own SoftHSM configuration is neither read nor
written. Every step can be repeated after an interruption: PIN files are written first and
atomically; then the token is made in a directory of its own, with its PINs, and moved in.
"""

import os
import shutil
from contextlib import suppress
from ctypes import c_char_p, c_ulong
from pathlib import Path
from typing import Final

import pkcs11
from pkcs11 import TokenFlag
from pkcs11 import exceptions as refusals

from hsm.errors import ModuleAbsentError, ProvisioningError
from hsm.files import private_directory, read_limited, reason_and_cure, write_private
from hsm.pkcs11.config import TokenConfig
from hsm.pkcs11.module import Module, login_error
from hsm.pkcs11.pins import PinSource, ensure_pin_file
from hsm.pkcs11.structures import load_functions
from hsm.pkcs11.token_storage import storage_failure

CONFIGURATION_FILE: Final = "softhsm2.conf"
EKM_TOKEN_LABEL: Final = "taperig-ekm"
MODULE_VARIABLE: Final = "TAPERIG_SOFTHSM"
"""Environment variable with the path of SoftHSM's module."""
_MODULES: Final = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/softhsm/libsofthsm2.so"),
    Path("/usr/local/lib/softhsm/libsofthsm2.so"),
)
_MAX_TOKEN_LABEL_BYTES: Final = 32
_MAX_TOKEN_OBJECT: Final = 64 * 1024
ADMIN_SECRET: Final = "ekm-admin"
"""Name of the key managers' admin secret, which is kept among the PIN files."""


def find_module() -> Path:
    """Return the path of SoftHSM's PKCS#11 module.

    Raises ModuleAbsentError.
    """
    named = os.environ.get(MODULE_VARIABLE)
    for path in (Path(named),) if named else _MODULES:
        if path.is_file():
            return path
    where = named or "the usual places"
    raise ModuleAbsentError(
        f"SoftHSM's module libsofthsm2.so is not in {where}; install the Debian package softhsm2 "
        f"or set {MODULE_VARIABLE} to the path of the module."
    )


def drive_token_label(serial: str) -> str:
    """Return the label of the token of the secure element of a drive."""
    return f"taperig-drive-{serial}"


def token_config(state_dir: Path, label: str) -> TokenConfig:
    """Return the configuration of the token `label`; do not touch the token.

    Raises ModuleAbsentError, ProvisioningError (no label for a token).
    """
    size_fits = 0 < len(label.encode()) <= _MAX_TOKEN_LABEL_BYTES
    if not size_fits or not label.isprintable() or "/" in label or label in (".", ".."):
        raise ProvisioningError(
            f"The token label {label!r} cannot be used: it names the PIN file and must have 1 to "
            f"{_MAX_TOKEN_LABEL_BYTES} printable bytes without '/'; choose another."
        )
    pins = state_dir / "pins" / _pin_name(state_dir, label)
    return TokenConfig(
        module=find_module(),
        label=label,
        pin=PinSource(file=pins),
        so_pin=PinSource(file=pins.with_name(f"{pins.name}.so")),
        softhsm_conf=state_dir / CONFIGURATION_FILE,
    )


def _pin_name(state_dir: Path, label: str) -> str:
    """Return the name of the user's PIN file, which no other label has.

    It is the label, unless that could be the name of a file for another label or of the admin
    secret. An earlier version took the label always; a token that it made keeps its files.
    """
    if "%" not in label and not label.endswith((".so", ".partial")) and label != ADMIN_SECRET:
        return label
    name = "%" + label.replace("%", "%25").replace(".", "%2E")
    if (state_dir / "pins" / name).exists() or not _has_token(state_dir, label):
        return name
    return label


def _has_token(state_dir: Path, label: str) -> bool:
    """Return whether SoftHSM's files have a token, without the module."""
    padded = _padded(label)
    for path in (state_dir / "tokens").glob("*/token.object"):
        with suppress(OSError):
            if padded in read_limited(path, _MAX_TOKEN_OBJECT):
                return True
    return False


def _padded(label: str) -> bytes:
    return label.encode().ljust(_MAX_TOKEN_LABEL_BYTES)


def write_configuration(state_dir: Path) -> None:
    """Write SoftHSM's configuration and make its directories, if absent.

    The directories have mode 0700.
    """
    for directory in (state_dir, state_dir / "tokens", state_dir / "pins"):
        private_directory(directory)
    content = _configuration(state_dir / "tokens")
    path = state_dir / CONFIGURATION_FILE
    try:
        is_there = read_limited(path, len(content)) == content
    except OSError:
        is_there = False
    if not is_there:
        write_private(path, content)


def _configuration(tokens: Path) -> bytes:
    return (
        "# Written by Taperig; SoftHSM reads it through SOFTHSM2_CONF.\n"
        f"directories.tokendir = {tokens}\n"
        "objectstore.backend = file\n"
        "log.level = ERROR\n"
        "slots.removable = false\n"
    ).encode()


def ensure_token(state_dir: Path, label: str) -> TokenConfig:
    """Return the token `label`; make it with random PINs if it is absent.

    No token may be open in this process. Raises ProvisioningError, TokenError, PinError.
    """
    config = token_config(state_dir, label)
    assert config.pin is not None and config.pin.file is not None  # noqa: PT018
    user_pin = ensure_pin_file(config.pin.file)
    so_pin = ensure_pin_file(config.pin.file.with_name(f"{config.pin.file.name}.so"))
    with Module(config) as module:
        present = label in {token.label for token in module.tokens()}
        if present:
            token = module.find_token(label)
            if not token.flags & TokenFlag.USER_PIN_INITIALIZED:
                _init_user_pin(token, so_pin.read(), user_pin.read(), config.softhsm_conf)
    if not present:
        _make_token(state_dir, config, so_pin.read(), user_pin.read())
    return config


def _make_token(state_dir: Path, config: TokenConfig, so_pin: str, user_pin: str) -> None:
    """Make the token in a directory of its own and move it in by one rename.

    SoftHSM lists no token at all if it finds one whose file is truncated.
    """
    aside = state_dir / "tokens.new"
    shutil.rmtree(aside, ignore_errors=True)
    private_directory(aside)
    configuration = state_dir / "softhsm2.new.conf"
    write_private(configuration, _configuration(aside))
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
    code = functions["C_InitToken"](free.slot_id, pin, len(pin), _padded(label))
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
