"""Private files and folders, durable names and bounded reads."""

import errno
import os
import select
import stat
from functools import partial
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Final

from hsm.errors import ProvisioningError

PIPE_SECONDS = 5.0
"""How long a pipe or device that is read may give nothing."""

_PIECE_BYTES: Final = 1 << 20

_CURES: Final = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EACCES: "change its access rights",
    errno.EPERM: "change its access rights",
    errno.EROFS: "choose a folder that can be written",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs",
}


def cure(error: OSError) -> str | None:
    """Return what to do about an error of the system, as a phrase."""
    return _CURES.get(error.errno or 0)


def reason_and_cure(error: OSError) -> str:
    """Return what the system said and, where known, what to do."""
    what = cure(error)
    return f"{error.strerror}; {what}" if what else str(error.strerror)


def open_to_read(path: Path) -> FileIO:
    """Open a file without waiting for the writer of a pipe; raises OSError."""
    return FileIO(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def open_regular(path: Path) -> BufferedReader:
    """Open a file that has an end: no pipe, device or folder; raises OSError."""
    file = open_to_read(path)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is a pipe or device, not a regular file", str(path))
    return BufferedReader(file)


def read_at_most(file: FileIO, count: int) -> bytes:
    """Return what an opened file holds, `count` bytes of it at most.

    Raises OSError, ETIMEDOUT for a pipe or device that gives nothing for `PIPE_SECONDS`.
    """
    content = bytearray()
    ready = select.poll()
    ready.register(file, select.POLLIN)
    while len(content) < count:
        if not ready.poll(PIPE_SECONDS * 1000):
            raise OSError(
                errno.ETIMEDOUT, f"it is a pipe or device that gave nothing for {PIPE_SECONDS:g} s"
            )
        piece = file.read(count - len(content))
        if piece == b"":
            break
        content += piece or b""  # None: another reader was faster
    return bytes(content)


def read_limited(path: Path, limit: int) -> bytes:
    """Return the content of a file that has at most `limit` bytes.

    Raises OSError, with EFBIG for a longer file; no more of it is read, even from a device, and
    a pipe that nobody writes to is not waited for.
    """
    with open_to_read(path) as file:
        content = read_at_most(file, limit + 1)
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
            f"The directory {path} cannot be made ready: {error.strerror}; "
            f"{cure(error) or 'make it one that you may write'}, or choose another state directory "
            "with TAPERIG_STATE."
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
        raise ProvisioningError(
            f"The file {path} cannot be written: {reason_and_cure(error)}."
        ) from None


def same_content(one: Path, other: Path) -> bool:
    """Return whether two regular files hold the same bytes."""
    with open_regular(one) as first, open_regular(other) as second:
        if os.fstat(first.fileno()).st_size != os.fstat(second.fileno()).st_size:
            return False
        pieces = iter(partial(first.read, _PIECE_BYTES), b"")
        return all(piece == second.read(_PIECE_BYTES) for piece in pieces)
