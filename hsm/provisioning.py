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

A `ProvisioningPlan` describes all tokens. One child process carries it out, because a PKCS#11
context belongs to one process, and the transport keys in its memory end with it. The child opens
the tokens of drives and key managers one after the other, also with different modules: each module
is finalized before the next is opened. Tokens exchange only certificates of KEKs. A lock file
separates two runs, and every step first checks what exists, so an interrupted run can be repeated.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field

from hsm.admin_secret import ensure_admin_secret
from hsm.configuration.part import LocalPath, Part
from hsm.crash_log import report
from hsm.errors import (
    LabelUnknownError,
    ProvisioningError,
    RiskNotAcceptedError,
    TaperigError,
)
from hsm.files import private_directory, read_limited, reason_and_cure, write_private
from hsm.keys.data_keys import EKM_SIGNING_LABEL
from hsm.keys.key_generation import (
    ensure_p256,
    ensure_reference_keys,
    ensure_rsa,
    import_transport_key,
    random_bytes,
    reports_key_length,
    transport_key_matches,
)
from hsm.keys.keystore import MIN_KEK_BITS, Kek, Keystore
from hsm.keys.labels import label_key, normalize_label
from hsm.keys.pki import CertificateAuthority, Role, TlsFiles, ensure_p256_file, load_certificate
from hsm.pkcs11.accepted_risks import TokenRisk, risk_sentence
from hsm.pkcs11.config import TokenConfig, TokenIdentity
from hsm.pkcs11.encoding import spki_der
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.softhsm import (
    ADMIN_SECRET,
    CONFIGURATION_FILE,
    EKM_TOKEN_LABEL,
    drive_token_label,
    ensure_token,
    token_config,
    write_configuration,
)
from hsm.pkcs11.token import Token, open_token

SIGNING: Final = "ekm-signing"
DRIVE_IDENTITY_LABEL: Final = "taperig drive identity"
DRIVE_WRAP_LABEL: Final = "taperig drive wrap"
TRANSPORT_LABEL: Final = "taperig transport"
DRIVE_WRAP_BITS: Final = 2048
TRANSPORT_BYTES: Final = 32
EKM_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
ONE_TOKEN: Final = "ekm"
"""Name of the token in a plan with one token."""
_SERIAL: Final = re.compile(r"[A-Za-z0-9-]{1,18}")
_MAX_TRANSPORT_FILE: Final = 4096
_RECORD: Final = "provisioned.json"
_RECORD_SECONDS: Final = 24 * 3600
_MAX_RECORD_BYTES: Final = 4 << 20
_TOUCHED: Final = ("generation", "token.object")
_TRANSPORT_KEY: Final = re.compile(rf"[0-9a-f]{{{2 * TRANSPORT_BYTES}}}")

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


class _KekChange(Part):
    """KEKs to import into a token as certificates, and KEKs to remove."""

    state_dir: LocalPath
    token: TokenConfig
    imported: dict[str, bytes] = Field(default={})
    removed: tuple[str, ...] = ()


def import_certificates(lab: ProvisionedLab, certificates: Mapping[str, bytes]) -> None:
    """Import KEKs of another site into the first token, public-only.

    `certificates` (DER) are by the label that they get here. Repeating changes nothing.
    """
    change = _KekChange(state_dir=lab.state_dir, token=lab.ekm_token, imported=dict(certificates))
    _in_child("change", change, lambda step: None)


def remove_keks(lab: ProvisionedLab, labels: Sequence[str]) -> dict[str, str]:
    """Remove KEKs of the first token, even if cartridges need them.

    Returns SHA-256 of each KEK's SubjectPublicKeyInfo, hexadecimal, by label.
    """
    change = _KekChange(state_dir=lab.state_dir, token=lab.ekm_token, removed=tuple(labels))
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


def _recorded(plan: ProvisioningPlan) -> ProvisionedLab | None:
    """Return what was provisioned for this plan, if nothing changed since.

    Only in tokens of the state folder's own SoftHSM can that be seen: in their files.
    """
    path = plan.state_dir / _RECORD
    try:
        if not 0 <= time.time() - path.stat().st_mtime < _RECORD_SECONDS:
            return None  # certificates may be due
        record = _Record.model_validate_json(read_limited(path, _MAX_RECORD_BYTES))
    except (OSError, ValueError):
        return None
    return record.lab if record.digest == _digest(plan) else None


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
    """Run this module as a child process; return its result (JSON)."""
    answer: dict[str, str] = {}
    with subprocess.Popen(
        [sys.executable, "-m", "hsm.provisioning", what],
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


# The functions below run in the child.


def _send(**message: str) -> None:
    print(json.dumps(message), flush=True)


def main() -> int:
    """Carry out the request on standard input; answer on standard output."""
    try:
        text = sys.stdin.read()
        if not text:
            return 2  # the parent was interrupted
        if sys.argv[1:] == ["change"]:
            change = _KekChange.model_validate_json(text)
            with _locked(change.state_dir):
                _send(result=json.dumps(_change_keks(change)))
        else:
            plan = ProvisioningPlan.model_validate_json(text)
            private_directory(plan.state_dir)
            with _locked(plan.state_dir):
                lab = _carry_out(plan)
                record = _Record(digest=_digest(plan) or "", lab=lab)
                write_private(plan.state_dir / _RECORD, record.model_dump_json().encode())
                _send(result=lab.model_dump_json())
    except TaperigError as error:
        _send(error=str(error))
        return 2
    except BrokenPipeError:
        return 2  # the parent has ended
    except Exception as error:
        _send(error=report(error, "The provisioning process"))
        return 2
    return 0


@contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    path = state_dir / ".lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ProvisioningError(
            f"The file {path} cannot be made: {reason_and_cure(error)}."
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _carry_out(plan: ProvisioningPlan) -> ProvisionedLab:
    state_dir = plan.state_dir
    write_configuration(state_dir)
    _send(step="certificate authority")
    authority = CertificateAuthority(state_dir / "pki")
    ekm_tls = authority.issue_tls("ekm-tls", plan.hosts, server=True)
    rig_tls = authority.issue_tls("rig-tls", server=False)
    ensure_admin_secret(state_dir / "pins" / ADMIN_SECRET, state_dir / "ekm" / "admin.scrypt")
    drives = []
    for serial in plan.drives:
        _send(step=f"secure element of drive {serial}")
        drives.append(_provision_drive(state_dir, serial, authority))
    provisioner = _TokenProvisioner(plan, authority, drives)
    tokens = {name: provisioner.prepare(name) for name in plan.tokens}
    provisioner.exchange_certificates()
    return ProvisionedLab(
        state_dir=state_dir,
        ca=authority.certificate_path,
        ekm_tls=ekm_tls,
        rig_tls=rig_tls,
        tokens=tokens,
        drives=tuple(drives),
        absent=provisioner.absent(),
    )


class _TokenProvisioner:
    """Provisions the key managers' tokens, and opens each at most twice."""

    def __init__(
        self,
        plan: ProvisioningPlan,
        authority: CertificateAuthority,
        drives: Sequence[ProvisionedDrive],
    ) -> None:
        self._plan = plan
        self._authority = authority
        self._wrapping = plan.partner_drives | {
            drive.serial: drive.wrap_public_der for drive in drives
        }
        self._certificates: dict[str, dict[str, bytes]] = {}
        """Certificates of the plan's KEKs by token and label."""
        self._imported: dict[str, set[str]] = {}
        """Labels of KEKs that a token has imported from other tokens."""

    def prepare(self, name: str) -> ProvisionedToken:
        """Create what a token lacks; import certificates that are known so far."""
        plan, config = self._plan, self._plan.tokens[name]
        is_first = name == next(iter(plan.tokens))
        _send(step="key manager's token" if is_first else f"token {name}")
        own = config.softhsm_conf == plan.state_dir / CONFIGURATION_FILE
        if own:
            ensure_token(plan.state_dir, config.label)
        with open_token(config) as token:
            if own:
                ensure_reference_keys(token)
            signing = SIGNING if is_first else f"{SIGNING}-{name}"
            signing_public, signing_key = _ensure_signing_key(
                token, config, plan.state_dir / "pki" / f"{signing}.key"
            )
            certificate = self._authority.identity_file(
                signing, "EKM", signing_public, Role.KEY_MANAGER
            )
            keystore = Keystore(token)
            keks = [
                self._find_or_create(keystore, kek)
                for kek in plan.keks
                if kek.token in (name, None)
            ]
            self._certificates[name] = {
                kek.label: kek.certificate.public_bytes(Encoding.DER) for kek in keks if kek
            }
            self._import_missing(name, keystore)
            if self._wrapping:
                _send(step="drive enrolment")
            for serial, public_der in self._wrapping.items():
                keystore.enroll_drive_key(serial, public_der)
            if not own and not _reports_key_length(keystore):
                ensure_reference_keys(token)
            identity = token.identity
        return ProvisionedToken(
            config=config,
            identity=identity,
            certificate=certificate,
            signing_key=signing_key,
            keks=self._certificates[name],
        )

    def exchange_certificates(self) -> None:
        """Import certificates that were unknown when a token was opened."""
        for name in self._plan.tokens:
            if self._missing(name):
                with open_token(self._plan.tokens[name]) as token:
                    self._import_missing(name, Keystore(token))

    def absent(self) -> tuple[str, ...]:
        """Return labels of KEKs that must not be created and that no token has."""
        held = {label_key(label) for labels in self._certificates.values() for label in labels}
        return tuple(kek.label for kek in self._plan.keks if label_key(kek.label) not in held)

    def _find_or_create(self, keystore: Keystore, wanted: KekPlan) -> Kek | None:
        try:
            return keystore.find(wanted.label)
        except LabelUnknownError:
            if not wanted.make:
                return None
        _send(step=f"key {wanted.label}")
        return keystore.create_kek(wanted.label, wanted.bits, authority=self._authority)

    def _missing(self, name: str) -> dict[str, bytes]:
        """Return the certificates that other tokens have and this one lacks."""
        taken = self._imported.setdefault(name, set())
        has = {label_key(label) for label in (*self._certificates[name], *taken)}
        return {
            label: der
            for other, held in self._certificates.items()
            if other != name
            for label, der in held.items()
            if label_key(label) not in has
        }

    def _import_missing(self, name: str, keystore: Keystore) -> None:
        for label, der in self._missing(name).items():
            keystore.import_certificate(label, x509.load_der_x509_certificate(der))
            self._imported[name].add(label)


def _ensure_signing_key(
    token: Token, config: TokenConfig, path: Path
) -> tuple[ec.EllipticCurvePublicKey, Path | None]:
    """Return the public half of the EKM's signing key, and its file if any."""
    if token.makes_p256:
        return ensure_p256(token, EKM_SIGNING_LABEL), None
    if TokenRisk.SIGNING_KEY_IN_FILE not in config.accept:
        raise RiskNotAcceptedError(risk_sentence(config.label, [TokenRisk.SIGNING_KEY_IN_FILE]))
    return ensure_p256_file(path), path


def _reports_key_length(keystore: Keystore) -> bool:
    """Return whether the token reports key lengths, by a test with a KEK."""
    for kek in keystore.list():
        if kek.has_private:
            private_key = keystore.private_key(kek)
            return reports_key_length(keystore.token, private_key, kek.public_key)
    return True  # nothing is unwrapped here


def _change_keks(change: _KekChange) -> dict[str, str]:
    with open_token(change.token) as token:
        keystore = Keystore(token)
        for label, der in change.imported.items():
            keystore.import_certificate(label, x509.load_der_x509_certificate(der))
        keks = {label: keystore.find(label) for label in change.removed}
        for kek in keks.values():
            keystore.remove_kek(kek)
        return {label: kek.spki_hash.hex() for label, kek in keks.items()}


def _provision_drive(
    state_dir: Path, serial: str, authority: CertificateAuthority
) -> ProvisionedDrive:
    config = ensure_token(state_dir, drive_token_label(serial))
    with open_token(config) as token:
        ensure_reference_keys(token)
        identity = ensure_p256(token, DRIVE_IDENTITY_LABEL)
        certificate = authority.identity_file(f"drive-{serial}", serial, identity, Role.DRIVE)
        wrap_key = ensure_rsa(token, DRIVE_WRAP_BITS, DRIVE_WRAP_LABEL)
        return ProvisionedDrive(
            serial=serial,
            token=config,
            identity=token.identity,
            certificate=certificate,
            certificate_der=load_certificate(certificate).public_bytes(Encoding.DER),
            wrap_public_der=spki_der(wrap_key),
            oaep_hash=token.oaep_hash,
            transport_key=_ensure_transport_key(token, state_dir, serial),
        )


def _ensure_transport_key(token: Token, state_dir: Path, serial: str) -> Path:
    """Return the file of the transport key that the token and the gates share.

    The file is written first: a key that is only in the token cannot be loaded into the gates.
    """
    path = state_dir / "transport" / f"{serial}.hex"
    private_directory(path.parent)
    if not path.exists():
        old = token.find_secret(TRANSPORT_LABEL)
        if old is not None:
            with token.translate_refusal("remove a transport key that no gates can have"):
                old.destroy()
        write_private(path, random_bytes(token, TRANSPORT_BYTES).hex().encode() + b"\n")
    value = _read_transport_key(path)
    if token.find_secret(TRANSPORT_LABEL) is None:
        import_transport_key(token, TRANSPORT_LABEL, value)
    if not transport_key_matches(token, TRANSPORT_LABEL, value):
        raise ProvisioningError(
            f"The transport key in {path} is not the one in the drive's token; remove the file and "
            "run `rig hsm init` for a new key."
        )
    return path


def _read_transport_key(path: Path) -> bytes:
    try:
        text = read_limited(path, _MAX_TRANSPORT_FILE).decode("ascii", "replace").strip()
    except OSError as error:
        raise ProvisioningError(
            f"The transport key file {path} cannot be read: {error.strerror}."
        ) from None
    if not _TRANSPORT_KEY.fullmatch(text):
        raise ProvisioningError(
            f"The transport key file {path} should hold {2 * TRANSPORT_BYTES} hexadecimal digits; "
            "remove it and run `rig hsm init` for a new key."
        )
    return bytes.fromhex(text)


if __name__ == "__main__":
    sys.exit(main())
