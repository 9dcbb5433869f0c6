"""Administer keys and drives, where both key manager and token are needed.

The key manager is asked first, so that nothing is done without the admin secret and without a
record in its audit log. Then this process works on the token, with the token's own PINs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hsm.admin_secret import SECRET_VARIABLE
from hsm.ekm.admin.channel import administer
from hsm.ekm.config import EkmConfig
from hsm.errors import TaperigError
from hsm.files import read_limited
from hsm.keys.keystore import Kek, Keystore
from hsm.keys.pki import MAX_PEM_BYTES, CertificateAuthority, load_certificate
from hsm.pkcs11.encoding import spki_der
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.pins import PinSource
from hsm.pkcs11.token import open_token

SO_PIN_VARIABLE = "TAPERIG_SO_PIN"
"""Environment variable that may hold the security officer's PIN."""

_CARTRIDGES_PER_REQUEST = 1000
"""A request is limited to 64 KiB."""


class AdministrationError(TaperigError):
    """An administration request that cannot be carried out as given."""


@dataclass(frozen=True)
class Administrator:
    """The administrator of key managers that share one token."""

    configs: Sequence[EkmConfig]
    secret: str
    authority: Path | None = None
    """Folder of the certificate authority that issues certificates of new KEKs, if any."""

    @property
    def config(self) -> EkmConfig:
        """The configuration of the chosen key manager."""
        return self.configs[0]

    def ask(self, command: str, **arguments: Any) -> Any:
        """Have the chosen key manager carry out a command; return its result."""
        return administer(self.config, self.secret, command, **arguments)

    def ask_all(self, command: str, **arguments: Any) -> list[Any]:
        """Have all key managers carry out a command; return their results."""
        return [administer(each, self.secret, command, **arguments) for each in self.configs]

    def add_key(
        self,
        label: str,
        bits: int,
        certificate: Path | None = None,
        private_key: Path | None = None,
    ) -> Kek:
        """Generate a KEK in the token, or import a certificate and private key.

        Needs the security officer's PIN. A certificate alone makes a public-only KEK.
        """
        if private_key is not None and certificate is None:
            raise AdministrationError("A private key needs its certificate: add --certificate.")
        if certificate is None and self.authority is None:
            raise AdministrationError(
                "A KEK cannot be generated outside of a lab, because no certificate authority is "
                "there; import one with --certificate, and --private-key for its private half."
            )
        self.ask_all("key add", label=label)
        with open_token(self.config.token) as token:
            keystore = Keystore(token)
            if certificate is None:
                assert self.authority is not None
                kek = keystore.create_kek(
                    label, bits, authority=CertificateAuthority(self.authority)
                )
            elif private_key is None:
                kek = keystore.import_certificate(label, load_certificate(certificate))
            else:
                kek = keystore.import_kek(
                    label, _read_key_file(private_key), load_certificate(certificate)
                )
        self.ask_all("key added", label=kek.label, kek_hash=kek.spki_hash.hex())
        return kek

    def users(self, label: str) -> list[dict[str, Any]]:
        """Return the cartridges that need a key, by all key managers' audit logs."""
        kek = self._find(label)
        answers = self.ask_all("key users", label=kek.label, kek_hash=kek.spki_hash.hex())
        found = {(u["volume"], u["cartridge_id"]): u for answer in answers for u in answer}
        return [found[cartridge] for cartridge in sorted(found)]

    def forget_cartridges(self, cartridges: Iterable[tuple[str, bytes]]) -> None:
        """Have all key managers forget cartridges that no longer exist.

        Forgotten cartridges need no key. Each is a pair of VOLSER and cartridge id. Works whether
        or not the key managers run. Raises EkmError, PinError or AdminSecretError.
        """
        pairs = [(volume, cartridge_id.hex()) for volume, cartridge_id in cartridges]
        for first in range(0, len(pairs), _CARTRIDGES_PER_REQUEST):
            self.ask_all(
                "cartridge forget", cartridges=pairs[first : first + _CARTRIDGES_PER_REQUEST]
            )

    def retire(self, label: str) -> Kek:
        """Remove a KEK that no known cartridge needs from the token, permanently."""
        kek = self._find(label)
        named = {"label": kek.label, "kek_hash": kek.spki_hash.hex()}
        begun: list[EkmConfig] = []
        removed = False
        try:
            for config in self.configs:
                administer(config, self.secret, "key retire", **named)
                begun.append(config)
            with open_token(self.config.token) as token:
                Keystore(token).remove_kek(kek)
            removed = True
        finally:
            for config in begun:
                administer(config, self.secret, "key retired", **named, removed=removed)
        return kek

    def add_drive(
        self, serial: str, certificate_der: bytes, wrap_spki: bytes, oaep_hash: OaepHash
    ) -> dict[str, Any]:
        """Enrol a drive, and make its wrapping key TRUSTED (needs the SO PIN)."""
        answer: dict[str, Any] = self.ask(
            "drive add",
            serial=serial,
            certificate=certificate_der.hex(),
            wrap_key=wrap_spki.hex(),
            oaep_hash=oaep_hash.value,
        )
        with open_token(self.config.token) as token:
            Keystore(token).enroll_drive_key(serial, wrap_spki)
        return answer

    def _find(self, label: str) -> Kek:
        with open_token(self.config.token) as token:
            return Keystore(token).find(label)


def read_admin_secret(file: Path | None, default: Path | None = None) -> str:
    """Read the admin secret: from ``file``, the environment, or ``default``.

    Raises PinError when there is none.
    """
    if file is None and SECRET_VARIABLE not in os.environ:
        file = default
    source = PinSource(env=SECRET_VARIABLE) if file is None else PinSource(file=file)
    return source.read("admin secret")


def with_so_pin(config: EkmConfig, file: Path | None) -> EkmConfig:
    """Return ``config`` with the SO PIN from a file or the environment."""
    token = config.token
    if file is not None:
        token = token.replace(so_pin=PinSource(file=file))
    elif token.so_pin is None:
        token = token.replace(so_pin=PinSource(env=SO_PIN_VARIABLE))
    return config.replace(token=token)


def read_wrap_key(path: Path) -> bytes:
    """Return the RSA key in a PEM file as SPKI (DER).

    Raises AdministrationError.
    """
    try:
        key = load_pem_public_key(_read_key_file(path))
    except ValueError:
        key = None
    if not isinstance(key, rsa.RSAPublicKey):
        raise AdministrationError(f"The file {path} holds no RSA public key in PEM.")
    return spki_der(key)


def _read_key_file(path: Path) -> bytes:
    try:
        return read_limited(path, MAX_PEM_BYTES)
    except OSError as error:
        raise AdministrationError(f"The file {path} cannot be read: {error.strerror}.") from None
