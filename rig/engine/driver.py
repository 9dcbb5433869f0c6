"""The driver of the AES-256-GCM engine, on any board."""

import math
import struct
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

import hdl.registers.engine_map as regs
from hdl.registers.describe import describe
from hdl.registers.types import Register, RegisterField
from hdl.widths import WORD_BYTES, clocks_per_word
from hsm.errors import TaperigError
from rig.board.protocol import Board
from rig.results.measurement import EngineClock

IV_BYTES = 12
TAG_BYTES = 16
KEY_BYTES = 32
SEALED_KEY_BYTES = 40

_REGISTER_BYTES = 4
_ID = 0x54415045  # "TAPE"
_VERSION_MAJOR = 1
_SCRATCH_PATTERNS = (0xA55A_0FF0, 0x5AA5_F00F)
_PACE_UNIT = 1 << regs.PACE_RATE.width

# Loading and zeroizing take at most thousands of clocks; the link may take longer.
_STATUS_LIMIT_S = 30.0

# At rising addresses, so that one read returns all; in the order of Counters.
_COUNTERS = (
    regs.CYCLES_BUSY,
    regs.CYCLES_STALL_SOURCE,
    regs.CYCLES_STALL_SINK,
    regs.RECORDS,
    regs.BYTES,
    regs.TAG_FAILURES,
)

# How many batches of records are sent to a board before results are read.
_BATCHES = 4

_HEADER = struct.Struct(">I12s")


class EngineError(TaperigError):
    """The engine did not carry out a request."""


class IdentityError(EngineError):
    """The board does not carry an engine that this driver supports."""


class SelfTestError(EngineError):
    """The engine failed its power-on self test or an internal check."""


class UnwrapFailed(EngineError):  # noqa: N818 - an outcome, named as the register bit is
    """The sealed key was damaged or wrapped under another transport key."""


class PlainPortError(EngineError):
    """The plain key port is locked until power-on."""


class RecordError(EngineError):
    """A record does not fit the engine."""


class Operation(Enum):
    """An operation of the engine on a record."""

    ENCRYPT = 1
    DECRYPT = 2
    BYPASS = 3


class RecordStatus(IntEnum):
    """The status of a result; only OK comes with data."""

    OK = 0
    TAG_MISMATCH = 1
    NO_KEY = 2
    BAD_FRAME = 3
    NOT_READY = 4
    ZEROIZED = 5


_STATUS_CODES = frozenset(RecordStatus)


@dataclass(frozen=True, slots=True)
class Record:
    """A record for the engine; `tag` is the tag that decryption expects."""

    operation: Operation
    data: bytes
    iv: bytes = bytes(IV_BYTES)
    aad: bytes = b""
    tag: bytes = b""


@dataclass(frozen=True, slots=True)
class Result:
    """The engine's result for a record; encryption also returns a tag."""

    status: RecordStatus
    data: bytes
    tag: bytes


@dataclass(frozen=True, slots=True)
class Counters:
    """The engine's counters since they were cleared: clocks, records, bytes.

    Beside them what is counted outside its gates, where anything is (`Board.port_counters`): the
    clocks in which a record was offered or taken in, and those in which one was inside.
    """

    cycles_busy: int
    stall_source: int
    stall_sink: int
    records: int
    bytes: int
    tag_failures: int
    port_busy: int = 0
    port_inside: int = 0

    @property
    def cycles(self) -> int:
        """Return the clocks that rates are computed from.

        An engine that counts fewer busy clocks than passed at its port is no faster for it.
        """
        return max(self.cycles_busy, self.port_busy)


@dataclass(frozen=True, slots=True)
class GapCounters:
    """The longest gap and latency since the counters were cleared, in clocks.

    A gap is a row of clocks in which a record was inside and the engine neither took nor offered a
    word, although its pace limit held none back. Latency runs from the end of a record's frame to
    the header of its result. Where both are counted outside the gates too, the longer one is here.
    """

    longest_gap: int
    longest_latency: int


@dataclass(frozen=True, slots=True)
class TimedCycles:
    """The busy clocks at a time between two times of the host, in seconds."""

    before: float
    after: float
    cycles: int


@dataclass(frozen=True, slots=True)
class Promise:
    """The rate that the engine's build promises for a stream of records.

    `word_bytes` is the width of the data path in bytes a clock, `overhead` the clocks of a record
    beside those of its data and AAD words, which have 16 bytes at every width.
    """

    word_bytes: int
    overhead: int

    def bytes_per_clock(self, data_bytes: int, aad_bytes: int = 0) -> float:
        """Return the least payload a clock of records of this size."""
        return data_bytes / self.clocks(data_bytes, aad_bytes)

    def clocks(self, data_bytes: int, aad_bytes: int = 0) -> int:
        """Return the clocks of a record at most, among records of its size."""
        words = -(-data_bytes // WORD_BYTES) - (-aad_bytes // WORD_BYTES)
        return words * clocks_per_word(self.word_bytes) + self.overhead


_RECORDS_INSIDE = 16
_LATENCY_CLOCKS = 64


class PromisedClocks:
    """The clocks in which a build promises to take in a stream of records.

    The engine holds 16 records, and sends each when it was taken in whole and judged. So where many
    small records follow a large one, they wait until it has left.
    """

    def __init__(self, promise: Promise) -> None:
        """Begin with an empty engine."""
        self.clocks = 0.0
        self._promise = promise
        self._left: deque[float] = deque([0.0] * _RECORDS_INSIDE, _RECORDS_INSIDE)
        """When each of the last records has left."""

    def add(self, data_bytes: int, aad_bytes: int) -> None:
        """Add a record."""
        takes = self._promise.clocks(data_bytes, aad_bytes)
        self.clocks = max(self.clocks, self._left[0]) + takes
        latency = _LATENCY_CLOCKS * clocks_per_word(self._promise.word_bytes)
        begins = max(self.clocks + latency, self._left[-1])
        self._left.append(begins + self._promise.clocks(data_bytes, 0))


class Engine:
    """The engine on a board."""

    def __init__(self, board: Board) -> None:
        """Check the engine's identity and wait for its self test."""
        self._board = board
        self.build_hash = self._read(regs.BUILD_HASH)
        self.check_identity()
        features = self._read(regs.FEATURES)
        self.max_data_bytes = 1 << regs.FEATURES_BANK_LOG2.get(features)
        self.max_aad_bytes = regs.FEATURES_AAD_MAX.get(features)
        self.simulated = bool(regs.FEATURES_SIMULATED.get(features))
        promise = self._read(regs.PROMISE)
        self.promise = Promise(
            word_bytes=regs.PROMISE_WORD_BYTES.get(promise),
            overhead=regs.PROMISE_OVERHEAD.get(promise),
        )
        self.clock = EngineClock(board.clock_hz, why_assumed="it was not measured")
        """What its rates are computed at; see rig.engine.clock."""
        self._paced = False
        self._wait_for_self_test()

    @property
    def clock_hz(self) -> float:
        """Return the frequency of the engine's clock."""
        return self.clock.hz

    @property
    def link_faults(self) -> int | None:
        """Return how many exchanges with the board were damaged or late.

        They were repeated. None without a link.
        """
        return self._board.link_faults

    def check_identity(self) -> None:
        """Check identity, link and register map.

        Raises IdentityError that names what differs.
        """
        found = self._read(regs.ID)
        if found != _ID:
            raise IdentityError(
                f"Board {self._board.name} has no Taperig engine: its ID register reads "
                f"{found:#010x} instead of {_ID:#010x}"
            )
        for pattern in _SCRATCH_PATTERNS:
            self._write(regs.SCRATCH, pattern)
            echo = self._read(regs.SCRATCH)
            if echo != pattern:
                raise IdentityError(
                    f"The link to board {self._board.name} does not work: SCRATCH was written "
                    f"{pattern:#010x} and reads {echo:#010x}; check the cable"
                )
        major = regs.VERSION_MAJOR.get(self._read(regs.VERSION))
        map_hash = self._read(regs.MAP_HASH)
        if major != _VERSION_MAJOR or map_hash != regs.MAP_HASH_EXPECTED:
            raise IdentityError(
                f"Board {self._board.name} (build {self.build_hash:#010x}) has another register "
                f"map (version {major}, hash {map_hash:#010x}) than this driver (version "
                f"{_VERSION_MAJOR}, hash {regs.MAP_HASH_EXPECTED:#010x}): build both from the "
                "same sources"
            )

    # ---- keys ----

    @property
    def key_valid(self) -> bool:
        """Return whether a key is loaded."""
        return self._status_bit(regs.STATUS_KEY_VALID)

    def load_sealed_key(self, blob: bytes) -> None:
        """Load a data key wrapped under the transport key (RFC 3394, 40 bytes).

        Raises UnwrapFailed when the engine's integrity check fails; then no key is loaded.
        """
        if len(blob) != SEALED_KEY_BYTES:
            raise EngineError(f"A sealed key has {SEALED_KEY_BYTES} bytes, not {len(blob)}")
        self._board.write(regs.SEALED_KEY.address, _REGISTER_BYTES, blob)
        self._command(regs.CTRL_LOAD_SEALED)
        status = self._wait_for_keys()
        if regs.STATUS_UNWRAP_FAILED.get(status):
            raise UnwrapFailed(
                "The engine refused the sealed key: it was damaged, or wrapped under another "
                "transport key than this board's; provision the drive for this board again"
            )
        self._require_key(status)

    def load_plain_key(self, key: bytes) -> None:
        """Load a key in the clear, for known-answer tests only.

        Raises PlainPortError after lock_plain_key.
        """
        if len(key) != KEY_BYTES:
            raise EngineError(f"A key has {KEY_BYTES} bytes, not {len(key)}")
        if self._status_bit(regs.STATUS_PLAIN_LOCKED):
            raise PlainPortError(
                "The engine's plain key port is locked until the board is powered on again"
            )
        self._board.write(regs.PLAIN_KEY.address, _REGISTER_BYTES, key)
        self._command(regs.CTRL_LOAD_PLAIN)
        self._require_key(self._wait_for_keys())

    def lock_plain_key(self) -> None:
        """Close the plain key port until power-on."""
        self._command(regs.CTRL_LOCK_PLAIN)
        if not self._status_bit(regs.STATUS_PLAIN_LOCKED):
            raise EngineError("The engine did not lock its plain key port")

    def zeroize(self) -> None:
        """Zeroize keys, buffers and all state derived from them; wait for the end."""
        self._command(regs.CTRL_ZEROIZE)
        if regs.STATUS_KEY_VALID.get(self._wait_for_keys()):
            raise EngineError("The engine still holds a key after zeroize")

    # ---- records ----

    def process(self, records: Sequence[Record]) -> list[Result]:
        """Process records back to back; return their results in order.

        Raises RecordError, with nothing sent, if one does not fit; SelfTestError when an internal
        check of the engine failed meanwhile; then no result is returned.
        """
        for number, record in enumerate(records):
            self._check_record(number, record)
        return [result for results in self.stream(records) for result in results]

    def stream(self, records: Iterable[Record]) -> Generator[list[Result], None, None]:
        """Process records back to back; yield results in order, some at a time.

        While the board works on one batch, the host prepares the next one and reads the results of
        the one before. Nothing is yielded before STATUS showed that no internal check had failed;
        else raises SelfTestError. When `records` raises an error, the results of the records before
        come first. Close the iterator to abandon it: what is under way leaves the board.
        """
        in_flight: deque[tuple[int, list[Record]]] = deque()
        free = self._board.in_flight_bytes
        batches = self._batches(records)
        failure: Exception | None = None
        try:
            while True:
                try:
                    batch = next(batches, None)
                except Exception as error:  # raised below: what is under way comes first
                    failure, batch = error, None
                frames = b"".join(map(_encode_frame, batch or ()))
                while in_flight and (batch is None or len(frames) > free):
                    size, oldest = in_flight.popleft()
                    free += size
                    yield self._read_results(oldest)
                if batch is None:
                    break
                self._board.write(regs.RECORD_IN, WORD_BYTES, frames)
                in_flight.append((len(frames), batch))
                free -= len(frames)
        except (GeneratorExit, SelfTestError):
            for _, batch in in_flight:
                for record in batch:
                    self._read_result(record)
            raise
        if failure is not None:
            raise failure

    def _read_results(self, batch: Sequence[Record]) -> list[Result]:
        results = list(map(self._read_result, batch))
        if self._status_bit(regs.STATUS_FAULT):
            raise SelfTestError(
                f"An internal check of the engine of board {self._board.name} failed while it "
                "processed records; their results were discarded. Reset the board to repeat its "
                "self test"
            )
        return results

    # ---- measuring ----

    def counters(self) -> Counters:
        """Return all counters, sampled in one clock."""
        self._command(regs.CTRL_COUNTERS_SNAPSHOT)
        first = _COUNTERS[0].low.address
        count = (_COUNTERS[-1].high.address - first) // _REGISTER_BYTES + 1
        data = self._board.read(first, _REGISTER_BYTES, count)
        words: tuple[int, ...] = struct.unpack(f">{count}I", data)

        def word(register: Register) -> int:
            return words[(register.address - first) // _REGISTER_BYTES]

        counted = [word(one.high) << 32 | word(one.low) for one in _COUNTERS]
        counted += self._port_counters()[:2]
        return Counters(*counted)

    def timed_cycles(self) -> TimedCycles:
        """Return the clocks counted as busy, and when they were sampled."""
        before = time.monotonic()
        self._command(regs.CTRL_COUNTERS_SNAPSHOT)
        after = time.monotonic()
        data = self._board.read(regs.CYCLES_BUSY.low.address, _REGISTER_BYTES, 2)
        low, high = struct.unpack(">II", data)
        return TimedCycles(before, after, high << 32 | low)

    def gap_counters(self) -> GapCounters:
        """Return the longest gap and latency, sampled in one clock."""
        self._command(regs.CTRL_COUNTERS_SNAPSHOT)
        _, _, gap, latency = self._port_counters()
        return GapCounters(
            # Outside the gates, what the pace limit holds back looks like a gap.
            max(self._read(regs.LONGEST_GAP), 0 if self._paced else gap),
            max(self._read(regs.LONGEST_LATENCY), latency),
        )

    def clear_counters(self) -> None:
        """Set all counters to zero, the longest gap and latency too."""
        self._command(regs.CTRL_COUNTERS_CLEAR)
        if self._board.port_counters is not None:
            self._board.write(self._board.port_counters, _REGISTER_BYTES, bytes(_REGISTER_BYTES))

    def _port_counters(self) -> tuple[int, int, int, int]:
        """Return clocks busy and with a record inside, longest gap, latency."""
        address = self._board.port_counters
        if address is None:
            return 0, 0, 0, 0
        data = self._board.read(address, _REGISTER_BYTES, 6)
        busy_low, busy_high, inside_low, inside_high, gap, latency = struct.unpack(">6I", data)
        return busy_high << 32 | busy_low, inside_high << 32 | inside_low, gap, latency

    def set_pace(self, bytes_per_second: float | None) -> float | None:
        """Limit the input data rate as a tape channel does; None: no limit.

        Returns the rate that is set: the lowest rate of the PACE register that is not below the
        requested one, or None when the request is not below the engine's own rate, the width of its
        data path a clock.
        """
        rate = 0
        if bytes_per_second is not None:
            if not bytes_per_second > 0:
                raise EngineError(
                    f"The engine cannot be paced at {bytes_per_second} bytes a second; give a "
                    "rate above zero"
                )
            words_a_clock = bytes_per_second / WORD_BYTES / self.clock_hz
            rate = math.ceil(words_a_clock * _PACE_UNIT)
            if rate * WORD_BYTES >= self.promise.word_bytes * _PACE_UNIT:
                rate = 0
        self._write(regs.PACE, regs.PACE_RATE.put(rate))
        self._paced = bool(rate)
        return rate * WORD_BYTES * self.clock_hz / _PACE_UNIT if rate else None

    # ---- registers ----

    def _read(self, register: Register) -> int:
        return int.from_bytes(self._board.read(register.address, _REGISTER_BYTES, 1), "big")

    def _write(self, register: Register, value: int) -> None:
        data = value.to_bytes(_REGISTER_BYTES, "big")
        self._board.write(register.address, _REGISTER_BYTES, data)

    def _command(self, field: RegisterField) -> None:
        self._write(regs.CTRL, field.put(1))

    def _status_bit(self, field: RegisterField) -> bool:
        return bool(field.get(self._read(regs.STATUS)))

    def _wait_for_keys(self) -> int:
        """Wait until no key is being loaded or zeroized; return STATUS."""
        busy = regs.STATUS_KEY_LOADING.mask | regs.STATUS_ZEROIZING.mask
        return self._wait(lambda status: not status & busy, "load or zeroize its keys")

    def _wait_for_self_test(self) -> None:
        done = regs.STATUS_SELF_TEST_DONE.mask
        status = self._wait(lambda status: bool(status & done), "complete its self test")
        if not regs.STATUS_SELF_TEST_OK.get(status) or regs.STATUS_FAULT.get(status):
            raise SelfTestError(
                f"The engine of board {self._board.name} failed its power-on self test "
                f"({describe(regs.STATUS, status)})"
            )

    def _wait(self, is_done: Callable[[int], bool], what: str) -> int:
        deadline = time.monotonic() + _STATUS_LIMIT_S
        while not is_done(status := self._read(regs.STATUS)):
            if time.monotonic() > deadline:
                raise EngineError(
                    f"The engine of board {self._board.name} did not {what} within "
                    f"{_STATUS_LIMIT_S:.0f} s ({describe(regs.STATUS, status)}); reset the board"
                )
        return status

    def _require_key(self, status: int) -> None:
        if regs.STATUS_LOAD_REFUSED.get(status) or not regs.STATUS_KEY_VALID.get(status):
            raise EngineError(
                f"The engine of board {self._board.name} loaded no key "
                f"({describe(regs.STATUS, status)}); reset the board"
            )

    # ---- frames ----

    def _check_record(self, number: int, record: Record) -> None:
        wrong = None
        if len(record.data) > self.max_data_bytes:
            wrong = f"{len(record.data)} bytes of data, more than {self.max_data_bytes}"
        elif len(record.aad) > self.max_aad_bytes:
            wrong = f"{len(record.aad)} bytes of AAD, more than {self.max_aad_bytes}"
        elif len(record.iv) != IV_BYTES:
            wrong = f"an IV of {len(record.iv)} bytes instead of {IV_BYTES}"
        elif record.operation is Operation.DECRYPT and len(record.tag) != TAG_BYTES:
            wrong = f"a tag of {len(record.tag)} bytes instead of {TAG_BYTES}"
        elif record.operation is Operation.BYPASS and record.aad:
            wrong = "AAD, which a clear record cannot have"
        if wrong is not None:
            raise RecordError(f"Record {number} of the batch has {wrong}")

    def _batches(self, records: Iterable[Record]) -> Iterator[list[Record]]:
        """Split records into batches, several of which fit into the board.

        When `records` raises an error, the records before make a last batch.
        """
        most = self._board.in_flight_bytes // _BATCHES
        batch: list[Record] = []
        size = 0
        failure: Exception | None = None
        try:
            for number, record in enumerate(records):
                self._check_record(number, record)
                # Header, tag and the padding of AAD and data are four words at most.
                frame = 4 * WORD_BYTES + len(record.aad) + len(record.data)
                if batch and size + frame > most:
                    yield batch
                    batch, size = [], 0
                batch.append(record)
                size += frame
        except Exception as error:
            failure = error
        if batch:
            yield batch
        if failure is not None:
            raise failure

    def _read_result(self, record: Record) -> Result:
        top = int.from_bytes(self._read_words(1)[:4], "big")
        length = top & 0x7FFFF
        code, operation = top >> 24, top >> 20 & 0xF
        if operation != record.operation.value or code not in _STATUS_CODES:
            raise EngineError(
                f"The engine's results are out of step with its records (result word {top:#010x})"
            )
        status = RecordStatus(code)
        if status is not RecordStatus.OK:
            return Result(status, b"", b"")
        if length != len(record.data):
            raise EngineError(
                f"The engine returned {length} bytes for a record of {len(record.data)} bytes"
            )
        data_words = -(-length // WORD_BYTES)
        tag_words = 1 if record.operation is Operation.ENCRYPT else 0
        if data_words + tag_words == 0:
            return Result(status, b"", b"")
        body = self._read_words(data_words + tag_words)
        tag = body[data_words * WORD_BYTES :]
        return Result(status, body[:length], tag)

    def _read_words(self, count: int) -> bytes:
        return self._board.read(regs.RECORD_OUT, WORD_BYTES, count)


def _encode_frame(record: Record) -> bytes:
    top = record.operation.value << 28 | len(record.aad) << 20 | len(record.data)
    parts = [_HEADER.pack(top, record.iv), _pad(record.aad), _pad(record.data)]
    if record.operation is Operation.DECRYPT:
        parts.append(record.tag)
    return b"".join(parts)


def _pad(data: bytes) -> bytes:
    short = -len(data) % WORD_BYTES
    return data + bytes(short) if short else data
