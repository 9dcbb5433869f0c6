"""Errors of a PKCS#11 module in OpenSSL's queue end no TLS connection."""

from __future__ import annotations

import _ssl
import ctypes
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

from hsm.ekm.client import EkmClient, EkmEndpoint, tls_context
from hsm.ekm.service.event_loop import EventLoop
from hsm.ekm.service.launch import spawn_ekm
from hsm.ekm.service.tls_stream import TlsStream
from hsm.provisioning import ProvisionedLab
from tests.support.exchange_fixture import Outsiders
from tests.support.running_ekm import make_config


def leave_an_error() -> None:
    """Leave an OpenSSL error as SoftHSM does when opened first: no engine."""
    openssl = ctypes.CDLL(_ssl.__file__)
    openssl.ENGINE_by_id(b"none of this name")
    assert openssl.ERR_peek_error()


def run_in_thread(function: Callable[[], None]) -> None:
    """Call a function in another thread, so that this one's queue is kept."""
    thread = Thread(target=function)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_client_waits_for_its_answer_despite_old_openssl_errors(
    lab: ProvisionedLab, outsiders: Outsiders, tmp_path: Path
) -> None:
    with (
        spawn_ekm(make_config(lab, outsiders, tmp_path)) as process,
        EkmClient(EkmEndpoint(process.host, process.port, lab.rig_tls)) as client,
    ):
        run_in_thread(client.connect)
        leave_an_error()
        client.ping()


class FakeOwner:
    """Stores what a stream delivers."""

    def __init__(self) -> None:
        self.received, self.lost = b"", False

    def data_received(self, data: bytes) -> None:
        self.received += data

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self) -> None:
        self.lost = True


def test_worker_waits_for_the_rest_of_a_record_despite_old_openssl_errors(
    lab: ProvisionedLab,
) -> None:
    near, far = socket.socketpair()
    loop, user = EventLoop(lambda error: None), FakeOwner()
    stream = TlsStream(loop, near, tls_context(lab.ekm_tls, ssl.Purpose.CLIENT_AUTH), 1)

    def on_end(trouble: str) -> None:
        assert not trouble
        stream.attach(user)

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = tls_context(lab.rig_tls, ssl.Purpose.SERVER_AUTH)
    peer = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")

    def handshake() -> None:
        stream.start_handshake(on_end)
        for _ in range(2):  # hello and its answer; finished
            with suppress(ssl.SSLWantReadError):
                peer.do_handshake()
            far.sendall(outgoing.read())
            loop.run_once(wait=True)
            if outgoing.pending == 0 and not incoming.pending:
                far.settimeout(0.2)
                try:
                    incoming.write(far.recv(65536))
                except TimeoutError:
                    return

    with far:
        run_in_thread(handshake)
        peer.write(b"a message")
        record = outgoing.read()
        for part in (record[:10], record[10:]):
            leave_an_error()
            far.sendall(part)
            loop.run_once(wait=True)
        assert (user.received, user.lost) == (b"a message", False)
        stream.abort()
        loop.close()
