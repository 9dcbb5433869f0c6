"""The whole board, simulated at its pins, through PyVISA; and a link that damages what passes."""

import os
import secrets
import select
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

import hdl.registers.board_map as board_regs
import hdl.registers.engine_map as regs
from rig.board.protocol import BoardError
from rig.board.virtual import VirtualBoard
from rig.board.visa import VisaBoard
from rig.engine import traffic_generator
from rig.engine.driver import (
    Engine,
    IdentityError,
    Operation,
    Record,
    RecordError,
    RecordStatus,
    Result,
)
from rig.engine.throughput import rate
from tests.support.faulty_link import Fault, FaultyLink, Way

CLOCK_HZ = 62.5e6
LIMIT_S = 1.0
"""Answers of the link tests come sooner; on a machine with much to do they are asked for again."""


@pytest.fixture(scope="module")
def virtual(transport_key_file: Path) -> Iterator[VirtualBoard]:
    with VirtualBoard(transport_key=transport_key_file) as served:
        yield served


@pytest.fixture
def visa(virtual: VirtualBoard) -> Iterator[VisaBoard]:
    with VisaBoard("virtual", virtual.socket_resource, clock_hz=CLOCK_HZ) as opened:
        yield opened


@pytest.fixture
def key(visa: VisaBoard) -> bytes:
    value = secrets.token_bytes(32)
    Engine(visa).load_plain_key(value)
    return value


@pytest.fixture
def link(virtual: VirtualBoard) -> Iterator[FaultyLink]:
    relay = FaultyLink(virtual.port)
    yield relay
    relay.close()


def sealed(key: bytes, record: Record) -> Result:
    out = AESGCM(key).encrypt(record.iv, record.data, record.aad)
    return Result(RecordStatus.OK, out[:-16], out[-16:])


def random_record(size: int) -> Record:
    return Record(Operation.ENCRYPT, os.urandom(size), os.urandom(12), os.urandom(20))


class TestThirdParty:
    """A client that knows nothing but the protocol, on the terminal."""

    @pytest.fixture
    def terminal(self, virtual: VirtualBoard) -> Iterator[int]:
        descriptor = os.open(virtual.terminal, os.O_RDWR | os.O_NOCTTY)
        yield descriptor
        os.close(descriptor)

    def read(self, terminal: int, address: int, count: int = 1) -> list[int]:
        os.write(terminal, struct.pack(">BBI", 2, count, address >> 2))
        answer = b""
        while len(answer) < 4 * count:
            assert select.select([terminal], [], [], 30)[0], f"{len(answer)} bytes came"
            answer += os.read(terminal, 4 * count - len(answer))
        return list(struct.unpack(f">{count}I", answer))

    def write(self, terminal: int, address: int, *words: int) -> None:
        command = struct.pack(">BBI", 1, len(words), address >> 2)
        os.write(terminal, command + struct.pack(f">{len(words)}I", *words))

    def test_identity_and_scratch(self, terminal: int) -> None:
        assert self.read(terminal, 0x00) == [0x54415045]
        for word in (0x12345678, 0xDEADBEEF):
            self.write(terminal, 0x14, word)
            assert self.read(terminal, 0x14) == [word]
        assert self.read(terminal, 0x00, 3) == [0x54415045, 0x0001_0000, regs.MAP_HASH_EXPECTED]

    def test_fixed_addresses_and_addresses_where_nothing_is(self, terminal: int) -> None:
        os.write(terminal, struct.pack(">BBI3I", 3, 3, 0x14 >> 2, 1, 2, 3))
        os.write(terminal, struct.pack(">BBI", 4, 2, 0x14 >> 2))
        answer = b""
        while len(answer) < 8:
            answer += os.read(terminal, 8)
        assert struct.unpack(">2I", answer) == (3, 3)
        (before,) = self.read(terminal, board_regs.LINK_ERRORS.address)
        assert self.read(terminal, 0x4000_0000) == [0]
        (after,) = self.read(terminal, board_regs.LINK_ERRORS.address)
        bus = board_regs.LINK_ERRORS_BUS
        assert bus.get(after) == min(bus.get(before) + 1, 255)

    def test_through_pyvisa_as_a_serial_port(self, virtual: VirtualBoard) -> None:
        with VisaBoard("serial", virtual.serial_resource, clock_hz=CLOCK_HZ) as opened:
            engine = Engine(opened)
            (result,) = engine.process([Record(Operation.BYPASS, b"over the serial line")])
        assert result == Result(RecordStatus.OK, b"over the serial line", b"")


class TestEngine:
    def test_records_as_cryptography_has_them(self, visa: VisaBoard, key: bytes) -> None:
        engine = Engine(visa)
        records = [random_record(size) for size in (1, 16, 500, 12_000)]
        wanted = [sealed(key, record) for record in records]
        assert engine.process(records) == wanted
        opened = [
            Record(Operation.DECRYPT, result.data, record.iv, record.aad, result.tag)
            for record, result in zip(records, wanted, strict=True)
        ]
        assert [r.data for r in engine.process(opened)] == [r.data for r in records]

    def test_more_results_than_the_board_holds(self, visa: VisaBoard) -> None:
        records = [Record(Operation.BYPASS, os.urandom(3000)) for _ in range(10)]
        assert [r.data for r in Engine(visa).process(records)] == [r.data for r in records]

    def test_a_sealed_key(self, visa: VisaBoard, transport_key: bytes) -> None:
        engine = Engine(visa)
        key = secrets.token_bytes(32)
        engine.load_sealed_key(aes_key_wrap(transport_key, key))
        record = random_record(40)
        assert engine.process([record]) == [sealed(key, record)]

    def test_a_record_beyond_its_buffer_is_refused(self, visa: VisaBoard) -> None:
        engine = Engine(visa)
        assert engine.max_data_bytes == 65536
        with pytest.raises(RecordError, match="65537 bytes of data, more than 65536"):
            engine.process([Record(Operation.BYPASS, bytes(65537))])

    def test_half_a_record_of_an_earlier_host_is_thrown_away(
        self, virtual: VirtualBoard, visa: VisaBoard
    ) -> None:
        header = struct.pack(">I12x", Operation.BYPASS.value << 28 | 4000)
        visa.write(regs.RECORD_IN, 16, header + bytes(320))
        visa.close()
        with VisaBoard("virtual", virtual.socket_resource, clock_hz=CLOCK_HZ) as again:
            (result,) = Engine(again).process([Record(Operation.BYPASS, b"new host")])
        assert result.data == b"new host"


class TestIdentity:
    def test_another_engine_map_is_refused(
        self, visa: VisaBoard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(regs, "MAP_HASH_EXPECTED", regs.MAP_HASH_EXPECTED ^ 1)
        with pytest.raises(IdentityError, match="build both from the same sources"):
            Engine(visa)

    def test_another_board_map_is_refused(
        self, virtual: VirtualBoard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(board_regs, "MAP_HASH_EXPECTED", board_regs.MAP_HASH_EXPECTED ^ 1)
        with pytest.raises(BoardError, match="build both from the same sources"):
            VisaBoard("virtual", virtual.socket_resource, clock_hz=CLOCK_HZ)

    def test_an_address_where_nothing_is(self, visa: VisaBoard) -> None:
        with pytest.raises(BoardError, match="nothing at address 0x00020000"):
            visa.read(0x20000, 4, 1)


class TestTraffic:
    """Full rate, proved on the board and computed here."""

    RECORDS, SIZE, SEED = 12, 8192, 0x5EED

    def outcome(self, visa: VisaBoard, operation: Operation, tag: bytes = bytes(16)) -> float:
        engine = Engine(visa)
        engine.clear_counters()
        found = traffic_generator.TrafficGenerator(visa).run(
            operation, self.SIZE, self.RECORDS, seed=self.SEED, tag=tag
        )
        counters = engine.counters()
        assert (found.good, found.bad) == (self.RECORDS, 0)
        assert counters.bytes == self.RECORDS * self.SIZE
        assert counters.stall_source == 0
        self.check = found.check
        return rate(counters, CLOCK_HZ) / CLOCK_HZ

    def test_encrypt(self, visa: VisaBoard, key: bytes) -> None:
        assert self.outcome(visa, Operation.ENCRYPT) > 15.5  # bytes a clock
        wanted = [
            sealed(
                key,
                Record(
                    Operation.ENCRYPT,
                    traffic_generator.record_data(self.SEED, number, self.SIZE),
                    traffic_generator.record_iv(self.SEED, number),
                ),
            )
            for number in range(self.RECORDS)
        ]
        assert self.check == traffic_generator.check_value(Operation.ENCRYPT, wanted)

    def test_decrypt(self, visa: VisaBoard, key: bytes) -> None:
        iv, text = (
            traffic_generator.record_iv(self.SEED, 0),
            traffic_generator.record_data(self.SEED, 0, self.SIZE),
        )
        counter = Cipher(algorithms.AES(key), modes.CTR(iv + bytes([0, 0, 0, 2]))).decryptor()
        plain = counter.update(text)
        tag = AESGCM(key).encrypt(iv, plain, b"")[-16:]
        assert self.outcome(visa, Operation.DECRYPT, tag) > 15.5
        result = Result(RecordStatus.OK, plain, b"")
        assert self.check == traffic_generator.check_value(
            Operation.DECRYPT, [result] * self.RECORDS
        )

    def test_a_wrong_tag_shows(self, visa: VisaBoard, key: bytes) -> None:
        found = traffic_generator.TrafficGenerator(visa).run(Operation.DECRYPT, 100, 5)
        assert (found.good, found.bad) == (0, 5)

    def test_bypass(self, visa: VisaBoard) -> None:
        assert self.outcome(visa, Operation.BYPASS) > 15.5
        wanted = [
            Result(
                RecordStatus.OK, traffic_generator.record_data(self.SEED, number, self.SIZE), b""
            )
            for number in range(self.RECORDS)
        ]
        assert self.check == traffic_generator.check_value(Operation.BYPASS, wanted)


class TestLinkFaults:
    @pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
    @pytest.mark.parametrize("way", Way, ids=lambda way: way.name.lower())
    @pytest.mark.parametrize("after", [3, 700])
    def test_records_come_through_unharmed(
        self, link: FaultyLink, way: Way, fault: Fault, after: int
    ) -> None:
        with VisaBoard("virtual", link.resource, clock_hz=CLOCK_HZ, limit_s=LIMIT_S) as board:
            engine = Engine(board)
            records = [Record(Operation.BYPASS, os.urandom(900)) for _ in range(2)]
            before = board.link_faults
            link.arm(way, fault, after, stall_s=LIMIT_S + 0.5)
            results = engine.process(records)
            assert link.faults_done == 1
            assert board.link_faults > before
        assert [result.data for result in results] == [record.data for record in records]

    @pytest.mark.parametrize("fault", [Fault.LOST, Fault.GARBLED], ids=lambda fault: fault.name)
    def test_a_damaged_register_write_is_reported_and_the_link_lives(
        self, link: FaultyLink, fault: Fault
    ) -> None:
        with VisaBoard("virtual", link.resource, clock_hz=CLOCK_HZ, limit_s=LIMIT_S) as board:
            link.arm(Way.TO_BOARD, fault, 7)
            with pytest.raises(BoardError, match=r"register write .* was damaged on its way"):
                board.write(regs.SCRATCH.address, 4, b"\x01\x02\x03\x04")
            board.write(regs.SCRATCH.address, 4, b"\x05\x06\x07\x08")
            assert board.read(regs.SCRATCH.address, 4, 1) == b"\x05\x06\x07\x08"

    def test_a_damaged_register_read_is_read_again(self, link: FaultyLink) -> None:
        with VisaBoard("virtual", link.resource, clock_hz=CLOCK_HZ, limit_s=LIMIT_S) as board:
            link.arm(Way.FROM_BOARD, Fault.GARBLED, 2)
            assert board.read(regs.ID.address, 4, 1) == b"TAPE"
            assert board.link_faults == 1

    def test_a_link_that_is_gone_for_good(self, link: FaultyLink) -> None:
        with VisaBoard("virtual", link.resource, clock_hz=CLOCK_HZ, limit_s=0.3) as board:
            link.close()
            with pytest.raises(BoardError, match="does not answer any more"):
                board.read(regs.ID.address, 4, 1)

    def test_nothing_there(self) -> None:
        with pytest.raises(BoardError, match=r"TCPIP::127\.0\.0\.1::1::SOCKET"):
            VisaBoard("none", "TCPIP::127.0.0.1::1::SOCKET", clock_hz=CLOCK_HZ, limit_s=0.2)

    def test_no_such_port(self) -> None:
        with pytest.raises(BoardError, match="cannot be opened"):
            VisaBoard("none", "ASRL/dev/ttyNONE0::INSTR", clock_hz=CLOCK_HZ)
