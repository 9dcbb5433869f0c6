"""SoftHSM, the default token: module, configuration, files of the PINs.

All files are under the state directory; the system's own SoftHSM configuration is neither read nor
written. `hsm.pkcs11.softhsm_token` makes the tokens.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from hsm.errors import ModuleAbsentError, ProvisioningError
from hsm.files import private_directory, read_limited, write_private
from hsm.pkcs11.config import TokenConfig
from hsm.pkcs11.pins import PinSource

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
    padded = padded_label(label)
    for path in (state_dir / "tokens").glob("*/token.object"):
        with suppress(OSError):
            if padded in read_limited(path, _MAX_TOKEN_OBJECT):
                return True
    return False


def padded_label(label: str) -> bytes:
    """Return a token label as PKCS#11 has it, with blanks at its end."""
    return label.encode().ljust(_MAX_TOKEN_LABEL_BYTES)


def write_configuration(state_dir: Path) -> None:
    """Write SoftHSM's configuration and make its directories, if absent.

    The directories have mode 0700.
    """
    for directory in (state_dir, state_dir / "tokens", state_dir / "pins"):
        private_directory(directory)
    content = configuration(state_dir / "tokens")
    path = state_dir / CONFIGURATION_FILE
    try:
        is_there = read_limited(path, len(content)) == content
    except OSError:
        is_there = False
    if not is_there:
        write_private(path, content)


def configuration(tokens: Path) -> bytes:
    """Return a configuration file of SoftHSM for a folder of tokens."""
    return (
        "# Written by Taperig; SoftHSM reads it through SOFTHSM2_CONF.\n"
        f"directories.tokendir = {tokens}\n"
        "objectstore.backend = file\n"
        "log.level = ERROR\n"
        "slots.removable = false\n"
    ).encode()
