"""The virtual board through PyVISA, also over a link that damages bytes."""

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
from rig.board.uartbone import LinkFault, UartBone
from rig.board.virtual import VirtualBoard
from rig.board.visa import VisaBoard
from rig.engine import traffic_generator
from rig.engine.driver import (
    Engine,
    EngineError,
    IdentityError,
    Operation,
    Record,
    RecordError,
    RecordStatus,
    Result,
)
from rig.engine.throughput import payload_rate
from tests.support.faulty_link import Direction, Fault, FaultyLink

CLOCK_HZ = 62.5e6
LIMIT_S = 1.0
"""Answers in the link tests come sooner; on a busy machine a late one is read again."""


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
    """A client on the terminal that uses only the documented protocol."""

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

    def test_uartbone_reads_identity_and_scratch(self, terminal: int) -> None:
        assert self.read(terminal, 0x00) == [0x54415045]
        for word in (0x12345678, 0xDEADBEEF):
            self.write(terminal, 0x14, word)
            assert self.read(terminal, 0x14) == [word]
        assert self.read(terminal, 0x00, 3) == [0x54415045, 0x0001_0001, regs.MAP_HASH_EXPECTED]

    def test_uartbone_takes_fixed_and_unmapped_addresses(self, terminal: int) -> None:
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

    def test_visa_board_works_through_a_serial_port(self, virtual: VirtualBoard) -> None:
        with VisaBoard("serial", virtual.serial_resource, clock_hz=CLOCK_HZ) as opened:
            engine = Engine(opened)
            (result,) = engine.process([Record(Operation.BYPASS, b"over the serial line")])
        assert result == Result(RecordStatus.OK, b"over the serial line", b"")


class TestEngine:
    def test_visa_board_encrypts_and_decrypts_as_cryptography_does(
        self, visa: VisaBoard, key: bytes
    ) -> None:
        engine = Engine(visa)
        records = [random_record(size) for size in (1, 16, 500, 12_000)]
        wanted = [sealed(key, record) for record in records]
        assert engine.process(records) == wanted
        opened = [
            Record(Operation.DECRYPT, result.data, record.iv, record.aad, result.tag)
            for record, result in zip(records, wanted, strict=True)
        ]
        assert [r.data for r in engine.process(opened)] == [r.data for r in records]

    def test_visa_board_returns_more_results_than_it_can_hold(self, visa: VisaBoard) -> None:
        records = [Record(Operation.BYPASS, os.urandom(3000)) for _ in range(10)]
        assert [r.data for r in Engine(visa).process(records)] == [r.data for r in records]

    def test_visa_board_loads_a_sealed_key(self, visa: VisaBoard, transport_key: bytes) -> None:
        engine = Engine(visa)
        key = secrets.token_bytes(32)
        engine.load_sealed_key(aes_key_wrap(transport_key, key))
        record = random_record(40)
        assert engine.process([record]) == [sealed(key, record)]

    def test_visa_board_refuses_a_record_longer_than_its_buffer(self, visa: VisaBoard) -> None:
        engine = Engine(visa)
        assert engine.max_data_bytes == 65536
        with pytest.raises(RecordError, match="65537 bytes of data, more than 65536"):
            engine.process([Record(Operation.BYPASS, bytes(65537))])

    def test_visa_board_discards_an_incomplete_record_at_open(
        self, virtual: VirtualBoard, visa: VisaBoard
    ) -> None:
        header = struct.pack(">I12x", Operation.BYPASS.value << 28 | 4000)
        visa.write(regs.RECORD_IN, 16, header + bytes(320))
        visa.close()
        with VisaBoard("virtual", virtual.socket_resource, clock_hz=CLOCK_HZ) as again:
            (result,) = Engine(again).process([Record(Operation.BYPASS, b"new host")])
        assert result.data == b"new host"


class TestIdentity:
    def test_engine_refuses_another_engine_map(
        self, visa: VisaBoard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(regs, "MAP_HASH_EXPECTED", regs.MAP_HASH_EXPECTED ^ 1)
        with pytest.raises(IdentityError, match="build both from the same sources"):
            Engine(visa)

    def test_visa_board_refuses_another_board_map(
        self, virtual: VirtualBoard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(board_regs, "MAP_HASH_EXPECTED", board_regs.MAP_HASH_EXPECTED ^ 1)
        with pytest.raises(BoardError, match="build both from the same sources"):
            VisaBoard("virtual", virtual.socket_resource, clock_hz=CLOCK_HZ)

    @pytest.mark.parametrize("address", [0x20000, 0x2C, 0xFC, 0x10014, 0x100FC])
    def test_visa_board_reports_an_unmapped_address(self, visa: VisaBoard, address: int) -> None:
        for _ in range(2):
            with pytest.raises(BoardError, match=f"nothing at address {address:#010x}"):
                visa.read(address, 4, 1)
        assert visa.read(regs.ID.address, 4, 1) == b"TAPE"


def check_value(operation: Operation, results: list[Result]) -> int:
    """Return the check value over these results, as traffic.sv defines it."""
    check = 0
    for result in results:
        head = result.status << 120 | operation.value << 116 | len(result.data) << 96
        body = result.data + bytes(-len(result.data) % 16) + result.tag
        words = [int.from_bytes(body[at : at + 16], "big") for at in range(0, len(body), 16)]
        for word in (head, *words):
            check = (check << 1 & (1 << 128) - 1 | check >> 127) ^ word
    return check


class TestTraffic:
    """The traffic generator: full rate, results compared with `cryptography`."""

    RECORDS, SIZE, SEED = 12, 8192, 0x5EED

    def run_generator(
        self, visa: VisaBoard, operation: Operation, tag: bytes = bytes(16)
    ) -> tuple[float, int]:
        """Return the rate in bytes a clock, and the check value."""
        engine = Engine(visa)
        engine.clear_counters()
        found = traffic_generator.TrafficGenerator(visa).run(
            operation, self.SIZE, self.RECORDS, seed=self.SEED, tag=tag
        )
        counters = engine.counters()
        assert (found.good, found.bad) == (self.RECORDS, 0)
        assert counters.bytes == self.RECORDS * self.SIZE
        assert counters.stall_source == 0
        return payload_rate(counters, CLOCK_HZ) / CLOCK_HZ, found.check

    def test_traffic_generator_encrypts_at_full_rate(self, visa: VisaBoard, key: bytes) -> None:
        rate, check = self.run_generator(visa, Operation.ENCRYPT)
        assert rate > 15.5
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
        assert check == check_value(Operation.ENCRYPT, wanted)

    def test_traffic_generator_decrypts_at_full_rate(self, visa: VisaBoard, key: bytes) -> None:
        iv, text = (
            traffic_generator.record_iv(self.SEED, 0),
            traffic_generator.record_data(self.SEED, 0, self.SIZE),
        )
        counter = Cipher(algorithms.AES(key), modes.CTR(iv + bytes([0, 0, 0, 2]))).decryptor()
        plain = counter.update(text)
        tag = AESGCM(key).encrypt(iv, plain, b"")[-16:]
        rate, check = self.run_generator(visa, Operation.DECRYPT, tag)
        assert rate > 15.5
        result = Result(RecordStatus.OK, plain, b"")
        assert check == check_value(Operation.DECRYPT, [result] * self.RECORDS)

    @pytest.mark.parametrize("aad_bytes", [0, 1, 16, 128])
    def test_traffic_generator_sends_aad(self, visa: VisaBoard, key: bytes, aad_bytes: int) -> None:
        generator = traffic_generator.TrafficGenerator(visa)
        for operation in (Operation.ENCRYPT, Operation.DECRYPT):
            expected = traffic_generator.ExpectedTraffic(
                key, operation, 200, 7, aad_bytes=aad_bytes
            )
            for records in (3, 9):
                found = generator.run(
                    operation, 200, records, seed=7, tag=expected.tag, aad_bytes=aad_bytes
                )
                assert (found.good, found.bad) == (records, 0)
                assert found.check == expected.after(records)
            other = traffic_generator.ExpectedTraffic(key, operation, 200, 7, aad_bytes=5)
            wrong = generator.run(operation, 200, 9, seed=7, tag=other.tag, aad_bytes=aad_bytes)
            assert wrong.bad == (9 if operation is Operation.DECRYPT else 0)

    def test_expected_traffic_is_that_of_cryptography(self) -> None:
        key, aad = secrets.token_bytes(32), 33
        wanted = [
            sealed(
                key,
                Record(
                    Operation.ENCRYPT,
                    traffic_generator.record_data(5, number, 100),
                    traffic_generator.record_iv(5, number),
                    traffic_generator.record_aad(5, number, aad),
                ),
            )
            for number in range(4)
        ]
        expected = traffic_generator.ExpectedTraffic(key, Operation.ENCRYPT, 100, 5, aad_bytes=aad)
        for count in (1, 3, 4):
            assert expected.after(count) == check_value(Operation.ENCRYPT, wanted[:count])
        with pytest.raises(EngineError, match="start again with the seed"):
            expected.after(2)

    def test_traffic_generator_changes_the_key_between_records(
        self, visa: VisaBoard, key: bytes, transport_key: bytes
    ) -> None:
        generator = traffic_generator.TrafficGenerator(visa)
        following = secrets.token_bytes(32)
        change = traffic_generator.TrafficKeyChange(4, aes_key_wrap(transport_key, following))
        expected = traffic_generator.ExpectedTraffic(
            key, Operation.ENCRYPT, 100, 9, aad_bytes=20, change_after=4, next_key=following
        )
        found = generator.run(Operation.ENCRYPT, 100, 15, seed=9, aad_bytes=20, key_change=change)
        assert (found.good, found.bad) == (15, 0)
        assert found.check == expected.after(15)
        # Without a change the key stays.
        stays = traffic_generator.ExpectedTraffic(following, Operation.ENCRYPT, 100, 9)
        assert generator.run(Operation.ENCRYPT, 100, 6, seed=9).check == stays.after(6)
        # A key that is refused leaves no key: the records behind it are refused.
        damaged = traffic_generator.TrafficKeyChange(2, bytes(40))
        found = generator.run(Operation.ENCRYPT, 100, 5, seed=9, key_change=damaged)
        assert (found.good, found.bad) == (2, 3)

    def test_traffic_generator_refuses_what_it_cannot_do(self, visa: VisaBoard) -> None:
        generator = traffic_generator.TrafficGenerator(visa)
        for records in (0, 1 << 32):
            with pytest.raises(EngineError, match="sends 1 to 4294967295 records"):
                generator.run(Operation.BYPASS, 16, records)
        short = traffic_generator.TrafficKeyChange(1, bytes(39))
        with pytest.raises(EngineError, match="sealed key of 40 bytes"):
            generator.run(Operation.ENCRYPT, 16, 1, key_change=short)

    def test_traffic_generator_counts_records_with_a_wrong_tag(
        self, visa: VisaBoard, key: bytes
    ) -> None:
        found = traffic_generator.TrafficGenerator(visa).run(Operation.DECRYPT, 100, 5)
        assert (found.good, found.bad) == (0, 5)

    def test_traffic_generator_passes_clear_records_at_full_rate(self, visa: VisaBoard) -> None:
        rate, check = self.run_generator(visa, Operation.BYPASS)
        assert rate > 15.5
        wanted = [
            Result(
                RecordStatus.OK, traffic_generator.record_data(self.SEED, number, self.SIZE), b""
            )
            for number in range(self.RECORDS)
        ]
        assert check == check_value(Operation.BYPASS, wanted)


class TestLinkFaults:
    @pytest.fixture
    def recoveries(self, monkeypatch: pytest.MonkeyPatch) -> list[LinkFault]:
        """Return the faults after which a board was synchronized again."""
        faults: list[LinkFault] = []
        recover = UartBone.recover

        def recorded(uartbone: UartBone, fault: LinkFault) -> None:
            faults.append(fault)
            recover(uartbone, fault)

        monkeypatch.setattr(UartBone, "recover", recorded)
        return faults

    @pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
    @pytest.mark.parametrize("direction", Direction, ids=lambda direction: direction.name.lower())
    @pytest.mark.parametrize("after", [3, 700])
    def test_visa_board_returns_correct_results_after_a_link_fault(
        self,
        link: FaultyLink,
        recoveries: list[LinkFault],
        direction: Direction,
        fault: Fault,
        after: int,
    ) -> None:
        with VisaBoard("virtual", link.resource, clock_hz=CLOCK_HZ, limit_s=LIMIT_S) as board:
            engine = Engine(board)
            records = [Record(Operation.BYPASS, os.urandom(900)) for _ in range(2)]
            assert recoveries == []
            link.arm(direction, fault, after, stall_s=LIMIT_S + 0.5)
            results = engine.process(records)
            assert link.faults_done == 1
            assert recoveries
            assert engine.link_faults == len(recoveries)
        assert [result.data for result in results] == [record.data for record in records]

    @pytest.mark.parametrize("fault", [Fault.LOST, Fault.GARBLED], ids=lambda fault: fault.name)
    def test_visa_board_reports_a_damaged_register_write_and_recovers(
        self, link: FaultyLink, fault: Fault
    ) -> None:
        with VisaBoard("virtual", link.resource, clock_hz=CLOCK_HZ, limit_s=LIMIT_S) as board:
            link.arm(Direction.TO_BOARD, fault, 7)
            with pytest.raises(BoardError, match=r"register write .* was damaged on the link"):
                board.write(regs.SCRATCH.address, 4, b"\x01\x02\x03\x04")
            board.write(regs.SCRATCH.address, 4, b"\x05\x06\x07\x08")
            assert board.read(regs.SCRATCH.address, 4, 1) == b"\x05\x06\x07\x08"

    def test_visa_board_repeats_a_damaged_register_read(
        self, link: FaultyLink, recoveries: list[LinkFault]
    ) -> None:
        with VisaBoard("virtual", link.resource, clock_hz=CLOCK_HZ, limit_s=LIMIT_S) as board:
            link.arm(Direction.FROM_BOARD, Fault.GARBLED, 2)
            assert board.read(regs.ID.address, 4, 1) == b"TAPE"
            assert len(recoveries) == 1

    def test_visa_board_reports_a_link_that_stays_down(self, link: FaultyLink) -> None:
        with VisaBoard("virtual", link.resource, clock_hz=CLOCK_HZ, limit_s=0.3) as board:
            link.close()
            with pytest.raises(BoardError, match="does not answer any more"):
                board.read(regs.ID.address, 4, 1)

    def test_visa_board_names_the_resource_that_does_not_answer(self) -> None:
        with pytest.raises(BoardError, match=r"TCPIP::127\.0\.0\.1::1::SOCKET"):
            VisaBoard("none", "TCPIP::127.0.0.1::1::SOCKET", clock_hz=CLOCK_HZ, limit_s=0.2)

    def test_visa_board_reports_a_missing_serial_port(self) -> None:
        with pytest.raises(BoardError, match="cannot be opened"):
            VisaBoard("none", "ASRL/dev/ttyNONE0::INSTR", clock_hz=CLOCK_HZ)
