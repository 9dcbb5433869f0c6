"""Carry out a plan of provisioning, as a process of its own.

It has a process because a PKCS#11 context belongs to one, and the transport keys in its memory end
with it. It opens the tokens of drives and key managers one after the other, also with different
modules: each module is finalized before the next is opened. Tokens exchange only certificates of
KEKs. A lock file separates two runs, and every step first checks what exists, so an interrupted run
can be repeated.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hsm.admin_secret import ensure_admin_secret
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
from hsm.keys.keystore import Kek, Keystore
from hsm.keys.labels import (
    DRIVE_IDENTITY_LABEL,
    DRIVE_WRAP_LABEL,
    TRANSPORT_LABEL,
    label_key,
)
from hsm.keys.pki import CertificateAuthority, Role, ensure_p256_file, load_certificate
from hsm.pkcs11.accepted_risks import TokenRisk, risk_sentence
from hsm.pkcs11.config import TokenConfig
from hsm.pkcs11.encoding import spki_der
from hsm.pkcs11.softhsm import (
    ADMIN_SECRET,
    CONFIGURATION_FILE,
    drive_token_label,
    write_configuration,
)
from hsm.pkcs11.softhsm_token import ensure_token
from hsm.pkcs11.token import Token, open_token
from hsm.provisioning import (
    KekChange,
    KekPlan,
    ProvisionedDrive,
    ProvisionedLab,
    ProvisionedToken,
    ProvisioningPlan,
    record,
)

SIGNING: Final = "ekm-signing"
DRIVE_WRAP_BITS: Final = 2048
TRANSPORT_BYTES: Final = 32
_MAX_TRANSPORT_FILE: Final = 4096
_TRANSPORT_KEY: Final = re.compile(rf"[0-9a-f]{{{2 * TRANSPORT_BYTES}}}")


def _send(**message: str) -> None:
    print(json.dumps(message), flush=True)


def main() -> int:
    """Carry out the request on standard input; answer on standard output."""
    try:
        text = sys.stdin.read()
        if not text:
            return 2  # the parent was interrupted
        if sys.argv[1:] == ["change"]:
            change = KekChange.model_validate_json(text)
            with _locked(change.state_dir):
                _send(result=json.dumps(_change_keks(change)))
        else:
            plan = ProvisioningPlan.model_validate_json(text)
            private_directory(plan.state_dir)
            with _locked(plan.state_dir):
                lab = _carry_out(plan)
                record(plan, lab)
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


def _change_keks(change: KekChange) -> dict[str, str]:
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
