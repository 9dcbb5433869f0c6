"""Readers for the NIST CAVP files of the package cryptography_vectors."""

from collections.abc import Iterator
from importlib.resources import files


def read_cavp(path: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (section, fields) for each vector of a CAVP file.

    `path` is relative to cryptography_vectors. Sections are the lines in brackets, such as
    ``ENCRYPT`` or ``PLAINTEXT LENGTH = 256``. A line without a value, such as ``FAIL``, is a field
    with an empty value.
    """
    section = ""
    vector: dict[str, str] = {}
    for raw in (files("cryptography_vectors") / path).read_text().splitlines():
        line = raw.strip()
        if line.startswith("#"):
            continue
        if not line or line.startswith("["):
            if _is_vector(vector):
                yield section, vector
            vector = {}
            section = line.strip("[]") or section
            continue
        name, _, value = line.partition("=")
        vector[name.strip()] = value.strip()
    if _is_vector(vector):
        yield section, vector


def _is_vector(fields: dict[str, str]) -> bool:
    return "COUNT" in fields or "Count" in fields


def ecb_vectors(name: str, direction: str) -> list[tuple[int, int, int]]:
    """Return (key, plaintext, ciphertext) of an AES-256 ECB file.

    `direction` is ENCRYPT or DECRYPT.
    """
    return [
        tuple(int(vector[field], 16) for field in ("KEY", "PLAINTEXT", "CIPHERTEXT"))  # type: ignore[misc]  # three fields
        for section, vector in read_cavp(f"ciphers/AES/ECB/ECB{name}256.rsp")
        if section == direction
    ]
