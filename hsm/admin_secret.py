"""The admin secret of key managers: generate, store and check it.

It is a random text of 160 bits that `rig hsm init` makes. It is separate from all PINs, so that an
administrator of a key manager need not be able to use its token, and the other way round. The key
manager stores only a scrypt hash of it (RFC 7914). Administrators have it in the environment or in
a file of mode 0600, as with PINs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from pathlib import Path
from typing import Any, Final

from hsm.errors import ProvisioningError, TaperigError
from hsm.files import private_directory, read_limited, write_private

SECRET_VARIABLE: Final = "TAPERIG_EKM_ADMIN"
"""Environment variable that may hold the secret."""
_COST: Final = {"n": 2**15, "r": 8, "p": 1}
_MEMORY: Final = 64 * 1024 * 1024
_MAX_HASH_FILE: Final = 4096
_MAX_SECRET: Final = 255


class AdminSecretError(TaperigError):
    """The admin secret is wrong, or cannot be read or checked."""


def ensure_admin_secret(secret_path: Path, hash_path: Path) -> None:
    """Create the secret and its hash (both 0600) unless there is a hash.

    The secret's file may be removed afterwards; if the hash is removed too, both are created anew.
    """
    if hash_path.exists():
        return
    for path in (secret_path, hash_path):
        private_directory(path.parent)
    secret = base64.b32encode(secrets.token_bytes(20)).decode().lower()
    write_private(secret_path, secret.encode() + b"\n")
    write_hash(hash_path, secret)


def write_hash(path: Path, secret: str) -> None:
    """Write the scrypt hash of a secret to a file of mode 0600."""
    salt = secrets.token_bytes(16)
    content = {**_COST, "salt": salt.hex(), "scrypt": _scrypt(secret, salt, _COST).hex()}
    write_private(path, json.dumps(content).encode() + b"\n")


def secret_matches(path: Path, secret: str) -> bool:
    """Return whether the secret matches the hash in a file.

    Takes a tenth of a second. Raises ProvisioningError when the file cannot be used.
    """
    try:
        kept = json.loads(read_limited(path, _MAX_HASH_FILE))
        if any(not 0 < kept[name] <= cost for name, cost in _COST.items()):
            raise ValueError("a cost above this program's limit")
        salt, wanted = bytes.fromhex(kept["salt"]), bytes.fromhex(kept["scrypt"])
        found = _scrypt(secret[:_MAX_SECRET], salt, kept)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProvisioningError(
            f"The admin secret's hash in {path} cannot be used ({type(error).__name__}); remove it "
            "and run `rig hsm init` for a new secret."
        ) from None
    return hmac.compare_digest(found, wanted)


def _scrypt(secret: str, salt: bytes, cost: dict[str, Any]) -> bytes:
    return hashlib.scrypt(
        secret.encode(), salt=salt, n=cost["n"], r=cost["r"], p=cost["p"], maxmem=_MEMORY, dklen=32
    )
