"""The configuration of a key manager, from a YAML file or a lab.

`ekm.example.yaml` beside this module shows a whole file; paths are relative to the file's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from pydantic import Field

from hsm.configuration.load import dump, load, parse
from hsm.configuration.part import LocalPath, Part
from hsm.configuration.tls_files import TlsFiles
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.lab_folder import AUDIT_FILE, lab_folder
from hsm.ekm.logs import LogFormat, LogLevel
from hsm.ekm.protocol.errors import EkmError
from hsm.files import private_directory
from hsm.pkcs11.config import TokenConfig

__all__ = ["EkmConfig", "dump_config", "enrol_drives", "lab_config", "load_config", "parse_config"]

if TYPE_CHECKING:
    from hsm.provisioning import ProvisionedLab

DEFAULT_PORT: Final = 3801
_DURATION: Final = "a number of seconds above 0, at most 3600"


class EkmConfig(Part):
    """A key manager's configuration."""

    file_kind: ClassVar[str] = "the key manager's configuration"
    file_hint: ClassVar[str] = "name another with --config, or start from ekm.example.yaml"

    token: TokenConfig = Field(description="a map with module, label and pin: where the KEKs are")
    tls: TlsFiles = Field(description="a map with certificate, key and ca")
    certificate: LocalPath = Field(
        description="the path of its signing certificate (PEM); the key is in the token"
    )
    signing_key: LocalPath | None = Field(
        default=None,
        description="the path of its signing key (PEM), where the token makes no P-256 keys",
    )
    drive_ca: LocalPath = Field(
        description="the path of the certificate of the authority that issues those of drives"
    )
    drive_table: LocalPath = Field(description="the path of the drive table (SQLite)")
    audit: LocalPath = Field(description="the path of the audit log")
    audit_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=4096,
        description="a number of bytes from 4096; a longer file of the audit log is closed",
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="the address or host name that it listens on",
    )
    port: int = Field(
        default=DEFAULT_PORT,
        ge=0,
        le=65535,
        description="a TCP port from 1 to 65535, or 0 for any free",
    )
    partners: tuple[LocalPath, ...] = Field(
        default=(),
        strict=False,
        description="a list of signing certificates of key managers whose EEDKs are opened too",
    )
    handshake_seconds: float = Field(
        default=10.0, gt=0, le=3600, description=f"{_DURATION}, for a TLS handshake"
    )
    frame_seconds: float = Field(
        default=10.0, gt=0, le=3600, description=f"{_DURATION}, for a message once begun"
    )
    worker_seconds: float = Field(
        default=30.0,
        ge=0.5,
        le=3600,
        description="a number of seconds from 0.5 to 3600; a worker silent for so long is replaced",
    )
    workers: int = Field(
        default=2, ge=1, le=64, description="a number of worker processes from 1 to 64"
    )
    connections: int = Field(
        default=4096,
        ge=1,
        le=100_000,
        description="a number of connections at a time from 1 to 100000, over all workers",
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="a TCP port from 1 to 65535 on the loopback interface for metrics and health, "
        "or 0 for any free; none when absent",
    )
    log_format: LogFormat = Field(default="text", description="'text' or 'json'")
    log_level: LogLevel = Field(
        default="info", description="one of 'debug', 'info', 'warning', 'error'"
    )
    admin_secret: LocalPath | None = Field(
        default=None,
        description="the path of the admin secret's hash; without it nobody administers",
    )
    admin_socket: LocalPath | None = Field(
        default=None,
        description="the path of the Unix socket for administrators, by default that of the "
        "audit log with .admin added",
    )

    @property
    def admin_path(self) -> Path:
        """The Unix socket for administrators, by default beside the audit log."""
        return self.admin_socket or self.audit.with_name(self.audit.name + ".admin")


def load_config(path: Path) -> EkmConfig:
    """Load a YAML file; raise EkmError with a line for each mistake."""
    return load(EkmConfig, path, EkmError)


def parse_config(text: str, name: str) -> EkmConfig:
    """Parse YAML text, which messages call ``name``; raises as load_config."""
    return parse(EkmConfig, text, name, Path().absolute(), EkmError)


def dump_config(config: EkmConfig) -> str:
    """Return the configuration as YAML with absolute paths."""
    return dump(config)


def lab_config(
    lab: ProvisionedLab,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    name: str = "",
    token: str | None = None,
) -> EkmConfig:
    """Return the configuration of a lab's key manager.

    Its token is the lab's first by default. Its drive table and audit log are in ``ekm/`` or
    ``ekm/NAME/``. It also opens EEDKs of the key managers on the lab's other tokens. Raises
    ProvisioningError when its folder cannot be created.
    """
    home = lab.first_token if token is None else lab.tokens[token]
    folder = lab_folder(lab.state_dir, name)
    private_directory(folder)
    return EkmConfig(
        token=home.config,
        tls=lab.ekm_tls,
        certificate=home.certificate,
        signing_key=home.signing_key,
        drive_ca=lab.ca,
        drive_table=folder / "drives.sqlite",
        audit=folder / AUDIT_FILE,
        host=host,
        port=port,
        partners=tuple(each.certificate for each in lab.tokens.values() if each is not home),
        workers=1,
        log_level="warning",
        admin_secret=lab.admin_secret_hash,
    )


def enrol_drives(config: EkmConfig, lab: ProvisionedLab) -> None:
    """Enrol all drives of a provisioned lab in the key manager's drive table."""
    with DriveTable(config.drive_table) as table:
        for drive in lab.drives:
            table.enrol(drive.serial, drive.certificate_der, drive.wrap_public_der, drive.oaep_hash)
