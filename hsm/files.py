"""Files and directories that only their owner may read, and names that outlive a power cut."""

import errno
import os
import stat
from pathlib import Path

from hsm.errors import ProvisioningError


def read_limited(path: Path, limit: int) -> bytes:
    """Return the content of a file that has at most `limit` bytes.

    Raises OSError, EFBIG for one that has more; no more of it is read, also when it is a device.
    """
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", str(path))
    return content


def sync_directory(path: Path) -> None:
    """Make names in a folder outlive a power cut; raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def private_directory(path: Path) -> None:
    """Make the directory (0700) if it is not there, and its owner's alone if it is.

    Raises ProvisioningError.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise ProvisioningError(
            f"The directory {path} cannot be made ready: {error.strerror}; make it one that you "
            "may write, or choose another state directory with TAPERIG_STATE."
        ) from None


def write_private(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 that appears under its name whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(partial, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise ProvisioningError(f"The file {path} cannot be written: {error.strerror}.") from None
