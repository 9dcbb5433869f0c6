"""Seal, version 1, tape marks and writing anywhere, on real gates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hsm.ekm.protocol.errors import ExchangeError
from hsm.errors import TaperigError
from hsm.keys.eedk import KeyLabel
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import (
    MEDIA_OFFSET,
    PAGE_BYTES,
    CartridgeError,
    CartridgeMemory,
    DamagedCartridgeError,
    Flags,
    ForgedMemoryError,
    Seal,
    TapeFormat,
)
from rig.drive.drive import TAPE_MARK, Block, Drive
from rig.drive.sense import DriveError, KeyRequired, Sense
from rig.drive.tape_file import TapeFile
from rig.ve.catalogue.model import PoolSettings
from rig.ve.tape.rekey import rekey
from tests.support.tape_site import DriveFixture, Site
from tests.support.version_1 import as_version_1

LABELS = (KeyLabel("KEK 1"),)
ENCRYPTED = PoolSettings(2, True, LABELS)
CLEAR = PoolSettings(1)
BLOCKS = [Block(b"first"), Block(b"2" * 3000), Block(b"label", label=True)]


@pytest.fixture
def fixture(site: Site, tmp_path: Path) -> DriveFixture:
    return site.fixture(tmp_path, CLEAR, ENCRYPTED)


@contextmanager
def mounted(fixture: DriveFixture, volser: str, *, write: bool = False) -> Iterator[Drive]:
    with fixture.cartridges.mounted(volser, write=write) as cartridge:
        fixture.drive.load(cartridge)
        try:
            yield fixture.drive
        finally:
            if fixture.drive.loaded:
                fixture.drive.unload()


def keyed(fixture: DriveFixture, command: Callable[[], object]) -> None:
    """Give a command that needs a key, have the key set, repeat it."""
    with pytest.raises(KeyRequired):
        command()
    session = fixture.drive.key_session()
    fixture.sequences.proxy.exchange(session)
    fixture.drive.accept_key(session.grant)
    command()


def write(fixture: DriveFixture, volser: str, *passes: list[Block], kad: bytes = b"") -> Path:
    """Write from BOT, then append, encrypted."""
    path = fixture.cartridges.path(volser)
    if not path.exists():
        Cartridge.create(path, volser)
    with mounted(fixture, volser, write=True) as drive:
        drive.set_encryption(LABELS, kad=(kad, b""))
        keyed(fixture, lambda: drive.write(passes[0]))
    for blocks in passes[1:]:
        append(fixture, volser, blocks)
    return path


def append(fixture: DriveFixture, volser: str, blocks: list[Block]) -> None:
    with mounted(fixture, volser, write=True) as drive:
        drive.locate_append_point()
        keyed(fixture, lambda: drive.write(blocks))


def read(fixture: DriveFixture, volser: str) -> list[Block]:
    blocks: list[Block] = []
    with mounted(fixture, volser) as drive:
        if drive.encrypting and drive.block_count:
            with pytest.raises(KeyRequired):
                drive.read()
            session = drive.key_session()
            fixture.sequences.proxy.exchange(session)
            drive.accept_key(session.grant)
        while got := drive.read():
            blocks += got
    return blocks


def pages(data: bytes) -> list[int]:
    return [match.start() for match in re.finditer(rb"TCMP\x00\x02", data)]


Change = Callable[[CartridgeMemory], CartridgeMemory]


def forge(path: Path, change: Change, *, only_slots: bool = False) -> None:
    """Change the memory in the slots, or everywhere, with CRCs that are right."""
    data = bytearray(path.read_bytes())
    for at in pages(bytes(data)):
        if not (only_slots and at >= MEDIA_OFFSET):
            page = slice(at, at + PAGE_BYTES)
            data[page] = change(CartridgeMemory.decode(bytes(data[page]))).encode()
    path.write_bytes(data)


# What is sealed


@pytest.mark.rule("CART-2")
def test_every_memory_that_is_stored_has_a_seal_of_its_own(fixture: DriveFixture) -> None:
    path = write(fixture, "TAP001", BLOCKS, BLOCKS, kad=b"host's")
    memories = [
        CartridgeMemory.decode(path.read_bytes()[at : at + PAGE_BYTES])
        for at in pages(path.read_bytes())
    ]
    assert len(memories) == 2 + 2 + 1
    seals = {memory.seal for memory in memories}
    assert None not in seals
    assert len({seal.nonce for seal in seals if seal}) == len(seals) >= 4
    assert all(memory.kad == (b"host's", b"") for memory in memories)
    ivs = {header.iv for header in Cartridge.open(path).headers}
    assert not ivs & {seal.iv for seal in seals if seal}
    assert read(fixture, "TAP001") == BLOCKS * 2


@pytest.mark.rule("CART-2")
def test_clear_and_blank_cartridges_have_none(fixture: DriveFixture) -> None:
    volser = fixture.write_from_bot(1, fixture.volumes(100))
    with Cartridge.open(fixture.cartridges.path(volser)) as cartridge:
        assert (cartridge.memory.version, cartridge.memory.seal) == (2, None)
    with Cartridge.open(fixture.cartridges.path(fixture.add("TAP009", 1))) as cartridge:
        assert (cartridge.memory.version, cartridge.memory.seal) == (2, None)


# What is forged


EVERYWHERE: dict[str, Change] = {
    "cartridge id": lambda m: replace(m, cartridge_id=bytes(16)),
    "epoch": lambda m: replace(m, epoch=m.epoch + 1),
    "KAD": lambda m: replace(m, kad=(b"host'S", b"")),
    "no seal": lambda m: replace(m, seal=None),
    "seal of another nonce": lambda m: replace(m, seal=Seal(b"nonce..8", m.seal.tag)),  # type: ignore[union-attr]
    "sequence": lambda m: replace(m, sequence=m.sequence + 1000),
    "eedks exchanged": lambda m: replace(m, eedks=m.eedks[::-1]),
}


IN_SLOTS: dict[str, Change] = {
    **{what: change for what, change in EVERYWHERE.items() if what not in ("cartridge id", "KAD")},
    "block count": lambda m: replace(m, block_count=m.block_count - 1),
    "end": lambda m: replace(m, end_offset=MEDIA_OFFSET),
}


@pytest.mark.rule("CART-2")
@pytest.mark.parametrize("what", EVERYWHERE)
def test_memory_forged_everywhere_is_refused_and_nothing_moves(
    fixture: DriveFixture, what: str
) -> None:
    path = write(fixture, "TAP001", BLOCKS, BLOCKS, kad=b"host's")
    whole = path.read_bytes()
    forge(path, EVERYWHERE[what])
    forged = path.read_bytes()
    assert forged != whole
    with pytest.raises(ForgedMemoryError, match="has no seal of its data key"):
        read(fixture, "TAP001")
    with pytest.raises(ForgedMemoryError):
        append(fixture, "TAP001", BLOCKS)
    assert path.read_bytes() == forged
    assert not fixture.site.engine.key_valid
    path.write_bytes(whole)
    assert read(fixture, "TAP001") == BLOCKS * 2


@pytest.mark.rule("CART-2")
@pytest.mark.parametrize("what", IN_SLOTS)
def test_memory_forged_in_its_slots_alone_is_healed_from_the_media(
    fixture: DriveFixture, what: str
) -> None:
    path = write(fixture, "TAP001", BLOCKS, BLOCKS, kad=b"host's")
    forge(path, IN_SLOTS[what], only_slots=True)
    forged = path.read_bytes()
    assert read(fixture, "TAP001") == BLOCKS * 2
    assert path.read_bytes() == forged
    append(fixture, "TAP001", BLOCKS)
    assert read(fixture, "TAP001") == BLOCKS * 3
    with mounted(fixture, "TAP001", write=True) as drive, pytest.raises(KeyRequired):
        drive.read()
    with Cartridge.open(path) as cartridge:
        assert cartridge.memory.block_count == 9
        assert not cartridge.notes
        epochs = [header.epoch for header in cartridge.headers]
        assert epochs == sorted(epochs)
        assert len(set(epochs)) == 3


@pytest.mark.rule("CART-2", "CART-3")
def test_memory_with_its_format_flipped_is_refused(fixture: DriveFixture) -> None:
    path = write(fixture, "TAP001", BLOCKS, BLOCKS)
    whole = path.read_bytes()

    def clear(memory: CartridgeMemory) -> CartridgeMemory:
        return replace(memory, format=TapeFormat.CLEAR, eedks=(), seal=None)

    forge(path, clear, only_slots=True)
    for mode in (False, True):
        with (
            pytest.raises(ForgedMemoryError, match=r"contradict each other \(format\)"),
            mounted(fixture, "TAP001", write=mode),
        ):
            pytest.fail("it was mounted")
    path.write_bytes(whole)
    forge(path, clear)
    forged = path.read_bytes()
    with pytest.raises(DriveError) as caught:
        read(fixture, "TAP001")
    assert caught.value.sense is Sense.UNABLE_TO_DECRYPT
    with mounted(fixture, "TAP001", write=True) as drive:
        drive.locate_append_point()
        with pytest.raises(DamagedCartridgeError, match="forged or exchanged"):
            drive.write([Block(b"in the clear")])
    assert path.read_bytes() == forged


@pytest.mark.rule("CART-2")
def test_memory_of_another_cartridge_under_the_same_kek_is_refused(fixture: DriveFixture) -> None:
    path = write(fixture, "TAP001", BLOCKS, BLOCKS)
    other = write(fixture, "TAP002", [Block(b"other")]).read_bytes()
    whole = path.read_bytes()
    path.write_bytes(other[:MEDIA_OFFSET] + whole[MEDIA_OFFSET:])
    with pytest.raises(ForgedMemoryError, match=r"contradict each other \(volser\)"):
        read(fixture, "TAP001")
    # Its EEDKs and key check under this VOLSER and id: the key manager knows whose they are.
    spliced = CartridgeMemory.decode(other[:PAGE_BYTES])
    path.write_bytes(whole)
    forge(path, lambda m: replace(m, eedks=spliced.eedks, key_check=spliced.key_check))
    with pytest.raises(ExchangeError):
        read(fixture, "TAP001")
    # An earlier write of the same cartridge: EEDKs, key check and seal fit each other.
    path.write_bytes(whole)
    earlier = CartridgeMemory.decode(whole[:PAGE_BYTES])
    write(fixture, "TAP001", [Block(b"anew")])
    anew = path.read_bytes()
    forge(path, lambda m: replace(earlier, sequence=m.sequence), only_slots=True)
    with pytest.raises(TaperigError):
        read(fixture, "TAP001")
    path.write_bytes(anew)
    forge(
        path,
        lambda m: replace(m, eedks=earlier.eedks, key_check=earlier.key_check, seal=earlier.seal),
    )
    with pytest.raises(ForgedMemoryError):
        read(fixture, "TAP001")


@pytest.mark.rule("CART-2")
def test_slots_that_are_exchanged_or_put_back_lose_nothing(fixture: DriveFixture) -> None:
    path = write(fixture, "TAP001", BLOCKS)
    older = path.read_bytes()[:MEDIA_OFFSET]
    append(fixture, "TAP001", BLOCKS)
    whole = path.read_bytes()
    exchanged = whole[PAGE_BYTES:MEDIA_OFFSET] + whole[:PAGE_BYTES]
    for slots in (exchanged, older, older[:PAGE_BYTES] * 2, whole[:PAGE_BYTES] * 2):
        path.write_bytes(slots + whole[MEDIA_OFFSET:])
        assert read(fixture, "TAP001") == BLOCKS * 2
        append(fixture, "TAP001", [Block(b"goes on")])
        assert read(fixture, "TAP001") == [*BLOCKS * 2, Block(b"goes on")]
        with Cartridge.open(path) as cartridge:
            epochs = [header.epoch for header in cartridge.headers]
            assert epochs == sorted(epochs)
            assert epochs[-1] == 3


@pytest.mark.rule("CART-2")
def test_rekey_seals_no_copy_that_was_forged(fixture: DriveFixture) -> None:
    path = write(fixture, "TAP001", BLOCKS, BLOCKS)
    data = bytearray(path.read_bytes())
    at = [place for place in pages(bytes(data)) if place >= MEDIA_OFFSET][1]
    page = slice(at, at + PAGE_BYTES)
    forged = replace(CartridgeMemory.decode(bytes(data[page])), block_count=1)
    data[page] = forged.encode()
    path.write_bytes(data)
    rekey_to(fixture, "TAP001", "KEK 2")
    after = path.read_bytes()
    assert CartridgeMemory.decode(after[page]).block_count != 1
    assert read(fixture, "TAP001") == BLOCKS * 2


def rekey_to(fixture: DriveFixture, volser: str, label: str) -> None:
    rekey(
        fixture.drive,
        fixture.sequences.proxy,
        fixture.cartridges,
        fixture.events,
        volser,
        [KeyLabel(label)],
    )


@pytest.mark.rule("CART-2")
def test_cartridge_left_by_a_power_cut_is_repaired_and_sealed_with_its_key(
    fixture: DriveFixture,
) -> None:
    path = write(fixture, "TAP001", BLOCKS, BLOCKS)
    data = path.read_bytes()
    with Cartridge.open(path) as cartridge:
        end = cartridge.memory.end_offset
    torn = data[:end] + b"TREC torn"
    path.write_bytes(torn)
    with mounted(fixture, "TAP001", write=True) as drive, pytest.raises(KeyRequired):
        drive.read()
    assert path.read_bytes() == torn  # nothing is changed before the seal was checked
    append(fixture, "TAP001", BLOCKS)
    assert read(fixture, "TAP001") == BLOCKS * 3


# Version 1


@pytest.mark.rule("KEY-2")
def test_version_1_is_read_and_appended_to(fixture: DriveFixture) -> None:
    path = write(fixture, "TAP001", BLOCKS, BLOCKS)
    as_version_1(path)
    assert read(fixture, "TAP001") == BLOCKS * 2
    append(fixture, "TAP001", BLOCKS)
    assert read(fixture, "TAP001") == BLOCKS * 3
    with Cartridge.open(path) as cartridge:
        assert (cartridge.memory.version, cartridge.memory.seal) == (1, None)


@pytest.mark.rule("BOT-5")
@pytest.mark.parametrize("pool", [1, 2])
def test_write_from_bot_makes_version_2_of_version_1(fixture: DriveFixture, pool: int) -> None:
    volser = fixture.write_from_bot(1, fixture.volumes(100))
    path = fixture.cartridges.path(volser)
    as_version_1(path)
    volumes = fixture.volumes(5000, 10)
    fixture.write_from_bot(pool, volumes, volser)
    with Cartridge.open(path) as cartridge:
        assert cartridge.memory.version == 2
        assert (cartridge.memory.seal is not None) is (pool == 2)
    assert len(read(fixture, volser)) == 6
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.rule("CART-2")
def test_rekey_copies_version_1_into_version_2(fixture: DriveFixture) -> None:
    path = write(fixture, "TAP001", BLOCKS, BLOCKS, [Block(b"x" * 200_000)])
    as_version_1(path)
    with Cartridge.open(path) as cartridge:
        records = cartridge.read(0, cartridge.block_count)
        old = cartridge.memory
    rekey_to(fixture, "TAP001", "KEK 2")
    with Cartridge.open(path) as cartridge:
        assert (cartridge.memory.version, cartridge.memory.epoch) == (2, old.epoch)
        assert cartridge.memory.seal is not None
        assert cartridge.memory.cartridge_id == old.cartridge_id
        assert cartridge.read(0, cartridge.block_count) == records
        assert not cartridge.notes
    assert all(eedk not in path.read_bytes() for eedk in old.eedks)
    assert len(pages(path.read_bytes())) == 2 + 3 + 1
    assert len(read(fixture, "TAP001")) == 7
    append(fixture, "TAP001", BLOCKS)
    assert len(read(fixture, "TAP001")) == 10
    assert [each.name for each in path.parent.iterdir()] == [path.name]


# Tape marks, and writing anywhere


@pytest.mark.parametrize("encrypt", [True, False])
def test_tape_marks_are_written_and_met(fixture: DriveFixture, encrypt: bool) -> None:
    blocks = [Block(b"file 1"), TAPE_MARK, Block(b"file 2"), TAPE_MARK, TAPE_MARK]
    Cartridge.create(fixture.cartridges.path("TAP001"), "TAP001")
    with mounted(fixture, "TAP001", write=True) as drive:
        drive.set_encryption(LABELS if encrypt else None)
        if encrypt:
            keyed(fixture, lambda: drive.write(blocks))
        else:
            drive.write(blocks)
    assert read(fixture, "TAP001") == blocks
    assert [block.mark for block in read(fixture, "TAP001")] == [False, True, False, True, True]


def test_tape_mark_that_was_moved_does_not_pass(fixture: DriveFixture) -> None:
    path = write(fixture, "TAP001", [Block(b"one"), TAPE_MARK, TAPE_MARK])
    with Cartridge.open(path) as cartridge:
        first, second = cartridge.offset(1), cartridge.offset(2)
        header = replace(cartridge.headers[1], block=2)
        tag = cartridge.read(1, 1)[0].tag
    data = bytearray(path.read_bytes())
    data[second : second + second - first] = header.encode() + tag
    path.write_bytes(data)
    with pytest.raises(DriveError) as caught:
        read(fixture, "TAP001")
    assert caught.value.sense is Sense.INTEGRITY


@pytest.mark.rule("KEY-1")
@pytest.mark.parametrize("at", [0, 2, 3, 4, 6])
def test_write_at_a_position_takes_what_followed_and_repeats_no_iv(
    fixture: DriveFixture, at: int
) -> None:
    path = write(fixture, "TAP001", BLOCKS, BLOCKS)
    with Cartridge.open(path) as cartridge:
        before = {header.iv[:4] for header in cartridge.headers}
        check = cartridge.memory.key_check
    new = [Block(b"new"), Block(b"n" * 70_000)]
    with mounted(fixture, "TAP001", write=True) as drive:
        drive.locate(at)
        if at < 6:
            with pytest.raises(DriveError) as caught:
                drive.write(new)
            assert caught.value.sense is Sense.POSITION
        drive.allow_overwrite()
        keyed(fixture, lambda: drive.write(new))
        drive.write([Block(b"and on")])
        assert drive.position == at + 3
    assert read(fixture, "TAP001") == [*(BLOCKS * 2)[:at], *new, Block(b"and on")]
    with Cartridge.open(path) as cartridge:
        assert not {header.iv[:4] for header in cartridge.headers[at:]} & before
        assert cartridge.memory.key_check == check


def test_write_at_a_position_in_the_same_mount_begins_another_pass(fixture: DriveFixture) -> None:
    Cartridge.create(fixture.cartridges.path("TAP001"), "TAP001")
    with mounted(fixture, "TAP001", write=True) as drive:
        drive.set_encryption(None)
        drive.write(BLOCKS)
        drive.locate(1)
        drive.allow_overwrite()
        drive.write([Block(b"other")])
        drive.locate(2)
        drive.write([Block(b"appended")])
    assert read(fixture, "TAP001") == [BLOCKS[0], Block(b"other"), Block(b"appended")]
    with Cartridge.open(fixture.cartridges.path("TAP001")) as cartridge:
        assert [header.epoch for header in cartridge.headers] == [1, 2, 2]


def test_kad_that_is_too_long_is_refused_before_anything(fixture: DriveFixture) -> None:
    path = fixture.cartridges.path("TAP001")
    Cartridge.create(path, "TAP001")
    before = path.read_bytes()
    with mounted(fixture, "TAP001", write=True) as drive:
        drive.set_encryption(LABELS, kad=(bytes(65), b""))
        with pytest.raises(KeyRequired):
            drive.write(BLOCKS)
        session = drive.key_session()
        fixture.sequences.proxy.exchange(session)
        drive.accept_key(session.grant)
        with pytest.raises(CartridgeError, match="at most 64 bytes"):
            drive.write(BLOCKS)
    assert path.read_bytes() == before


class BadSectors(TapeFile):
    """A file on a disk that does not give some bytes."""

    bad = range(0)

    def read(self, offset: int, count: int) -> bytes:
        if offset < self.bad.stop and self.bad.start < offset + count:
            raise OSError(5, "Input/output error")
        return super().read(offset, count)


def test_block_that_the_disk_does_not_give_stops_none_of_the_others(fixture: DriveFixture) -> None:
    path = write(fixture, "TAP001", BLOCKS, BLOCKS)
    file = BadSectors(path, writable=False)
    with Cartridge(file) as cartridge:
        file.bad = range(cartridge.offset(4) + 100, cartridge.offset(4) + 612)
        drive = fixture.drive
        drive.load(cartridge)
        keyed(fixture, drive.read)
        drive.locate(0)
        blocks: list[Block] = []
        while drive.position < 4:
            blocks += drive.read()
        with pytest.raises(DriveError, match="Block 4 of TAP001 cannot be read: Input/output"):
            drive.read()
        drive.locate(5)
        blocks += drive.read()
        drive.unload()
    assert blocks == [*BLOCKS, BLOCKS[0], BLOCKS[2]]


def test_records_have_the_flags_of_their_blocks(fixture: DriveFixture) -> None:
    path = write(fixture, "TAP001", [*BLOCKS, TAPE_MARK])
    with Cartridge.open(path) as cartridge:
        assert [header.flags & ~Flags.ENCRYPTED for header in cartridge.headers] == [
            Flags(0),
            Flags(0),
            Flags.LABEL,
            Flags.TAPE_MARK,
        ]
