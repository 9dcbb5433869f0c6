"""The file of a cartridge: reads, writes, syncs and locks."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from rig.drive.cartridge_format import SUFFIX, CartridgeError, UnusableCartridgeError


class TapeFile:
    """The file of a cartridge, locked while open."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open and lock `path`; several may read it, or one may write it."""
        self.path = path
        self.writable = writable
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._fd = os.open(path, flags)
        except OSError as error:
            raise UnusableCartridgeError(
                f"cannot open cartridge file {path}: {error.strerror}; check its name and rights"
            ) from error
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):  # opening a pipe would never return
            os.close(self._fd)
            raise UnusableCartridgeError(
                f"{path} is not a cartridge: it is no regular file; name a {SUFFIX} file"
            )
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_EX if writable else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise CartridgeError(
                f"cartridge file {path} is mounted by another drive; demount it there first"
            ) from error

    def size(self) -> int:
        """Return the size of the file in bytes."""
        return os.fstat(self._fd).st_size

    def read(self, offset: int, count: int) -> bytes:
        """Read up to `count` bytes; fewer only at the end of the file."""
        data = os.pread(self._fd, count, offset)
        while len(data) < count:
            more = os.pread(self._fd, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`; not safe before `sync`."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._fd, view, offset)
            offset += count
            view = view[count:]

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes; not safe before `sync`."""
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Unlock and close; harmless when closed already."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
