"""Configuration and observation of a running key manager."""

from __future__ import annotations

import http.client
from contextlib import suppress
from pathlib import Path
from typing import Any

from hsm.ekm.config import EkmConfig, enrol_drives, lab_config
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.protocol.drive_side import DriveSession, Generate
from hsm.ekm.protocol.errors import EkmUnavailable
from hsm.ekm.service.launch import EkmProcess
from hsm.keys.eedk import KeyLabel
from hsm.keys.keystore import Keystore
from hsm.pkcs11.token import open_token
from hsm.provisioning import ProvisionedLab
from tests.support.ekm_client import ExchangeClient
from tests.support.ekm_lab import CARTRIDGE_ID, MAIN_KEY
from tests.support.exchange_fixture import Outsiders
from tests.support.waiting import wait_until

REQUEST = Generate("VOL001", CARTRIDGE_ID, (KeyLabel(MAIN_KEY),))


def make_config(
    lab: ProvisionedLab, outsiders: Outsiders, folder: Path, **settings: Any
) -> EkmConfig:
    """Return a configuration in ``folder``, with the soft drive enrolled."""
    drive = outsiders.drive
    with open_token(lab.ekm_token) as token:
        Keystore(token).enroll_drive_key(drive.serial, drive.wrap_spki)
    config = lab_config(lab, port=0).replace(
        drive_table=folder / "drives.sqlite",
        audit=folder / "audit.jsonl",
        **settings,
    )
    enrol_drives(config, lab)
    with DriveTable(config.drive_table) as table:
        table.enrol(drive.serial, drive.certificate_der, drive.wrap_spki, drive.oaep_hash)
    return config


def error_output(ekm: EkmProcess) -> str:
    """Return the end of what a key manager wrote to its standard error."""
    return ekm._log.end()


def http_get(config: EkmConfig, path: str, method: str = "GET") -> tuple[int, str]:
    assert config.metrics_port is not None
    asking = http.client.HTTPConnection("127.0.0.1", config.metrics_port, timeout=10)
    asking.request(method, path)
    answer = asking.getresponse()
    return answer.status, answer.read().decode()


def workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def wait_for_workers(config: EkmConfig, count: int) -> None:
    wait_until(lambda: http_get(config, "/readyz") == (200, f"ready, workers: {count}\n"))


def exchange_until_served(client: ExchangeClient, session: DriveSession) -> None:
    """Repeat an exchange while connections go to a worker that has ended."""

    def served() -> bool:
        with suppress(EkmUnavailable):
            client.exchange(session)
            return True
        return False

    wait_until(served)
