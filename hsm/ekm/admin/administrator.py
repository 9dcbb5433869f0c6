"""Administration of the keys and drives of a key manager, where the token is needed too.

The key manager is asked first, so that nothing is done without the admin secret and without a word
in its audit log; then the token's work is done in this process, with the token's own PINs.
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
"""Environment variable that may hold the security officer's PIN, to bring keys into a token."""


_FORGOTTEN_AT_ONCE = 1000
"""Cartridges of one request, which is limited to 64 KiB."""


class AdministrationError(TaperigError):
    """An administration request that cannot be carried out as given."""


@dataclass(frozen=True)
class Administrator:
    """Administrate key managers that share one token, with their admin secret."""

    configs: Sequence[EkmConfig]
    secret: str
    authority: Path | None = None
    """Folder of the certificate authority that vouches for KEKs made here, if there is one."""

    @property
    def config(self) -> EkmConfig:
        """The key manager that was chosen."""
        return self.configs[0]

    def ask(self, command: str, **arguments: Any) -> Any:
        """Have the chosen key manager carry out a command; return its result."""
        return administer(self.config, self.secret, command, **arguments)

    def ask_all(self, command: str, **arguments: Any) -> list[Any]:
        """Have all of them carry it out."""
        return [administer(each, self.secret, command, **arguments) for each in self.configs]

    def add_key(
        self,
        label: str,
        bits: int,
        certificate: Path | None = None,
        private_key: Path | None = None,
    ) -> Kek:
        """Make a KEK in the token, or bring one in: its certificate, and its private half if given.

        Needs the security officer's PIN.
        """
        if private_key is not None and certificate is None:
            raise AdministrationError("A private key comes with its certificate: --certificate.")
        if certificate is None and self.authority is None:
            raise AdministrationError(
                "Outside of a lab there is no authority for a new KEK; bring one in with "
                "--certificate, and --private-key for its private half."
            )
        self.ask_all("key add", label=label)
        with open_token(self.config.token) as token:
            keystore = Keystore(token)
            if certificate is None:
                assert self.authority is not None
                made = keystore.create_kek(
                    label, bits, authority=CertificateAuthority(self.authority)
                )
            elif private_key is None:
                made = keystore.import_certificate(label, load_certificate(certificate))
            else:
                made = keystore.import_kek(
                    label, _content(private_key), load_certificate(certificate)
                )
        self.ask_all("key added", label=made.label, kek_hash=made.spki_hash.hex())
        return made

    def users(self, label: str) -> list[dict[str, Any]]:
        """Return the cartridges that need a key, as all key managers of its token know them."""
        kek = self._find(label)
        answers = self.ask_all("key users", label=kek.label, kek_hash=kek.spki_hash.hex())
        found = {(u["volume"], u["cartridge_id"]): u for answer in answers for u in answer}
        return [found[cartridge] for cartridge in sorted(found)]

    def forget_cartridges(self, cartridges: Iterable[tuple[str, bytes]]) -> None:
        """Tell all key managers of cartridges that are thrown away, so that they need no key.

        Each is a pair of VOLSER and the cartridge id in its memory. Works while the key managers
        run and while they do not. Raises EkmError, PinError or AdminSecretError.
        """
        pairs = [(volume, cartridge_id.hex()) for volume, cartridge_id in cartridges]
        for first in range(0, len(pairs), _FORGOTTEN_AT_ONCE):
            self.ask_all("cartridge forget", cartridges=pairs[first : first + _FORGOTTEN_AT_ONCE])

    def retire(self, label: str) -> Kek:
        """Remove a KEK that no known cartridge needs, from the token and for good."""
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
        """Admit a drive, and have the token trust its wrapping key (security officer's PIN)."""
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


def admin_secret(file: Path | None, usual: Path | None = None) -> str:
    """Return the admin secret: of the file if one is given, else of the environment, else usual.

    Raises PinError with a sentence when there is none.
    """
    if file is None and SECRET_VARIABLE not in os.environ:
        file = usual
    source = PinSource(env=SECRET_VARIABLE) if file is None else PinSource(file=file)
    return source.read("admin secret")


def with_officer(config: EkmConfig, file: Path | None) -> EkmConfig:
    """Return the configuration with the security officer's PIN from a file or the environment."""
    token = config.token
    if file is not None:
        token = token.replace(so_pin=PinSource(file=file))
    elif token.so_pin is None:
        token = token.replace(so_pin=PinSource(env=SO_PIN_VARIABLE))
    return config.replace(token=token)


def wrap_key_of(path: Path) -> bytes:
    """Return the RSA public key (SPKI, DER) in a PEM file; raises AdministrationError."""
    try:
        key = load_pem_public_key(_content(path))
    except ValueError:
        key = None
    if not isinstance(key, rsa.RSAPublicKey):
        raise AdministrationError(f"The file {path} holds no RSA public key in PEM.")
    return spki_der(key)


def _content(path: Path) -> bytes:
    try:
        return read_limited(path, MAX_PEM_BYTES)
    except OSError as error:
        raise AdministrationError(f"The file {path} cannot be read: {error.strerror}.") from None
