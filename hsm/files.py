"""Private files and folders, durable names and bounded reads."""

import errno
import os
import stat
from pathlib import Path

from hsm.errors import ProvisioningError


def read_limited(path: Path, limit: int) -> bytes:
    """Return the content of a file that has at most `limit` bytes.

    Raises OSError, with EFBIG for a longer file; no more of it is read, even from a device.
    """
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", str(path))
    return content


def sync_directory(path: Path) -> None:
    """Sync a folder, so that its names outlive a power cut; raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def private_directory(path: Path) -> None:
    """Create a folder with mode 0700, or make an existing one private.

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
    """Write a file of mode 0600 atomically."""
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
