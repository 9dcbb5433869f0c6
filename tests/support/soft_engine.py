"""The engine in software, for kill campaigns.

It stands where `rig.engine.driver.Engine` stands and does what the gates do, with `cryptography`,
under the drive's own transport key. The key is in this process, which a rig of real use never does.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from rig.engine.driver import (
    TAG_BYTES,
    Counters,
    Engine,
    Operation,
    Promise,
    Record,
    RecordStatus,
    Result,
    UnwrapFailed,
)


class SoftEngine(Engine):
    """Everything that a drive asks of an engine."""

    def __init__(self, transport_key: Path | None = None) -> None:
        """Without a transport key it takes no data key: clear cartridges only."""
        self._transport_key = bytes.fromhex(transport_key.read_text()) if transport_key else b""
        self._aes: AESGCM | None = None
        self._counters = Counters(0, 0, 0, 0, 0, 0)
        self.max_data_bytes = 1 << 18
        self.max_aad_bytes = 64
        self.promise = Promise(word_bytes=16, overhead=6)

    @property
    def clock_hz(self) -> float:
        """Of the gates that it stands for."""
        return 62.5e6

    @property
    def key_valid(self) -> bool:
        """Whether a key is loaded."""
        return self._aes is not None

    def load_sealed_key(self, blob: bytes) -> None:
        """Load a data key."""
        try:
            self._aes = AESGCM(aes_key_unwrap(self._transport_key, blob))
        except InvalidUnwrap as error:
            raise UnwrapFailed("The engine refuses the sealed key") from error

    def zeroize(self) -> None:
        """Forget the key."""
        self._aes = None

    def process(self, records: Sequence[Record]) -> list[Result]:
        """Pass records through."""
        return [self._one(record) for record in records]

    def stream(self, records: Iterable[Record]) -> Generator[list[Result], None, None]:
        """Pass records through as they come."""
        for record in records:
            yield [self._one(record)]

    def _one(self, record: Record) -> Result:
        if record.operation is Operation.BYPASS:
            return Result(RecordStatus.OK, record.data, b"")
        if self._aes is None:
            return Result(RecordStatus.NO_KEY, b"", b"")
        if record.operation is Operation.ENCRYPT:
            out = self._aes.encrypt(record.iv, record.data, record.aad)
            return Result(RecordStatus.OK, out[:-TAG_BYTES], out[-TAG_BYTES:])
        try:
            out = self._aes.decrypt(record.iv, record.data + record.tag, record.aad)
        except InvalidTag:
            return Result(RecordStatus.TAG_MISMATCH, b"", b"")
        return Result(RecordStatus.OK, out, b"")

    def counters(self) -> Counters:
        """Nothing is counted."""
        return self._counters
