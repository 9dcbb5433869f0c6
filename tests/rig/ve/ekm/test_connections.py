"""Connections to two real key managers: loss, switch, return, notices."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hsm.ekm.protocol import messages
from hsm.ekm.protocol.errors import EkmUnavailable
from hsm.ekm.protocol.messages import Ack, Challenge, Hello, KeyReply, KeyRequest
from rig.results.events import NoticeKind
from rig.ve.ekm.connections import ConnectionTiming
from rig.ve.ekm.proxy import EkmProxy
from rig.ve.ekm.verify_connection import verify_connection
from tests.support.ekm_lab import MAIN_KEY
from tests.support.ekm_pair import QUICK, CuttingRelay, Pair, open_pair
from tests.support.waiting import wait_until

RAISED, CLEARED = NoticeKind.INTERVENTION, NoticeKind.CLEARED
HOSTS, CALL_HOME = NoticeKind.HOSTS, NoticeKind.CALL_HOME
LOST_ONE_BY_ONE = [(RAISED, "main"), (HOSTS, "degraded"), (RAISED, "backup"), (HOSTS, "none")]
WHOLE = [Hello, Challenge, KeyRequest, KeyReply, Ack]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with open_pair(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.fixture
def pair(opened: Pair) -> Pair:
    """Both key managers run, whatever the test before did to them."""
    opened.all_running()
    return opened


def connections(pair: Pair) -> list[int]:
    """How many connections each key manager has, as the kernel counts them."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        sum(fields[1].endswith(f":{ekm.config.port:04X}") and fields[3] == "01" for fields in lines)
        for ekm in pair.ekms
    ]


@pytest.mark.rule("EKM-4", "EKM-5")
def test_connections_to_both_stay_open_without_a_notice(pair: Pair) -> None:
    before = connections(pair)
    with pair.proxy() as proxy:
        proxy.connect()
        proxy.watch()
        first = max(each.due for each in proxy.connections.all)
        wait_until(lambda: all(each.due > first + 0.2 for each in proxy.connections.all))
        assert connections(pair) == [count + 1 for count in before]
        pair.key(proxy)
        assert connections(pair) == [count + 1 for count in before]
    assert pair.take_notices() == []


@pytest.mark.rule("EKM-6", "EKM-7")
def test_secondary_serves_only_while_the_primary_is_down(
    pair: Pair,
) -> None:
    with pair.proxy() as proxy:
        proxy.connect()
        for _ in range(3):
            pair.key(proxy)
        main, backup = pair.main.served(), pair.backup.served()
        assert main[-6:] == ["key-reply", "ack"] * 3
        assert pair.take_notices() == []
        pair.main.kill()
        for _ in range(2):
            pair.key(proxy)
        assert pair.backup.served() == [*backup, *["key-reply", "ack"] * 2]
        assert pair.take_notices() == [(RAISED, "main"), (HOSTS, "degraded")]
        pair.main.start()
        pair.key(proxy)  # the first exchange after it is back
        assert pair.main.served() == [*main, "key-reply", "ack"]
        assert pair.take_notices() == [(CLEARED, "main"), (HOSTS, "recovered")]


@pytest.mark.rule("EKM-7")
def test_loss_of_the_secondary_is_reported_while_the_primary_serves(
    pair: Pair,
) -> None:
    with pair.relays() as (main, backup), pair.proxy(*pair.through((main, backup))) as proxy:
        proxy.connect()
        proxy.watch()
        backup.die()
        wait_until(lambda: len(pair.events.notices) >= 2)
        pair.key(proxy)
        lost, hosts = pair.events.notices
        assert (lost.kind, lost.about) == (RAISED, "backup")
        assert "backup (127.0.0.1:" in lost.text
        assert (hosts.kind, hosts.detail["mode"]) == (HOSTS, "degraded")
        assert (hosts.detail["up"], hosts.detail["down"]) == (["main"], ["backup"])
        assert lost.time <= hosts.time
        pair.take_notices()
        backup.dead = False
        wait_until(lambda: len(pair.events.notices) >= 2)
        assert pair.take_notices() == [(CLEARED, "backup"), (HOSTS, "recovered")]


class Trigger:
    """Acts when the message of number ``when`` passes; keeps their types."""

    def __init__(self, when: int, action: object) -> None:
        self.when, self.action = when, action
        self.seen: list[type] = []

    def __call__(self, direction: str, data: bytes) -> None:
        self.seen.append(type(messages.decode(data)))
        if len(self.seen) == self.when:
            assert callable(self.action)
            self.action()


@pytest.mark.rule("EKM-6")
@pytest.mark.parametrize(
    ("how", "when"),
    [(signal.SIGSTOP, 1), (signal.SIGSTOP, 2), (signal.SIGSTOP, 3), (signal.SIGKILL, 3)],
)
def test_exchange_cut_at_the_primary_is_repeated_whole_at_the_secondary(
    pair: Pair, when: int, how: signal.Signals
) -> None:
    """The primary is lost at message 1, 2 or 3.

    These are hello, challenge and key request.
    """
    trigger = Trigger(when, lambda: pair.main.signal(how))
    with pair.proxy(observer=trigger, answer_seconds=1) as proxy:
        proxy.connect()
        backup = pair.backup.served()
        try:
            pair.key(proxy)
        finally:
            if how is signal.SIGSTOP:
                pair.main.signal(signal.SIGCONT)
        # What the lost one was asked and did not answer, then everything from the beginning.
        assert trigger.seen == [*WHOLE[: when | 1], *WHOLE]
        assert pair.backup.served() == [*backup, "key-reply", "ack"]
        assert pair.take_notices() == [(RAISED, "main"), (HOSTS, "degraded")]


@pytest.mark.rule("EKM-6")
def test_exchange_is_complete_when_the_primary_is_lost_after_the_key(pair: Pair) -> None:
    trigger = Trigger(4, lambda: pair.main.kill())
    with pair.proxy(observer=trigger) as proxy:
        proxy.connect()
        backup = pair.backup.served()
        pair.key(proxy)
        assert trigger.seen == WHOLE
        assert pair.backup.served() == backup
        assert pair.take_notices() == [(RAISED, "main"), (HOSTS, "degraded")]
    pair.main.start()
    assert pair.main.served()[-1] in ("key-reply", "no-ack")


@pytest.mark.rule("EKM-6")
@pytest.mark.parametrize("way", ["up", "down"])
def test_exchange_cut_at_any_byte_gives_one_key(pair: Pair, way: str) -> None:
    """Measure a whole exchange; then cut it after every so many bytes."""
    target = ("127.0.0.1", pair.main.config.port)
    measured = CuttingRelay(target)
    with pair.proxy(pair.endpoint(pair.main, port=measured.port)) as proxy:
        proxy.connect()
        handshake = measured.passed[way]
        pair.key(proxy)
    whole = measured.passed[way]
    measured.close()
    assert whole - handshake > 500
    step = (whole - handshake) // 12
    cuts = 0
    for limit in [0, handshake // 2, *range(handshake - 1, whole, step)]:
        relay = CuttingRelay(
            target, up=limit if way == "up" else None, down=limit if way == "down" else None
        )
        seen = Trigger(0, None)
        backup = pair.backup.served()
        with pair.proxy(
            pair.endpoint(pair.main, port=relay.port), pair.endpoint(pair.backup), observer=seen
        ) as proxy:
            pair.key(proxy)
        relay.close()
        cuts += relay.cuts
        assert seen.seen[-5:] == WHOLE
        switched = pair.backup.served() != backup
        assert pair.backup.served() == [*backup, *["key-reply", "ack"] * switched]
        assert len(seen.seen) == 5 or switched
    assert cuts >= 12


@pytest.mark.rule("EKM-6", "EKM-8")
def test_exchange_is_repeated_only_once(pair: Pair) -> None:
    """Both lose each exchange: one try at each, and one call home."""
    with pair.relays() as relays:

        def seen(direction: str, data: bytes) -> None:
            kinds.append(type(messages.decode(data)))
            if kinds[-1] is KeyRequest:
                for relay in relays:
                    relay.cut()

        kinds: list[type] = []
        ends = pair.through(relays)
        with pair.proxy(*ends, observer=seen) as proxy:
            with pytest.raises(EkmUnavailable) as caught:
                pair.key(proxy)
            assert kinds == WHOLE[:3] * 2
            assert all(str(end) in str(caught.value) for end in ends)
            assert pair.take_notices() == [
                (RAISED, "main"),
                (RAISED, "backup"),  # it had not been asked before
                (HOSTS, "none"),
                (CALL_HOME, "no key manager"),
            ]


@pytest.mark.rule("EKM-8")
def test_call_home_is_made_once_in_an_outage(pair: Pair) -> None:
    with pair.relays() as relays, pair.proxy(*pair.through(relays)) as proxy:
        proxy.connect()
        for _ in range(2):
            for relay in relays:
                relay.die()
            for _ in range(3):
                with pytest.raises(EkmUnavailable, match="No key manager is left"):
                    pair.key(proxy)
            assert pair.take_notices() == [*LOST_ONE_BY_ONE, (CALL_HOME, "no key manager")]
            for relay in relays:
                relay.dead = False
            pair.key(proxy)
            assert proxy.ping()
            assert pair.take_notices()[-1] == (HOSTS, "recovered")


@pytest.mark.rule("EKM-6")
def test_exchange_cut_at_the_secondary_goes_to_the_returned_primary(
    pair: Pair,
) -> None:
    with pair.relays() as (main, backup):

        def swap() -> None:
            backup.die()
            main.dead = False

        main.dead = True
        trigger = Trigger(3, swap)
        with pair.proxy(*pair.through((main, backup)), observer=trigger) as proxy:
            served = len(pair.main.served())
            pair.key(proxy)
            assert trigger.seen == [*WHOLE[:3], *WHOLE]
            assert len(pair.main.served()) == served + 2


def test_exchange_waits_for_a_lost_primary_no_longer_than_a_probe(pair: Pair) -> None:
    """A lost primary is tried shortly.

    Here it accepts connections and does not answer.
    """
    with pair.proxy(timing=replace(QUICK, ping_answer=0.5, probe=0.3)) as proxy:
        proxy.connect()
        pair.main.signal(signal.SIGSTOP)
        try:
            pair.key(proxy)
            main = proxy.connections.all[0]
            assert main.up is False
            assert main._patience == 0.3
            pair.key(proxy)
        finally:
            pair.main.signal(signal.SIGCONT)
        pair.key(proxy)
        assert main.up is True


# When what is lost is tried again


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.rule("EKM-5")
def test_lost_key_manager_is_tried_with_exponential_backoff(
    pair: Pair,
) -> None:
    tries: list[float] = []
    clock = Clock()

    def resolve(host: str) -> list[str]:
        tries.append(clock.now - 1000)
        return [host]

    timing = ConnectionTiming(ping_every=7, first_retry=1, longest_retry=8)
    with (
        pair.relays() as relays,
        EkmProxy(pair.through(relays)[:1], resolve=resolve, timing=timing, clock=clock) as proxy,
    ):
        relays[0].dead = True
        with pytest.raises(EkmUnavailable):
            proxy.connect()
        tries.clear()
        for _ in range(400):
            proxy.connections.tick()
            clock.now += 0.1
        assert [round(at) for at in tries] == [1, 3, 7, 15, 23, 31, 39]
        relays[0].dead = False
        clock.now += 8
        assert proxy.connections.tick() == pytest.approx(7)
        (main,) = proxy.connections.all
        assert main.up
        tries.clear()
        clock.now += 7
        proxy.connections.tick()
        assert tries == [], "the connection is still the same"
        relays[0].die()
        clock.now += 7
        assert proxy.connections.tick() == pytest.approx(1), "the delay begins again"


def test_connections_are_shared_by_many_exchanges_at_once(pair: Pair) -> None:
    with pair.proxy() as proxy:
        proxy.connect()
        proxy.watch()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(5):
                    pair.key(proxy)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    assert pair.take_notices() == []


# Verify connection


@pytest.mark.rule("EKM-11")
def test_verify_connection_asks_every_key_manager_for_every_label(pair: Pair) -> None:
    with pair.relays() as relays, pair.proxy(*pair.through(relays)) as proxy:
        found = verify_connection(proxy.connections, [MAIN_KEY])
        assert found.good
        assert [(ekm.name, ekm.good, ekm.unknown) for ekm in found.ekms] == [
            ("main", True, ()),
            ("backup", True, ()),
        ]
        assert all(ekm.seconds is not None and ekm.states[0].has_private for ekm in found.ekms)
        many = [f"Key {number}" for number in range(100)]
        found = verify_connection(proxy.connections, [*many, MAIN_KEY])
        assert not found.good
        assert [ekm.unknown for ekm in found.ekms] == [tuple(many)] * 2
        relays[1].die()
        found = verify_connection(proxy.connections, [MAIN_KEY])
        assert not found.good
        main, backup = found.ekms
        assert main.good
        assert backup.failure is not None
        assert str(backup.where) in backup.failure
        assert pair.take_notices() == [(RAISED, "backup"), (HOSTS, "degraded")]


@pytest.mark.rule("EKM-11")
def test_verify_connection_reports_a_server_of_another_protocol(pair: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        timing = replace(QUICK, ping_answer=0.3)
        with pair.proxy(pair.endpoint(pair.main, port=port), timing=timing) as proxy:
            proxy.connections.all[0].up = False
            (found,) = verify_connection(proxy.connections, [MAIN_KEY]).ekms
    assert found.failure is not None
    assert "no answer in time" in found.failure
