"""Key managers by host name: primary and alternate DNS server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from hsm.ekm.protocol.errors import EkmUnavailable
from rig.lab.model import DnsUnit
from rig.ve.ekm.host_address import is_host
from rig.ve.ekm.resolver import Resolver, resolver
from tests.support.ekm_pair import HOST_NAMES, Pair, open_pair

NAME = "ekm-a.lab.test"


class NameServer:
    """A real DNS server on a UDP port of this machine."""

    def __init__(self, **zone: list[str]) -> None:
        self.zone = {
            name.replace("_", "-") + ".lab.test.": addresses for name, addresses in zone.items()
        }
        self.asked: list[str] = []
        self.rcode: dns.rcode.Rcode | None = None
        self.mute = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.unit = DnsUnit(address="127.0.0.1", port=self._socket.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def __enter__(self) -> NameServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                data, peer = self._socket.recvfrom(4096)
                if not data:
                    return
                query = dns.message.from_wire(data)
                (question,) = query.question
                self.asked.append(f"{question.name} {dns.rdatatype.to_text(question.rdtype)}")
                if not self.mute:
                    self._socket.sendto(self._answer(query).to_wire(), peer)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        (question,) = query.question
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        known = self.zone.get(question.name.to_text())
        if self.rcode is not None:
            answer.set_rcode(self.rcode)
        elif known is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            version6 = question.rdtype == dns.rdatatype.AAAA
            found = [address for address in known if (":" in address) is version6]
            if found:
                answer.answer.append(
                    dns.rrset.from_text(question.name, 60, "IN", question.rdtype, *found)
                )
        return answer


@pytest.fixture
def servers() -> Iterator[tuple[NameServer, NameServer]]:
    zone = {"ekm_a": ["127.0.0.1"], "ekm_b": ["::1"], "ekm_c": []}
    with NameServer(**zone) as primary, NameServer(**zone) as alternate:
        yield primary, alternate


def looking(servers: tuple[NameServer, NameServer]) -> Resolver:
    return Resolver([server.unit for server in servers], server_seconds=0.3)


@pytest.mark.rule("EKM-4")
def test_resolver_asks_the_primary_server_only_when_it_answers(
    servers: tuple[NameServer, NameServer],
) -> None:
    primary, alternate = servers
    assert looking(servers).addresses(NAME) == ("127.0.0.1",)
    assert looking(servers).addresses("ekm-b.lab.test") == ("::1",)
    assert primary.asked == [f"{NAME}. A", "ekm-b.lab.test. A", "ekm-b.lab.test. AAAA"]
    assert alternate.asked == []


@pytest.mark.rule("EKM-4")
@pytest.mark.parametrize("how", ["mute", "gone", "SERVFAIL", "REFUSED"])
def test_resolver_asks_the_alternate_when_the_primary_does_not_answer(
    servers: tuple[NameServer, NameServer], how: str
) -> None:
    primary, alternate = servers
    if how == "gone":
        primary.close()
    primary.mute = how == "mute"
    if how.isupper():
        primary.rcode = dns.rcode.from_text(how)
    assert looking(servers).addresses(NAME) == ("127.0.0.1",)
    assert alternate.asked == [f"{NAME}. A"]


@pytest.mark.rule("EKM-4")
def test_resolver_passes_addresses_and_without_servers_asks_the_system(
    servers: tuple[NameServer, NameServer],
) -> None:
    look = looking(servers)
    for address in ("127.0.0.1", "::1", "10.1.2.3"):
        assert look.addresses(address) == (address,)
    assert servers[0].asked == servers[1].asked == []
    assert resolver([]) is None


def test_resolver_names_host_and_servers_of_a_failed_lookup(
    servers: tuple[NameServer, NameServer],
) -> None:
    primary, alternate = servers
    for name, words in (
        ("nobody.lab.test", "there is no such name"),
        ("ekm-c.lab.test", "the name has no address"),
        ("a" * 64 + ".lab.test", "no name that can be looked up"),
    ):
        with pytest.raises(EkmUnavailable, match=words) as caught:
            looking(servers).addresses(name)
        assert name in str(caught.value)
        assert f"127.0.0.1 port {alternate.unit.port}" in str(caught.value)
    primary.rcode = alternate.rcode = dns.rcode.SERVFAIL
    with pytest.raises(EkmUnavailable, match=r"none of them knew|no answer in time"):
        looking(servers).addresses(NAME)
    primary.mute = alternate.mute = True
    with pytest.raises(EkmUnavailable, match="no answer in time"):
        looking(servers).addresses(NAME)


def test_resolver_reuses_known_addresses_while_no_server_answers(
    servers: tuple[NameServer, NameServer],
) -> None:
    look = looking(servers)
    assert look.addresses(NAME) == ("127.0.0.1",)
    for server in servers:
        server.mute = True
    assert look.addresses(NAME) == ("127.0.0.1",)
    for server in servers:
        server.mute = False
        server.zone[f"{NAME}."] = ["127.0.0.7"]
    assert look.addresses(NAME) == ("127.0.0.7",)
    for server in servers:  # but not when it is known to be gone
        del server.zone[f"{NAME}."]
    with pytest.raises(EkmUnavailable, match="there is no such name"):
        look.addresses(NAME)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with open_pair(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.mark.rule("EKM-4")
def test_key_manager_is_reached_and_verified_by_its_host_name(
    pair: Pair, servers: tuple[NameServer, NameServer]
) -> None:
    """The certificates name the hosts; a second address is tried, too."""
    servers[0].zone = {
        "ekm-a.lab.test.": ["127.0.0.2", "127.0.0.1"],  # there is no listener at the first
        "ekm-b.lab.test.": ["127.0.0.1"],
        "impostor.lab.test.": ["127.0.0.1"],
    }
    look = looking(servers).addresses
    ends = [pair.endpoint(e, host) for e, host in zip(pair.ekms, HOST_NAMES, strict=True)]
    with ExitStack() as stack:
        proxy = stack.enter_context(pair.proxy(*ends, resolve=look))
        proxy.connect()
        pair.key(proxy)
        asked = len(servers[0].asked)
        pair.key(proxy)
        assert len(servers[0].asked) == asked, "a name is looked up only to connect"
    assert pair.take_notices() == []
    impostor = pair.endpoint(pair.main, "impostor.lab.test")
    with (
        pair.proxy(impostor, resolve=look) as proxy,
        pytest.raises(EkmUnavailable, match="Hostname mismatch"),
    ):
        proxy.connect()


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("fe80::1", True),
        ("ekm", True),
        ("ekm-1.example.com", True),
        ("ekm.example.com.", True),
        ("300.1.1.1", False),
        ("-ekm", False),
        ("ekm..com", False),
        ("ekm com", False),
        ("https://ekm", False),
        ("ekm:3801", False),
        ("e" * 64, False),
    ],
)
def test_host_is_an_address_or_a_name(host: str, good: bool) -> None:
    assert is_host(host) is good
