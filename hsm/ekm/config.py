"""What a key manager needs to know, as a small YAML file or built by the lab.

    token:
      module: /usr/lib/softhsm/libsofthsm2.so
      label: taperig-ekm
      pin_file: pins/taperig-ekm        # or pin_env: NAME
      softhsm_conf: softhsm2.conf       # for SoftHSM only
    host: 127.0.0.1
    port: 3801                          # 0 takes any free one
    tls: {certificate: ekm-tls.pem, key: ekm-tls.key, ca: ca.pem}
      accept: []                        # limits of the token that will do, see hsm/README.md
    certificate: ekm.pem                # its signing certificate; the key is in the token
    signing_key: ekm.key                # only where the token makes no P-256 keys
    drive_ca: ca.pem                    # issues the drives' certificates
    drive_table: drives.sqlite
    audit: audit.jsonl
    audit_bytes: 67108864               # a file of it that is longer is closed, a new one begun
    partners: []                        # certificates of key managers whose EEDKs are opened too
    handshake_seconds: 10
    frame_seconds: 10
    worker_seconds: 30                  # a worker that is silent for so long hangs and is replaced
    workers: 2                          # processes that serve, each with its own PKCS#11 context
    connections: 4096                   # at most, over all workers
    metrics_port: 9801                  # Prometheus, health; loopback only; absent: none
    log_format: text                    # or json; to standard error
    log_level: info                     # debug, info, warning, error
    admin_secret: admin.scrypt          # hash of the admin secret; absent: no administration
    admin_socket: audit.jsonl.admin     # where administrators reach it; this is the default

Paths are relative to the file's folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hsm.ekm.drive_table import DriveTable
from hsm.ekm.logs import LogFormat, LogLevel
from hsm.ekm.protocol.errors import EkmError
from hsm.files import private_directory
from hsm.keys.pki import TlsFiles
from hsm.pkcs11.accepted_risks import Limit
from hsm.pkcs11.config import TokenConfig
from hsm.pkcs11.pins import PinFromEnv, PinFromFile, PinSource

__all__ = ["EkmConfig", "dump_config", "enrol_drives", "lab_config", "load_config", "parse_config"]

if TYPE_CHECKING:
    from hsm.provisioning import ProvisionedLab


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


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Token(_Part):
    module: Path
    label: str = Field(min_length=1, max_length=32)
    pin_env: str | None = None
    pin_file: Path | None = None
    softhsm_conf: Path | None = None
    accept: list[Limit] = []

    @model_validator(mode="after")
    def _one_pin(self) -> Self:
        if (self.pin_env is None) == (self.pin_file is None):
            raise ValueError("needs exactly one of pin_env and pin_file")
        return self


class _Tls(_Part):
    certificate: Path
    key: Path
    ca: Path


class _File(_Part):
    token: _Token
    tls: _Tls
    certificate: Path
    signing_key: Path | None = None
    drive_ca: Path
    drive_table: Path
    audit: Path
    audit_bytes: int = Field(default=64 * 1024 * 1024, ge=4096)
    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    partners: list[Path] = []
    handshake_seconds: float = Field(default=10.0, gt=0, le=3600)
    frame_seconds: float = Field(default=10.0, gt=0, le=3600)
    worker_seconds: float = Field(default=30.0, ge=0.5, le=3600)
    workers: int = Field(default=2, ge=1, le=64)
    connections: int = Field(default=4096, ge=1, le=100_000)
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"
    admin_secret: Path | None = None
    admin_socket: Path | None = None


def load_config(path: Path) -> EkmConfig:
    """Return the configuration in a YAML file; raise EkmError that says what is wrong with it."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise EkmError(f"Cannot read the key manager's configuration {path}: {error}.") from error
    return parse_config(text, path.parent, str(path))


def parse_config(text: str, folder: Path = Path(), name: str = "configuration") -> EkmConfig:
    """Return the configuration that YAML text holds; its paths are relative to ``folder``."""
    try:
        content = _File.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise EkmError(f"The key manager's {name} is not YAML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg'].lower()}"
            for each in error.errors(include_input=False, include_url=False)
        )
        raise EkmError(f"The key manager's {name} is wrong: {wrong}.") from None
    token = content.token
    pin: PinSource = (
        PinFromFile(folder / token.pin_file)
        if token.pin_file is not None
        else PinFromEnv(token.pin_env or "")
    )
    return EkmConfig(
        token=TokenConfig(
            module=folder / token.module,
            label=token.label,
            pin=pin,
            softhsm_conf=folder / token.softhsm_conf if token.softhsm_conf else None,
            accept=frozenset(token.accept),
        ),
        tls=TlsFiles(
            folder / content.tls.certificate, folder / content.tls.key, folder / content.tls.ca
        ),
        certificate=folder / content.certificate,
        signing_key=folder / content.signing_key if content.signing_key else None,
        drive_ca=folder / content.drive_ca,
        drive_table=folder / content.drive_table,
        audit=folder / content.audit,
        audit_bytes=content.audit_bytes,
        host=content.host,
        port=content.port,
        partners=tuple(folder / partner for partner in content.partners),
        handshake_seconds=content.handshake_seconds,
        frame_seconds=content.frame_seconds,
        worker_seconds=content.worker_seconds,
        workers=content.workers,
        connections=content.connections,
        metrics_port=content.metrics_port,
        log_format=content.log_format,
        log_level=content.log_level,
        admin_secret=folder / content.admin_secret if content.admin_secret else None,
        admin_socket=folder / content.admin_socket if content.admin_socket else None,
    )


def lab_config(lab: ProvisionedLab, host: str = "127.0.0.1", port: int = DEFAULT_PORT) -> EkmConfig:
    """Return the configuration of a provisioned lab's key manager; its files go to ``ekm/``.

    Raises ProvisioningError when that folder cannot be made.
    """
    folder = lab.state_dir / "ekm"
    private_directory(folder)
    return EkmConfig(
        token=lab.ekm_token,
        tls=lab.ekm_tls,
        certificate=lab.ekm_certificate,
        signing_key=lab.ekm_signing_key,
        drive_ca=lab.ca,
        drive_table=folder / "drives.sqlite",
        audit=folder / "audit.jsonl",
        host=host,
        port=port,
        workers=1,
        log_level="warning",
        admin_secret=lab.admin_secret_hash,
    )


def enrol_drives(config: EkmConfig, lab: ProvisionedLab) -> None:
    """Admit all drives of a provisioned lab to the key manager's drive table."""
    with DriveTable(config.drive_table) as table:
        for drive in lab.drives:
            table.enrol(drive.serial, drive.certificate_der, drive.wrap_public_der, drive.oaep_hash)


def dump_config(config: EkmConfig) -> str:
    """Return the configuration as YAML with absolute paths, as ``parse_config`` reads it."""
    token = config.token
    pin = (
        {"pin_env": token.pin.name}
        if isinstance(token.pin, PinFromEnv)
        else {"pin_file": _absolute(token.pin.path)}
    )
    conf = {"softhsm_conf": _absolute(token.softhsm_conf)} if token.softhsm_conf else {}
    accept = {"accept": sorted(limit.value for limit in token.accept)} if token.accept else {}
    signing = {"signing_key": _absolute(config.signing_key)} if config.signing_key else {}
    content = {
        "token": {"module": _absolute(token.module), "label": token.label, **pin, **conf, **accept},
        "tls": {
            "certificate": _absolute(config.tls.certificate),
            "key": _absolute(config.tls.key),
            "ca": _absolute(config.tls.ca),
        },
        "certificate": _absolute(config.certificate),
        **signing,
        "drive_ca": _absolute(config.drive_ca),
        "drive_table": _absolute(config.drive_table),
        "audit": _absolute(config.audit),
        "audit_bytes": config.audit_bytes,
        "host": config.host,
        "port": config.port,
        "partners": [_absolute(partner) for partner in config.partners],
        "handshake_seconds": config.handshake_seconds,
        "frame_seconds": config.frame_seconds,
        "worker_seconds": config.worker_seconds,
        "workers": config.workers,
        "connections": config.connections,
        "metrics_port": config.metrics_port,
        "log_format": config.log_format,
        "log_level": config.log_level,
        "admin_secret": _absolute(config.admin_secret) if config.admin_secret else None,
        "admin_socket": _absolute(config.admin_socket) if config.admin_socket else None,
    }
    return yaml.safe_dump(content, sort_keys=False)


def _absolute(path: Path) -> str:
    return str(path.absolute())
