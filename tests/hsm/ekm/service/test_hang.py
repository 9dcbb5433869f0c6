"""Hanging workers and absent tokens are detected, reported and replaced."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm.ekm.audit import log as audit_log
from hsm.ekm.audit.log import _LOCK, _UNLOCK
from hsm.ekm.client import EkmClient, EkmEndpoint
from hsm.ekm.config import EkmConfig
from hsm.ekm.protocol.drive_side import DriveSession, Translate
from hsm.ekm.protocol.errors import EkmUnavailable
from hsm.ekm.protocol.messages import LabelQuery
from hsm.ekm.service.launch import EkmProcess, spawn_ekm
from hsm.keys.pki import load_certificate
from hsm.pkcs11.config import TokenConfig
from hsm.provisioning import ProvisionedLab
from tests.support.broken_module import CALL_REPLACED, build_module
from tests.support.ekm_client import ExchangeClient
from tests.support.ekm_lab import MAIN_KEY, der
from tests.support.exchange_fixture import Outsiders
from tests.support.running_ekm import (
    REQUEST,
    exchange_until_served,
    http_get,
    wait_for_workers,
    workers_of,
)
from tests.support.waiting import wait_until

ANSWER_SECONDS = 20.0


def events(config: EkmConfig, *names: str) -> list[dict[str, object]]:
    return [record for record in audit_log.records(config.audit) if record["event"] in names]


def wait_for_status(config: EkmConfig, status: int) -> None:
    wait_until(lambda: http_get(config, "/readyz")[0] == status)


def wait_for_cause(config: EkmConfig, cause: str) -> None:
    wait_until(lambda: any(cause in str(r["cause"]) for r in events(config, "worker-lost")))


@contextmanager
def running(config: EkmConfig, lab: ProvisionedLab) -> Iterator[tuple[EkmProcess, EkmEndpoint]]:
    with spawn_ekm(config) as process:
        yield process, EkmEndpoint(process.host, process.port, lab.rig_tls)


@contextmanager
def second(config: EkmConfig, lab: ProvisionedLab) -> Iterator[tuple[EkmConfig, EkmEndpoint]]:
    """Run another key manager on the lab's token, with its own table and log."""
    table = config.drive_table.with_name("second.sqlite")
    shutil.copy(config.drive_table, table)
    other = config.replace(
        token=lab.ekm_token,
        drive_table=table,
        audit=config.audit.with_name("second.jsonl"),
        workers=1,
        metrics_port=None,
    )
    with running(other, lab) as (_, endpoint):
        yield other, endpoint


class AtMessage:
    """Does something just before the n-th message goes to a key manager."""

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        self.left, self.action = number, action

    def __call__(self, direction: str, data: bytes) -> None:
        if direction == "to-ekm":
            self.left -= 1
            if self.left == 0:
                self.action()


@pytest.mark.rule("EKM-6")
@pytest.mark.parametrize("message", [2, 3], ids=["request", "ack"])
def test_worker_that_is_stopped_is_replaced_and_the_secondary_serves(
    config: EkmConfig,
    lab: ProvisionedLab,
    session: DriveSession,
    message: int,
) -> None:
    config = config.replace(workers=1, worker_seconds=1.0)
    with running(config, lab) as (ekm, endpoint), second(config, lab) as (other, backup):
        (stopped,) = workers_of(ekm.pid)
        stop = AtMessage(message, lambda: os.kill(stopped, signal.SIGSTOP))
        with ExchangeClient(
            endpoint, backup, answer_seconds=ANSWER_SECONDS, observer=stop
        ) as client:
            client.connect()
            began = time.monotonic()
            client.exchange(session)
            took = time.monotonic() - began
            assert session.grant.sedk
            assert took < ANSWER_SECONDS, "the key manager noticed before the relay gave up"
            wait_for_workers(config, 1)
            before = len(events(config, "key-reply"))
            exchange_until_served(client, session)
            assert len(events(config, "key-reply")) == before + 1, "the primary serves again"
        replies = events(config, "key-reply"), events(other, "key-reply")
    assert [len(each) for each in replies] == ([1, 1] if message < 3 else [2, 0])
    (lost,) = events(config, "worker-lost")
    assert lost["pid"] == stopped
    assert str(lost["cause"]).startswith("no sign of life for 1.")
    taken = [(record["serial"], record["sequence"]) for each in replies for record in each]
    assert len(set(taken)) == len(taken), "nothing is answered twice"


def test_worker_that_hangs_gets_no_connections_and_readyz_reports_it(
    config: EkmConfig,
    lab: ProvisionedLab,
) -> None:
    config = config.replace(worker_seconds=3.0)
    with running(config, lab) as (ekm, endpoint):
        one, two = workers_of(ekm.pid)
        os.kill(one, signal.SIGSTOP)
        wait_for_workers(config, 1)
        for _ in range(4):
            with EkmClient(endpoint) as client:
                client.ping()
        assert one in workers_of(ekm.pid), "it is avoided before it is ended"
        os.kill(two, signal.SIGSTOP)
        wait_for_status(config, 503)
        assert "taperig_ekm_ready 0.0" in http_get(config, "/metrics")[1].splitlines()
        assert http_get(config, "/healthz")[0] == 200
        wait_for_workers(config, 2)
        assert not {one, two} & set(workers_of(ekm.pid))
        with EkmClient(endpoint) as client:
            client.ping()


def test_worker_that_hangs_with_the_logs_lock_does_not_block_the_front(
    config: EkmConfig,
    lab: ProvisionedLab,
    session: DriveSession,
) -> None:
    """The test holds the lock, so the worker hangs as on a failed disk."""
    config = config.replace(worker_seconds=1.0)
    with running(config, lab) as (ekm, endpoint), config.audit.open("r+b") as holder:
        before = set(workers_of(ekm.pid))
        fcntl.fcntl(holder, fcntl.F_OFD_SETLKW, _LOCK)
        with ExchangeClient(endpoint, answer_seconds=ANSWER_SECONDS) as client:
            with pytest.raises(EkmUnavailable, match="Lost contact"):
                client.exchange(session)
            wait_for_workers(config, 2)
            (replaced,) = before - set(workers_of(ekm.pid))
            fcntl.fcntl(holder, fcntl.F_OFD_SETLKW, _UNLOCK)
            exchange_until_served(client, session)
        assert ekm.stop() == 0
    assert [record["pid"] for record in events(config, "worker-lost")] == [replaced]


# The token


@pytest.mark.rule("EKM-6")
def test_worker_is_replaced_when_a_token_call_never_returns(
    config: EkmConfig,
    lab: ProvisionedLab,
    session: DriveSession,
    outsiders: Outsiders,
    tmp_path: Path,
) -> None:
    """The module hangs in C_UnwrapKey, as with an unreachable network HSM."""
    cut = tmp_path / "cut"
    module = build_module(
        tmp_path / "hanging.so",
        lab.ekm_token.module,
        "C_UnwrapKey",
        f'while (!access("{cut}", F_OK)) pause(); {CALL_REPLACED}',
    )
    token = lab.ekm_token.replace(module=module)
    config = config.replace(token=token, workers=1, worker_seconds=1.0)
    with running(config, lab) as (ekm, endpoint), second(config, lab) as (other, backup):
        with ExchangeClient(endpoint, backup, answer_seconds=ANSWER_SECONDS) as client:
            client.connect()
            client.exchange(session)
            request = Translate(REQUEST.volume, REQUEST.cartridge_id, session.grant.eedks)

            def translated() -> DriveSession:
                trust = der(load_certificate(lab.ca))
                return DriveSession(outsiders.drive, trust, outsiders.drive.serial, request)

            client.exchange(first := translated())
            assert first.grant.sedk
            (hanging,) = workers_of(ekm.pid)
            cut.touch()
            client.exchange(hung := translated())
            assert hung.grant.sedk, "the secondary served it"
            cut.unlink()
            wait_for_workers(config, 1)
            assert hanging not in workers_of(ekm.pid)
            exchange_until_served(client, after := translated())
            assert after.grant.sedk
        assert ekm.stop() == 0
    contact = str(client.failures[0])
    assert "Lost contact" in contact
    assert "no answer in time" not in contact, "the connection ended; nobody waited in vain"
    assert not audit_log.verify(config.audit).torn_bytes
    asked = [record["operation"] for record in events(config, "key-reply")]
    assert asked == ["generate", "translate", "translate"], "the call that hung got no answer"
    assert [record["operation"] for record in events(other, "key-reply")] == ["translate"]
    (lost,) = events(config, "worker-lost")
    assert lost["pid"] == hanging
    assert str(lost["cause"]).startswith("no sign of life for 1.")


@pytest.fixture
def own_token(lab: ProvisionedLab, tmp_path: Path) -> TokenConfig:
    """Return a copy of the lab's token, which a test may remove."""
    shutil.copytree(lab.state_dir / "tokens", tmp_path / "tokens")
    conf = tmp_path / "softhsm2.conf"
    assert lab.ekm_token.softhsm_conf is not None
    conf.write_text(
        lab.ekm_token.softhsm_conf.read_text().replace(
            str(lab.state_dir / "tokens"), str(tmp_path / "tokens")
        )
    )
    return lab.ekm_token.replace(softhsm_conf=conf)


@pytest.mark.rule("EKM-6")
def test_exchange_is_cut_and_not_refused_when_the_token_is_removed(
    config: EkmConfig,
    lab: ProvisionedLab,
    session: DriveSession,
    own_token: TokenConfig,
    tmp_path: Path,
) -> None:
    """A refusal would name the key label as unknown, and the write would fail."""
    config = config.replace(token=own_token, workers=1)
    tokens, away = tmp_path / "tokens", tmp_path / "away"
    with running(config, lab) as (_, endpoint), second(config, lab) as (other, backup):
        take_away = AtMessage(2, lambda: tokens.rename(away))
        with ExchangeClient(
            endpoint, backup, answer_seconds=ANSWER_SECONDS, observer=take_away
        ) as client:
            client.connect()
            client.exchange(session)
            assert session.grant.sedk
            wait_for_status(config, 503)
            exchange_until_served(client, session)
            assert len(events(other, "key-reply")) == 2
            away.rename(tokens)
            wait_for_workers(config, 1)
            exchange_until_served(client, session)
        assert len(events(config, "key-reply")) == 1
        assert not events(config, "refusal")
        first = events(config, "worker-lost")[0]
    assert "lost all its keys" in str(first["cause"])


def test_key_manager_notices_an_absent_token_while_idle_and_recovers(
    config: EkmConfig,
    lab: ProvisionedLab,
    own_token: TokenConfig,
    tmp_path: Path,
) -> None:
    config = config.replace(token=own_token, worker_seconds=2.0)
    tokens, away = tmp_path / "tokens", tmp_path / "away"
    with running(config, lab) as (ekm, endpoint):
        tokens.rename(away)
        wait_for_status(config, 503)
        lines = http_get(config, "/metrics")[1].splitlines()
        assert {"taperig_ekm_ready 0.0", "taperig_ekm_workers 0.0"} <= set(lines)
        # Connections wait for a worker for some seconds, then end, so that the VE fails over.
        with socket.create_connection((endpoint.host, endpoint.port), 20) as waiting:
            assert waiting.recv(1) == b""
        with socket.create_connection((endpoint.host, endpoint.port), 3) as another:
            assert another.recv(1) == b"", "from then on at once"
        turned_away = "taperig_ekm_connections_turned_away_total 2.0"
        assert turned_away in http_get(config, "/metrics")[1].splitlines()
        # Their replacements find no token either.
        wait_for_cause(config, "could not be started (GeneralError)")
        away.rename(tokens)
        wait_for_workers(config, 2)
        with EkmClient(endpoint) as client:
            client.ping()
        assert ekm.alive


@pytest.mark.rule("EKM-11")
def test_label_query_reports_no_label_unknown_while_the_token_is_gone(
    config: EkmConfig,
    lab: ProvisionedLab,
    own_token: TokenConfig,
    tmp_path: Path,
) -> None:
    config = config.replace(token=own_token, workers=1)
    with running(config, lab) as (_, endpoint), EkmClient(endpoint) as client:
        client.ping()
        (tmp_path / "tokens").rename(tmp_path / "away")
        with pytest.raises(EkmUnavailable):
            client.request(LabelQuery((MAIN_KEY,)).encode())


def test_key_manager_stops_although_its_worker_hangs(
    config: EkmConfig,
    lab: ProvisionedLab,
) -> None:
    with running(config.replace(workers=1), lab) as (ekm, _):
        (stopped,) = workers_of(ekm.pid)
        os.kill(stopped, signal.SIGSTOP)
        assert ekm.stop() == 0
    assert not Path(f"/proc/{stopped}").exists()
    assert [record["event"] for record in audit_log.records(config.audit)] == ["start", "stop"]
