"""The sequences end to end: files go onto a cartridge and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.ekm.protocol.errors import EkmUnavailable, ErrorCode, ExchangeError
from hsm.ekm.protocol.messages import KeyGrant
from hsm.ekm.service.launch import spawn_ekm
from hsm.errors import TaperigError
from hsm.keys.eedk import Eedk, KeyLabel, KeyMode
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import CartridgeError, TapeFormat
from rig.drive.drive import Direction
from rig.engine.driver import Operation, Record, RecordStatus
from rig.ve.catalogue.model import PoolSettings
from rig.ve.ekm.proxy import EkmProxy
from rig.ve.volumes.logical_volume import VolumeError, VolumeFile
from tests.support.tape_site import DriveFixture, Site, ekm_settings, sources
from tests.support.volume_sinks import CompareSink

KEK_1 = KeyLabel("KEK 1")
KEK_2 = KeyLabel("KEK 2")
CLEAR = PoolSettings(1)
ENCRYPTED = PoolSettings(2, True, (KEK_1, KEK_2))

BOT_ENCRYPTED = ["BOT-1", "BOT-2a", "BOT-2b", "BOT-2c", "BOT-2d", "CART-5", "BOT-2e", "BOT-4"]
BOT_CLEAR = ["BOT-1", "BOT-3a", "BOT-3b", "BOT-4"]
APP_ENCRYPTED = ["APP-1", "APP-2a", "APP-2b", "APP-2c", "APP-2d", "APP-2e", "APP-2f", "APP-4"]
APP_CLEAR = ["APP-1", "APP-3a", "APP-3b", "APP-4"]
READ_ENCRYPTED = ["READ-1", "READ-2a", "READ-2b", "READ-2c", "READ-2d", "READ-2e", "READ-4"]
READ_CLEAR = ["READ-1", "READ-3", "READ-4"]


def assert_reads(fixture: DriveFixture, volser: str, *volumes: VolumeFile) -> None:
    """Read a cartridge and compare all volumes with their files."""
    sink = CompareSink(volumes)
    report = fixture.sequences.read(volser, sink)
    assert sink.all_equal, vars(sink)
    assert [header.name for header in report.volumes] == [volume.name for volume in volumes]
    assert report.bytes == sum(volume.size for volume in volumes)
    assert not report.incomplete


def assert_idle(site: Site, fixture: DriveFixture) -> None:
    """Check that the drive is empty and its hardware has no key (BOT-4)."""
    assert not fixture.drive.loaded
    assert not site.engine.key_valid
    (result,) = site.engine.process([Record(Operation.ENCRYPT, b"x")])
    assert result.status is RecordStatus.NO_KEY


def eedks(fixture: DriveFixture, volser: str) -> list[Eedk]:
    with Cartridge.open(fixture.cartridges.path(volser)) as cartridge:
        return [Eedk.decode(data) for data in cartridge.memory.eedks]


# Encrypted


def test_blocks_are_as_long_as_the_gates_allow_at_most(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer files are split by the drive's limit, which is the engine's."""
    most = 65536
    monkeypatch.setattr(site.engine, "max_data_bytes", most)
    fixture = site.fixture(tmp_path, CLEAR, ENCRYPTED)
    volumes = fixture.volumes(most - 1, most, most + 1, 200_000)
    volser = fixture.write_from_bot(2, volumes)
    with Cartridge.open(fixture.cartridges.path(volser)) as cartridge:
        blocks = cartridge.read(0, cartridge.block_count)
    sizes = [block.header.length for block in blocks]
    assert max(sizes) == most
    assert sizes.count(most) == 2 + 200_000 // most
    assert_reads(fixture, volser, *volumes)


@pytest.mark.rule("BOT-1", "BOT-2a", "BOT-2b", "BOT-2c", "BOT-2d", "BOT-2e", "BOT-4")
@pytest.mark.rule("READ-1", "READ-2a", "READ-2b", "READ-2c", "READ-2d", "READ-2e", "READ-4")
def test_write_from_bot_encrypted_is_read_back(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, CLEAR, ENCRYPTED)
    volumes = fixture.volumes(0, 1, 15, 16, 17, 2047, 262143, 262144, 262145, 600_000)
    volser = fixture.write_from_bot(2, volumes)
    by_step = {event.step: event for event in fixture.events.events}
    assert fixture.steps() == BOT_ENCRYPTED
    assert by_step["BOT-2a"].detail["keys"] == ["KEK 1 (clear)", "KEK 2 (clear)"]
    assert by_step["BOT-2b"].detail["sense"] == "7/EF/11"
    assert by_step["BOT-2e"].detail["bytes"] == sum(volume.size for volume in volumes)
    assert by_step["BOT-2e"].detail["volumes"] == 10
    assert by_step["BOT-4"].detail["zeroized"] is True
    assert all(event.volume == volser for event in by_step.values())
    assert [way for way, _ in site.relayed[:4]] == ["to-ekm", "to-drive", "to-ekm", "to-drive"]
    assert_idle(site, fixture)
    tape = fixture.tape(volser)
    for data in sources(volumes):
        assert len(data) < 16 or data[:16] not in tape

    assert_reads(fixture, volser, *volumes)
    by_step = {event.step: event for event in fixture.events.events}
    assert fixture.steps() == READ_ENCRYPTED
    assert by_step["READ-2a"].detail["format"] == "encrypted"
    assert by_step["READ-2b"].detail["sense"] == "7/EF/13"
    assert_idle(site, fixture)


@pytest.mark.rule("BOT-2e", "READ-2e")
def test_write_of_several_batches_counts_its_figures(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, ENCRYPTED)
    moved: list[tuple[int, int]] = []
    fixture.sequences.progress = lambda done, total: moved.append((done, total))
    volumes = fixture.volumes(5_000_000, 100, 1_000_000)
    volser = fixture.write_from_bot(2, volumes)
    written = dict(fixture.drive.figures)
    assert_reads(fixture, volser, *volumes)
    read = fixture.drive.figures
    assert list(written) == [(Direction.WRITE, Operation.ENCRYPT)]
    assert list(read) == [(Direction.READ, Operation.DECRYPT)]
    with Cartridge.open(fixture.cartridges.path(volser)) as cartridge:
        for counted in (*written.values(), *read.values()):
            assert counted.bytes == cartridge.data_bytes
            assert counted.cycles_busy >= counted.bytes / 16
            assert counted.tag_failures == 0
        # Behind each of the two batches written goes the seal of the memory.
        assert [each.records for each in written.values()] == [cartridge.block_count + 2]
        assert [each.records for each in read.values()] == [cartridge.block_count]
    assert [done for done, total in moved if done == total] == [6_000_100] * 2
    assert len(moved) >= 4
    event = next(e for e in fixture.events.events if e.step == "BOT-2e")
    assert event.detail["engine"]["encrypt"]["bytes"] == cartridge.data_bytes


@pytest.mark.rule("APP-1", "APP-2a", "APP-2b", "APP-2c", "APP-2d", "APP-2e", "APP-2f", "APP-4")
@pytest.mark.rule("KEY-1")
def test_append_is_encrypted_under_the_same_key(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, ENCRYPTED)
    first, second, third = (
        fixture.volumes(40_000, 7),
        fixture.volumes(300_000),
        fixture.volumes(1),
    )
    volser = fixture.write_from_bot(2, first)
    with Cartridge.open(fixture.cartridges.path(volser)) as cartridge:
        memory = cartridge.memory
        blocks = cartridge.block_count
    fixture.steps()
    fixture.sequences.append(volser, second)
    by_step = {event.step: event for event in fixture.events.events}
    assert fixture.steps() == APP_ENCRYPTED
    assert by_step["APP-2b"].detail["block"] == blocks
    assert by_step["APP-2c"].detail["sense"] == "7/EF/13"
    assert_idle(site, fixture)
    fixture.sequences.append(volser, third)
    with Cartridge.open(fixture.cartridges.path(volser)) as cartridge:
        assert cartridge.memory.eedks == memory.eedks
        assert cartridge.memory.key_check == memory.key_check
        ivs = [header.iv for header in cartridge.headers]
        assert len(set(ivs)) == len(ivs)
        assert {header.epoch for header in cartridge.headers} == {1, 2, 3}
    assert_reads(fixture, volser, *first, *second, *third)


@pytest.mark.rule("KEY-1", "BOT-5")
def test_write_from_bot_has_a_fresh_key_each_time(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, ENCRYPTED)
    volumes = fixture.volumes(50_000)
    checks: set[bytes] = set()
    tapes: list[tuple[bytes, ...]] = []
    for volser in ("TAP001", "TAP001", "TAP002"):
        if volser == "TAP002":
            fixture.add(volser, 2)
        fixture.write_from_bot(2, volumes, None if not tapes else volser)
        with Cartridge.open(fixture.cartridges.path(volser)) as cartridge:
            checks.add(cartridge.memory.key_check)
            tapes.append(cartridge.memory.eedks)
    assert len(checks) == 3
    assert len({eedk for pair in tapes for eedk in pair}) == 6
    assert_reads(fixture, "TAP001", *volumes)


@pytest.mark.rule("KEY-2", "KEY-6")
@pytest.mark.parametrize("modes", [("clear", "hash"), ("hash", "clear")])
def test_eedk_has_the_mode_of_its_label(site: Site, tmp_path: Path, modes: tuple[str, str]) -> None:
    keys = (KeyLabel("KEK 1", KeyMode(modes[0])), KeyLabel("KEK 2", KeyMode(modes[1])))
    fixture = site.fixture(tmp_path, PoolSettings(5, True, keys))
    volumes = fixture.volumes(1000)
    volser = fixture.write_from_bot(5, volumes)
    pair = eedks(fixture, volser)
    assert [eedk.mode for eedk in pair] == [KeyMode(mode) for mode in modes]
    clear, hashed = sorted(pair, key=lambda eedk: eedk.mode)
    assert clear.label == f"KEK {modes.index('clear') + 1}"
    assert clear.kek_hash is None
    assert hashed.label is None
    assert hashed.kek_hash is not None
    assert f"KEK {modes.index('hash') + 1}".encode() not in fixture.tape(volser)
    assert_reads(fixture, volser, *volumes)


@pytest.mark.rule("KEY-5", "KEY-11")
def test_key_label_alone_makes_both_eedks_without_regard_to_case(
    site: Site, tmp_path: Path
) -> None:
    fixture = site.fixture(tmp_path, PoolSettings(5, True, (KeyLabel("kek 1"),)))
    volumes = fixture.volumes(1000)
    volser = fixture.write_from_bot(5, volumes)
    first, second = eedks(fixture, volser)
    assert (first.label or "").casefold() == (second.label or "").casefold() == "kek 1"
    assert first.wrapped != second.wrapped
    assert_reads(fixture, volser, *volumes)


@pytest.mark.rule("KEY-12", "BOT-2c")
def test_relayed_messages_are_of_no_use_to_the_ve(site: Site, tmp_path: Path) -> None:
    """The same messages do not set a key a second time.

    They are bound to one exchange.

    That no data key is in them is proved where keys are taken out of the gates to look for.
    """
    fixture = site.fixture(tmp_path, ENCRYPTED)
    volser = fixture.write_from_bot(2, fixture.volumes(1000))
    heard = [data for way, data in site.relayed if way == "to-drive"]
    with fixture.cartridges.mounted(volser, write=True) as cartridge:
        fixture.drive.load(cartridge)
        with pytest.raises(TaperigError, match="7/EF/13"):
            fixture.drive.read()
        session = fixture.drive.key_session()
        session.hello()
        for data in heard[:2]:
            session.on_message(data)
        assert session.failure is not None
        with pytest.raises(ExchangeError):
            _ = session.grant
        fixture.drive.unload()
    assert_idle(site, fixture)


# Clear


@pytest.mark.rule("BOT-3a", "BOT-3b", "APP-3a", "APP-3b", "READ-3")
def test_clear_cartridge_needs_no_key_exchange(site: Site, tmp_path: Path) -> None:
    unused = EkmProxy([site.endpoint(site.ekm)], observer=lambda way, data: pytest.fail(way))
    fixture = site.fixture(tmp_path, CLEAR, proxy=unused)
    first, second = fixture.volumes(0, 1, 262145), fixture.volumes(300_000)
    volser = fixture.write_from_bot(1, first)
    assert fixture.steps() == BOT_CLEAR
    assert list(fixture.drive.figures) == [(Direction.WRITE, Operation.BYPASS)]
    fixture.sequences.append(volser, second)
    assert fixture.steps() == APP_CLEAR
    assert_reads(fixture, volser, *first, *second)
    assert fixture.steps() == READ_CLEAR
    assert list(fixture.drive.figures) == [(Direction.READ, Operation.BYPASS)]
    assert sources(second)[0][:200_000] in fixture.tape(volser)
    assert_idle(site, fixture)


@pytest.mark.rule("APP-3a", "POOL-2")
def test_append_to_a_clear_cartridge_is_clear_whatever_the_pool_says(
    site: Site, tmp_path: Path
) -> None:
    fixture = site.fixture(tmp_path, CLEAR)
    first, second = fixture.volumes(1000), fixture.volumes(1000)
    volser = fixture.write_from_bot(1, first)
    fixture.set_pool(PoolSettings(1, True, (KEK_1,)))
    fixture.steps()
    fixture.sequences.append(volser, second)
    assert fixture.steps() == APP_CLEAR
    assert sources(second)[0] in fixture.tape(volser)
    assert not site.relayed
    assert_reads(fixture, volser, *first, *second)


@pytest.mark.rule("APP-2a", "POOL-2")
def test_append_to_an_encrypted_cartridge_ignores_that_the_pool_is_clear(
    site: Site, tmp_path: Path
) -> None:
    fixture = site.fixture(tmp_path, ENCRYPTED)
    first, second = fixture.volumes(1000), fixture.volumes(1000)
    volser = fixture.write_from_bot(2, first)
    fixture.set_pool(PoolSettings(2))
    fixture.steps()
    fixture.sequences.append(volser, second)
    assert fixture.steps() == APP_ENCRYPTED
    assert sources(second)[0] not in fixture.tape(volser)
    assert_reads(fixture, volser, *first, *second)


@pytest.mark.rule("POOL-1", "POOL-2", "BOT-5")
def test_pool_holds_clear_kek_1_and_kek_2_cartridges_over_time(site: Site, tmp_path: Path) -> None:
    """Settings apply at the next write from BOT, so a pool holds a mix.

    This is the source's figure (POOL-2).
    """
    fixture = site.fixture(tmp_path, PoolSettings(1))
    settings = [PoolSettings(1), PoolSettings(1, True, (KEK_1,)), PoolSettings(1, True, (KEK_2,))]

    def state() -> list[str]:
        found = []
        for volser in fixture.cartridges.volsers():
            with Cartridge.open(fixture.cartridges.path(volser)) as cartridge:
                encrypted = cartridge.format is TapeFormat.ENCRYPTED
            labels = {eedk.label for eedk in eedks(fixture, volser)} if encrypted else {"none"}
            found.append("/".join(sorted(str(label) for label in labels)))
        return found

    volumes = fixture.volumes(20_000, 3)
    for pool in settings:
        fixture.set_pool(pool)
        fixture.write_from_bot(1, volumes)
    assert state() == ["none", "KEK 1", "KEK 2"]
    for volser in fixture.cartridges.volsers():
        assert_reads(fixture, volser, *volumes)
    fixture.scratch.add("TAP001")
    assert state() == ["none", "KEK 1", "KEK 2"]
    fixture.write_from_bot(1, volumes)
    assert state() == ["KEK 2", "KEK 1", "KEK 2"]
    fixture.set_pool(PoolSettings(1))
    assert state() == ["KEK 2", "KEK 1", "KEK 2"]
    fixture.write_from_bot(1, volumes, "TAP002")
    assert state() == ["KEK 2", "none", "KEK 2"]
    assert_reads(fixture, "TAP002", *volumes)


# What fails


@pytest.mark.rule("KEY-9", "BOT-4")
def test_write_under_an_unknown_label_names_it_before_any_data(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, CLEAR, PoolSettings(2, True, (KEK_1, KeyLabel("Never Made"))))
    kept = fixture.volumes(1000)
    fixture.set_pool(PoolSettings(2))
    volser = fixture.write_from_bot(2, kept)
    fixture.scratch.add(volser)
    before = fixture.tape(volser)
    fixture.steps()
    fixture.set_pool(PoolSettings(2, True, (KEK_1, KeyLabel("Never Made"))))
    with pytest.raises(ExchangeError, match="Never Made") as caught:
        fixture.write_from_bot(2, fixture.volumes(1000))
    assert caught.value.code is ErrorCode.UNKNOWN_LABEL
    failed = next(event for event in fixture.events.events if event.outcome == "failed")
    assert failed.detail["sense"] == "5/EE/31"
    assert fixture.steps() == ["BOT-1", "BOT-2a", "BOT-2b", "BOT-2c!", "BOT-4"]
    assert fixture.tape(volser) == before
    assert volser in fixture.scratch
    assert_idle(site, fixture)
    assert_reads(fixture, volser, *kept)


@pytest.mark.rule("BOT-2c", "APP-2d", "READ-2c", "READ-3")
def test_clear_cartridges_work_while_the_key_manager_is_down(site: Site, tmp_path: Path) -> None:
    with spawn_ekm(ekm_settings(site.lab, tmp_path)) as ekm:
        proxy = EkmProxy([site.endpoint(ekm)])
        fixture = site.fixture(tmp_path, CLEAR, ENCRYPTED, proxy=proxy)
        kept, clear = fixture.volumes(1000), fixture.volumes(2000)
        volser = fixture.write_from_bot(2, kept)
    fixture.steps()
    before = fixture.tape(volser)
    for command, failing, steps in (
        (lambda: fixture.write_from_bot(2, fixture.volumes(10)), "BOT-2c", BOT_ENCRYPTED),
        (lambda: fixture.sequences.append(volser, fixture.volumes(10)), "APP-2d", APP_ENCRYPTED),
        (lambda: fixture.sequences.read(volser), "READ-2c", READ_ENCRYPTED),
    ):
        with pytest.raises(EkmUnavailable, match="key manager at"):
            command()
        failed = next(event for event in fixture.events.events if event.outcome == "failed")
        assert failed.detail["sense"] == "4/EE/0E"
        at = steps.index(failing)
        assert fixture.steps() == [*steps[:at], f"{failing}!", steps[-1]]
        assert_idle(site, fixture)
    assert fixture.tape(volser) == before
    assert_reads(fixture, fixture.write_from_bot(1, clear), *clear)
    fixture.sequences.proxy = site.proxy
    more = fixture.volumes(10)
    fixture.sequences.append(volser, more)
    assert_reads(fixture, volser, *kept, *more)


@pytest.mark.rule("BOT-4", "APP-4", "READ-4")
def test_command_that_fails_zeroizes_and_demounts(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture = site.fixture(tmp_path, ENCRYPTED)
    first, changing = fixture.volumes(1000), fixture.volumes(5_000_000, 10)
    volser = fixture.write_from_bot(2, first)
    fixture.steps()
    accept_key = fixture.drive.accept_key

    def accept_and_change(grant: KeyGrant) -> None:
        accept_key(grant)
        assert site.engine.key_valid
        changing[1].source.write_bytes(b"0123456789")

    monkeypatch.setattr(fixture.drive, "accept_key", accept_and_change)
    with pytest.raises(VolumeError, match="changed while it was written"):
        fixture.sequences.append(volser, changing)
    assert fixture.steps() == [*APP_ENCRYPTED[:-2], "APP-2f!", "APP-4"]
    assert_idle(site, fixture)
    monkeypatch.undo()
    report = fixture.sequences.read(volser)
    assert [header.name for header in report.volumes] == ["L00001"]
    assert report.incomplete == ["L00002"]
    again = fixture.volumes(99)
    fixture.sequences.append(volser, again)
    report = fixture.sequences.read(volser)
    assert [header.name for header in report.volumes] == ["L00001", "L00004"]


def test_sequence_refuses_what_cannot_be_done_and_moves_nothing(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, CLEAR, ENCRYPTED)
    (volume,) = fixture.volumes(10)
    fixture.add("TAP001", 1)
    volume.source.unlink()
    with pytest.raises(VolumeError, match="cannot be read"):
        fixture.write_from_bot(1, [volume])
    with pytest.raises(VolumeError, match="no logical volume to write"):
        fixture.sequences.append("TAP001", [])
    assert not fixture.steps()
    with pytest.raises(TaperigError, match="TAP001 is blank"):
        fixture.sequences.append("TAP001", fixture.volumes(10))
    assert fixture.steps() == ["APP-1", "APP-3a", "APP-3b!", "APP-4"]
    with (
        Cartridge.open(fixture.cartridges.path("TAP001")),
        pytest.raises(CartridgeError, match="mounted by another drive"),
    ):
        fixture.write_from_bot(1, fixture.volumes(10), "TAP001")
    assert fixture.steps() == ["BOT-1!"]
    assert not fixture.sequences.read("TAP001").volumes
    assert_idle(site, fixture)
