"""Both EEDKs of a write from BOT are proved before its first block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hsm.ekm.protocol.drive_side import Generate
from hsm.ekm.protocol.errors import EkmUnavailable, ErrorCode, ExchangeError
from hsm.errors import TaperigError
from hsm.keys.eedk import Eedk, KeyLabel, KeyMode
from rig.drive.sense import Sense
from rig.results.events import Event
from rig.ve.catalogue import operator_messages
from rig.ve.catalogue.model import PoolSettings
from rig.ve.catalogue.schema import EventRow
from rig.ve.ekm.connections import EkmConnection
from rig.ve.ekm.proxy import EkmProxy
from rig.ve.ekm.relay import Relay, RelayedSession
from tests.support.ekm_lab import SoftKek
from tests.support.nodes import NodeFactory, content, put, work
from tests.support.tape_site import ELSEWHERE, DriveFixture, Site, sources
from tests.support.volume_sinks import CompareSink

POOL = PoolSettings(2, True, (KeyLabel("KEK 1"), KeyLabel("KEK 2", KeyMode.HASH)))
Spoil = Callable[[tuple[bytes, ...], tuple[bytes, ...]], tuple[bytes, ...]]


def flipped(eedk: bytes) -> bytes:
    """Change a bit of the wrapped data key."""
    fields = Eedk.decode(eedk)
    wrapped = bytearray(fields.wrapped)
    wrapped[100] ^= 1
    return replace(fields, wrapped=bytes(wrapped)).encode()


class SpoilingProxy(EkmProxy):
    """Has the drive take other EEDKs than the key manager made."""

    spoil: Spoil
    other: tuple[bytes, ...] = ()

    def exchange(self, session: RelayedSession) -> None:
        super().exchange(session)
        if isinstance(session.request, Generate):  # type: ignore[attr-defined]
            grant = session.grant  # type: ignore[attr-defined]
            changed = replace(grant, eedks=self.spoil(grant.eedks, self.other))
            session._grant = changed  # type: ignore[attr-defined]


def proof(fixture: DriveFixture) -> Event:
    return next(event for event in fixture.events.events if event.step == "CART-5")


@pytest.mark.rule("CART-5")
def test_both_eedks_are_proved_before_the_first_block(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, POOL)
    volumes = fixture.volumes(1000)
    volser = fixture.write_from_bot(2, volumes)
    assert proof(fixture).detail == {"proved": 2}
    sink = CompareSink(volumes)
    fixture.sequences.read(volser, sink)
    assert sink.all_equal


@pytest.mark.rule("CART-5")
@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda made, _: (made[0], flipped(made[1])), ErrorCode.FORGED_EEDK),
        (lambda made, _: (flipped(made[0]), made[1]), ErrorCode.FORGED_EEDK),
        (lambda made, other: (made[0], other[1]), Sense.WRONG_KEY),
        (lambda made, other: (other[0], made[1]), Sense.WRONG_KEY),
        (lambda made, other: other, Sense.WRONG_KEY),
        (lambda made, _: (made[0], b"\xa0"), ErrorCode.CORRUPT_EEDK),
    ],
    ids=["second bit", "first bit", "second", "first", "both", "no EEDK"],
)
def test_eedk_that_holds_no_or_another_key_stops_the_write(
    site: Site, tmp_path: Path, spoil: Spoil, error: ErrorCode | Sense
) -> None:
    fixture = site.fixture(tmp_path, POOL)
    fixture.add("TAP001", 2)
    before = fixture.tape("TAP001")
    usual = fixture.sequences.proxy
    with SpoilingProxy([site.endpoint(site.ekm)]) as proxy:
        fixture.sequences.proxy = proxy
        taken: list[tuple[bytes, ...]] = []
        proxy.spoil = lambda made, other: taken.append(made) or made  # type: ignore[func-returns-value]
        fixture.write_from_bot(2, fixture.volumes(10), "TAP001")
        written = fixture.tape("TAP001")
        proxy.spoil, proxy.other = spoil, taken[0]  # of the same cartridge, for another key
        with pytest.raises(TaperigError) as caught:
            fixture.write_from_bot(2, fixture.volumes(1000), "TAP001")
    fixture.sequences.proxy = usual
    assert error in (getattr(caught.value, "sense", None), getattr(caught.value, "code", None))
    assert fixture.steps()[-2:] == ["CART-5!", "BOT-4"]
    assert fixture.tape("TAP001") == written != before
    assert not site.engine.key_valid


@pytest.mark.rule("CART-5", "KEY-4", "KEY-11")
def test_public_only_eedk_is_said_not_to_be_proved(
    site: Site, partner: SoftKek, tmp_path: Path
) -> None:
    pool = PoolSettings(2, True, (KeyLabel("KEK 1"), KeyLabel(ELSEWHERE)))
    fixture = site.fixture(tmp_path, pool)
    volumes = fixture.volumes(1000)
    volser = fixture.write_from_bot(2, volumes)
    assert proof(fixture).detail == {"proved": 1, "not proved": [f"{ELSEWHERE} (clear)"]}
    sink = CompareSink(volumes)
    fixture.sequences.read(volser, sink)
    assert sink.all_equal
    fixture.set_pool(replace(pool, keys=(KeyLabel(ELSEWHERE),), allow_public_only=True))
    fixture.events.events.clear()
    fixture.write_from_bot(2, fixture.volumes(10))
    assert proof(fixture).detail["proved"] == 0
    assert len(sources(volumes)) == 1


@pytest.mark.rule("CART-5")
def test_node_tells_the_hosts_what_was_not_proved(
    node_factory: NodeFactory, partner: SoftKek
) -> None:
    node = node_factory.node(PoolSettings(2, True, (KeyLabel("KEK 1"), KeyLabel(ELSEWHERE))))
    put(node, "L00001", content(1), "SG2")
    work(node)
    with node.catalogue.reading() as session:
        messages = session.query(EventRow).filter(EventRow.kind == operator_messages.MESSAGE)
        assert [each.text for each in messages] == [
            "TAP001 was written with an EEDK that is not proved: no key manager of this node has "
            f"the private half of '{ELSEWHERE}'."
        ]


class LosingProxy(EkmProxy):
    """Loses contact once the data key was granted."""

    def exchange_with(self, each: EkmConnection, session: RelayedSession) -> None:
        raise EkmUnavailable("Contact is lost.")


@pytest.mark.rule("CART-5")
def test_write_without_a_proof_waits_for_a_key_manager(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, POOL)
    fixture.add("TAP001", 2)
    before = fixture.tape("TAP001")
    with (
        LosingProxy([site.endpoint(site.ekm)]) as fixture.sequences.proxy,
        pytest.raises(EkmUnavailable),
    ):
        fixture.write_from_bot(2, fixture.volumes(10), "TAP001")
    assert fixture.tape("TAP001") == before


@dataclass(frozen=True)
class Refusing:
    """A key manager that refuses."""

    code: ErrorCode

    def exchange(self, session: RelayedSession) -> None:
        raise ExchangeError(self.code, "Refused.")

    def each(self) -> Sequence[Relay]:
        return [self]

    def answering(self) -> Sequence[str]:
        return []


@pytest.mark.rule("CART-5")
@pytest.mark.parametrize(
    ("first", "last", "proved"),
    [
        (ErrorCode.KEK_PUBLIC_ONLY, None, 2),
        (ErrorCode.KEK_ABSENT, None, 2),
        (ErrorCode.KEK_PUBLIC_ONLY, ErrorCode.FORGED_EEDK, 0),
        (ErrorCode.WRONG_KEK, None, None),
    ],
)
def test_any_key_manager_that_opens_an_eedk_proves_it(
    site: Site, tmp_path: Path, first: ErrorCode, last: ErrorCode | None, proved: int | None
) -> None:
    fixture = site.fixture(tmp_path, replace(POOL, allow_public_only=True))

    class Several(EkmProxy):
        def each(self) -> Sequence[Relay]:
            return [Refusing(first), *(super().each() if last is None else [Refusing(last)])]

    with Several([site.endpoint(site.ekm)]) as fixture.sequences.proxy:
        if proved is None:
            with pytest.raises(ExchangeError, match="Refused"):
                fixture.write_from_bot(2, fixture.volumes(10))
        else:
            fixture.write_from_bot(2, fixture.volumes(10))
            assert proof(fixture).detail["proved"] == proved
