"""Provision a lab's key side: tokens, PINs, keys, certificates, drives.

Everything is in one state folder, with access for its owner only:

| path | what |
| --- | --- |
| `softhsm2.conf`, `tokens/` | SoftHSM's configuration and tokens |
| `pins/<token label>`, `pins/<token label>.so` | the user's and the security officer's PIN |
| `pins/ekm-admin`, `ekm/admin.scrypt` | the key managers' admin secret, and its hash |
| `pki/` | the lab CA, TLS identities, `ekm-signing.pem`, `drive-<serial>.pem` |
| `transport/<serial>.hex` | the transport key for the gates of this drive's engine |
| `provisioned.json` | what was provisioned last, and of which files, so that it is not done again |

A `ProvisioningPlan` describes all tokens. One child process carries it out (`hsm.provisioner`).
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import Field

from hsm.configuration.part import LocalPath, Part
from hsm.configuration.tls_files import TlsFiles
from hsm.errors import ProvisioningError
from hsm.files import read_limited, write_private
from hsm.keys.eedk import MIN_KEK_BITS
from hsm.keys.labels import normalize_label
from hsm.pkcs11.config import TokenConfig, TokenIdentity
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.softhsm import ADMIN_SECRET, CONFIGURATION_FILE, EKM_TOKEN_LABEL, token_config

EKM_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
ONE_TOKEN: Final = "ekm"
"""Name of the token in a plan with one token."""
_SERIAL: Final = re.compile(r"[A-Za-z0-9-]{1,18}")
_RECORD: Final = "provisioned.json"
_RECORD_SECONDS: Final = 24 * 3600
_MAX_RECORD_BYTES: Final = 4 << 20
_TOUCHED: Final = ("generation", "token.object")

Progress = Callable[[str], None]


class KekPlan(Part):
    """A KEK that the lab needs, and its token."""

    label: str = Field(description="its key label")
    token: str | None = Field(
        default=None, description="the name of its home token; None: any that has it"
    )
    bits: int = Field(default=MIN_KEK_BITS, description="the size of the RSA key when it is made")
    make: bool = Field(default=True, description="false: it should be in a token already")


class ProvisioningPlan(Part):
    """A plan of all that a lab needs on its key side."""

    state_dir: LocalPath = Field(description="the folder that everything is made in")
    tokens: dict[str, TokenConfig] = Field(
        min_length=1,
        description="the key managers' tokens by name; those of the folder's SoftHSM are made",
    )
    keks: tuple[KekPlan, ...] = Field(default=(), description="the KEKs of these tokens")
    drives: tuple[str, ...] = Field(default=(), description="serial numbers of drives to make")
    hosts: tuple[str, ...] = Field(
        default=EKM_HOSTS, description="addresses and names that the key managers answer to"
    )
    partner_drives: dict[str, bytes] = Field(
        default={},
        description="drives made elsewhere that get data keys too: RSA keys (SPKI, DER) by serial",
    )


class ProvisionedDrive(Part):
    """A drive with a secure element and a wrapping key that the EKM trusts."""

    serial: str = Field(description="its serial number")
    token: TokenConfig = Field(description="the token in its secure element")
    identity: TokenIdentity = Field(description="what this token says of itself")
    certificate: LocalPath = Field(
        description="its identity certificate (P-256, PEM), of the lab CA; the CN is the serial"
    )
    certificate_der: bytes = Field(description="the same, DER")
    wrap_public_der: bytes = Field(description="the RSA key that SEDKs are wrapped to (SPKI, DER)")
    oaep_hash: OaepHash = Field(description="the best OAEP hash that its token can do")
    transport_key: LocalPath = Field(
        description="the file of 64 hexadecimal digits, mode 0600, for the gates alone"
    )


class ProvisionedToken(Part):
    """A token that is ready for key managers."""

    config: TokenConfig = Field(description="how it is opened")
    identity: TokenIdentity = Field(description="what it says of itself")
    certificate: LocalPath = Field(description="the signing certificate of its key managers (PEM)")
    signing_key: LocalPath | None = Field(
        description="the file of that key, where the token makes no P-256 keys"
    )
    keks: dict[str, bytes] = Field(
        description="the KEKs of the plan that are at home here: certificates (DER) by label"
    )


class ProvisionedLab(Part):
    """The key side of a lab for a run: paths and public keys only."""

    state_dir: LocalPath = Field(description="the folder that everything is in")
    ca: LocalPath = Field(description="the lab CA's certificate (PEM)")
    ekm_tls: TlsFiles = Field(description="the TLS identity of the key managers")
    rig_tls: TlsFiles = Field(description="the TLS identity of the rig")
    tokens: dict[str, ProvisionedToken] = Field(description="the tokens by name, as planned")
    drives: tuple[ProvisionedDrive, ...] = Field(description="the drives that were planned")
    absent: tuple[str, ...] = Field(
        default=(), description="labels of KEKs that were not to be made and that no token has"
    )

    @property
    def first_token(self) -> ProvisionedToken:
        """The first token of the plan, which the first key manager uses."""
        return next(iter(self.tokens.values()))

    @property
    def ekm_token(self) -> TokenConfig:
        """The configuration of the first token."""
        return self.first_token.config

    @property
    def ekm_certificate(self) -> Path:
        """The signing certificate of the key managers on the first token."""
        return self.first_token.certificate

    @property
    def admin_secret(self) -> Path:
        """The file of the admin secret (mode 0600); its owner may have removed it."""
        return self.state_dir / "pins" / ADMIN_SECRET

    @property
    def admin_secret_hash(self) -> Path:
        """The file of the admin secret's hash, which the key managers read."""
        return self.state_dir / "ekm" / "admin.scrypt"

    def drive(self, serial: str) -> ProvisionedDrive:
        """Return the drive `serial`; raises ProvisioningError."""
        for drive in self.drives:
            if drive.serial == serial:
                return drive
        raise ProvisioningError(f"The drive {serial} is not provisioned; run `rig hsm init`.")


def one_token_plan(
    state_dir: Path,
    kek_labels: Sequence[str] = (),
    drives: Sequence[str] = (),
    *,
    hosts: Sequence[str] = EKM_HOSTS,
    kek_bits: int = MIN_KEK_BITS,
    partner_drives: Mapping[str, bytes] | None = None,
) -> ProvisioningPlan:
    """Return a plan with one SoftHSM token that holds all KEKs."""
    state_dir = state_dir.absolute()
    return ProvisioningPlan(
        state_dir=state_dir,
        tokens={ONE_TOKEN: token_config(state_dir, EKM_TOKEN_LABEL)},
        keks=tuple(KekPlan(label=label, bits=kek_bits, token=ONE_TOKEN) for label in kek_labels),
        drives=tuple(drives),
        hosts=tuple(hosts),
        partner_drives=dict(partner_drives or {}),
    )


def provision(plan: ProvisioningPlan, progress: Progress = lambda step: None) -> ProvisionedLab:
    """Create what a plan needs and is missing; return the provisioned lab.

    `progress` is called with a short text as each step begins. Raises LabelInvalidError or
    ProvisioningError for invalid labels and serials, ProvisioningError for errors of the child.
    """
    for kek in plan.keks:
        normalize_label(kek.label)
    for serial in plan.drives:
        check_serial(serial)
    provisioned = _recorded(plan)
    if provisioned is None:
        provisioned = ProvisionedLab.model_validate_json(_in_child("make", plan, progress))
    return provisioned


def provision_drive(
    state_dir: Path, serial: str, *, progress: Progress = lambda step: None
) -> ProvisionedDrive:
    """Provision one drive, have the EKM's token trust it, and return it."""
    return provision(one_token_plan(state_dir, (), (serial,)), progress).drive(serial)


class KekChange(Part):
    """KEKs to import into a token as certificates, and KEKs to remove."""

    state_dir: LocalPath
    token: TokenConfig
    imported: dict[str, bytes] = Field(default={})
    removed: tuple[str, ...] = ()


def import_certificates(lab: ProvisionedLab, certificates: Mapping[str, bytes]) -> None:
    """Import KEKs of another site into the first token, public-only.

    `certificates` (DER) are by the label that they get here. Repeating changes nothing.
    """
    change = KekChange(state_dir=lab.state_dir, token=lab.ekm_token, imported=dict(certificates))
    _in_child("change", change, lambda step: None)


def remove_keks(lab: ProvisionedLab, labels: Sequence[str]) -> dict[str, str]:
    """Remove KEKs of the first token, even if cartridges need them.

    Returns SHA-256 of each KEK's SubjectPublicKeyInfo, hexadecimal, by label.
    """
    change = KekChange(state_dir=lab.state_dir, token=lab.ekm_token, removed=tuple(labels))
    removed: dict[str, str] = json.loads(_in_child("change", change, lambda step: None))
    return removed


def check_serial(serial: str) -> None:
    """Raise ProvisioningError unless the drive serial is valid."""
    if not _SERIAL.fullmatch(serial):
        raise ProvisioningError(
            f"A drive serial has 1 to 18 letters, digits and hyphens; {serial!r} has not."
        )


class _Record(Part):
    """What was provisioned, and from what."""

    digest: str
    lab: ProvisionedLab


def record(plan: ProvisioningPlan, lab: ProvisionedLab) -> None:
    """Keep what was provisioned for a plan, so that it is not done again."""
    kept = _Record(digest=_digest(plan) or "", lab=lab)
    write_private(plan.state_dir / _RECORD, kept.model_dump_json().encode())


def _recorded(plan: ProvisioningPlan) -> ProvisionedLab | None:
    """Return what was provisioned for this plan, if nothing changed since.

    Only in tokens of the state folder's own SoftHSM can that be seen: in their files.
    """
    path = plan.state_dir / _RECORD
    try:
        if not 0 <= time.time() - path.stat().st_mtime < _RECORD_SECONDS:
            return None  # certificates may be due
        found = _Record.model_validate_json(read_limited(path, _MAX_RECORD_BYTES))
    except (OSError, ValueError):
        return None
    return found.lab if found.digest == _digest(plan) else None


def _digest(plan: ProvisioningPlan) -> str | None:
    """Return a digest of a plan, its files and this code; None: cannot tell."""
    folder = plan.state_dir
    configuration = folder / CONFIGURATION_FILE
    if any(token.softhsm_conf != configuration for token in plan.tokens.values()):
        return None
    files = [configuration, folder / "ekm" / "admin.scrypt", *Path(__file__).parent.rglob("*.py")]
    for name in ("pins", "pki", "transport", "tokens"):
        files += (folder / name).rglob("*")
    facts = [plan.model_dump_json()]
    for file in sorted(files):
        # A login touches these, and changes nothing.
        if file.is_file() and file.suffix != ".lock" and file.name not in _TOUCHED:
            stat = file.stat()
            facts.append(f"{file} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _in_child(what: str, request: Part, progress: Progress) -> str:
    """Have a child process do it (`hsm.provisioner`); return its result."""
    answer: dict[str, str] = {}
    with subprocess.Popen(
        [sys.executable, "-m", "hsm.provisioner", what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,  # Ctrl-C comes to this process, which ends the child
    ) as child:
        if child.stdin is None or child.stdout is None:
            raise ProvisioningError("The provisioning process has no pipes.")
        try:
            child.stdin.write(request.model_dump_json())
            child.stdin.close()
            for line in child.stdout:
                answer = json.loads(line)
                if "step" in answer:
                    progress(answer["step"])
        except BaseException:
            child.kill()
            raise
    if "error" in answer:
        raise ProvisioningError(answer["error"])
    if child.returncode or "result" not in answer:
        raise ProvisioningError(
            f"The provisioning process ended with code {child.returncode}; run it again."
        )
    return answer["result"]
