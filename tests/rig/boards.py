"""What tests on simulated boards share beside the fixtures."""

from collections.abc import Callable
from pathlib import Path

from rig.board.sim import SimBoard

StartBoard = Callable[..., SimBoard]


def write_transport_key(path: Path, key: bytes) -> Path:
    """Write a transport key as provisioning does: one line of hex digits, mode 0600."""
    path.touch(mode=0o600)
    path.write_text(key.hex() + "\n")
    return path
