"""A key manager's settings as a value; ``hsm.ekm.config`` reads and writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hsm.cryptoki import TokenConfig
from hsm.ekm.logs import LogFormat, LogLevel
from hsm.pki import TlsFiles

DEFAULT_PORT: Final = 3801


@dataclass(frozen=True, slots=True)
class EkmConfig:
    """A key manager's configuration.

    ``certificate`` is its signing certificate, its key in the token or, where that makes no such
    keys, in the file ``signing_key``; ``drive_ca`` is the authority of the drives' certificates;
    ``handshake_seconds`` and ``frame_seconds`` are how long a TLS handshake and a message once
    begun may take; a worker process that gives no sign of life for ``worker_seconds`` hangs;
    ``workers`` is how many processes serve; ``connections`` is how many there may
    be at a time; ``metrics_port`` is on the loopback interface, 0 for any, None for no metrics;
    a file of the audit log that is longer than ``audit_bytes`` is closed and a new one begun;
    ``admin_secret`` is the file with the admin secret's hash, without which nobody administers it,
    at the Unix socket ``admin_path``.
    """

    token: TokenConfig
    tls: TlsFiles
    certificate: Path
    drive_ca: Path
    drive_table: Path
    audit: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    partners: tuple[Path, ...] = ()
    handshake_seconds: float = 10.0
    frame_seconds: float = 10.0
    worker_seconds: float = 30.0
    workers: int = 2
    connections: int = 4096
    metrics_port: int | None = None
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"
    signing_key: Path | None = None
    admin_secret: Path | None = None
    audit_bytes: int = 64 * 1024 * 1024
    admin_socket: Path | None = None

    @property
    def admin_path(self) -> Path:
        """Where administrators reach the running key manager: beside its audit log by default."""
        return self.admin_socket or self.audit.with_name(self.audit.name + ".admin")
