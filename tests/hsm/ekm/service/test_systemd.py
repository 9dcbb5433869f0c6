"""Notifications to systemd over a real socket, and the unit file."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import hsm.ekm.service
from hsm.ekm.audit import log as audit_log
from hsm.ekm.client import EkmClient, EkmEndpoint
from hsm.ekm.config import EkmConfig
from hsm.ekm.protocol.drive_side import DriveSession
from hsm.ekm.service.launch import EkmProcess, spawn_ekm
from hsm.ekm.service.systemd import Supervisor
from hsm.provisioning import ProvisionedLab
from tests.support.running_ekm import workers_of
from tests.support.waiting import PATIENCE_SECONDS, process_state, wait_until

UNIT = Path(hsm.ekm.service.__file__).with_name("taperig-ekm.service")
EXPOSURE = 20
"""Highest exposure that `systemd-analyze security` may find, in tenths of its points of 10."""


class Listener:
    """A fake supervisor: a datagram socket as systemd has it."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.messages: list[str] = []

    def until(self, wanted: str, seconds: float = PATIENCE_SECONDS) -> list[str]:
        """Return the lines up to the wanted one, which is among them."""
        deadline, lines = time.monotonic() + seconds, []
        while wanted not in lines:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            lines += self.socket.recv(4096).decode().splitlines()
        return lines

    def drain(self) -> None:
        """Discard earlier notifications."""
        self.socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self.socket.recv(4096)


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    listener = Listener("notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    yield listener
    listener.socket.close()


@pytest.fixture
def ekm(config: EkmConfig, listener: Listener) -> Iterator[EkmProcess]:
    with spawn_ekm(config.replace(workers=1)) as process:
        yield process


def test_supervisor_is_notified_of_ready_and_stopping(listener: Listener, ekm: EkmProcess) -> None:
    listener.until("READY=1")
    with socket.create_connection((ekm.host, ekm.port), 5):
        pass
    (worker,) = workers_of(ekm.pid)
    environment = Path(f"/proc/{worker}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" not in environment, "workers do not notify"
    os.kill(ekm.pid, signal.SIGTERM)
    listener.until("STOPPING=1")
    assert ekm.stop() == 0


def test_key_manager_finishes_an_exchange_under_way_before_it_stops(
    listener: Listener,
    ekm: EkmProcess,
    config: EkmConfig,
    lab: ProvisionedLab,
    session: DriveSession,
) -> None:
    with EkmClient(EkmEndpoint(ekm.host, ekm.port, lab.rig_tls)) as client:
        request = session.on_message(client.request(session.hello()))
        assert request is not None
        os.kill(ekm.pid, signal.SIGTERM)
        listener.until("STOPPING=1")
        ack = session.on_message(client.request(request))
        assert ack is not None
        client.send(ack)
    assert ekm.stop() == 0
    events = [record["event"] for record in audit_log.records(config.audit)]
    assert events == ["start", "key-reply", "ack", "stop"]


def test_key_manager_is_not_ready_before_the_token_is_open(
    config: EkmConfig, listener: Listener, tmp_path: Path
) -> None:
    wrong = config.replace(token=config.token.replace(label="absent"))
    with pytest.raises(Exception, match="There is no token absent"):
        spawn_ekm(wrong)
    listener.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.socket.recv(100)


def test_supervisor_status_says_that_no_worker_serves(listener: Listener, ekm: EkmProcess) -> None:
    listener.until("READY=1")
    (worker,) = workers_of(ekm.pid)
    os.kill(worker, signal.SIGKILL)
    listener.until("STATUS=no worker serves")
    listener.until(f"STATUS=serves at {ekm.host}:{ekm.port}")


def test_watchdog_is_notified_only_while_the_event_loop_runs(
    config: EkmConfig, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    with spawn_ekm(config.replace(workers=1)) as ekm:
        listener.until("READY=1")
        for _ in range(3):
            listener.until("WATCHDOG=1")
        os.kill(ekm.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: process_state(ekm.pid) == "T")
            listener.drain()
            with pytest.raises(TimeoutError):
                listener.until("WATCHDOG=1", seconds=1.5)
        finally:
            os.kill(ekm.pid, signal.SIGCONT)
        listener.until("WATCHDOG=1")


def test_supervisor_handles_abstract_addresses_and_another_watchdog_pid() -> None:
    address = f"taperig-test-{os.getpid()}"
    listener = Listener(f"\0{address}")
    environment = {
        "NOTIFY_SOCKET": f"@{address}",
        "WATCHDOG_USEC": "1000000",
        "WATCHDOG_PID": "1",
        "OTHER": "",
    }
    supervisor = Supervisor(environment)
    assert environment == {"OTHER": ""}
    supervisor.ready("here")
    assert listener.until("READY=1") == ["READY=1", "STATUS=serves at here"]
    assert supervisor._report_seconds == 0
    listener.socket.close()
    supervisor.stopping()  # nobody listens any more


def test_supervisor_that_is_absent_is_not_notified() -> None:
    Supervisor({}).ready("here")


# The unit


def run_systemd_analyze(*arguments: str | Path) -> str:
    """Run systemd-analyze, which must succeed; return its output."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is absent: install the Debian package systemd")
    done = subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_unit_verifies(tmp_path: Path) -> None:
    """The unit's command is replaced by a file that exists."""
    text = UNIT.read_text()
    (command,) = (
        line.removeprefix("ExecStart=").split()[0]
        for line in text.splitlines()
        if line.startswith("ExecStart=")
    )
    there = tmp_path / "rig"
    there.write_text("#!/bin/sh\n")
    there.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(command, str(there)))
    assert run_systemd_analyze("verify", "--man=no", unit) == ""


def test_systemd_unit_with_a_mistake_does_not_verify(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("ProtectClock=yes", "ProtectClok=yes"))
    with pytest.raises(AssertionError, match="Unknown key 'ProtectClok'"):
        run_systemd_analyze("verify", "--man=no", unit)


def test_systemd_unit_has_little_exposure(tmp_path: Path) -> None:
    judged = run_systemd_analyze(
        "security", "--offline=yes", f"--threshold={EXPOSURE}", "--no-pager", UNIT
    )
    assert "Overall exposure level" in judged
    loose = tmp_path / UNIT.name
    loose.write_text(UNIT.read_text().replace("CapabilityBoundingSet=\n", ""))
    with pytest.raises(AssertionError, match="Overall exposure level"):
        run_systemd_analyze(
            "security", "--offline=yes", f"--threshold={EXPOSURE}", "--no-pager", loose
        )
