"""Everything on the key side that a lab needs before its first run, made where it is missing.

All of it lives under one state directory, with access for its owner only:

| path | what |
| --- | --- |
| `softhsm2.conf`, `tokens/` | SoftHSM's configuration and tokens |
| `pins/<token label>`, `pins/<token label>.so` | the user's and the security officer's PIN |
| `pins/ekm-admin`, `ekm/admin.scrypt` | the key managers' admin secret, and its hash |
| `pki/` | the lab CA, TLS identities, `ekm-signing.pem`, `drive-<serial>.pem` |
| `transport/<serial>.hex` | the transport key that the gates of this drive's engine are given |

The work is done in a child process: a PKCS#11 context belongs to one process, and the transport
keys that pass through the child's memory vanish with it. Tokens are opened one after the other and
the security officer logs in where a key has to be trusted. A lock file keeps two runs apart, and
every step looks first at what is there, so an interrupted run can be repeated.
"""

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hsm.admin_secret import ensure_admin_secret
from hsm.crash_log import report
from hsm.errors import (
    LabelUnknownError,
    LimitNotAcceptedError,
    ProvisioningError,
    TaperigError,
)
from hsm.files import private_directory, write_private
from hsm.keys.data_keys import EKM_SIGNING_LABEL
from hsm.keys.key_generation import (
    ensure_gauges,
    ensure_p256,
    ensure_rsa,
    import_transport_key,
    random_bytes,
    tells_length,
    transport_key_is,
)
from hsm.keys.keystore import MIN_KEK_BITS, Keystore
from hsm.keys.labels import normalize_label
from hsm.keys.pki import CertificateAuthority, Role, TlsFiles, ensure_p256_file, load_certificate
from hsm.pkcs11.accepted_risks import Limit, limit_sentence
from hsm.pkcs11.config import TokenConfig, token_as_plain, token_from_plain
from hsm.pkcs11.encoding import spki_der
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.softhsm import (
    EKM_TOKEN_LABEL,
    drive_token_label,
    ensure_token,
    provision,
    token_config,
    write_configuration,
)
from hsm.pkcs11.token import Token, open_token

ADMIN_SECRET: Final = "ekm-admin"
SIGNING: Final = "ekm-signing"
DRIVE_IDENTITY_LABEL: Final = "taperig drive identity"
DRIVE_WRAP_LABEL: Final = "taperig drive wrap"
TRANSPORT_LABEL: Final = "taperig transport"
DRIVE_WRAP_BITS: Final = 2048
TRANSPORT_BYTES: Final = 32
EKM_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
_SERIAL: Final = re.compile(r"[A-Za-z0-9-]{1,18}")
_TRANSPORT_KEY: Final = re.compile(rf"[0-9a-f]{{{2 * TRANSPORT_BYTES}}}")


@dataclass(frozen=True, slots=True)
class ProvisionedDrive:
    """A drive whose secure element is ready and whose wrapping key the EKM's token trusts."""

    serial: str
    token: TokenConfig
    certificate: Path
    """The drive's identity certificate (P-256, PEM), issued by the lab CA; its CN is the serial."""
    certificate_der: bytes
    wrap_public_der: bytes
    """The RSA key that SEDKs are wrapped to: SubjectPublicKeyInfo, DER."""
    oaep_hash: OaepHash
    """The best OAEP hash that the drive's token can do."""
    transport_key: Path
    """File of 64 hexadecimal digits, mode 0600, for the gates alone."""


@dataclass(frozen=True, slots=True)
class ProvisionedLab:
    """What a run needs to know of the key side; paths and public keys only."""

    state_dir: Path
    ekm_token: TokenConfig
    ca: Path
    """The lab CA's certificate (PEM)."""
    ekm_certificate: Path
    """The EKM's signing certificate (P-256, PEM); its key is in the EKM's token or a file."""
    ekm_signing_key: Path | None
    """The file of that key, where the token makes no P-256 keys and the lab accepts this."""
    ekm_tls: TlsFiles
    rig_tls: TlsFiles
    drives: tuple[ProvisionedDrive, ...]
    keks: Mapping[str, x509.Certificate]
    """The KEKs asked for, by the labels they have: what other sites may have of them."""
    elsewhere: "Mapping[str, ProvisionedLab]" = field(default_factory=dict)
    """The same for further tokens of the lab with key managers of their own, by the lab's name."""

    @property
    def admin_secret(self) -> Path:
        """File of the key managers' admin secret (0600); its owner may have taken it away."""
        return self.state_dir / "pins" / ADMIN_SECRET

    @property
    def admin_secret_hash(self) -> Path:
        """File of the admin secret's hash, which the key managers have."""
        return self.state_dir / "ekm" / "admin.scrypt"

    def drive(self, serial: str) -> ProvisionedDrive:
        """Return the drive `serial`; raises ProvisioningError."""
        for drive in self.drives:
            if drive.serial == serial:
                return drive
        raise ProvisioningError(f"The drive {serial} is not provisioned; run `rig hsm init`.")


def provision_lab(
    state_dir: Path,
    kek_labels: Sequence[str],
    drive_serials: Sequence[str],
    *,
    ekm_hosts: Sequence[str] = EKM_HOSTS,
    kek_bits: int = MIN_KEK_BITS,
    ekm_token: TokenConfig | None = None,
    partner_keks: Mapping[str, x509.Certificate] | None = None,
    partner_drives: Mapping[str, bytes] | None = None,
    signing: str = SIGNING,
    progress: Callable[[str], None] = lambda step: None,
) -> ProvisionedLab:
    """Make what is missing of tokens, PINs, KEKs, CA, certificates and drives; return it all.

    `ekm_token` is a token of the user's own that shall hold the KEKs; by default the rig makes one
    in SoftHSM. `partner_keks` are other sites' KEKs by the label that they get here: certificates,
    so they are public-only (KEY-4). `partner_drives` are drives that are not provisioned here and
    shall get data keys all the same: by serial, the RSA key that theirs are wrapped to (SPKI, DER).
    `signing` names the files of the EKM's signing certificate, one for each token under a state
    directory.
    `progress` is called with a few words as each part begins. Raises TaperigError subclasses: bad
    labels and serials as such, whatever fails in the child process as ProvisioningError.
    """
    for label in kek_labels:
        normalize_label(label)
    for serial in drive_serials:
        check_serial(serial)
    state_dir = state_dir.absolute()
    request = {
        "state_dir": str(state_dir),
        "kek_labels": list(kek_labels),
        "kek_bits": kek_bits,
        "drive_serials": list(drive_serials),
        "ekm_hosts": list(ekm_hosts),
        "ekm_token": None if ekm_token is None else token_as_plain(ekm_token),
        "partner_keks": {
            label: certificate.public_bytes(Encoding.DER).hex()
            for label, certificate in (partner_keks or {}).items()
        },
        "partner_drives": {
            serial: public_der.hex() for serial, public_der in (partner_drives or {}).items()
        },
        "signing": signing,
    }
    answer = _in_child(request, progress)
    tls = {
        name: TlsFiles(*(Path(path) for path in answer[name])) for name in ("ekm_tls", "rig_tls")
    }
    return ProvisionedLab(
        state_dir=state_dir,
        ekm_token=ekm_token or token_config(state_dir, EKM_TOKEN_LABEL),
        ca=Path(answer["ca"]),
        ekm_certificate=Path(answer["ekm_certificate"]),
        ekm_signing_key=Path(answer["ekm_signing_key"]) if answer["ekm_signing_key"] else None,
        ekm_tls=tls["ekm_tls"],
        rig_tls=tls["rig_tls"],
        drives=tuple(_drive(state_dir, drive) for drive in answer["drives"]),
        keks={
            label: x509.load_der_x509_certificate(bytes.fromhex(der))
            for label, der in answer["keks"].items()
        },
    )


def provision_drive(
    state_dir: Path, serial: str, *, progress: Callable[[str], None] = lambda step: None
) -> ProvisionedDrive:
    """Make what is missing of one drive, have the EKM's token trust it, and return it."""
    return provision_lab(state_dir, (), (serial,), progress=progress).drive(serial)


def remove_keks(state_dir: Path, labels: Sequence[str]) -> dict[str, str]:
    """Remove KEKs of a provisioned token for good, whoever still needs them.

    Returns SHA-256 of each one's SubjectPublicKeyInfo, hexadecimal, by its label.
    """
    request = {"state_dir": str(state_dir.absolute()), "remove_keks": list(labels)}
    removed: dict[str, str] = _in_child(request, lambda step: None)["removed"]
    return removed


def check_serial(serial: str) -> None:
    """Raise ProvisioningError unless the drive serial is 1 to 18 letters, digits and hyphens."""
    if not _SERIAL.fullmatch(serial):
        raise ProvisioningError(
            f"A drive serial has 1 to 18 letters, digits and hyphens; {serial!r} has not."
        )


def _drive(state_dir: Path, answer: dict[str, str]) -> ProvisionedDrive:
    return ProvisionedDrive(
        serial=answer["serial"],
        token=token_config(state_dir, drive_token_label(answer["serial"])),
        certificate=Path(answer["certificate"]),
        certificate_der=bytes.fromhex(answer["certificate_der"]),
        wrap_public_der=bytes.fromhex(answer["wrap_public_der"]),
        oaep_hash=OaepHash(answer["oaep_hash"]),
        transport_key=Path(answer["transport_key"]),
    )


def _in_child(request: dict[str, Any], progress: Callable[[str], None]) -> dict[str, Any]:
    """Run this module as a child process; it answers in lines of JSON."""
    answer: dict[str, Any] = {}
    with subprocess.Popen(
        [sys.executable, "-m", "hsm.provisioning"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,  # Ctrl-C comes to this process, which ends the child
    ) as child:
        if child.stdin is None or child.stdout is None:
            raise ProvisioningError("The provisioning process has no pipes.")
        try:
            child.stdin.write(json.dumps(request))
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
    if child.returncode or not answer or "step" in answer:
        raise ProvisioningError(
            f"The provisioning process ended with code {child.returncode}; run it again."
        )
    return answer


# What follows runs in the child.


def _tell(**message: object) -> None:
    print(json.dumps(message), flush=True)


def main() -> int:
    """Provision what the request on standard input asks for; answer on standard output."""
    try:
        request = json.load(sys.stdin)
        state_dir = Path(request["state_dir"])
        private_directory(state_dir)
        with _alone(state_dir):
            if "remove_keks" in request:
                _tell(removed=_remove_keks(state_dir, request["remove_keks"]))
            else:
                _tell(**_provision(state_dir, request))
    except TaperigError as error:
        _tell(error=str(error))
        return 2
    except BrokenPipeError:
        return 2  # nobody listens any more
    except Exception as error:
        _tell(error=report(error, "The provisioning process"))
        return 2
    return 0


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    descriptor = os.open(state_dir / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _provision(state_dir: Path, request: dict[str, Any]) -> dict[str, Any]:
    write_configuration(state_dir)
    _tell(step="certificate authority")
    authority = CertificateAuthority(state_dir / "pki")
    ekm_tls = authority.issue_tls("ekm-tls", tuple(request["ekm_hosts"]), server=True)
    rig_tls = authority.issue_tls("rig-tls", server=False)
    ensure_admin_secret(state_dir / "pins" / ADMIN_SECRET, state_dir / "ekm" / "admin.scrypt")
    _tell(step="key manager's token")
    named = request.get("ekm_token")
    ekm_token = provision(state_dir) if named is None else token_from_plain(named)
    if named is not None and ekm_token.softhsm_conf is not None:
        ensure_token(state_dir, ekm_token.label)
    with open_token(ekm_token) as token:
        if named is None:
            ensure_gauges(token)
        signing = request.get("signing", SIGNING)
        signing_public, signing_key = _ensure_signing_key(
            token, ekm_token, state_dir / "pki" / f"{signing}.key"
        )
        ekm_certificate = authority.identity_file(signing, "EKM", signing_public, Role.KEY_MANAGER)
        keystore = Keystore(token)
        keks = {}
        for label in request["kek_labels"]:
            try:
                kek = keystore.find(label)
            except LabelUnknownError:
                _tell(step=f"key {label}")
                kek = keystore.create_kek(label, request["kek_bits"], authority=authority)
            keks[kek.label] = kek.certificate.public_bytes(Encoding.DER).hex()
        for label, der in request.get("partner_keks", {}).items():
            keystore.import_certificate(label, x509.load_der_x509_certificate(bytes.fromhex(der)))
        for serial, public_der in request.get("partner_drives", {}).items():
            keystore.enroll_drive_key(serial, bytes.fromhex(public_der))
        if named is not None and not _tells_length(keystore):
            ensure_gauges(token)
    drives = []
    for serial in request["drive_serials"]:
        _tell(step=f"secure element of drive {serial}")
        drives.append(_provision_drive(state_dir, serial, authority))
    if drives:
        _tell(step="drive enrolment")
        with open_token(ekm_token) as token:
            for drive in drives:
                Keystore(token).enroll_drive_key(
                    drive["serial"], bytes.fromhex(drive["wrap_public_der"])
                )
    return {
        "ca": str(authority.certificate_path),
        "ekm_certificate": str(ekm_certificate),
        "ekm_signing_key": None if signing_key is None else str(signing_key),
        "ekm_tls": _paths(ekm_tls),
        "rig_tls": _paths(rig_tls),
        "drives": drives,
        "keks": keks,
    }


def _ensure_signing_key(
    token: Token, config: TokenConfig, path: Path
) -> tuple[ec.EllipticCurvePublicKey, Path | None]:
    """Return the public half of the EKM's signing key, and its file if it is not in the token."""
    if token.makes_p256:
        return ensure_p256(token, EKM_SIGNING_LABEL), None
    if Limit.SIGNING_KEY_IN_FILE not in config.accept:
        raise LimitNotAcceptedError(limit_sentence(config.label, [Limit.SIGNING_KEY_IN_FILE]))
    return ensure_p256_file(path), path


def _tells_length(keystore: Keystore) -> bool:
    """Say whether the token tells how long what it unwraps is; tried with one of its KEKs."""
    for kek in keystore.list():
        if kek.has_private:
            private_key = keystore.private_key(kek)
            return tells_length(keystore.token, private_key, kek.public_key)
    return True  # nothing is unwrapped here


def _remove_keks(state_dir: Path, labels: Sequence[str]) -> dict[str, str]:
    with open_token(token_config(state_dir, EKM_TOKEN_LABEL)) as token:
        keystore = Keystore(token)
        keks = {label: keystore.find(label) for label in labels}
        for kek in keks.values():
            keystore.remove_kek(kek)
        return {label: kek.spki_hash.hex() for label, kek in keks.items()}


def _paths(files: TlsFiles) -> list[str]:
    return [str(files.certificate), str(files.key), str(files.ca)]


def _provision_drive(
    state_dir: Path, serial: str, authority: CertificateAuthority
) -> dict[str, str]:
    with open_token(ensure_token(state_dir, drive_token_label(serial))) as token:
        ensure_gauges(token)
        identity = ensure_p256(token, DRIVE_IDENTITY_LABEL)
        certificate = authority.identity_file(f"drive-{serial}", serial, identity, Role.DRIVE)
        wrap_key = ensure_rsa(token, DRIVE_WRAP_BITS, DRIVE_WRAP_LABEL)
        return {
            "serial": serial,
            "certificate": str(certificate),
            "certificate_der": load_certificate(certificate).public_bytes(Encoding.DER).hex(),
            "wrap_public_der": spki_der(wrap_key).hex(),
            "oaep_hash": token.oaep_hash.value,
            "transport_key": str(_ensure_transport_key(token, state_dir, serial)),
        }


def _ensure_transport_key(token: Token, state_dir: Path, serial: str) -> Path:
    """Return the file of the transport key that the token and the gates share.

    The file comes first: a key that is only in the token could never be given to the gates.
    """
    path = state_dir / "transport" / f"{serial}.hex"
    private_directory(path.parent)
    if not path.exists():
        old = token.find_secret(TRANSPORT_LABEL)
        if old is not None:
            with token.asking("remove a transport key that no gates can have"):
                old.destroy()
        write_private(path, random_bytes(token, TRANSPORT_BYTES).hex().encode() + b"\n")
    value = _read_transport_key(path)
    if token.find_secret(TRANSPORT_LABEL) is None:
        import_transport_key(token, TRANSPORT_LABEL, value)
    if not transport_key_is(token, TRANSPORT_LABEL, value):
        raise ProvisioningError(
            f"The transport key in {path} is not the one in the drive's token; remove the file and "
            "run `rig hsm init` for a new key."
        )
    return path


def _read_transport_key(path: Path) -> bytes:
    text = path.read_text("ascii", "replace").strip()
    if not _TRANSPORT_KEY.fullmatch(text):
        raise ProvisioningError(
            f"The transport key file {path} should hold {2 * TRANSPORT_BYTES} hexadecimal digits; "
            "remove it and run `rig hsm init` for a new key."
        )
    return bytes.fromhex(text)


if __name__ == "__main__":
    sys.exit(main())
