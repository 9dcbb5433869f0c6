"""Tell a full or read-only disk from other failures of SoftHSM's tokens.

SoftHSM reports each file that it cannot write as CKR_FUNCTION_FAILED, CKR_GENERAL_ERROR or
CKR_OBJECT_HANDLE_INVALID, so the folder is tried after such a failure.
"""

from __future__ import annotations

import re
import resource
import tempfile
from pathlib import Path
from typing import Final

from pkcs11 import exceptions as refusals

from hsm.errors import TokenError
from hsm.files import read_limited, reason_and_cure

_PROBE_BYTES: Final = 64 * 1024
"""More than a new key pair takes: SoftHSM removes what it could not write in full."""
_FILE_BYTES: Final = 16 * 1024
"""More than any file of a token has."""
_MAX_CONFIGURATION: Final = 64 * 1024
_FOLDER: Final = re.compile(r"^\s*directories\.tokendir\s*=\s*(.+?)\s*$", re.M)
_MAY_BE_STORAGE: Final = (
    refusals.FunctionFailed,
    refusals.GeneralError,
    refusals.ObjectHandleInvalid,
    refusals.DeviceError,
    refusals.DeviceMemory,
)


def require_file_size(label: str) -> None:
    """Raise TokenError when a limit would cut the files of a token.

    SoftHSM rewrites a token's file at each login, and reports no error when that is cut short:
    the token and its keys would be lost.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < _FILE_BYTES:
        raise TokenError(
            f"The token {label} was not opened: SoftHSM writes its files at each login, and this "
            f"process may write files of {limit} bytes at most, which would destroy them; raise "
            f"the limit on the size of files (ulimit -f) to {_FILE_BYTES} bytes or more."
        )


def storage_failure(
    configuration: Path | None, error: refusals.PKCS11Error | None = None
) -> str | None:
    """Return why SoftHSM cannot write its tokens, and what to do, as a phrase.

    None when it can, when `error` has another cause, and for other modules, which have no
    SoftHSM configuration.
    """
    if configuration is None or (error is not None and not isinstance(error, _MAY_BE_STORAGE)):
        return None
    try:
        text = read_limited(configuration, _MAX_CONFIGURATION).decode("utf-8", "surrogateescape")
    except OSError:
        return None
    folder = _FOLDER.search(text)
    if folder is None:
        return None
    try:
        with tempfile.TemporaryFile(dir=folder[1], buffering=0) as file:
            while file.tell() < _PROBE_BYTES:
                file.write(bytes(_PROBE_BYTES - file.tell()))
    except OSError as cause:
        return f"its folder {folder[1]} cannot be written ({reason_and_cure(cause)})"
    return None
