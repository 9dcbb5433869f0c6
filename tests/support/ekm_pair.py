"""Two real key managers on one token, for tests of a node."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from hsm.ekm.audit import log as audit_log
from hsm.ekm.client import EkmEndpoint, Resolve
from hsm.ekm.config import EkmConfig, lab_config
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.protocol.drive_side import DriveSession, Generate
from hsm.ekm.protocol.messages import KeyGrant
from hsm.ekm.service.launch import EkmProcess, spawn_ekm
from hsm.keys.eedk import KeyLabel, KeyMode
from hsm.keys.pki import load_certificate
from hsm.provisioning import ProvisionedLab
from rig.results.events import EventLog, NoticeKind
from rig.ve.ekm.connections import ConnectionTiming
from rig.ve.ekm.proxy import EkmProxy, Observer
from tests.support.ekm_lab import CARTRIDGE_ID, MAIN_KEY, SoftDrive, authority, der
from tests.support.ports import reserve_port
from tests.support.provisioned import provision_lab

VOLUME = "VOL001"
ASK = Generate(VOLUME, CARTRIDGE_ID, (KeyLabel(MAIN_KEY, KeyMode.HASH),))
QUICK = ConnectionTiming(
    ping_every=0.05, ping_answer=2, first_retry=0.05, longest_retry=0.2, probe=0.5
)
HOST_NAMES = ("ekm-a.lab.test", "ekm-b.lab.test")


@dataclass
class Ekm:
    """One key manager that can be killed, stopped and restarted on its port."""

    name: str
    config: EkmConfig
    process: EkmProcess | None = None

    def start(self) -> None:
        self.process = spawn_ekm(self.config)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the key manager, the workers first."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for pid in (*map(int, children), self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """Kill all processes, as a power cut does."""
        assert self.process is not None
        self.signal(signal.SIGKILL)
        self.process.stop()
        self.process = None

    def served(self) -> list[str]:
        """Return the events of exchanges in its audit log."""
        return [
            record["event"]
            for record in audit_log.records(self.config.audit)
            if record["event"] in ("key-reply", "ack", "no-ack")
        ]


@dataclass
class Pair:
    """Both key managers, the drive that they admit, and their endpoints."""

    lab: ProvisionedLab
    drive: SoftDrive
    ekms: tuple[Ekm, Ekm]
    events: EventLog = field(default_factory=EventLog)

    @property
    def main(self) -> Ekm:
        return self.ekms[0]

    @property
    def backup(self) -> Ekm:
        return self.ekms[1]

    def endpoint(self, ekm: Ekm, host: str = "127.0.0.1", port: int = 0) -> EkmEndpoint:
        return EkmEndpoint(host, port or ekm.config.port, self.lab.rig_tls, ekm.name)

    @contextmanager
    def proxy(
        self,
        *endpoints: EkmEndpoint,
        answer_seconds: float = 5,
        observer: Observer | None = None,
        resolve: Resolve | None = None,
        timing: ConnectionTiming = QUICK,
    ) -> Iterator[EkmProxy]:
        self.events = EventLog()
        chosen = endpoints or tuple(self.endpoint(ekm) for ekm in self.ekms)
        with EkmProxy(
            chosen, answer_seconds, observer, events=self.events, resolve=resolve, timing=timing
        ) as proxy:
            yield proxy

    def session(self) -> DriveSession:
        trust = der(load_certificate(self.lab.ca))
        return DriveSession(self.drive, trust, self.drive.serial, ASK)

    def key(self, proxy: EkmProxy) -> KeyGrant:
        """Run a whole exchange and check the drive's data key."""
        session = self.session()
        proxy.exchange(session)
        assert len(self.drive.data_key(session.grant.sedk)) == 32
        return session.grant

    @contextmanager
    def relays(self) -> Iterator[tuple[CuttingRelay, CuttingRelay]]:
        """Open a relay to each key manager, which can cut connections."""
        main, backup = (CuttingRelay(("127.0.0.1", ekm.config.port)) for ekm in self.ekms)
        try:
            yield main, backup
        finally:
            main.close()
            backup.close()

    def through(self, relays: Sequence[CuttingRelay]) -> list[EkmEndpoint]:
        """Return the key managers' endpoints through the relays."""
        return [self.endpoint(e, port=r.port) for e, r in zip(self.ekms, relays, strict=True)]

    def take_notices(self) -> list[tuple[NoticeKind, str]]:
        """Return and clear the notices: kind, and subject or the hosts' mode."""
        notices = [
            (notice.kind, notice.detail.get("mode", notice.about)) for notice in self.events.notices
        ]
        self.events.notices.clear()
        return notices

    def all_running(self) -> None:
        for ekm in self.ekms:
            if ekm.process is None or not ekm.process.alive:
                ekm.start()


@contextmanager
def open_pair(folder: Path) -> Iterator[Pair]:
    """Provision a lab and run two key managers with their own tables and logs."""
    state, hosts = folder / "state", ("localhost", "127.0.0.1", *HOST_NAMES)
    lab = provision_lab(state, [MAIN_KEY], [], hosts=hosts)
    drive = SoftDrive.issued_by(authority(lab))
    admitted = {drive.serial: drive.wrap_spki}
    lab = provision_lab(state, [MAIN_KEY], [], hosts=hosts, partner_drives=admitted)
    ekms = []
    for name in ("main", "backup"):
        config = lab_config(lab, port=reserve_port())
        config = config.replace(
            drive_table=folder / f"{name}.drives", audit=folder / f"{name}.audit"
        )
        with DriveTable(config.drive_table) as table:
            table.enrol(drive.serial, drive.certificate_der, drive.wrap_spki, drive.oaep_hash)
        ekms.append(Ekm(name, config))
    pair = Pair(lab, drive, (ekms[0], ekms[1]))
    try:
        pair.all_running()
        yield pair
    finally:
        for ekm in pair.ekms:
            if ekm.process is not None:
                ekm.process.stop()


class CuttingRelay:
    """A TCP relay that cuts connections on demand or after a number of bytes."""

    def __init__(
        self, target: tuple[str, int], *, up: int | None = None, down: int | None = None
    ) -> None:
        self._target = target
        self._limits = {"up": up, "down": down}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.passed = {"up": 0, "down": 0}
        self.cuts = 0
        self.dead = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut all connections; accept new ones."""
        while self._open:
            _shut(self._open.pop())

    def die(self) -> None:
        """Cut all connections, and every new one."""
        self.dead = True
        self.cut()

    def close(self) -> None:
        self.die()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.dead:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for way, source, sink in (("up", near, far), ("down", far, near)):
                    threading.Thread(
                        target=self._pass_on, args=(way, source, sink), daemon=True
                    ).start()

    def _pass_on(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        limit = self._limits[way]
        with suppress(OSError):
            while part := source.recv(65536):
                if limit is not None and self.passed[way] + len(part) > limit:
                    sink.sendall(part[: max(0, limit - self.passed[way])])
                    self.cuts += 1
                    break
                self.passed[way] += len(part)
                sink.sendall(part)
        _shut(source)
        _shut(sink)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
