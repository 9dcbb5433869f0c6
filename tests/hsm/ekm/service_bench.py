"""A key manager as a service, looked at from outside."""

from __future__ import annotations

import http.client
import socket
import time
from pathlib import Path

from hsm.eedk import KeyLabel
from hsm.ekm.config import EkmConfig
from hsm.ekm.errors import EkmUnavailable
from rig.drive.key_exchange import DriveSession, Generate
from rig.ve.ekm_proxy import EkmProxy
from tests.ekm_lab import MAIN_KEY

ASK = Generate("VOL001", (KeyLabel(MAIN_KEY),))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def page(config: EkmConfig, path: str, method: str = "GET") -> tuple[int, str]:
    assert config.metrics_port is not None
    asking = http.client.HTTPConnection("127.0.0.1", config.metrics_port, timeout=10)
    asking.request(method, path)
    answer = asking.getresponse()
    return answer.status, answer.read().decode()


def workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def await_workers(config: EkmConfig, count: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if page(config, "/readyz") == (200, f"ready, workers: {count}\n"):
            return
        time.sleep(0.05)
    raise AssertionError(f"not {count} workers")


def until_served(proxy: EkmProxy, session: DriveSession) -> None:
    """Ask again while connections still go to a worker that is not yet known to be dead."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return proxy.exchange(session)
        except EkmUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)
