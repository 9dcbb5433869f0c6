"""The key manager as a service: lost workers, many connections, logs."""

from __future__ import annotations

import json
import os
import resource
import secrets
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from hsm.ekm.audit import log as audit_log
from hsm.ekm.client import EkmClient, EkmEndpoint, tls_context
from hsm.ekm.config import EkmConfig
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.protocol import messages
from hsm.ekm.protocol.drive_side import DriveSession
from hsm.ekm.protocol.errors import EkmError, EkmUnavailable, ErrorCode
from hsm.ekm.protocol.messages import Hello, Ping
from hsm.ekm.service.launch import EkmProcess, spawn_ekm
from hsm.keys.pki import load_certificate
from hsm.provisioning import ProvisionedLab
from tests.support.ekm_client import ExchangeClient
from tests.support.ekm_lab import der
from tests.support.exchange_fixture import Outsiders
from tests.support.running_ekm import (
    REQUEST,
    error_output,
    exchange_until_served,
    http_get,
    wait_for_workers,
    workers_of,
)
from tests.support.waiting import wait_until

PING = messages.frame(Ping().encode())


@pytest.fixture
def ekm(config: EkmConfig) -> Iterator[EkmProcess]:
    with spawn_ekm(config) as process:
        yield process


@pytest.fixture
def endpoint(ekm: EkmProcess, lab: ProvisionedLab) -> EkmEndpoint:
    return EkmEndpoint(ekm.host, ekm.port, lab.rig_tls)


# Watching it


def test_http_status_serves_health_readiness_and_metrics(
    ekm: EkmProcess, config: EkmConfig, endpoint: EkmEndpoint, session: DriveSession
) -> None:
    with ExchangeClient(endpoint) as client:
        client.exchange(session)
        assert http_get(config, "/healthz") == (200, "ok\n")
        assert http_get(config, "/readyz") == (200, "ready, workers: 2\n")
        status, metrics = http_get(config, "/metrics")
    assert status == 200
    lines = metrics.splitlines()
    assert 'taperig_ekm_exchanges_total{operation="generate",outcome="ok"} 1.0' in lines
    assert 'taperig_ekm_handshakes_total{outcome="ok"} 1.0' in lines
    assert "taperig_ekm_connections 1.0" in lines
    assert "taperig_ekm_workers 2.0" in lines
    assert "VOL001" not in metrics
    assert http_get(config, "/elsewhere")[0] == 404
    assert http_get(config, "/metrics", "POST")[0] == 405


@pytest.mark.parametrize(
    "data",
    [b"", b"GET", b"\r\n\r\n", b"GET  \r\n\r\n", b"x" * 100_000, b"\xff" * 50 + b"\r\n\r\n"],
    ids=["nothing", "cut-off", "empty", "no-path", "endless", "no-ascii"],
)
def test_http_status_survives_malformed_requests(
    ekm: EkmProcess, config: EkmConfig, data: bytes
) -> None:
    with (
        socket.create_connection(("127.0.0.1", config.metrics_port or 0), 5) as connection,
        suppress(OSError),
    ):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1000)
    assert http_get(config, "/healthz")[0] == 200


def test_http_status_reports_a_port_in_use_in_one_sentence(config: EkmConfig) -> None:
    with (
        socket.create_server(("127.0.0.1", config.metrics_port or 0)),
        pytest.raises(EkmError, match=r"cannot listen for metrics on 127\.0\.0\.1"),
    ):
        spawn_ekm(config)


def test_logs_are_json_and_hold_no_secret(
    config: EkmConfig, lab: ProvisionedLab, session: DriveSession
) -> None:
    with spawn_ekm(config) as ekm:
        with ExchangeClient(EkmEndpoint(ekm.host, ekm.port, lab.rig_tls)) as client:
            client.exchange(session)
        with socket.create_connection((ekm.host, ekm.port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
            stranger.recv(100)
        ekm.stop()
        words = error_output(ekm)
    events = [json.loads(line) for line in words.splitlines()]
    assert {"listening", "connection refused", "stopping"} <= {event["event"] for event in events}
    assert all({"timestamp", "level", "process"} <= event.keys() for event in events)
    for secret in (lab.state_dir / "pins").iterdir():
        assert secret.read_text().strip() not in words


# Workers


def test_worker_that_is_killed_is_replaced_and_recorded(
    ekm: EkmProcess, config: EkmConfig, endpoint: EkmEndpoint, session: DriveSession
) -> None:
    killed = workers_of(ekm.pid)
    assert len(killed) == 2
    with ExchangeClient(endpoint) as client:
        client.exchange(session)
        os.kill(killed[0], signal.SIGKILL)
        os.kill(killed[1], signal.SIGKILL)
        exchange_until_served(client, session)
        wait_for_workers(config, 2)
    assert not set(killed) & set(workers_of(ekm.pid))
    lost = [r for r in audit_log.records(config.audit) if r["event"] == "worker-lost"]
    assert {record["pid"] for record in lost} == set(killed)
    assert "taperig_ekm_workers_lost_total 2.0" in http_get(config, "/metrics")[1]


def test_connections_are_spread_over_the_workers(ekm: EkmProcess, endpoint: EkmEndpoint) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(EkmClient(endpoint)).ping()
        held = [
            sum(
                str(link.readlink()).startswith("socket:")
                for link in Path(f"/proc/{pid}/fd").iterdir()
            )
            for pid in workers_of(ekm.pid)
        ]
    assert held[0] == held[1]


def test_nonce_used_at_one_worker_is_refused_by_the_other(
    endpoint: EkmEndpoint,
    outsiders: Outsiders,
    lab: ProvisionedLab,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And so is a sequence number: the drive table is one."""
    monkeypatch.setattr(secrets, "token_bytes", lambda count: b"n" * count)  # the drive's nonces
    drive = outsiders.drive
    trust = der(load_certificate(lab.ca))
    with EkmClient(endpoint) as one, EkmClient(endpoint) as two:
        two.ping()  # so that each has a worker of its own
        first = DriveSession(drive, trust, drive.serial, REQUEST, next_sequence=lambda: 2**62)
        request = first.on_message(one.request(first.hello()))
        assert request is not None
        first.on_message(one.request(request))
        assert first.grant
        numbers = iter((2**62 + 1, 2**62))
        for code in (ErrorCode.REPLAYED_NONCE, ErrorCode.STALE_SEQUENCE):
            again = DriveSession(
                drive, trust, drive.serial, REQUEST, next_sequence=numbers.__next__
            )
            request = again.on_message(two.request(again.hello()))
            assert request is not None
            again.on_message(two.request(request))
            assert again.failure is not None
            assert again.failure.code == code


def test_sequence_numbers_are_restored_from_the_audit_log(
    config: EkmConfig, lab: ProvisionedLab, outsiders: Outsiders, session: DriveSession
) -> None:
    """As after a power cut: the log was flushed, the table was not."""
    kept = config.drive_table.read_bytes()
    with (
        spawn_ekm(config) as ekm,
        ExchangeClient(EkmEndpoint(ekm.host, ekm.port, lab.rig_tls)) as client,
    ):
        client.exchange(session)
    (reply,) = [r for r in audit_log.records(config.audit) if r["event"] == "key-reply"]
    config.drive_table.write_bytes(kept)
    with spawn_ekm(config), DriveTable(config.drive_table) as table:
        drive = table.find(outsiders.drive.serial)
        assert drive is not None
        assert drive.sequence == reply["sequence"] > 0


# Crowds


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.rule("EKM-5")
@pytest.mark.usefixtures("many_descriptors")
def test_key_manager_serves_beside_a_thousand_idle_connections(
    endpoint: EkmEndpoint, config: EkmConfig, session: DriveSession
) -> None:
    """1000 idle relays, 400 peers without a handshake, 20 slow frames."""
    context = tls_context(endpoint.tls, ssl.Purpose.SERVER_AUTH)
    done = threading.Event()
    with ExitStack() as stack:

        def plain() -> socket.socket:
            return stack.enter_context(socket.create_connection((endpoint.host, endpoint.port), 20))

        def idle() -> ssl.SSLSocket:
            return stack.enter_context(context.wrap_socket(plain(), server_hostname=endpoint.host))

        crowd = [idle() for _ in range(1000)]
        half_open = [plain() for _ in range(400)]
        for each in half_open[::2]:
            each.sendall(b"\x16\x03\x01")
        slow = [idle() for _ in range(20)]

        def drip() -> None:
            frame = messages.frame(Hello(b"c" * 2000, bytes(32)).encode())
            for byte in frame:
                if done.wait(0.01):
                    return
                for each in slow:
                    with suppress(OSError):
                        each.sendall(bytes([byte]))

        dripping = threading.Thread(target=drip)
        dripping.start()
        began = time.monotonic()
        with ExchangeClient(endpoint) as client:
            for _ in range(3):
                client.exchange(session)
        took = time.monotonic() - began
        done.set()
        dripping.join()
        assert took < 15, "while nobody is served the time of a frame, 10 s, would pass each time"
        for each in (crowd[0], crowd[-1]):
            each.sendall(PING)
            assert each.recv(100) == PING
        assert "taperig_ekm_connections 10" in http_get(config, "/metrics")[1]


def test_key_manager_rejects_connections_over_the_limit(
    config: EkmConfig, lab: ProvisionedLab
) -> None:
    with spawn_ekm(config.replace(connections=4, workers=1)) as ekm:
        endpoint = EkmEndpoint(ekm.host, ekm.port, lab.rig_tls)
        with ExitStack() as stack:
            held = [stack.enter_context(EkmClient(endpoint)) for _ in range(4)]
            for client in held:
                client.ping()
            with socket.create_connection((ekm.host, ekm.port), 5) as fifth:
                assert fifth.recv(10) == b""
            held[0].ping()

        def served() -> bool:
            with suppress(EkmUnavailable), EkmClient(endpoint) as later:
                later.ping()
                return True
            return False

        wait_until(served)  # after the others have gone
