"""Look for secrets in the memory of live processes and in files.

A secret is looked for in every order in which software or gates lay a block out in memory:
as it is, reversed (a Verilog vector whose byte 0 is its top byte), and with the bytes of each
32-bit word swapped (C code that keeps words).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class Find:
    """Where a secret was found: file or process, and the offset or address."""

    place: str
    address: int
    what: str


def layouts(secret: bytes) -> dict[str, bytes]:
    """Return the secret in every order in which it might lie in memory."""
    words = [secret[i : i + 4] for i in range(0, len(secret), 4)]
    return {
        "as it is": secret,
        "reversed": secret[::-1],
        "words swapped": b"".join(word[::-1] for word in words),
        "words reversed": b"".join(reversed(words)),
    }


def snapshot(pid: int, into: Path) -> dict[int, tuple[int, int]]:
    """Copy all readable, writable memory of a process to a file.

    Returns the map of the copy: start address -> (offset in the file, length). What cannot be
    written (code, constants) cannot hold a key that was made at run time.
    """
    regions: dict[int, tuple[int, int]] = {}
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory, into.open("wb") as copy:
        for line in maps:
            span, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(number, 16) for number in span.split("-"))
            offset = copy.tell()
            memory.seek(start)
            left = end - start
            while left:
                try:
                    data = memory.read(min(left, _CHUNK_BYTES))
                except OSError:  # a page that the kernel keeps to itself
                    break
                if not data:
                    break
                copy.write(data)
                left -= len(data)
            regions[start] = (offset, copy.tell() - offset)
    return regions


def main_stack(pid: int) -> tuple[int, int]:
    """Return the span of a process's main stack: start and end address."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if line.endswith("[stack]"):
            start, end = line.split(maxsplit=1)[0].split("-")
            return int(start, 16), int(end, 16)
    raise ValueError(f"process {pid} shows no stack")


def _positions(data: bytes, needle: bytes) -> Iterator[int]:
    at = data.find(needle)
    while at >= 0:
        yield at
        at = data.find(needle, at + 1)


def find_in_file(path: Path, secrets: dict[str, bytes]) -> list[Find]:
    """Return every place of one of the secrets in a file, in any layout."""
    data = path.read_bytes()
    return [
        Find(str(path), at, f"{name} ({layout})")
        for name, secret in secrets.items()
        for layout, needle in layouts(secret).items()
        for at in _positions(data, needle)
    ]


def find_in_tree(roots: Iterable[Path], secrets: dict[str, bytes]) -> list[Find]:
    """Return every find in every file below the given folders."""
    files = (path for root in roots for path in sorted(root.rglob("*")) if path.is_file())
    return [find for path in files for find in find_in_file(path, secrets)]


def address_of(find: Find, regions: dict[int, tuple[int, int]]) -> int:
    """Return the process address of a find in a snapshot."""
    for start, (offset, length) in regions.items():
        if offset <= find.address < offset + length:
            return start + find.address - offset
    raise ValueError(f"offset {find.address} is in no region")
