"""The engine's driver on the simulated board, checked by `cryptography`."""

import os
import secrets
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

import hdl.registers.engine_map as regs
from hdl.registers.types import Register
from rig.board.sim import SimBoard
from rig.engine.driver import (
    Engine,
    EngineError,
    GapCounters,
    IdentityError,
    Operation,
    PlainPortError,
    Promise,
    Record,
    RecordError,
    RecordStatus,
    Result,
    SelfTestError,
    UnwrapFailed,
)
from tests.support.boards import BoardWrapper, StartBoard, write_transport_key

LENGTHS = (1, 15, 16, 17, 255, 2047, 2048, 2049, 65536, 262144)


@pytest.fixture
def key(engine: Engine) -> Iterator[bytes]:
    """Load a random key in the clear; zeroize it afterwards."""
    value = secrets.token_bytes(32)
    engine.load_plain_key(value)
    yield value
    engine.zeroize()


def encrypted(key: bytes, record: Record) -> Record:
    """Return the decrypt record for `record`, computed by `cryptography`."""
    sealed = AESGCM(key).encrypt(record.iv, record.data, record.aad)
    return Record(Operation.DECRYPT, sealed[:-16], record.iv, record.aad, sealed[-16:])


def random_record(length: int, aad: int = 0) -> Record:
    return Record(Operation.ENCRYPT, os.urandom(length), os.urandom(12), os.urandom(aad))


class TestStream:
    def test_stream_gives_the_results_before_an_error_of_its_source(
        self, engine: Engine, key: bytes
    ) -> None:
        plain = [random_record(300_000 // 2, 16) for _ in range(3)]

        def source() -> Iterator[Record]:
            yield from plain
            raise FileNotFoundError("the next volume")

        results: list[Result] = []
        with pytest.raises(FileNotFoundError):
            results.extend(chain.from_iterable(engine.stream(source())))
        wanted = [encrypted(key, record) for record in plain]
        assert [(each.data, each.tag) for each in results] == [(w.data, w.tag) for w in wanted]

    def test_stream_refuses_a_record_that_does_not_fit_after_those_before(
        self, engine: Engine, key: bytes
    ) -> None:
        good, bad = random_record(16), random_record(engine.max_data_bytes + 1)
        results: list[Result] = []
        with pytest.raises(RecordError, match="Record 1 of the batch"):
            results.extend(chain.from_iterable(engine.stream([good, bad])))
        assert len(results) == 1

    def test_stream_that_is_closed_leaves_nothing_in_the_board(
        self, engine: Engine, key: bytes
    ) -> None:
        streamed = engine.stream(random_record(262_144) for _ in range(40))
        next(streamed)
        streamed.close()
        record = random_record(100)
        (result,) = engine.process([record])
        assert result.tag == encrypted(key, record).tag


class TestRecords:
    @pytest.mark.parametrize("aad", [0, 1, 16, 40, 64])
    def test_engine_encrypts_and_decrypts_as_cryptography_does(
        self, engine: Engine, key: bytes, aad: int
    ) -> None:
        plain = [random_record(length, aad) for length in LENGTHS]
        wanted = [encrypted(key, record) for record in plain]
        assert engine.process(plain) == [Result(RecordStatus.OK, w.data, w.tag) for w in wanted]
        assert engine.process(wanted) == [Result(RecordStatus.OK, p.data, b"") for p in plain]

    def test_engine_passes_clear_records_unchanged_without_a_key(self, engine: Engine) -> None:
        assert not engine.key_valid
        records = [Record(Operation.BYPASS, os.urandom(length)) for length in LENGTHS]
        assert engine.process(records) == [Result(RecordStatus.OK, r.data, b"") for r in records]

    def test_engine_takes_mixed_operations_in_one_batch(self, engine: Engine, key: bytes) -> None:
        first, second = random_record(100, 20), random_record(5000)
        clear = Record(Operation.BYPASS, os.urandom(77))
        ends = engine.process([first, clear, encrypted(key, second)])
        assert [end.data for end in ends] == [encrypted(key, first).data, clear.data, second.data]

    def test_engine_processes_more_than_the_board_holds_at_once(
        self, engine: Engine, key: bytes
    ) -> None:
        records = [random_record(262144) for _ in range(6)]
        board = engine._board
        before = board.in_flight_bytes
        board.in_flight_bytes = 600_000
        try:
            ends = engine.process(records)
        finally:
            board.in_flight_bytes = before
        assert [end.data for end in ends] == [encrypted(key, record).data for record in records]

    def test_engine_returns_no_results_for_no_records(self, engine: Engine) -> None:
        assert engine.process([]) == []

    @pytest.mark.parametrize("what", ["data", "first", "tag", "aad", "iv"])
    def test_engine_returns_no_data_of_a_tampered_record(
        self, engine: Engine, key: bytes, what: str
    ) -> None:
        plain = random_record(3000, 24)
        good = encrypted(key, plain)

        def flipped(value: bytes, at: int) -> bytes:
            return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]

        bad = Record(
            Operation.DECRYPT,
            flipped(good.data, {"data": 2999, "first": 0}[what])
            if what in ("data", "first")
            else good.data,
            flipped(good.iv, 5) if what == "iv" else good.iv,
            flipped(good.aad, 23) if what == "aad" else good.aad,
            flipped(good.tag, 15) if what == "tag" else good.tag,
        )
        engine.clear_counters()
        assert engine.process([good, bad, good]) == [
            Result(RecordStatus.OK, plain.data, b""),
            Result(RecordStatus.TAG_MISMATCH, b"", b""),
            Result(RecordStatus.OK, plain.data, b""),
        ]
        assert engine.counters().tag_failures == 1

    def test_engine_encrypts_nothing_without_a_key(self, engine: Engine) -> None:
        assert not engine.key_valid
        ends = engine.process([random_record(100), random_record(1)])
        assert ends == [Result(RecordStatus.NO_KEY, b"", b"")] * 2

    @pytest.mark.parametrize(
        ("record", "complaint"),
        [
            (Record(Operation.ENCRYPT, bytes(262145)), "262145 bytes of data"),
            (Record(Operation.ENCRYPT, b"a", aad=bytes(129)), "129 bytes of AAD"),
            (Record(Operation.ENCRYPT, b"a", iv=bytes(11)), "IV of 11 bytes"),
            (Record(Operation.DECRYPT, b"a", tag=bytes(12)), "tag of 12 bytes"),
            (Record(Operation.BYPASS, b"a", aad=b"b"), "AAD"),
        ],
    )
    def test_engine_refuses_a_batch_with_a_record_that_does_not_fit(
        self, engine: Engine, record: Record, complaint: str
    ) -> None:
        engine.clear_counters()
        with pytest.raises(RecordError, match=f"Record 1 .*{complaint}"):
            engine.process([Record(Operation.BYPASS, b"good"), record])
        assert engine.counters().records == 0


class TestKeys:
    def test_engine_loads_a_sealed_key(self, engine: Engine, transport_key: bytes) -> None:
        key = secrets.token_bytes(32)
        engine.load_sealed_key(aes_key_wrap(transport_key, key))
        assert engine.key_valid
        record = random_record(1000, 8)
        (end,) = engine.process([record])
        assert end.data == encrypted(key, record).data
        engine.zeroize()

    def test_engine_refuses_a_key_sealed_under_another_transport_key(
        self, engine: Engine, key: bytes
    ) -> None:
        with pytest.raises(UnwrapFailed):
            engine.load_sealed_key(aes_key_wrap(secrets.token_bytes(32), secrets.token_bytes(32)))
        assert not engine.key_valid
        (end,) = engine.process([random_record(16)])
        assert end.status is RecordStatus.NO_KEY

    def test_engine_loads_a_sealed_key_after_a_damaged_one(
        self, engine: Engine, transport_key: bytes
    ) -> None:
        key = secrets.token_bytes(32)
        blob = bytearray(aes_key_wrap(transport_key, key))
        blob[39] ^= 0x80
        with pytest.raises(UnwrapFailed):
            engine.load_sealed_key(bytes(blob))
        blob[39] ^= 0x80
        engine.load_sealed_key(bytes(blob))
        assert engine.key_valid
        engine.zeroize()

    def test_engine_without_a_transport_key_refuses_sealed_keys(
        self, start_board: StartBoard
    ) -> None:
        engine = Engine(start_board())
        with pytest.raises(UnwrapFailed):
            engine.load_sealed_key(aes_key_wrap(bytes(32), secrets.token_bytes(32)))

    def test_engine_refuses_a_key_sealed_for_another_board(
        self, engine: Engine, transport_key: bytes, start_board: StartBoard, tmp_path: Path
    ) -> None:
        path = write_transport_key(tmp_path / "other.hex", secrets.token_bytes(32))
        other = Engine(start_board(transport_key=path))
        blob = aes_key_wrap(transport_key, secrets.token_bytes(32))
        engine.load_sealed_key(blob)
        engine.zeroize()
        with pytest.raises(UnwrapFailed):
            other.load_sealed_key(blob)

    def test_engine_replaces_its_key_with_a_new_one(self, engine: Engine, key: bytes) -> None:
        record = random_record(64)
        before = engine.process([record])
        other = secrets.token_bytes(32)
        engine.load_plain_key(other)
        assert engine.process([record]) != before
        assert engine.process([record])[0].data == encrypted(other, record).data

    def test_engine_zeroize_removes_the_key(self, engine: Engine, key: bytes) -> None:
        assert engine.key_valid
        engine.zeroize()
        assert not engine.key_valid
        assert engine.process([random_record(16)])[0].status is RecordStatus.NO_KEY

    def test_engine_plain_port_stays_locked_until_power_on(
        self, start_board: StartBoard, transport_key_file: Path, transport_key: bytes
    ) -> None:
        board = start_board(transport_key=transport_key_file)
        engine = Engine(board)
        engine.load_plain_key(bytes(range(32)))
        engine.lock_plain_key()
        with pytest.raises(PlainPortError):
            engine.load_plain_key(bytes(range(32)))
        with pytest.raises(PlainPortError):
            Engine(board).load_plain_key(bytes(range(32)))
        key = secrets.token_bytes(32)
        engine.load_sealed_key(aes_key_wrap(transport_key, key))
        # The registers themselves refuse the key, too, when the driver's check is bypassed.
        board.write(regs.PLAIN_KEY.address, 4, bytes(32))
        board.write(regs.CTRL.address, 4, regs.CTRL_LOAD_PLAIN.put(1).to_bytes(4, "big"))
        record = random_record(16)
        assert engine.process([record])[0].data == encrypted(key, record).data

    @pytest.mark.parametrize("size", [0, 31, 33])
    def test_engine_refuses_keys_of_a_wrong_size(self, engine: Engine, size: int) -> None:
        with pytest.raises(EngineError, match="32 bytes"):
            engine.load_plain_key(bytes(size))
        with pytest.raises(EngineError, match="40 bytes"):
            engine.load_sealed_key(bytes(size))

    def test_engine_errors_show_no_key(self, engine: Engine) -> None:
        secret = bytes(range(65, 65 + 33))
        with pytest.raises(EngineError) as caught:
            engine.load_plain_key(secret)
        assert "ABC" not in str(caught.value)
        assert secret.hex() not in str(caught.value)


class TestCounters:
    def test_engine_counts_records_and_bytes(self, engine: Engine, key: bytes) -> None:
        engine.clear_counters()
        engine.process([random_record(length) for length in LENGTHS])
        counted = engine.counters()
        assert counted.records == len(LENGTHS)
        assert counted.bytes == sum(LENGTHS)
        assert counted.tag_failures == 0
        assert counted.cycles_busy >= sum(LENGTHS) / 16

    def test_engine_keeps_the_promise_of_its_build(self, engine: Engine, key: bytes) -> None:
        for length, aad, count in ((4096, 16, 40), (100_000, 0, 6)):
            engine.clear_counters()
            engine.process([random_record(length, aad) for _ in range(count)])
            counters = engine.counters()
            promised = engine.promise.bytes_per_clock(length, aad)
            assert promised <= counters.bytes / counters.cycles_busy

    def test_engine_reports_its_longest_gap_and_latency(self, engine: Engine, key: bytes) -> None:
        engine.clear_counters()
        assert engine.gap_counters() == GapCounters(0, 0)
        engine.process([random_record(1000)])
        assert engine.gap_counters() == GapCounters(longest_gap=1, longest_latency=45)
        engine.clear_counters()
        assert engine.gap_counters() == GapCounters(0, 0)

    def test_engine_clears_its_counters(self, engine: Engine) -> None:
        engine.process([Record(Operation.BYPASS, b"x")])
        engine.clear_counters()
        counted = engine.counters()
        assert (counted.records, counted.bytes, counted.cycles_busy) == (0, 0, 0)

    def test_engine_counts_stalls_by_a_slow_source(self, engine: Engine) -> None:
        board = engine._board
        engine.clear_counters()
        frame = (3 << 28 | 64).to_bytes(4, "big") + bytes(12) + bytes(64)
        board.write(regs.RECORD_IN, 16, frame[:32])
        for _ in range(10):
            assert board.read(regs.ID.address, 4, 1) == b"TAPE"
        board.write(regs.RECORD_IN, 16, frame[32:])
        assert board.read(regs.RECORD_OUT, 16, 5)[16:] == bytes(64)
        counted = engine.counters()
        assert counted.stall_source > 100
        assert counted.cycles_busy > counted.stall_source

    def test_engine_keeps_the_rate_that_is_set(self, engine: Engine) -> None:
        records = [Record(Operation.BYPASS, bytes(65536))] * 4
        for asked in (104e6, 400e6):
            actual = engine.set_pace(asked)
            assert actual == pytest.approx(asked, rel=1e-3)
            assert actual is not None
            assert actual >= asked
            engine.clear_counters()
            engine.process(records)
            counted = engine.counters()
            rate = counted.bytes / counted.cycles_busy * engine.clock_hz
            assert rate == pytest.approx(asked, rel=0.01)
        assert engine.set_pace(None) is None
        engine.clear_counters()
        engine.process(records)
        counted = engine.counters()
        assert counted.bytes / counted.cycles_busy > 15.0

    def test_engine_has_no_limit_at_or_above_its_own_rate(self, engine: Engine) -> None:
        assert engine.set_pace(16 * engine.clock_hz) is None
        with pytest.raises(EngineError, match="above zero"):
            engine.set_pace(0)


class DisturbedLink(BoardWrapper):
    """A board behind a link that flips a bit in reads of one address."""

    def __init__(self, board: SimBoard, address: int) -> None:
        super().__init__(board)
        self._address = address

    def read(self, address: int, size: int, count: int) -> bytes:
        data = super().read(address, size, count)
        if address == self._address:
            return data[:-1] + bytes([data[-1] ^ 1])
        return data


class BoardWithFault(BoardWrapper):
    """A board whose STATUS shows a fault from the first record on."""

    def __init__(self, board: SimBoard) -> None:
        super().__init__(board)
        self._fault = 0

    def read(self, address: int, size: int, count: int) -> bytes:
        data = super().read(address, size, count)
        if address == regs.STATUS.address:
            return (int.from_bytes(data, "big") | self._fault).to_bytes(len(data), "big")
        return data

    def write(self, address: int, size: int, data: bytes | bytearray | memoryview) -> None:
        if address == regs.RECORD_IN:
            self._fault = regs.STATUS_FAULT.mask
        super().write(address, size, data)


class TestIdentity:
    @pytest.mark.parametrize(
        ("register", "complaint"),
        [
            (regs.ID, "no Taperig engine"),
            (regs.SCRATCH, "link to board .* does not work: SCRATCH was written"),
            (regs.MAP_HASH, r"build 0x[0-9a-f]{8}\) has another register map"),
        ],
    )
    def test_engine_names_what_differs_in_its_identity(
        self, sim_board: SimBoard, register: Register, complaint: str
    ) -> None:
        with pytest.raises(IdentityError, match=complaint):
            Engine(DisturbedLink(sim_board, register.address))

    def test_engine_reads_the_build_hash_at_open(self, sim_board: SimBoard) -> None:
        there = Engine(sim_board).build_hash
        assert Engine(DisturbedLink(sim_board, regs.BUILD_HASH.address)).build_hash == there ^ 1

    def test_engine_of_a_simulated_board_says_what_it_is(self, sim_board: SimBoard) -> None:
        engine = Engine(sim_board)
        assert engine.simulated
        assert engine.build_hash != 0
        assert engine.promise.word_bytes == 16

    def test_engine_has_the_build_hash_of_its_recipe(self, sim_board: SimBoard) -> None:
        digest = sim_board._build_directory.name.rpartition("-")[2]
        assert Engine(sim_board).build_hash == int(digest[:8], 16)

    def test_engine_reports_results_out_of_step(self, sim_board: SimBoard) -> None:
        engine = Engine(sim_board)
        sim_board.write(regs.RECORD_IN, 16, (3 << 28 | 16).to_bytes(4, "big") + bytes(28))
        with pytest.raises(EngineError, match="out of step"):
            engine.process([Record(Operation.ENCRYPT, b"x")])
        assert len(sim_board.read(regs.RECORD_OUT, 16, 2)) == 32  # back in step

    def test_engine_discards_results_when_an_internal_check_failed(
        self, sim_board: SimBoard
    ) -> None:
        engine = Engine(BoardWithFault(sim_board))
        with pytest.raises(SelfTestError, match=r"internal check of the engine .* were discarded"):
            engine.process([Record(Operation.BYPASS, b"x")])


def test_engine_follows_the_width_that_its_gates_say(start_board: StartBoard) -> None:
    engine = Engine(start_board(word_bytes=1))
    assert engine.promise == Promise(word_bytes=1, overhead=16)
    key = secrets.token_bytes(32)
    engine.load_plain_key(key)
    records = [Record(Operation.ENCRYPT, secrets.token_bytes(2048)) for _ in range(8)]
    engine.clear_counters()
    for record, result in zip(records, engine.process(records), strict=True):
        assert result.data + result.tag == AESGCM(key).encrypt(record.iv, record.data, None)
    counters = engine.counters()
    rate = counters.bytes / counters.cycles_busy
    assert engine.promise.bytes_per_clock(2048) <= rate < 1
    # Above one byte a clock there is nothing to limit.
    assert engine.set_pace(engine.clock_hz) is None
    assert engine.set_pace(0.9 * engine.clock_hz) == pytest.approx(0.9 * engine.clock_hz, rel=0.01)


@pytest.mark.parametrize(
    ("width", "clocks"), [(16, 9 + 6), (8, 18 + 5), (4, 36 + 4), (1, 144 + 16)]
)
def test_promise_counts_words_of_sixteen_bytes_at_every_width(width: int, clocks: int) -> None:
    promise = Promise(width, overhead={16: 6, 8: 5, 4: 4, 1: 16}[width])
    assert promise.bytes_per_clock(128, 16) == 128 / clocks
    assert promise.bytes_per_clock(113, 1) == 113 / clocks
