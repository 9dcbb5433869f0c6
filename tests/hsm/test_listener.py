"""A port that is being taken cannot be taken by somebody else."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from hsm.listener import listen_remedy, open_listener


class RacingPeer:
    """Takes the same port just before the listener under test listens."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.failures: list[int | None] = []

    def race(self, address: tuple[str, int]) -> None:
        peer = socket.socket()
        self.sockets.append(peer)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            peer.bind(address)
            peer.listen()
            self.failures.append(None)
        except OSError as error:
            self.failures.append(error.errno)


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[RacingPeer]:
    racing = RacingPeer()
    listen = socket.socket.listen

    def late(self: socket.socket, backlog: int = 5) -> None:
        if self not in racing.sockets:
            racing.race(self.getsockname())
        listen(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", late)
    yield racing
    for each in racing.sockets:
        each.close()


def test_listener_on_any_port_cannot_lose_it_before_it_listens(peer: RacingPeer) -> None:
    with open_listener("127.0.0.1", 0) as listener:
        assert peer.failures == [errno.EADDRINUSE]
        with socket.create_connection(listener.getsockname()), listener.accept()[0]:
            pass


def test_listener_on_a_given_port_that_is_taken_fails_at_once(peer: RacingPeer) -> None:
    with open_listener("127.0.0.1", 0) as listener:
        host, port = listener.getsockname()
    with pytest.raises(OSError, match=f"Errno {errno.EADDRINUSE}"):
        open_listener(host, port)
    assert peer.failures[-1] is None, "the peer was first"


def test_listener_takes_a_given_port_again_at_once() -> None:
    """A connection that it ended keeps the port in TIME-WAIT."""
    with open_listener("127.0.0.1", 0) as listener:
        host, port = listener.getsockname()
        with socket.create_connection((host, port)) as near:
            listener.accept()[0].close()
            assert near.recv(1) == b""
    for _ in range(2):
        with suppress(OSError), socket.create_connection((host, port)):
            pytest.fail("nothing listens")
        with (
            open_listener(host, port) as listener,
            socket.create_connection((host, port)) as near,
        ):
            listener.accept()[0].close()
            assert near.recv(1) == b""


@pytest.mark.parametrize(
    ("host", "port", "cure"),
    [
        ("203.0.113.7", 0, "name an address of this machine"),
        ("no.such.host.invalid", 0, "name a host that can be looked up"),
        ("127.0.0.1", None, "stop what uses the port"),
    ],
)
def test_listener_failure_has_the_remedy_of_its_cause(
    host: str, port: int | None, cure: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        chosen = taken.getsockname()[1] if port is None else port
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the cure is what is looked at
            open_listener(host, chosen)
    assert listen_remedy(caught.value).startswith(cure)
    assert "another" not in listen_remedy(caught.value) or port is None


def test_listener_failure_on_a_low_port_is_a_missing_permission() -> None:
    assert "1024" in listen_remedy(PermissionError(errno.EACCES, "Permission denied"))
    assert listen_remedy(OSError(errno.ENOBUFS, "no")) == "correct the address and the port"
