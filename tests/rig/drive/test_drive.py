"""The drive's firmware on real gates: its requests and refusals."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hsm.ekm.protocol.errors import ErrorCode, ExchangeError
from hsm.ekm.protocol.messages import KeyGrant
from hsm.keys.eedk import KeyLabel
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import (
    HEADER_BYTES,
    MEDIA_OFFSET,
    PAGE_BYTES,
    TAG_BYTES,
    CartridgeMemory,
    DamagedCartridgeError,
    Flags,
    RecordHeader,
)
from rig.drive.drive import Block, Drive
from rig.drive.sense import KEY_FAIL_LIMIT, DriveError, KeyRequired, Sense, sense_of
from rig.engine.driver import Operation, Record, RecordStatus
from rig.ve.catalogue.model import PoolSettings
from tests.support.tape_site import DriveFixture, Site

LABELS = (KeyLabel("KEK 1"),)
ENCRYPTED = PoolSettings(2, True, LABELS)
CLEAR = PoolSettings(1)


@pytest.fixture
def fixture(site: Site, tmp_path: Path) -> DriveFixture:
    return site.fixture(tmp_path, CLEAR, ENCRYPTED)


@contextmanager
def mounted(fixture: DriveFixture, volser: str, *, write: bool = False) -> Iterator[Drive]:
    """Mount as the VE does, but leave the commands to the test."""
    with fixture.cartridges.mounted(volser, write=write) as cartridge:
        fixture.drive.load(cartridge)
        try:
            yield fixture.drive
        finally:
            if fixture.drive.loaded:
                fixture.drive.unload()


def exchange(fixture: DriveFixture, drive: Drive) -> KeyGrant:
    session = drive.key_session()
    fixture.sequences.proxy.exchange(session)
    return session.grant


def set_key(fixture: DriveFixture, command: Callable[[], object]) -> None:
    """Give a command that needs a key, and have the key set."""
    with pytest.raises(KeyRequired):
        command()
    fixture.drive.accept_key(exchange(fixture, fixture.drive))


def read_all(fixture: DriveFixture, volser: str) -> list[Block]:
    """Read a cartridge to its end, block by block."""
    blocks: list[Block] = []
    with mounted(fixture, volser) as drive:
        if drive.encrypting and drive.block_count:
            set_key(fixture, drive.read)
        while got := drive.read(1):
            assert len(got) == 1
            blocks += got
    return blocks


def sense(fixture: DriveFixture, volser: str) -> tuple[Sense, int]:
    """Read until it fails; return the sense and how many blocks came before."""
    count = 0
    with mounted(fixture, volser) as drive:
        try:
            if drive.encrypting:
                set_key(fixture, drive.read)
            while got := drive.read():
                count += len(got)
        except DriveError as error:
            failure = error
        else:
            pytest.fail("it can be read to its end")
    assert not fixture.site.engine.key_valid
    return failure.sense, count


# Asking for keys


@pytest.mark.rule("BOT-2b", "APP-2b", "APP-2c", "READ-2b")
def test_drive_asks_for_a_key_when_data_needs_it_and_not_before(fixture: DriveFixture) -> None:
    fixture.add("TAP001", 2)
    with mounted(fixture, "TAP001", write=True) as drive:
        with pytest.raises(DriveError, match="no need of a data key"):
            drive.key_session()
        drive.set_encryption(LABELS)
        with pytest.raises(KeyRequired) as raised:
            drive.write([Block(b"data")])
        assert raised.value.sense is Sense.KEY_GENERATE
        assert not fixture.site.engine.key_valid
        drive.accept_key(exchange(fixture, drive))
        assert fixture.site.engine.key_valid
        drive.write([Block(b"data"), Block(b"label", label=True)])
        assert drive.position == 2
    assert not fixture.site.engine.key_valid
    with Cartridge.open(fixture.cartridges.path("TAP001")) as cartridge:
        assert [h.block for h in cartridge.headers if Flags.LABEL in h.flags] == [1]
    with mounted(fixture, "TAP001", write=True) as drive:
        assert drive.encrypting
        assert drive.locate_append_point() == 2
        assert not fixture.site.engine.key_valid
        with pytest.raises(KeyRequired) as raised:
            drive.write([Block(b"more")])
        assert raised.value.sense is Sense.KEY_TRANSLATE
        assert drive.block_count == 2
        drive.locate(1)
        with pytest.raises(KeyRequired) as raised:
            drive.read()
        assert raised.value.sense is Sense.KEY_TRANSLATE
        drive.accept_key(exchange(fixture, drive))
        assert drive.read() == [Block(b"label", label=True)]
        assert drive.read() == []


@pytest.mark.rule("CART-4", "BOT-5")
def test_drive_names_the_cartridge_by_the_id_in_its_memory(fixture: DriveFixture) -> None:
    """The id stays when the cartridge is written from BOT again."""
    fixture.add("TAP001", 2)
    asked = []
    with mounted(fixture, "TAP001", write=True) as drive:
        drive.set_encryption(LABELS)
        set_key(fixture, lambda: drive.write([Block(b"data")]))
        drive.write([Block(b"data")])
    with mounted(fixture, "TAP001", write=True) as drive:
        with pytest.raises(KeyRequired):
            drive.read()
        asked.append(drive.key_session().request)
        asked.append(drive.proof_session(b"eedk").request)
        asked.append(drive.rekey_session(LABELS).request)
        drive.set_encryption(LABELS)
        with pytest.raises(KeyRequired):
            drive.write([Block(b"anew")])
        asked.append(drive.key_session().request)
    with Cartridge.open(fixture.cartridges.path("TAP001")) as cartridge:
        assert {each.cartridge_id for each in asked} == {cartridge.memory.cartridge_id}


@pytest.mark.rule("BOT-4")
def test_drive_has_no_key_after_a_demount_or_at_the_next_mount(fixture: DriveFixture) -> None:
    engine, element = fixture.site.engine, fixture.site.element
    volser = fixture.write_from_bot(2, fixture.volumes(100))
    with mounted(fixture, volser) as drive:
        set_key(fixture, drive.read)
        (result,) = engine.process([Record(Operation.ENCRYPT, b"x")])
        assert result.status is RecordStatus.OK
        grant = None
        drive.unload()
        (result,) = engine.process([Record(Operation.ENCRYPT, b"x")])
        assert result.status is RecordStatus.NO_KEY
    with mounted(fixture, volser) as drive:
        with pytest.raises(KeyRequired):
            drive.read()
        grant = exchange(fixture, drive)
        drive.unload()
    engine.load_sealed_key(element.rewrap_for_engine(grant.sedk))  # left by somebody else
    with mounted(fixture, volser) as drive:
        assert not engine.key_valid
        with pytest.raises(KeyRequired):
            drive.read()


def test_drive_asks_again_for_a_key_that_was_lost(fixture: DriveFixture) -> None:
    volser = fixture.write_from_bot(2, fixture.volumes(100))
    with mounted(fixture, volser, write=True) as drive:
        set_key(fixture, drive.read)
        before = drive.read(1)
        fixture.site.engine.zeroize()
        with pytest.raises(KeyRequired, match="gone from its hardware") as raised:
            drive.read()
        assert raised.value.sense is Sense.KEY_REQUIRED
        assert not fixture.site.engine.key_valid
        drive.accept_key(exchange(fixture, drive))
        after = drive.read()
        drive.write([Block(b"one")])
        fixture.site.engine.zeroize()
        with pytest.raises(KeyRequired, match="gone from its hardware"):
            drive.write([Block(b"two")])
        drive.accept_key(exchange(fixture, drive))
        drive.write([Block(b"two")])
    blocks = read_all(fixture, volser)
    assert blocks == [*before, *after, Block(b"one"), Block(b"two")]
    with Cartridge.open(fixture.cartridges.path(volser)) as cartridge:
        ivs = [header.iv for header in cartridge.headers]
    assert len(set(ivs)) == len(ivs)


@pytest.mark.rule("KEY-1", "BOT-5")
def test_drive_writes_from_bot_under_no_key_set_for_reading(fixture: DriveFixture) -> None:
    volser = fixture.write_from_bot(2, fixture.volumes(100))
    before = fixture.tape(volser)
    with mounted(fixture, volser, write=True) as drive:
        set_key(fixture, drive.read)
        drive.set_encryption(LABELS)
        assert not fixture.site.engine.key_valid
        with pytest.raises(KeyRequired) as raised:
            drive.write([Block(b"new")])
        assert raised.value.sense is Sense.KEY_GENERATE
    assert fixture.tape(volser) == before


def test_drive_appends_after_its_key_was_lost_in_a_write_from_bot(fixture: DriveFixture) -> None:
    fixture.add("TAP001", 2)
    with mounted(fixture, "TAP001", write=True) as drive:
        drive.set_encryption(LABELS)
        set_key(fixture, lambda: drive.write([Block(b"one")]))
        fixture.site.engine.zeroize()
        with pytest.raises(KeyRequired):
            drive.write([Block(b"one")])
        drive.accept_key(
            exchange(fixture, drive)
        )  # the same key: its EEDKs are in the memory by now
        drive.write([Block(b"one")])
    assert read_all(fixture, "TAP001") == [Block(b"one")]


# Keys that are refused


@pytest.mark.rule("READ-2d", "APP-2e")
def test_drive_refuses_the_key_of_another_cartridge_before_use(fixture: DriveFixture) -> None:
    first = fixture.write_from_bot(2, fixture.volumes(100))
    second = fixture.write_from_bot(2, fixture.volumes(100))
    before = fixture.tape(first)
    with mounted(fixture, second) as drive:
        with pytest.raises(KeyRequired):
            drive.read()
        wrong = exchange(fixture, drive)
    with mounted(fixture, first, write=True) as drive:
        drive.locate_append_point()
        for _ in range(KEY_FAIL_LIMIT):
            with pytest.raises(KeyRequired):
                drive.write([Block(b"never")])
            with pytest.raises(DriveError, match="is not its data key") as caught:
                drive.accept_key(wrong)
            assert caught.value.sense is Sense.WRONG_KEY
            assert not fixture.site.engine.key_valid
        with pytest.raises(KeyRequired):
            drive.write([Block(b"never")])
        right = exchange(fixture, drive)
        with pytest.raises(DriveError) as caught:
            drive.accept_key(right)
        assert caught.value.sense is Sense.KEY_FAIL_LIMIT
    assert fixture.tape(first)[MEDIA_OFFSET:] == before[MEDIA_OFFSET:]
    assert len(read_all(fixture, first)) == 3


@pytest.mark.rule("KEY-12", "BOT-2d")
@pytest.mark.parametrize("sedk", [b"", bytes(256), b"\xff" * 256, bytes(10_000)])
def test_drive_refuses_an_sedk_that_does_not_unwrap(fixture: DriveFixture, sedk: bytes) -> None:
    volser = fixture.write_from_bot(2, fixture.volumes(100))
    with mounted(fixture, volser) as drive:
        with pytest.raises(DriveError) as caught:
            drive.accept_key(KeyGrant(sedk, ()))
        assert caught.value.sense is Sense.COMMAND_SEQUENCE
        with pytest.raises(KeyRequired):
            drive.read()
        with pytest.raises(DriveError) as caught:
            drive.accept_key(KeyGrant(sedk, ()))
        assert caught.value.sense is Sense.KEY_WRAPPING_FAILURE
        assert not fixture.site.engine.key_valid


# What was done to a cartridge


def put_memory(path: Path, change: Callable[[CartridgeMemory], CartridgeMemory]) -> None:
    """Change the memory in both slots and every copy, with a right CRC."""
    data = bytearray(path.read_bytes())
    for match in re.finditer(rb"TCMP\x00\x02", bytes(data)):
        page = slice(match.start(), match.start() + PAGE_BYTES)
        data[page] = change(CartridgeMemory.decode(bytes(data[page]))).encode()
    path.write_bytes(data)


def stored(path: Path, block: int) -> tuple[int, RecordHeader, bytes]:
    with Cartridge.open(path) as cartridge:
        (record,) = cartridge.read(block, 1)
        return cartridge.offset(block), record.header, record.data + record.tag


def put_record(path: Path, offset: int, header: RecordHeader, payload: bytes) -> None:
    """Put a record somewhere, with right CRCs."""
    header = replace(header, payload_crc=zlib.crc32(payload))
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(header.encode() + payload)


@pytest.mark.rule("READ-2e")
@pytest.mark.parametrize("where", ["first byte", "last byte", "tag", "iv", "flags"])
def test_drive_decrypts_no_altered_record(fixture: DriveFixture, where: str) -> None:
    volser = fixture.write_from_bot(2, fixture.volumes(1000))
    path = fixture.cartridges.path(volser)
    offset, header, payload = stored(path, 1)
    changed = bytearray(payload)
    if where == "first byte":
        changed[0] ^= 0x80
    elif where == "last byte":
        changed[-TAG_BYTES - 1] ^= 1
    elif where == "tag":
        changed[-1] ^= 1
    elif where == "iv":
        header = replace(header, counter=header.counter + 1)
    else:
        header = replace(header, flags=header.flags | Flags.LABEL)
    put_record(path, offset, header, bytes(changed))
    assert sense(fixture, volser) == (Sense.INTEGRITY, 1)
    with mounted(fixture, volser) as drive:
        set_key(fixture, drive.read)
        drive.locate(1)
        with pytest.raises(DriveError, match="altered, moved or put there from elsewhere"):
            drive.read()
        drive.locate(2)
        assert len(drive.read()) == 1


def test_drive_distinguishes_damage_from_alteration(fixture: DriveFixture) -> None:
    volser = fixture.write_from_bot(2, fixture.volumes(1000))
    path = fixture.cartridges.path(volser)
    offset, _, _ = stored(path, 1)
    with path.open("r+b") as file:
        file.seek(offset + HEADER_BYTES + 500)
        file.write(b"damage")
    with mounted(fixture, volser) as drive:
        set_key(fixture, drive.read)
        drive.locate(1)
        with pytest.raises(DriveError, match="may be plain damage") as caught:
            drive.read()
    assert caught.value.sense is Sense.INTEGRITY


@pytest.mark.rule("READ-2e")
def test_drive_decrypts_no_swapped_records(fixture: DriveFixture) -> None:
    volser = fixture.write_from_bot(2, fixture.volumes(100, 100))
    path = fixture.cartridges.path(volser)
    first_offset, first, first_payload = stored(path, 1)
    second_offset, second, second_payload = stored(path, 4)
    put_record(path, first_offset, replace(second, block=1), second_payload)
    put_record(path, second_offset, replace(first, block=4), first_payload)
    assert sense(fixture, volser) == (Sense.INTEGRITY, 1)


@pytest.mark.rule("READ-2e")
def test_drive_decrypts_no_record_of_another_cartridge(fixture: DriveFixture) -> None:
    volumes = fixture.volumes(100)
    first, second = (fixture.write_from_bot(2, volumes) for _ in range(2))
    offset, _, _ = stored(fixture.cartridges.path(first), 1)
    _, header, payload = stored(fixture.cartridges.path(second), 1)
    put_record(fixture.cartridges.path(first), offset, header, payload)
    assert sense(fixture, first) == (Sense.INTEGRITY, 1)


@pytest.mark.rule("READ-2e", "BOT-5")
def test_drive_decrypts_no_record_older_than_the_write_from_bot(fixture: DriveFixture) -> None:
    volumes = fixture.volumes(100)
    volser = fixture.write_from_bot(2, volumes)
    path = fixture.cartridges.path(volser)
    _, old, old_payload = stored(path, 1)
    fixture.write_from_bot(2, volumes, volser)
    offset, new, _ = stored(path, 1)
    put_record(path, offset, replace(old, epoch=new.epoch), old_payload)
    assert sense(fixture, volser) == (Sense.INTEGRITY, 1)


@pytest.mark.rule("READ-2d")
def test_drive_gets_no_key_for_a_cartridge_under_another_volser(fixture: DriveFixture) -> None:
    """All of a cartridge is copied, and its memory adapted."""
    volser = fixture.write_from_bot(2, fixture.volumes(100))
    fixture.add("OTHER1", 2)
    path = fixture.cartridges.path("OTHER1")
    path.write_bytes(fixture.tape(volser))
    put_memory(path, lambda memory: replace(memory, volser="OTHER1"))
    with mounted(fixture, "OTHER1") as drive:
        with pytest.raises(KeyRequired):
            drive.read()
        with pytest.raises(ExchangeError) as caught:
            exchange(fixture, drive)
        assert caught.value.code is ErrorCode.WRONG_VOLUME
        assert sense_of(caught.value) is Sense.WRONG_EEDK


@pytest.mark.rule("READ-2d")
def test_drive_refuses_the_key_of_older_eedks(fixture: DriveFixture) -> None:
    """The older EEDKs of a VOLSER unwrap, but to another key."""
    volser = fixture.write_from_bot(2, fixture.volumes(100))
    with Cartridge.open(fixture.cartridges.path(volser)) as cartridge:
        older = cartridge.memory.eedks
    fixture.write_from_bot(2, fixture.volumes(100), volser)
    put_memory(fixture.cartridges.path(volser), lambda memory: replace(memory, eedks=older))
    assert sense(fixture, volser) == (Sense.WRONG_KEY, 0)


def test_drive_refuses_clear_data_on_an_encrypted_cartridge(fixture: DriveFixture) -> None:
    volser = fixture.write_from_bot(2, fixture.volumes(100))
    path = fixture.cartridges.path(volser)
    offset, header, payload = stored(path, 1)
    plain = replace(header, flags=Flags(0), length=len(payload))
    put_record(path, offset, plain, b"P" * len(payload))
    assert sense(fixture, volser) == (Sense.UNENCRYPTED_DATA, 1)


def test_drive_refuses_encrypted_data_on_a_clear_cartridge(fixture: DriveFixture) -> None:
    volser = fixture.write_from_bot(1, fixture.volumes(100))
    path = fixture.cartridges.path(volser)
    offset, header, payload = stored(path, 1)
    sealed = replace(header, flags=Flags.ENCRYPTED, length=len(payload) - TAG_BYTES)
    put_record(path, offset, sealed, payload)
    assert sense(fixture, volser) == (Sense.UNABLE_TO_DECRYPT, 1)


def test_drive_reports_a_damaged_clear_block_as_read_error(fixture: DriveFixture) -> None:
    volser = fixture.write_from_bot(1, fixture.volumes(100))
    path = fixture.cartridges.path(volser)
    offset, _, _ = stored(path, 1)
    with path.open("r+b") as file:
        file.seek(offset + HEADER_BYTES)
        file.write(b"damage")
    assert sense(fixture, volser) == (Sense.READ_ERROR, 1)


@pytest.mark.parametrize("pool", [1, 2])
def test_drive_reads_up_to_a_damaged_header(fixture: DriveFixture, pool: int) -> None:
    volser = fixture.write_from_bot(pool, fixture.volumes(100, 100))
    path = fixture.cartridges.path(volser)
    offset, _, _ = stored(path, 4)
    with path.open("r+b") as file:
        file.seek(offset + 10)
        file.write(b"?")
    assert sense(fixture, volser) == (Sense.FORMAT_CORRUPTED, 4)
    with mounted(fixture, volser, write=True) as drive:
        drive.locate_append_point()
        if drive.encrypting:
            set_key(fixture, lambda: drive.write([Block(b"x")]))
        with pytest.raises(DamagedCartridgeError, match="cannot append"):
            drive.write([Block(b"x")])


@pytest.mark.rule("APP-2e")
def test_drive_appends_nothing_with_a_changed_key_check(fixture: DriveFixture) -> None:
    volser = fixture.write_from_bot(2, fixture.volumes(100))
    path = fixture.cartridges.path(volser)
    put_memory(path, lambda memory: replace(memory, key_check=bytes(16)))
    before = path.read_bytes()
    with mounted(fixture, volser, write=True) as drive:
        drive.locate_append_point()
        with pytest.raises(DriveError) as caught:
            set_key(fixture, lambda: drive.write([Block(b"x")]))
        assert caught.value.sense is Sense.WRONG_KEY
    assert path.read_bytes() == before


# The order of commands


def make_other(fixture: DriveFixture) -> Cartridge:
    fixture.add("OTHER1", 1)
    return Cartridge.open(fixture.cartridges.path("OTHER1"))


def test_drive_refuses_commands_out_of_order(fixture: DriveFixture) -> None:
    drive = fixture.drive
    for command in (
        drive.unload,
        drive.read,
        lambda: drive.write([Block(b"x")]),
        lambda: drive.set_encryption(None),
        lambda: drive.locate(0),
    ):
        with pytest.raises(DriveError) as caught:
            command()
        assert caught.value.sense is Sense.NO_CARTRIDGE
    volser = fixture.write_from_bot(1, fixture.volumes(100))
    before = fixture.tape(volser)
    with mounted(fixture, volser, write=True):
        other = make_other(fixture)
        with pytest.raises(DriveError, match="holds cartridge TAP001 already"):
            drive.load(other)
        other.close()
        with pytest.raises(DriveError) as caught:
            drive.write([Block(b"x")])  # at BOT, where nobody said that it may begin anew
        assert caught.value.sense is Sense.POSITION
        with pytest.raises(DriveError, match="no block 4"):
            drive.locate(4)
        with pytest.raises(DriveError, match="0 key labels"):
            drive.set_encryption([])
        drive.set_encryption(None)
        drive.locate(1)
        with pytest.raises(DriveError) as caught:
            drive.write([Block(b"x")])
        assert caught.value.sense is Sense.POSITION
    assert fixture.tape(volser) == before
    with mounted(fixture, volser, write=False):
        for command in (lambda: drive.set_encryption(None), lambda: drive.write([Block(b"x")])):
            with pytest.raises(DriveError) as caught:
                command()
            assert caught.value.sense is Sense.WRITE_PROTECTED
    with mounted(fixture, volser, write=True):
        drive.locate_append_point()
        drive.write([Block(b"x")])
        with pytest.raises(DriveError, match="is writing"):
            drive.set_encryption(None)
        drive.locate(0)
        with pytest.raises(DriveError) as caught:
            drive.write([Block(b"y")])
        assert caught.value.sense is Sense.POSITION
        assert len(drive.read()) == 4
        drive.write([Block(b"y")])
    assert [block.data for block in read_all(fixture, volser)][3:] == [b"x", b"y"]


def test_drive_reads_whole_blocks_up_to_the_bytes_asked_for(fixture: DriveFixture) -> None:
    fixture.add("TAP001", 1)
    with mounted(fixture, "TAP001", write=True) as drive:
        drive.set_encryption(None)
        drive.write([Block(bytes([n]) * 100) for n in range(5)])
        drive.locate(0)
        assert len(drive.read(250)) == 2
        assert len(drive.read(1)) == 1
        assert [block.data[0] for block in drive.read()] == [3, 4]
        assert drive.read() == []


def test_drive_reports_an_engine_that_does_not_zeroize(
    fixture: DriveFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    volser = fixture.write_from_bot(2, fixture.volumes(100))
    with mounted(fixture, volser) as drive:
        set_key(fixture, drive.read)
        with monkeypatch.context() as patch:
            patch.setattr(type(fixture.site.engine), "zeroize", lambda engine: None)
            with pytest.raises(DriveError, match="still holds a data key") as caught:
                drive.unload()
        assert caught.value.sense is Sense.ENGINE_FAILURE
        assert not drive.loaded
    fixture.site.engine.zeroize()


# Sense codes


def test_sense_codes_are_unique_and_have_remedies() -> None:
    codes = [item.code for item in Sense]
    assert len(set(codes)) == len(codes)
    assert Sense.KEY_GENERATE.code == "7/EF/11"
    for item in Sense:
        assert item.meaning
        assert item.remedy
        text = str(DriveError(item, "Block 7 of TAP001"))
        assert text == f"Block 7 of TAP001 (sense {item.code}, {item.meaning}); {item.remedy}."


@pytest.mark.parametrize("code", ErrorCode)
def test_sense_exists_for_every_failure_of_an_exchange(code: ErrorCode) -> None:
    found = sense_of(ExchangeError(code, "why"))
    assert found is not None
    assert found.asc == 0xEE
    assert found.key == 4 or 0x26 <= found.ascq <= 0x32


def test_sense_codes_are_those_of_real_drives() -> None:
    security = {s.code for s in Sense if s.asc == 0x74}
    assert security == {f"7/74/0{n}" for n in range(6)}
    assert {s.code for s in Sense if s.asc == 0xEF} == {"7/EF/10", "7/EF/11", "7/EF/13"}
    assert {"7/26/10", "4/EE/0E", "4/EE/0F"} <= {s.code for s in Sense}
