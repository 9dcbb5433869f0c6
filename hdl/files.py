"""Bounded reads of files: sources, logs, summaries."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

MAX_BYTES = 16 << 20
"""More than any source or summary has."""
END_BYTES = 64 << 10


def read_text(path: Path, most: int = MAX_BYTES, encoding: str = "utf-8") -> str:
    """Return the text of a file that has at most ``most`` bytes.

    Raises OSError, with EFBIG for a longer file, and UnicodeDecodeError.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return content.decode(encoding)


def read_end(path: Path, most: int = END_BYTES) -> str:
    """Return the end of a log, at most so many bytes; raises OSError."""
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(max(0, length - most))
        return file.read(most).decode(errors="replace")


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
