"""Bounded reads of files; replacement of one text in a source."""

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


def replace_once(path: Path, old: str, new: str) -> None:
    """Replace the one occurrence of a text in a file.

    Raises ValueError when the text does not occur exactly once, or stays the same.
    """
    text = read_text(path)
    if text.count(old) != 1:
        raise ValueError(
            f"the text to be replaced occurs {text.count(old)} times in {path.name} instead of once"
        )
    if old == new:
        raise ValueError(f"the text to be replaced in {path.name} stays the same")
    path.write_text(text.replace(old, new), encoding="utf-8")
