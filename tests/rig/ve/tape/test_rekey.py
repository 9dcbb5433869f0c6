"""Rekey end to end: new EEDKs, the same data, no old EEDK left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm.ekm.client import EkmEndpoint
from hsm.ekm.protocol.errors import EkmUnavailable, ErrorCode, ExchangeError
from hsm.ekm.protocol.messages import KeyGrant
from hsm.errors import TaperigError
from hsm.keys.eedk import Eedk, KeyLabel, KeyMode
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import PAGE_BYTES, CartridgeError
from rig.drive.sense import DriveError, Sense
from rig.ve import operator_views
from rig.ve.catalogue import settings, transactions
from rig.ve.catalogue.model import PoolSettings
from rig.ve.ekm.connections import EkmConnection
from rig.ve.ekm.proxy import EkmProxy
from rig.ve.ekm.relay import RelayedSession
from rig.ve.node import Node
from rig.ve.tape.rekey import REKEY_STEPS, RekeyError, RekeyReport, rekey
from tests.support.ekm_lab import SoftKek
from tests.support.nodes import (
    KEK_2,
    NodeFactory,
    assert_agrees,
    content,
    evict,
    put,
    tape,
    work,
)
from tests.support.tape_site import ELSEWHERE, DriveFixture, Site
from tests.support.volume_sinks import CompareSink

OLD = PoolSettings(1, True, (KeyLabel("KEK 1"), KeyLabel("KEK 1", KeyMode.HASH)))
NEW = (KeyLabel("KEK 2", KeyMode.HASH), KeyLabel("Made Outside"))


def rekeyed(
    fixture: DriveFixture, volser: str, *keys: KeyLabel, allow: bool = False
) -> RekeyReport:
    each = fixture.sequences
    return rekey(
        each.drive, each.proxy, each.cartridges, each.events, volser, keys, allow_public_only=allow
    )


def memory_eedks(fixture: DriveFixture, volser: str) -> tuple[bytes, ...]:
    with Cartridge.open(fixture.cartridges.path(volser)) as cartridge:
        return cartridge.memory.eedks


def assert_reads(fixture: DriveFixture, volser: str, volumes: list[object]) -> None:
    sink = CompareSink(volumes)  # type: ignore[arg-type]
    fixture.sequences.read(volser, sink)
    assert sink.all_equal, vars(sink)


def assert_same_records(path: Path, before: bytes) -> None:
    """Nothing but pages of cartridge memory has changed."""
    after = path.read_bytes()
    with Cartridge.open(path) as cartridge:
        for block in range(cartridge.block_count):
            start = cartridge.offset(block)
            stop = start + 48 + cartridge.headers[block].payload_bytes
            assert before[start:stop] == after[start:stop]
        assert cartridge.offset(0) == 3 * PAGE_BYTES
    assert len(before) == len(after)


@pytest.mark.rule("KEY-2")
def test_rekey_lets_other_keys_open_the_cartridge_and_keeps_its_data(
    site: Site, tmp_path: Path
) -> None:
    fixture = site.fixture(tmp_path, OLD)
    first, second, third = fixture.volumes(300_000, 5), fixture.volumes(70_000), fixture.volumes(9)
    volser = fixture.write_from_bot(1, first)
    fixture.sequences.append(volser, second)
    before, old = fixture.tape(volser), memory_eedks(fixture, volser)
    fixture.steps()

    report = rekeyed(fixture, volser, *NEW)

    assert fixture.steps() == list(REKEY_STEPS)
    assert report.opened == (True, True)
    assert not fixture.drive.loaded
    assert not site.engine.key_valid
    after = fixture.tape(volser)
    new = [Eedk.decode(data) for data in memory_eedks(fixture, volser)]
    assert [(eedk.mode, eedk.label) for eedk in new] == [
        (KeyMode.HASH, None),
        (KeyMode.CLEAR, "Made Outside"),
    ]
    for eedk in old:
        assert eedk in before
        assert eedk not in after
        assert Eedk.decode(eedk).wrapped not in after
    assert_same_records(fixture.cartridges.path(volser), before)
    # KEK 1 is of no use any more; the key made outside opens the tape by itself.
    data_key = site.outside.open(new[1].wrapped)
    assert len(data_key) == 32
    assert data_key not in after
    assert_reads(fixture, volser, [*first, *second])
    fixture.sequences.append(volser, third)
    assert_reads(fixture, volser, [*first, *second, *third])
    assert not any(eedk in fixture.tape(volser) for eedk in old)


@pytest.mark.rule("KEY-4", "KEY-11")
def test_rekey_to_two_public_only_keys_needs_permission(
    site: Site, partner: SoftKek, tmp_path: Path
) -> None:
    fixture = site.fixture(tmp_path, OLD)
    volumes = fixture.volumes(1000)
    volser = fixture.write_from_bot(1, volumes)
    assert rekeyed(fixture, volser, KeyLabel(ELSEWHERE), KeyLabel("KEK 2")).opened == (False, True)
    assert_reads(fixture, volser, [*volumes])
    before = fixture.tape(volser)
    with pytest.raises(ExchangeError) as caught:
        rekeyed(fixture, volser, KeyLabel(ELSEWHERE))
    assert caught.value.code is ErrorCode.PUBLIC_ONLY_PAIR
    assert fixture.tape(volser) == before
    assert rekeyed(fixture, volser, KeyLabel(ELSEWHERE), allow=True).opened == (False, False)
    with pytest.raises(ExchangeError) as caught:
        fixture.sequences.read(volser)
    assert caught.value.code is ErrorCode.KEK_PUBLIC_ONLY
    wrapped = Eedk.decode(memory_eedks(fixture, volser)[1]).wrapped
    assert len(partner.open(wrapped)) == 32


def test_rekey_refuses_eedks_that_no_key_manager_here_opens(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the new keys lose their private halves in the meantime."""
    fixture = site.fixture(tmp_path, OLD)
    volser = fixture.write_from_bot(1, fixture.volumes(1000))
    before = fixture.tape(volser)
    fixture.steps()
    monkeypatch.setattr("rig.ve.tape.rekey.prove", lambda *arguments: False)
    with pytest.raises(RekeyError, match=f"No key manager here opens either new EEDK of {volser}"):
        rekeyed(fixture, volser, *NEW)
    assert fixture.steps() == ["REKEY-1", "REKEY-2", "REKEY-3", "REKEY-4!", "REKEY-6"]
    assert fixture.tape(volser) == before


@pytest.mark.rule("KEY-9")
def test_rekey_to_an_unknown_label_changes_nothing(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, OLD)
    volser = fixture.write_from_bot(1, fixture.volumes(1000))
    before = fixture.tape(volser)
    fixture.steps()
    with pytest.raises(ExchangeError, match="No Such Key"):
        rekeyed(fixture, volser, KeyLabel("No Such Key"), KeyLabel("KEK 2"))
    assert fixture.steps() == ["REKEY-1", "REKEY-2!", "REKEY-6"]
    assert fixture.tape(volser) == before
    assert not fixture.drive.loaded


def test_rekey_refuses_a_clear_cartridge(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, PoolSettings(1))
    volser = fixture.write_from_bot(1, fixture.volumes(1000))
    before = fixture.tape(volser)
    with pytest.raises(DriveError, match="not encrypted"):
        rekeyed(fixture, volser, *NEW)
    assert fixture.tape(volser) == before


class SwappingProxy(EkmProxy):
    """Answers exchange number ``which`` with another cartridge's grant."""

    def __init__(self, endpoints: list[EkmEndpoint], which: int, other: KeyGrant) -> None:
        super().__init__(endpoints)
        self.which, self.other, self.count = which, other, 0

    def exchange(self, session: RelayedSession) -> None:
        super().exchange(session)
        self._swap(session)

    def exchange_with(self, each: EkmConnection, session: RelayedSession) -> None:
        super().exchange_with(each, session)
        self._swap(session)

    def _swap(self, session: RelayedSession) -> None:
        self.count += 1
        if self.count == self.which:
            session._grant = self.other  # type: ignore[attr-defined]


@contextmanager
def swapping(site: Site, fixture: DriveFixture, which: int, other: KeyGrant) -> Iterator[None]:
    usual = fixture.sequences.proxy
    with SwappingProxy([site.endpoint(site.ekm)], which, other) as fixture.sequences.proxy:
        yield
    fixture.sequences.proxy = usual


@pytest.mark.parametrize(
    ("which", "steps"),
    [
        (1, ["REKEY-1", "REKEY-2", "REKEY-3!", "REKEY-6"]),
        (2, ["REKEY-1", "REKEY-2", "REKEY-3", "REKEY-4!", "REKEY-6"]),
        (3, ["REKEY-1", "REKEY-2", "REKEY-3", "REKEY-4!", "REKEY-6"]),
    ],
)
def test_rekey_keeps_the_old_eedks_when_the_gates_disprove_the_new(
    site: Site, tmp_path: Path, which: int, steps: list[str]
) -> None:
    fixture = site.fixture(tmp_path, OLD)
    volumes = fixture.volumes(1000)
    volser = fixture.write_from_bot(1, volumes)
    before = fixture.tape(volser)
    other = site.fixture(tmp_path / "other", OLD)
    grants: list[KeyGrant] = []
    accept = other.drive.accept_key
    other.drive.accept_key = lambda grant: (grants.append(grant), accept(grant))[1]  # type: ignore[method-assign, func-returns-value]
    other.write_from_bot(1, other.volumes(10))
    fixture.steps()
    with swapping(site, fixture, which, grants[0]), pytest.raises(DriveError) as caught:
        rekeyed(fixture, volser, *NEW)
    assert caught.value.sense is Sense.WRONG_KEY
    assert fixture.steps() == steps
    assert fixture.tape(volser) == before
    assert_reads(fixture, volser, [*volumes])


def test_rekey_without_a_key_manager_changes_nothing(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, OLD)
    volser = fixture.write_from_bot(1, fixture.volumes(1000))
    before = fixture.tape(volser)
    unreachable = EkmProxy([EkmEndpoint("127.0.0.1", 1, site.lab.rig_tls)])
    with unreachable as fixture.sequences.proxy, pytest.raises(EkmUnavailable):
        rekeyed(fixture, volser, *NEW)
    assert fixture.tape(volser) == before


# A node's cartridges


def labels(node: Node, volser: str) -> list[str | None]:
    with Cartridge.open(node.parts.cartridges.path(volser)) as cartridge:
        return [Eedk.decode(data).label for data in cartridge.memory.eedks]


def catalogued(node: Node, volser: str) -> set[str]:
    return {key.label for key in tape(node, volser).keys}


def written_node(node_factory: NodeFactory) -> Node:
    """Return a node with a volume on TAP001 (encrypted) and TAP002 (clear)."""
    node = node_factory.node()
    put(node, "L00001", content(1), "SG2")
    work(node)
    put(node, "L00002", content(2), "SG1")
    work(node)
    return node


def set_keys(node: Node, *keys: KeyLabel) -> None:
    with node.change() as session:
        settings.set_pool(session, PoolSettings(2, bool(keys), keys))


@pytest.mark.rule("KEY-2", "POOL-3")
def test_node_rekeys_a_cartridge_with_the_keys_that_its_pool_has_now(
    node_factory: NodeFactory,
) -> None:
    node = written_node(node_factory)
    path = node.parts.cartridges.path("TAP001")
    before = path.read_bytes()
    set_keys(node, KEK_2)
    assert labels(node, "TAP001") == ["KEK 1", "KEK 1"]
    report = node.scheduler.rekey("TAP001")
    assert (report.volser, report.keys, report.opened) == ("TAP001", (KEK_2,), (True, True))
    assert labels(node, "TAP001") == ["KEK 2", "KEK 2"]
    assert catalogued(node, "TAP001") == {"KEK 2"}
    assert_same_records(path, before)
    with node.catalogue.reading() as session:
        assert operator_views.key_users(session, "KEK 1") == []
    evict(node)
    assert node.read("L00001").read_bytes() == content(1)
    assert_agrees(node)


def test_node_refuses_to_rekey_what_has_no_keys_or_gets_none(node_factory: NodeFactory) -> None:
    node = written_node(node_factory)
    set_keys(node, KEK_2)
    before = {path: path.read_bytes() for path in node.parts.cartridges.folder.iterdir()}
    for volser, words in (
        ("TAP009", "There is no physical volume 'TAP009'"),
        ("TAP002", "TAP002 is not encrypted"),
        ("TAP003", "TAP003 is scratch"),
    ):
        with pytest.raises(TaperigError, match=words):
            node.scheduler.rekey(volser)
    with (
        Cartridge.open(node.parts.cartridges.path("TAP001"), write=True),
        pytest.raises(CartridgeError, match="mounted by another drive"),
    ):
        node.scheduler.rekey("TAP001")
    with node.change() as session:
        transactions.physical(session, "TAP001").writing_pool = 2
    with pytest.raises(RekeyError, match="A write to cartridge TAP001 was cut off"):
        node.scheduler.rekey("TAP001")
    with node.change() as session:
        transactions.physical(session, "TAP001").writing_pool = None
    set_keys(node)
    with pytest.raises(RekeyError, match="Pool 2 of cartridge TAP001 does not encrypt now"):
        node.scheduler.rekey("TAP001")
    assert {path: path.read_bytes() for path in before} == before
    assert catalogued(node, "TAP001") == {"KEK 1"}
    assert_agrees(node)


def test_node_names_the_old_keys_only_when_a_rekey_failed(node_factory: NodeFactory) -> None:
    node = written_node(node_factory)
    set_keys(node, KeyLabel("No Such Key"))
    with pytest.raises(ExchangeError, match="No Such Key"):
        node.scheduler.rekey("TAP001")
    assert catalogued(node, "TAP001") == {"KEK 1"}


def test_node_names_old_and_new_keys_until_a_rekey_is_settled(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between tape and catalogue leaves both keys in use."""
    node = written_node(node_factory)
    set_keys(node, KEK_2)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rig.ve.tape.rekey.transactions.end_writing", killed)
        with pytest.raises(KeyboardInterrupt):
            node.scheduler.rekey("TAP001")
    assert labels(node, "TAP001") == ["KEK 2", "KEK 2"]
    assert catalogued(node, "TAP001") == {"KEK 1", "KEK 2"}
    node.close()
    again = node_factory.open()
    again.scheduler.rekey("TAP001")
    assert catalogued(again, "TAP001") == {"KEK 2"}
