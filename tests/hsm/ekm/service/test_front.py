"""The key manager as a process: real sockets, real TLS, a real token."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hsm.configuration.tls_files import TlsFiles
from hsm.ekm.audit import log as audit_log
from hsm.ekm.client import EkmClient, EkmEndpoint, tls_context
from hsm.ekm.config import EkmConfig, dump_config, lab_config, load_config
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.protocol import messages
from hsm.ekm.protocol.drive_side import DriveSession, Generate
from hsm.ekm.protocol.errors import EkmError, EkmUnavailable, ErrorCode
from hsm.ekm.protocol.messages import Error, Hello, Ping
from hsm.ekm.service.launch import EkmProcess, spawn_ekm, start_ekm
from hsm.ekm.service.server import serve
from hsm.errors import TaperigError
from hsm.framing import LENGTH_BYTES
from hsm.keys.eedk import KeyLabel
from hsm.keys.pki import CertificateAuthority, load_certificate
from hsm.pkcs11.pins import PinSource
from hsm.provisioning import ProvisionedLab
from tests.support.ekm_client import ExchangeClient
from tests.support.ekm_lab import CARTRIDGE_ID, MAIN_KEY, SoftDrive, der
from tests.support.exchange_fixture import Outsiders
from tests.support.ports import reserve_port
from tests.support.running_ekm import error_output, make_config, workers_of
from tests.support.waiting import has_ended, wait_until

PING = Ping().encode()
REQUEST = Generate("VOL001", CARTRIDGE_ID, (KeyLabel(MAIN_KEY),))
FRAME_SECONDS = 0.6
HANDSHAKE_SECONDS = 0.8


TIMES = {"frame_seconds": FRAME_SECONDS, "handshake_seconds": HANDSHAKE_SECONDS}


@dataclasses.dataclass
class Serving:
    """The key manager that most tests share, because its start is slow."""

    config: EkmConfig
    process: EkmProcess


@pytest.fixture(scope="module")
def serving(
    lab: ProvisionedLab, outsiders: Outsiders, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    config = make_config(lab, outsiders, tmp_path_factory.mktemp("ekm"), **TIMES)
    with spawn_ekm(config) as process:
        yield Serving(config, process)
        assert process.stop() == 0
        assert error_output(process) == ""


@pytest.fixture
def endpoint(lab: ProvisionedLab, serving: Serving) -> EkmEndpoint:
    return EkmEndpoint(serving.process.host, serving.process.port, lab.rig_tls)


class Log:
    """The records of the shared key manager since this object was created."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = audit_log.verify(path).records

    def records(self) -> list[dict[str, Any]]:
        return list(audit_log.records(self.path))[self._before :]

    def awaited(self, event: str) -> dict[str, Any]:
        """Wait for a record of an event and return it."""

        def found() -> list[dict[str, Any]]:
            return [record for record in self.records() if record["event"] == event]

        wait_until(lambda: bool(found()))
        return found()[0]


@pytest.fixture
def log(serving: Serving) -> Log:
    return Log(serving.config.audit)


@pytest.fixture
def config(lab: ProvisionedLab, outsiders: Outsiders, tmp_path: Path) -> EkmConfig:
    """Return the configuration of a key manager for one test."""
    return make_config(lab, outsiders, tmp_path, **TIMES)


@pytest.fixture
def ekm(config: EkmConfig) -> Iterator[EkmProcess]:
    """Run a key manager for one test."""
    with spawn_ekm(config) as process:
        yield process


@contextmanager
def connected(endpoint: EkmEndpoint) -> Iterator[ssl.SSLSocket]:
    """Open a bare TLS connection, to send what a client would not."""
    context = tls_context(endpoint.tls, ssl.Purpose.SERVER_AUTH)
    with (
        socket.create_connection((endpoint.host, endpoint.port), 5) as plain,
        context.wrap_socket(plain, server_hostname=endpoint.host) as secured,
    ):
        yield secured


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(4096):
        received += part
    return received


def error_in(received: bytes) -> ErrorCode:
    message = messages.decode(received[LENGTH_BYTES:])
    assert isinstance(message, Error)
    return ErrorCode(message.code)


def records(config: EkmConfig) -> list[dict[str, Any]]:
    return list(audit_log.records(config.audit))


def session_of(drive: SoftDrive, lab: ProvisionedLab) -> DriveSession:
    return DriveSession(drive, der(load_certificate(lab.ca)), drive.serial, REQUEST)


# Serving


@pytest.mark.rule("EKM-1", "EKM-3")
def test_key_manager_serves_a_drive_over_tcp(
    endpoint: EkmEndpoint, lab: ProvisionedLab, outsiders: Outsiders, log: Log
) -> None:
    session = session_of(outsiders.drive, lab)
    with ExchangeClient(endpoint) as client:
        client.exchange(session)
    assert len(outsiders.drive.data_key(session.grant.sedk)) == 32
    assert [r["event"] for r in log.records()] == ["key-reply", "ack"]


@pytest.mark.rule("EKM-5")
def test_key_manager_keeps_an_idle_connection_open(endpoint: EkmEndpoint) -> None:
    with connected(endpoint) as connection:
        for _ in range(2):
            time.sleep(2 * max(FRAME_SECONDS, HANDSHAKE_SECONDS))
            connection.sendall(messages.frame(PING))
            assert connection.recv(100) == messages.frame(PING)


def test_connection_serves_pings_in_one_packet_or_byte_by_byte(endpoint: EkmEndpoint) -> None:
    with connected(endpoint) as connection:
        connection.sendall(messages.frame(PING) * 3)
        received = b""
        while len(received) < 3 * len(messages.frame(PING)):
            received += connection.recv(100)
        assert received == messages.frame(PING) * 3
        for byte in messages.frame(PING):
            connection.sendall(bytes([byte]))
        assert connection.recv(100) == messages.frame(PING)


def test_key_manager_serves_many_relays_at_once(
    endpoint: EkmEndpoint, lab: ProvisionedLab, outsiders: Outsiders
) -> None:
    """Relays ping while a drive runs exchanges."""
    failures: list[BaseException] = []

    def relay() -> None:
        try:
            with EkmClient(endpoint) as client:
                for _ in range(20):
                    client.ping()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=relay) for _ in range(8)]
    for thread in threads:
        thread.start()
    session = session_of(outsiders.drive, lab)
    with ExchangeClient(endpoint) as client:
        client.exchange(session)
    for thread in threads:
        thread.join()
    assert not failures
    assert session.grant


def test_drive_table_changes_take_effect_while_the_key_manager_runs(
    endpoint: EkmEndpoint, lab: ProvisionedLab, outsiders: Outsiders, serving: Serving
) -> None:
    with ExchangeClient(endpoint) as client:
        client.exchange(session_of(outsiders.drive, lab))
        with DriveTable(serving.config.drive_table) as table:
            table.set_revoked(outsiders.drive.serial, True)
        with pytest.raises(EkmError, match="is revoked"):
            client.exchange(session_of(outsiders.drive, lab))
        with DriveTable(serving.config.drive_table) as table:
            table.set_revoked(outsiders.drive.serial, False)
        client.exchange(session_of(outsiders.drive, lab))


# Peers that misbehave; each time another peer is served on


@pytest.fixture
def others_are_served(endpoint: EkmEndpoint) -> Iterator[None]:
    with EkmClient(endpoint) as before:
        before.ping()
        yield
        before.ping()
        with EkmClient(endpoint) as after:
            after.ping()


@pytest.mark.usefixtures("others_are_served")
@pytest.mark.parametrize(
    "data",
    [
        messages.frame(PING)[:2],
        messages.frame(PING)[:-1],
        messages.frame(bytes(60000))[:30000],
    ],
    ids=["in its length", "in its last byte", "in the middle"],
)
def test_connection_ends_when_half_a_frame_is_not_completed_in_time(
    endpoint: EkmEndpoint, log: Log, data: bytes
) -> None:
    with connected(endpoint) as connection:
        started = time.monotonic()
        connection.sendall(data)
        assert error_in(read_to_end(connection)) is ErrorCode.FRAME_TIMEOUT
        assert FRAME_SECONDS * 0.9 < time.monotonic() - started < FRAME_SECONDS + 3
    assert log.awaited("refusal")["cause"] == "FRAME_TIMEOUT"


@pytest.mark.usefixtures("others_are_served")
def test_connection_ends_when_a_frame_arrives_too_slowly(endpoint: EkmEndpoint) -> None:
    """The time limit is for the whole frame, not for each byte."""
    with connected(endpoint) as connection:
        connection.settimeout(0.05)
        deadline = time.monotonic() + 10 * FRAME_SECONDS
        connection.sendall(b"\x00\x00\xff\xff")
        answer = b""
        while not answer and time.monotonic() < deadline:
            try:
                connection.sendall(b"x")
                answer = connection.recv(4096)
            except TimeoutError:
                continue
        assert error_in(answer) is ErrorCode.FRAME_TIMEOUT


@pytest.mark.usefixtures("others_are_served")
@pytest.mark.parametrize("length", [0, messages.FRAME_LIMIT + 1, 0xFFFFFFFF])
def test_connection_refuses_a_frame_over_the_limit_without_reading_it(
    endpoint: EkmEndpoint, log: Log, length: int
) -> None:
    with connected(endpoint) as connection:
        started = time.monotonic()
        connection.sendall(length.to_bytes(4, "big") + b"x" * 100)
        assert error_in(read_to_end(connection)) is ErrorCode.FRAME_TOO_LARGE
        assert time.monotonic() - started < FRAME_SECONDS, "not only after the time allowed"
    assert log.awaited("refusal")["cause"] == "FRAME_TOO_LARGE"


@pytest.mark.usefixtures("others_are_served")
def test_connection_refuses_a_malformed_message(endpoint: EkmEndpoint, log: Log) -> None:
    with connected(endpoint) as connection:
        connection.sendall(messages.frame(b"\xde\xad\xbe\xef"))
        assert error_in(read_to_end(connection)) is ErrorCode.MALFORMED_MESSAGE
    assert log.awaited("refusal")["cause"] == "MALFORMED_MESSAGE"


@pytest.mark.usefixtures("others_are_served")
def test_connection_of_a_peer_that_does_not_read_is_dropped(
    endpoint: EkmEndpoint, outsiders: Outsiders
) -> None:
    hello = messages.frame(Hello(outsiders.drive.certificate_der, bytes(32)).encode())
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect((endpoint.host, endpoint.port))
        context = tls_context(endpoint.tls, ssl.Purpose.SERVER_AUTH)
        with context.wrap_socket(plain, server_hostname=endpoint.host) as connection:
            connection.settimeout(30)
            with pytest.raises((ConnectionError, ssl.SSLEOFError)):
                connection.sendall(hello * 20000)


def test_connection_lost_after_the_reply_is_recorded(
    endpoint: EkmEndpoint, lab: ProvisionedLab, outsiders: Outsiders, log: Log
) -> None:
    session = session_of(outsiders.drive, lab)
    with EkmClient(endpoint) as client:
        request = session.on_message(client.request(session.hello()))
        assert request is not None
        client.request(request)
    assert log.awaited("no-ack")["volume"] == "VOL001"


# Peers that are not ours


def refused(endpoint: EkmEndpoint) -> EkmUnavailable:
    with EkmClient(endpoint) as client, pytest.raises(EkmUnavailable) as refusal:
        client.ping()
    return refusal.value


@pytest.fixture
def foreign(lab: ProvisionedLab, tmp_path: Path) -> CertificateAuthority:
    (tmp_path / "foreign").mkdir()
    return CertificateAuthority(tmp_path / "foreign")


@pytest.mark.rule("EKM-2")
@pytest.mark.usefixtures("others_are_served")
def test_handshake_refuses_a_relay_of_another_authority(
    endpoint: EkmEndpoint, foreign: CertificateAuthority, log: Log
) -> None:
    stranger = foreign.issue_tls("stranger", server=False)
    files = stranger.replace(ca=endpoint.tls.ca)
    refusal = refused(dataclasses.replace(endpoint, tls=files))
    assert f"does not trust the certificate {files.certificate}" in str(refusal)
    record = log.awaited("connection")
    assert record["outcome"] == "refused"
    assert "CERTIFICATE" in record["cause"]


@pytest.mark.usefixtures("others_are_served")
def test_handshake_refuses_a_server_certificate(
    endpoint: EkmEndpoint, lab: ProvisionedLab, log: Log
) -> None:
    refused(dataclasses.replace(endpoint, tls=lab.ekm_tls))
    assert log.awaited("connection")["outcome"] == "refused"


@pytest.mark.usefixtures("others_are_served")
def test_handshake_refuses_a_relay_without_a_certificate(endpoint: EkmEndpoint, log: Log) -> None:
    context = ssl.create_default_context(cafile=str(endpoint.tls.ca))
    with (
        socket.create_connection((endpoint.host, endpoint.port), 5) as plain,
        context.wrap_socket(plain, server_hostname=endpoint.host) as connection,
        suppress(OSError),  # reset rather than closed, as the timing has it
    ):
        connection.sendall(messages.frame(PING))
        assert connection.recv(100) == b""
    assert log.awaited("connection")["outcome"] == "refused"


@pytest.mark.usefixtures("others_are_served")
def test_handshake_refuses_tls_1_2(endpoint: EkmEndpoint) -> None:
    context = tls_context(endpoint.tls, ssl.Purpose.SERVER_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((endpoint.host, endpoint.port), 5) as plain,
        pytest.raises(OSError, match=r"(?i)version|eof|reset"),
    ):
        context.wrap_socket(plain, server_hostname=endpoint.host)


@pytest.mark.rule("KEY-12")
@pytest.mark.usefixtures("others_are_served")
@pytest.mark.parametrize("data", [messages.frame(PING), b"GET / HTTP/1.0\r\n\r\n", b"\x00" * 5000])
def test_handshake_refuses_plain_text(endpoint: EkmEndpoint, log: Log, data: bytes) -> None:
    with socket.create_connection((endpoint.host, endpoint.port), 5) as plain:
        plain.sendall(data)
        try:
            received = read_to_end(plain)
        except ConnectionResetError:
            received = b""
        assert PING not in received
        assert not received or received[0] == 21, "a TLS alert at most"
    assert log.awaited("connection")["outcome"] == "refused"


@pytest.mark.usefixtures("others_are_served")
@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01"])
def test_handshake_that_does_not_begin_times_out(
    endpoint: EkmEndpoint, log: Log, data: bytes
) -> None:
    with socket.create_connection((endpoint.host, endpoint.port), 5) as plain:
        started = time.monotonic()
        plain.sendall(data)
        read_to_end(plain)
        assert HANDSHAKE_SECONDS * 0.9 < time.monotonic() - started < HANDSHAKE_SECONDS + 3
    assert log.awaited("connection")["cause"] == "no TLS handshake in time"


def test_client_refuses_a_key_manager_of_another_authority(
    endpoint: EkmEndpoint, foreign: CertificateAuthority
) -> None:
    files = endpoint.tls.replace(ca=foreign.certificate_path)
    text = str(refused(dataclasses.replace(endpoint, tls=files)))
    assert "its certificate is not acceptable" in text


def test_client_refuses_a_key_manager_under_another_name(endpoint: EkmEndpoint) -> None:
    text = str(refused(dataclasses.replace(endpoint, host="127.0.0.2")))
    assert "nothing listens" in text or "not acceptable" in text


# Secrets in traffic


class Tap:
    """Relays a TCP connection byte by byte and keeps what passed."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.seen = bytearray()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(self._target)
        back = threading.Thread(target=self._copy, args=(far, near), daemon=True)
        back.start()
        self._copy(near, far)
        back.join()
        for each in (near, far, self._listener):
            each.close()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        while part := source.recv(65536):
            self.seen += part
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)

    def wait(self) -> bytes:
        self._thread.join(5)
        return bytes(self.seen)


@pytest.mark.rule("KEY-12", "BOT-2c")
def test_relay_and_wire_carry_neither_data_key_nor_pin(
    endpoint: EkmEndpoint, lab: ProvisionedLab, outsiders: Outsiders, log: Log
) -> None:
    tap = Tap((endpoint.host, endpoint.port))
    relayed: list[bytes] = []
    sessions = []
    near = dataclasses.replace(endpoint, host="localhost", port=tap.port)
    with ExchangeClient(near, observer=lambda direction, data: relayed.append(data)) as client:
        for _ in range(3):
            sessions.append(session_of(outsiders.drive, lab))
            client.exchange(sessions[-1])
    wire = tap.wait()
    pins = [path.read_bytes().strip() for path in (lab.state_dir / "pins").iterdir()]
    keys = [outsiders.drive.data_key(session.grant.sedk) for session in sessions]
    assert len(relayed) == 3 * 5
    assert len(wire) > sum(map(len, relayed)), "the tap saw the exchanges"
    assert not any(data in wire for data in relayed), "TLS hides the messages themselves"
    everything = wire + b"".join(relayed) + log.path.read_bytes()
    for secret in (*keys, *pins):
        for form in (secret, secret.hex().encode(), secret.hex().upper().encode()):
            assert form not in everything
    planted = everything + keys[0]
    assert keys[0] in planted


# Life and death


def test_key_manager_stops_in_order_on_sigterm(ekm: EkmProcess, config: EkmConfig) -> None:
    assert ekm.stop() == 0
    assert [r["event"] for r in records(config)] == ["start", "stop"]
    assert error_output(ekm) == ""


def test_key_manager_stops_in_order_with_connections_open(
    ekm: EkmProcess, lab: ProvisionedLab, config: EkmConfig
) -> None:
    endpoint = EkmEndpoint(ekm.host, ekm.port, lab.rig_tls)
    with connected(endpoint) as idle, connected(endpoint) as busy:
        idle.sendall(messages.frame(PING))
        idle.recv(100)
        busy.sendall(messages.frame(PING)[:3])
        started = time.monotonic()
        assert ekm.stop() == 0
        assert time.monotonic() - started < 4, "not only after the time allowed"
        assert read_to_end(idle) == b""
    assert records(config)[-1]["event"] == "stop"
    assert error_output(ekm) == ""


def test_client_reconnects_after_a_restart(
    lab: ProvisionedLab, config: EkmConfig, outsiders: Outsiders
) -> None:
    port = reserve_port()
    with spawn_ekm(config.replace(port=port)):
        client = ExchangeClient(EkmEndpoint("127.0.0.1", port, lab.rig_tls))
        client.exchange(session_of(outsiders.drive, lab))
    with pytest.raises(EkmUnavailable, match="nothing listens there"):
        client.exchange(session_of(outsiders.drive, lab))
    with spawn_ekm(config.replace(port=port)), client:
        client.exchange(session_of(outsiders.drive, lab))


def test_key_manager_starts_again_after_a_kill_at_any_time(
    lab: ProvisionedLab, config: EkmConfig, outsiders: Outsiders
) -> None:
    for delay in (0.0, 0.01, 0.03):
        process = spawn_ekm(config)
        stop = threading.Event()
        endpoint = EkmEndpoint(process.host, process.port, lab.rig_tls)

        def keep_asking(to: EkmEndpoint = endpoint, until: threading.Event = stop) -> None:
            with ExchangeClient(to) as client:
                while not until.is_set():
                    try:
                        client.exchange(session_of(outsiders.drive, lab))
                    except EkmUnavailable:
                        return

        asking = threading.Thread(target=keep_asking)
        asking.start()
        time.sleep(0.3 + delay)
        os.kill(process.pid, signal.SIGKILL)
        asking.join()
        stop.set()
        process.stop()
    with (
        spawn_ekm(config) as process,
        ExchangeClient(EkmEndpoint(process.host, process.port, lab.rig_tls)) as client,
    ):
        client.exchange(session_of(outsiders.drive, lab))
    assert audit_log.verify(config.audit).torn_bytes == 0


_PARENT = """
import sys, time
from pathlib import Path
from hsm.ekm.config import load_config
from hsm.ekm.service.launch import spawn_ekm
process = spawn_ekm(load_config(Path(sys.argv[1])))
print(process.pid, flush=True)
time.sleep(60)
"""


def test_key_manager_ends_with_its_parent(config: EkmConfig, tmp_path: Path) -> None:
    path = tmp_path / "ekm.yaml"
    path.write_text(dump_config(config))
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    wait_until(lambda: has_ended(child))


# What keeps it from starting: one sentence each


def start_failure(config: EkmConfig) -> str:
    with pytest.raises(TaperigError) as failure:
        serve(config)
    text = str(failure.value)
    assert "\n" not in text
    return text


def test_spawn_ekm_reports_why_the_child_did_not_start(config: EkmConfig) -> None:
    with pytest.raises(EkmError) as failure:
        spawn_ekm(config.replace(certificate=config.drive_ca))
    text = str(failure.value)
    assert text.startswith("The key manager did not start: The certificate")
    assert "does not belong to the signing key" in text
    assert "\n" not in text


def test_spawn_ekm_says_how_a_silent_child_ended(
    config: EkmConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'hsm.ekm.service.front' in sys.orig_argv:\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EkmError) as failure:
        spawn_ekm(config)
    assert str(failure.value) == (
        "The key manager did not start: its process was ended by SIGKILL; it wrote nothing to its "
        f"log {config.audit}.messages."
    )


def test_process_says_how_a_killed_key_manager_ended(
    lab: ProvisionedLab, config: EkmConfig, outsiders: Outsiders
) -> None:
    with spawn_ekm(config.replace(log_level="info")) as process:
        assert process.how_it_ended() is None
        endpoint = EkmEndpoint(
            process.host, process.port, lab.rig_tls, how_it_ended=process.how_it_ended
        )
        with ExchangeClient(endpoint) as client:
            client.exchange(session_of(outsiders.drive, lab))
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(process.pid, signal.SIGKILL)
            wait_until(lambda: all(has_ended(int(child)) for child in children))
            for _ in ("its connection is lost", "nothing listens"):
                with pytest.raises(EkmUnavailable) as failure:
                    client.exchange(session_of(outsiders.drive, lab))
                assert "its process was ended by SIGKILL" in str(failure.value)
                assert f"its log is {config.audit}.messages; run" in str(failure.value)
        assert "listening" in error_output(process)
    assert "listening" in config.audit.with_name(f"{config.audit.name}.messages").read_text()


def test_started_key_manager_has_an_address_once_it_is_ready(config: EkmConfig) -> None:
    with start_ekm(config) as process:
        assert process.port == 0
        process.await_ready()
        with socket.create_connection((process.host, process.port), 5):
            pass


def test_started_key_manager_is_stopped_before_it_is_ready(config: EkmConfig) -> None:
    with start_ekm(config) as process:
        pass
    assert not process.alive
    assert process.how_it_ended() is None
    with spawn_ekm(config):
        pass


def test_process_that_is_stopped_has_not_ended_by_itself(config: EkmConfig) -> None:
    with spawn_ekm(config) as process:
        process.stop()
        assert process.how_it_ended() is None


def test_key_manager_reports_a_port_in_use_in_one_sentence(
    serving: Serving, config: EkmConfig
) -> None:
    text = start_failure(config.replace(port=serving.process.port))
    assert f"127.0.0.1:{serving.process.port}" in text
    assert "Address already in use" in text


def test_key_manager_command_ends_with_status_2_and_a_message(
    serving: Serving, config: EkmConfig, tmp_path: Path
) -> None:
    path = tmp_path / "ekm.yaml"
    path.write_text(dump_config(config.replace(port=serving.process.port)))
    ended = subprocess.run(
        [sys.executable, "-m", "hsm.ekm.service.front", str(path)], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert "cannot listen" in ended.stderr


def test_key_managers_do_not_share_an_audit_log(serving: Serving) -> None:
    assert "in use by another key manager" in start_failure(serving.config)


def test_key_manager_reports_a_wrong_pin_without_the_pin(
    config: EkmConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_PIN", "9182736455")
    token = config.token.replace(pin=PinSource(env="TEST_PIN"))
    text = start_failure(config.replace(token=token))
    assert "PIN" in text
    assert "9182736455" not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"host": "203.0.113.7"}, "cannot listen on 203.0.113.7"),
        ({"host": "no.such.host.invalid"}, "cannot listen on no.such.host.invalid"),
        ({"certificate": "drive"}, "does not belong to the signing key"),
        ({"certificate": "absent"}, "cannot be read"),
        ({"drive_ca": "absent"}, "cannot be read"),
        ({"tls": "absent"}, "Cannot use the TLS files"),
        ({"drive_table": "garbage"}, "is not a drive table"),
        ({"audit": "garbage"}, "was altered: line 1"),
    ],
    ids=lambda value: "-".join(map(str, value.items())) if isinstance(value, dict) else "",
)
def test_key_manager_reports_unusable_files_in_one_sentence(
    config: EkmConfig, lab: ProvisionedLab, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"garbage\n" * 100)
    absent = tmp_path / "absent"
    values: dict[str, Any] = {
        "drive": lab.drives[0].certificate,
        "garbage": garbage,
        "absent": absent,
    }
    name, value = next(iter(change.items()))
    if name == "tls":
        values["absent"] = TlsFiles(certificate=absent, key=absent, ca=absent)
    changed: Any = config.replace(**{name: values.get(value, value)})
    assert words in start_failure(changed)


def test_key_manager_reports_an_absent_token_in_one_sentence(config: EkmConfig) -> None:
    token = config.token.replace(label="no such token")
    assert "no such token" in start_failure(config.replace(token=token))


# The configuration file


def test_ekm_configuration_is_the_same_after_dump_and_parse(
    config: EkmConfig, tmp_path: Path
) -> None:
    path = tmp_path / "ekm.yaml"
    config = config.replace(partners=(tmp_path / "partner.pem",), port=3801)
    for token in (
        config.token,
        config.token.replace(pin=PinSource(env="PIN"), softhsm_conf=None),
    ):
        asked = config.replace(token=token.replace(so_pin=None))
        path.write_text(dump_config(asked))
        assert load_config(path) == asked


def test_ekm_configuration_paths_are_relative_to_the_file(
    config: EkmConfig, tmp_path: Path
) -> None:
    path = tmp_path / "ekm.yaml"
    path.write_text(
        "token: {module: m.so, label: t, pin_file: pin}\n"
        "tls: {certificate: c, key: k, ca: a}\n"
        "certificate: e\ndrive_ca: d\ndrive_table: s\naudit: l\n"
    )
    loaded = load_config(path)
    assert loaded.audit == tmp_path / "l"
    assert loaded.token.pin == PinSource(file=tmp_path / "pin")
    assert (loaded.host, loaded.port) == ("127.0.0.1", 3801)


@pytest.mark.rule("EKM-1")
def test_ekm_configuration_has_port_3801_by_default(lab: ProvisionedLab, serving: Serving) -> None:
    assert lab_config(lab).port == 3801
    assert serving.process.port != 3801


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("port: 0", "port: 70000", "port"),
        ("port: 0", "prot: 0", "prot"),
        ("file: ", "fil: ", "a PIN is never written"),
        ("audit:", "audit_log:", "audit"),
        ("token:", "token: [", "is not YAML"),
    ],
)
def test_ekm_configuration_mistake_is_reported(
    config: EkmConfig, tmp_path: Path, old: str, new: str, words: str
) -> None:
    path = tmp_path / "ekm.yaml"
    text = dump_config(config)
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(EkmError, match=words):
        load_config(path)


def test_ekm_configuration_that_is_absent_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        EkmError, match=r"The key manager's configuration .*absent.yaml cannot be read"
    ):
        load_config(tmp_path / "absent.yaml")


@contextmanager
def front_without_configuration() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a front that waits for its configuration; yield its worker, too."""
    front = subprocess.Popen(
        [sys.executable, "-m", "hsm.ekm.service.front", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: len(workers_of(front.pid)) == 1)
        (worker,) = workers_of(front.pid)
        yield front, worker
    finally:
        front.kill()
        front.communicate()


def test_front_starts_a_worker_before_it_has_a_configuration() -> None:
    with front_without_configuration() as (front, worker):
        out, err = front.communicate(b"")
        assert front.returncode == 2
        assert out == b""
        (sentence,) = err.decode().splitlines()
        assert "standard input" in sentence, "the front's words; its worker is silent"
        wait_until(lambda: has_ended(worker))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_worker_ends_in_silence_with_a_front_killed_early(number: signal.Signals) -> None:
    with front_without_configuration() as (front, worker):
        os.kill(front.pid, number)
        _, err = front.communicate()  # until the worker, which has the same stderr, has ended
        assert err == b""
        wait_until(lambda: has_ended(worker))
