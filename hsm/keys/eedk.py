"""The EEDK: a data key (DK) wrapped by a KEK, stored on a cartridge.

An EEDK is one CBOR map in the core deterministic encoding (RFC 8949, 4.2.1) of at most 3200 bytes:

| key | value |
| --- | --- |
| `version` | 1 |
| `algorithm` | `RSA-OAEP`: the wrapped DK is RSAES-OAEP (RFC 8017, 7.1) without an OAEP label |
| `oaep_hash` | `SHA-1` or `SHA-256`: the hash of OAEP and of its MGF1 |
| `mode` | `clear` or `hash` |
| `label` | clear mode only: the KEK's label, text |
| `kek_sha256` | hash mode only: SHA-256 of the KEK's SubjectPublicKeyInfo (DER), 32 bytes |
| `wrapped_dk` | the RSA ciphertext, 256 to 512 bytes; its plaintext is the 32-byte AES-256 DK |
| `volume` | the VOLSER, six characters A-Z 0-9 |
| `signature` | ECDSA P-256 with SHA-256 by the EKM that made it, DER, 8 to 72 bytes |

The signature covers the text `taperig EEDK 1`, a zero byte and the same map without `signature`.
"""

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Final, TypeVar

from hsm.errors import EedkMalformedError, LabelInvalidError
from hsm.keys import deterministic_cbor
from hsm.keys.labels import normalize_label
from hsm.keys.signature import MAX_SIGNATURE_BYTES, MIN_SIGNATURE_BYTES
from hsm.pkcs11.oaep import OaepHash

EEDK_VERSION: Final = 1
ALGORITHM: Final = "RSA-OAEP"
MAX_EEDK_BYTES: Final = 3200
"""What the memory of a cartridge takes; with RSA at most half of it is used."""
KEK_HASH_BYTES: Final = 32
MIN_KEK_BITS: Final = 2048
MAX_KEK_BITS: Final = 4096
MIN_WRAPPED_BYTES: Final = MIN_KEK_BITS // 8
MAX_WRAPPED_BYTES: Final = MAX_KEK_BITS // 8
CACHED_EEDKS: Final = 4096
"""Decoded EEDKs in the cache: as many as a busy library has cartridges."""
_SIGNED_PREFIX: Final = b"taperig EEDK 1\0"
_VOLSER: Final = re.compile(r"[A-Z0-9]{6}")

_Choice = TypeVar("_Choice", bound=StrEnum)


class KeyMode(StrEnum):
    """How an EEDK names its KEK (KEY-6)."""

    CLEAR = "clear"
    HASH = "hash"


@dataclass(frozen=True, slots=True)
class KeyLabel:
    """A KEK's label, and the mode in which an EEDK names the KEK.

    The label is normalized by `hsm.keys.labels.normalize_label`. Raises LabelInvalidError;
    ValueError for an unknown mode.
    """

    label: str
    mode: KeyMode = KeyMode.CLEAR

    def __post_init__(self) -> None:
        """Normalize the label, and the mode, which may be a string."""
        object.__setattr__(self, "label", normalize_label(self.label))
        object.__setattr__(self, "mode", KeyMode(self.mode))


@dataclass(frozen=True, slots=True)
class Eedk:
    """One EEDK, with `label` in clear mode and `kek_hash` in hash mode.

    Raises EedkMalformedError when a field breaks the format above, so every Eedk can be encoded.
    """

    version: int
    algorithm: str
    oaep_hash: OaepHash
    mode: KeyMode
    label: str | None
    kek_hash: bytes | None
    wrapped: bytes
    volume: str
    signature: bytes

    def __post_init__(self) -> None:
        """Check every field."""
        if type(self.version) is not int or self.version != EEDK_VERSION:
            raise EedkMalformedError(
                f"The EEDK has a version other than {EEDK_VERSION}; a newer rig may have made it."
            )
        if self.algorithm != ALGORITHM:
            raise EedkMalformedError(f"The EEDK names an algorithm other than {ALGORITHM}.")
        object.__setattr__(self, "oaep_hash", _member(OaepHash, self.oaep_hash, "OAEP hash"))
        object.__setattr__(self, "mode", _member(KeyMode, self.mode, "key mode"))
        self._check_kek()
        _check_bytes(self.wrapped, MIN_WRAPPED_BYTES, MAX_WRAPPED_BYTES, "wrapped data key")
        _check_bytes(self.signature, MIN_SIGNATURE_BYTES, MAX_SIGNATURE_BYTES, "signature")
        check_volume(self.volume)

    def _check_kek(self) -> None:
        if self.mode is KeyMode.HASH:
            if self.label is not None:
                raise EedkMalformedError("The EEDK is in hash mode and yet has a label.")
            _check_bytes(self.kek_hash, KEK_HASH_BYTES, KEK_HASH_BYTES, "hash of its KEK")
            return
        if self.kek_hash is not None:
            raise EedkMalformedError("The EEDK is in clear mode and yet has a hash of its KEK.")
        if type(self.label) is not str:
            raise EedkMalformedError("The EEDK is in clear mode and has no label.")
        try:
            kept = normalize_label(self.label)
        except LabelInvalidError as error:
            raise EedkMalformedError(f"The EEDK's label is invalid: {error}") from None
        if kept != self.label:
            raise EedkMalformedError("The EEDK's label is not in the normalized form.")

    def signed_bytes(self) -> bytes:
        """Return the bytes that the EKM's signature covers."""
        body = self._map()
        del body["signature"]
        return _SIGNED_PREFIX + deterministic_cbor.encode_ordered(body)

    def with_signature(self, signature: bytes) -> "Eedk":
        """Return this EEDK with another signature."""
        return replace(self, signature=signature)

    def encode(self) -> bytes:
        """Return the EEDK as CBOR, at most MAX_EEDK_BYTES bytes."""
        return deterministic_cbor.encode_ordered(self._map())

    def _map(self) -> dict[str, object]:
        """Return the members in the order of the encoding."""
        clear = self.mode is KeyMode.CLEAR
        return {
            "mode": self.mode.value,
            **({"label": self.label} if clear else {}),
            "volume": self.volume,
            "version": self.version,
            "algorithm": self.algorithm,
            "oaep_hash": self.oaep_hash.value,
            "signature": self.signature,
            **({} if clear else {"kek_sha256": self.kek_hash}),
            "wrapped_dk": self.wrapped,
        }

    @staticmethod
    def decode(data: bytes) -> "Eedk":
        """Return the EEDK that `data` encodes.

        Accepts only the deterministic encoding of exactly the mode's fields. Raises no error but
        EedkMalformedError, for any bytes. Results are cached, because one exchange decodes the same
        EEDKs several times.
        """
        return _decoded(bytes(data))


@lru_cache(CACHED_EEDKS)
def _decoded(data: bytes) -> Eedk:
    if len(data) > MAX_EEDK_BYTES:
        raise EedkMalformedError(
            f"An EEDK has at most {MAX_EEDK_BYTES} bytes; this has {len(data)}."
        )
    try:
        fields = deterministic_cbor.decode(data)
    except deterministic_cbor.CborError as error:
        raise EedkMalformedError(f"The EEDK is not deterministic CBOR: {error}.") from None
    if type(fields) is not dict:
        raise EedkMalformedError("The EEDK is not a CBOR map.")
    named = {"label"} if fields.get("mode") == KeyMode.CLEAR else {"kek_sha256"}
    expected = _COMMON_FIELDS | named
    if fields.keys() != expected:
        raise EedkMalformedError("The EEDK has not exactly the fields that its mode requires.")
    return Eedk(
        version=fields["version"],
        algorithm=fields["algorithm"],
        oaep_hash=fields["oaep_hash"],
        mode=fields["mode"],
        label=fields.get("label"),
        kek_hash=fields.get("kek_sha256"),
        wrapped=fields["wrapped_dk"],
        volume=fields["volume"],
        signature=fields["signature"],
    )


_COMMON_FIELDS: Final = frozenset(
    {"version", "algorithm", "oaep_hash", "mode", "wrapped_dk", "volume", "signature"}
)


def check_volume(volume: object) -> None:
    """Raise EedkMalformedError unless `volume` is six characters A-Z 0-9."""
    if type(volume) is not str or not _VOLSER.fullmatch(volume):
        raise EedkMalformedError(
            "A VOLSER has six characters A-Z 0-9; "
            f"{ascii(volume)[:24] if isinstance(volume, str) else 'what was given'} has not."
        )


def _member(choices: type[_Choice], value: object, what: str) -> _Choice:
    if isinstance(value, str):
        try:
            return choices(value)
        except ValueError:
            pass
    raise EedkMalformedError(f"The EEDK names no known {what}.")


def _check_bytes(value: object, least: int, most: int, what: str) -> None:
    if type(value) is not bytes or not least <= len(value) <= most:
        raise EedkMalformedError(f"The EEDK's {what} is not a string of {least} to {most} bytes.")
