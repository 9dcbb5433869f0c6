"""Key exchanges while workers, managers and connections are killed.

Two key managers share one token, with their own logs and drive tables, each behind a forwarder that
can cut connections. Drives repeat each request until they have a key. Processes are killed
(SIGKILL); a worker may also be stopped (SIGSTOP), which the front must detect. A killed key manager
is started again, as a service manager does. Audit logs are rotated meanwhile. At the end both audit
logs are compared with the drives' records:

- lost: an exchange that a drive has and no log has, or a volume whose key differs;
- answered twice: a sequence number with two replies, in one log or in both.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from hsm.ekm.audit import hash_chain
from hsm.ekm.audit import log as audit_log
from hsm.ekm.client import EkmEndpoint
from hsm.ekm.config import EkmConfig, lab_config
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.protocol.drive_side import DriveSession, Generate, Translate
from hsm.ekm.protocol.errors import EkmUnavailable
from hsm.ekm.protocol.messages import KeyGrant
from hsm.ekm.service.launch import EkmProcess, spawn_ekm
from hsm.keys.eedk import KeyLabel
from hsm.keys.keystore import Keystore
from hsm.keys.pki import load_certificate
from hsm.pkcs11.token import open_token
from hsm.provisioning import ProvisionedLab
from tests.support.ekm_client import ExchangeClient
from tests.support.ekm_lab import CARTRIDGE_ID, MAIN_KEY, SoftDrive, authority, der
from tests.support.ports import reserve_port
from tests.support.waiting import PATIENCE_SECONDS

_LABELS = (KeyLabel(MAIN_KEY),)
_RESET = struct.pack("ii", 1, 0)
_PATIENCE_SECONDS = 120.0


class Forwarder:
    """Forwards TCP connections to a port, and cuts them on request."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            pair = (near, far)
            with self._lock:
                self._pairs.append(pair)
            for source, sink in (pair, pair[::-1]):
                threading.Thread(target=self._copy, args=(source, sink, pair), daemon=True).start()

    def _copy(
        self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        with suppress(OSError):
            while part := source.recv(65536):
                sink.sendall(part)
        self._end(pair)

    def _end(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            if pair not in self._pairs:
                return
            self._pairs.remove(pair)
        for each in pair:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def cut(self, chance: random.Random) -> bool:
        """Cut a connection, in order or by a reset; False when there is none."""
        with self._lock:
            if not self._pairs:
                return False
            pair = chance.choice(self._pairs)
        if chance.random() < 0.5:
            for each in pair:
                with suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._end(pair)
        return True

    def close(self) -> None:
        self._listener.close()
        for pair in list(self._pairs):
            self._end(pair)


class RestartedManager:
    """A key manager that is started again after a kill."""

    def __init__(self, config: EkmConfig) -> None:
        self.config = config
        self._process = spawn_ekm(config)

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.stop()
        self._process = spawn_ekm(self.config)

    def kill_worker(self, chance: random.Random, number: signal.Signals = signal.SIGKILL) -> bool:
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return False
        with suppress(ProcessLookupError):
            os.kill(int(chance.choice(children)), number)
        return True

    @property
    def process(self) -> EkmProcess:
        return self._process

    def stop(self) -> int:
        return self._process.stop()


@dataclass
class DriveCounts:
    """A drive's counts: sequence numbers granted, retries, wrong keys."""

    granted: list[int] = field(default_factory=list)
    retries: int = 0
    wrong_keys: int = 0
    error: str = ""
    sequence: int = 0

    def next_sequence(self) -> int:
        """Return a number greater than all before, also over campaigns."""
        self.sequence = max(self.sequence + 1, time.time_ns())
        return self.sequence


def _drive(
    drive: SoftDrive,
    number: int,
    endpoints: Sequence[EkmEndpoint],
    trust: bytes,
    stop: threading.Event,
    asked: DriveCounts,
) -> None:
    try:
        with ExchangeClient(*endpoints) as client:
            turn = 0
            while not stop.is_set():
                name = f"{number:02d}{turn % 10000:04d}"
                made = _until_granted(
                    client, drive, trust, Generate(name, CARTRIDGE_ID, _LABELS), asked
                )
                again = _until_granted(
                    client, drive, trust, Translate(name, CARTRIDGE_ID, made.eedks), asked
                )
                if drive.data_key(made.sedk) != drive.data_key(again.sedk):
                    asked.wrong_keys += 1
                turn += 1
    except Exception as error:
        asked.error = f"{type(error).__name__}: {error}"


def _until_granted(
    client: ExchangeClient,
    drive: SoftDrive,
    trust: bytes,
    request: Generate | Translate,
    asked: DriveCounts,
) -> KeyGrant:
    """Repeat a request until the key is granted, and count that."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        session = DriveSession(drive, trust, drive.serial, request, asked.next_sequence)
        try:
            client.exchange(session)
        except EkmUnavailable:
            if time.monotonic() > until:
                raise
            asked.retries += 1
            time.sleep(0.05)
            continue
        asked.granted.append(asked.sequence)
        return session.grant


@dataclass
class Outcome:
    """The campaign's counts."""

    seconds: float = 0.0
    exchanges: int = 0
    retries: int = 0
    workers_killed: int = 0
    workers_stopped: int = 0
    managers_killed: int = 0
    connections_cut: int = 0
    lost: int = 0
    answered_twice: int = 0
    wrong_keys: int = 0
    unheard: int = 0
    """Replies that no drive received; the drive repeated the request with a new number."""
    records: int = 0
    files: int = 0
    """Of both audit logs."""
    drives_failed: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, answered twice or wrong."""
        return not (self.lost or self.answered_twice or self.wrong_keys or self.drives_failed)


def run_campaign(
    lab: ProvisionedLab,
    folder: Path,
    seconds: float,
    seed: int,
    drives: int = 4,
    pause: tuple[float, float] = (0.05, 0.6),
) -> Outcome:
    """Run the campaign and compare; ``pause`` is the time between two kills.

    It goes on after ``seconds`` until each kind of killing was done and a log was rotated.
    """
    chance = random.Random(seed)
    issuer = authority(lab)
    made = [SoftDrive.issued_by(issuer, f"KILL{number:06d}") for number in range(drives)]
    with open_token(lab.ekm_token) as token:
        for drive in made:
            Keystore(token).enroll_drive_key(drive.serial, drive.wrap_spki)
    outcome = Outcome()
    asked = [DriveCounts() for _ in made]
    configs = [_config(lab, folder / name, made) for name in ("main", "second")]
    with ExitStack() as stack:
        managers = [RestartedManager(config) for config in configs]
        for manager in managers:
            stack.callback(manager.stop)
        ways = [Forwarder(manager.process.port) for manager in managers]
        for way in ways:
            stack.callback(way.close)
        endpoints = [EkmEndpoint("127.0.0.1", way.port, lab.rig_tls) for way in ways]
        stop = threading.Event()
        stack.callback(stop.set)
        trust = der(load_certificate(lab.ca))
        threads = [
            threading.Thread(target=_drive, args=(drive, number, endpoints, trust, stop, word))
            for number, (drive, word) in enumerate(zip(made, asked, strict=True))
        ]
        for thread in threads:
            thread.start()

        def complete() -> bool:
            killed = outcome.workers_killed and outcome.managers_killed and outcome.connections_cut
            return bool(killed) and any(hash_chain.segments(config.audit) for config in configs)

        began = time.monotonic()
        while (ran := time.monotonic() - began) < seconds or not complete():
            assert ran < seconds + 2 * PATIENCE_SECONDS, outcome
            time.sleep(chance.uniform(*pause))
            _kill_something(chance, managers, ways, outcome)
        stop.set()
        for thread in threads:
            thread.join()
        outcome.seconds = time.monotonic() - began
        for manager in managers:
            assert manager.stop() == 0
    _compare_logs(outcome, configs, made, asked)
    return outcome


def _config(lab: ProvisionedLab, folder: Path, drives: Sequence[SoftDrive]) -> EkmConfig:
    folder.mkdir()
    config = lab_config(lab, port=reserve_port()).replace(
        drive_table=folder / "drives.sqlite",
        audit=folder / "audit.jsonl",
        workers=2,
        worker_seconds=3.0,
        audit_bytes=50_000,
        log_level="error",
    )
    with DriveTable(config.drive_table) as table:
        for drive in drives:
            table.enrol(drive.serial, drive.certificate_der, drive.wrap_spki, drive.oaep_hash)
    return config


def _kill_something(
    chance: random.Random,
    managers: Sequence[RestartedManager],
    ways: Sequence[Forwarder],
    outcome: Outcome,
) -> None:
    which = chance.randrange(len(managers))
    match chance.choices(("connection", "worker", "stop", "manager"), (12, 6, 1, 2))[0]:
        case "connection":
            outcome.connections_cut += ways[which].cut(chance)
        case "worker":
            outcome.workers_killed += managers[which].kill_worker(chance)
        case "stop":
            outcome.workers_stopped += managers[which].kill_worker(chance, signal.SIGSTOP)
        case _:
            managers[which].kill()
            outcome.managers_killed += 1


def _compare_logs(
    outcome: Outcome,
    configs: Sequence[EkmConfig],
    drives: Sequence[SoftDrive],
    asked: Sequence[DriveCounts],
) -> None:
    answered: Counter[tuple[str, int]] = Counter()
    acknowledged: Counter[tuple[str, int]] = Counter()
    for config in configs:
        last: dict[str, int] = {}
        outcome.files += audit_log.verify(config.audit).files
        for record in audit_log.records(config.audit):
            outcome.records += 1
            key = (record.get("serial", ""), record.get("sequence", 0))
            if record["event"] == "key-reply":
                answered[key] += 1
                if key[1] <= last.get(key[0], 0):
                    outcome.answered_twice += 1
                last[key[0]] = key[1]
            elif record["event"] == "ack":
                acknowledged[key] += 1
        with DriveTable(config.drive_table) as table:
            for drive in table.drives():
                if drive.sequence < last.get(drive.serial, 0):
                    outcome.lost += 1
    granted = {
        (drive.serial, sequence)
        for drive, word in zip(drives, asked, strict=True)
        for sequence in word.granted
    }
    outcome.exchanges = sum(len(word.granted) for word in asked)
    outcome.retries = sum(word.retries for word in asked)
    outcome.wrong_keys = sum(word.wrong_keys for word in asked)
    outcome.drives_failed = [word.error for word in asked if word.error]
    outcome.lost += len(granted - answered.keys()) + (outcome.exchanges - len(granted))
    outcome.answered_twice += sum(count - 1 for count in answered.values())
    outcome.answered_twice += sum(count - 1 for count in acknowledged.values())
    outcome.lost += len(acknowledged.keys() - granted)
    outcome.unheard = len(answered.keys() - granted)
