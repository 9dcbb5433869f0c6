"""The keystore: KEKs as certificates in the token, found by label or hash.

A KEK has up to three objects: its X.509 certificate (which has the label), its public half (made
TRUSTED by the security officer, wrap only), both with SHA-256 of the SubjectPublicKeyInfo for their
CKA_ID, and, unless it is public-only (KEY-4), its private half (unwrap only, never extractable,
restricted; see hsm.pkcs11.key_restrictions) with the same modulus. The certificate is written last,
so every KEK that is listed is complete. The keystore compares labels without case (KEY-5), because
tokens do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pkcs11 import Attribute, CertificateType, KeyType, ObjectClass
from pkcs11.types import SignMixin, UnwrapMixin, WrapMixin

from hsm.errors import (
    DriveKeyUnknownError,
    KekDuplicateError,
    KekHashUnknownError,
    KekInvalidError,
    KekPublicOnlyError,
    LabelDuplicateError,
    LabelUnknownError,
)
from hsm.keys.eedk import MAX_KEK_BITS, MIN_KEK_BITS
from hsm.keys.key_generation import RESTRICTED_ID_PREFIX, generate_rsa, import_rsa, trust_public_key
from hsm.keys.labels import label_key, normalize_label
from hsm.keys.pki import CertificateAuthority
from hsm.pkcs11.encoding import der_integer, rsa_public, spki_hash
from hsm.pkcs11.token import Token

PENDING_LABEL: Final = "taperig pending"
"""Label of the private half of an unfinished KEK; safe to remove."""


@dataclass(frozen=True, slots=True)
class Kek:
    """The public description of a KEK in the keystore."""

    label: str
    spki_hash: bytes
    """SHA-256 of the SubjectPublicKeyInfo, 32 bytes."""
    certificate: x509.Certificate
    has_private: bool
    bits: int

    @property
    def public_key(self) -> rsa.RSAPublicKey:
        """The public half, as the certificate has it."""
        return _rsa_public_key(self.certificate)


class Keystore:
    """The KEKs and drive keys of one open token."""

    def __init__(self, token: Token) -> None:
        """Use `token` without a cache, so that other processes' changes are seen."""
        self._token = token

    @property
    def token(self) -> Token:
        """The token that holds the keys."""
        return self._token

    def list(self) -> tuple[Kek, ...]:
        """Return all KEKs, ordered by label."""
        keks = (self._kek(found) for found in self._certificates({}))
        return tuple(sorted((kek for kek in keks if kek), key=lambda kek: label_key(kek.label)))

    def find(self, label: str) -> Kek:
        """Return the KEK under `label`, in any case; raises LabelUnknownError."""
        wanted = label_key(label)
        for kek in self.list():
            if label_key(kek.label) == wanted:
                return kek
        raise LabelUnknownError(
            f"The keystore {self._token.label} has no key labelled {normalize_label(label)!r}; "
            "create or import it, or correct the label."
        )

    def find_by_hash(self, kek_hash: bytes) -> Kek:
        """Return the KEK with this SPKI's SHA-256; raises KekHashUnknownError."""
        for found in self._certificates({Attribute.ID: kek_hash}):
            kek = self._kek(found)
            if kek:
                return kek
        raise KekHashUnknownError(
            f"The keystore {self._token.label} has no key with the public-key hash "
            f"{kek_hash.hex()}; in hash mode its label is not known. Import the KEK."
        )

    def public_key(self, kek: Kek) -> WrapMixin:
        """Return the token's TRUSTED public half; raises LabelUnknownError."""
        found = self._token.trusted_public_key(kek.spki_hash)
        if found is None:
            raise LabelUnknownError(
                f"The keystore {self._token.label} lacks the trusted public half of {kek.label!r}; "
                "import its certificate again."
            )
        return found

    def private_key(self, kek: Kek) -> UnwrapMixin:
        """Return the token's private half; raises KekPublicOnlyError (KEY-4)."""
        found = self._token.private_half(kek.public_key)
        if found is None:
            raise KekPublicOnlyError(
                f"The keystore {self._token.label} holds {kek.label!r} without its private half, "
                "so it can make EEDKs and not open them; import its private key."
            )
        return found

    def is_restricted(self, kek: Kek) -> bool:
        """Return whether the private half is restricted to unwrapping data keys."""
        private: Any = self._token.private_half(kek.public_key)
        with self._token.translate_refusal("describe a private key"):
            return private is not None and not private[Attribute.MODIFIABLE]

    def create_kek(
        self, label: str, bits: int = MIN_KEK_BITS, *, authority: CertificateAuthority
    ) -> Kek:
        """Generate an RSA pair in the token and its certificate; return the KEK.

        Needs the security officer's PIN. Raises LabelInvalidError, LabelDuplicateError (KEY-10),
        KekInvalidError (bits outside 2048..4096 or no multiple of 256).
        """
        label = self._free_label(label)
        _check_bits(bits)
        if bits % 256:
            raise KekInvalidError(
                f"The size of a new KEK is a multiple of 256 bits; {bits} is none."
            )
        self._remove_pending()
        public_key = generate_rsa(self._token, bits, label, PENDING_LABEL)
        certificate = authority.issue_kek(label, public_key)
        trust_public_key(self._token, public_key, label)
        return self._write_certificate(label, certificate, public_key)

    def import_kek(
        self,
        label: str,
        private_key_pem: bytes,
        certificate: x509.Certificate,
        password: bytes | None = None,
    ) -> Kek:
        """Import a KEK with its private key (PEM, PKCS#8 or PKCS#1).

        Completes a public-only KEK of the same label and certificate. Needs the security officer's
        PIN. Raises LabelInvalidError, LabelDuplicateError, KekDuplicateError, KekInvalidError.
        """
        private_key = _rsa_private_key(private_key_pem, password)
        public_key = _rsa_public_key(certificate)
        if spki_hash(private_key.public_key()) != spki_hash(public_key):
            raise KekInvalidError(
                f"The private key and the certificate for {label!r} do not belong together."
            )
        label = self._label_for(label, certificate)
        if self._token.private_half(public_key) is None:
            import_rsa(self._token, private_key, label, PENDING_LABEL)
        trust_public_key(self._token, public_key, label)
        return self._write_certificate(label, certificate, public_key)

    def import_certificate(self, label: str, certificate: x509.Certificate) -> Kek:
        """Import a public-only KEK (KEY-4); repeating changes nothing.

        Needs the security officer's PIN. Raises LabelInvalidError, LabelDuplicateError,
        KekDuplicateError, KekInvalidError.
        """
        public_key = _rsa_public_key(certificate)
        label = self._label_for(label, certificate)
        trust_public_key(self._token, public_key, label)
        return self._write_certificate(label, certificate, public_key)

    def remove_kek(self, kek: Kek) -> None:
        """Remove a KEK with its private half, permanently.

        The caller must know that no cartridge needs it (POOL-3). The private half is removed first,
        so an interruption leaves a public-only KEK, which can be removed again.
        """
        private = self._token.private_half(kek.public_key)
        with self._token.translate_refusal("remove a KEK"):
            for found in (
                *([private] if private is not None else []),
                *self._token.find(
                    {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: kek.spki_hash}
                ),
                *self._certificates({Attribute.ID: kek.spki_hash}),
            ):
                found.destroy()

    def enroll_drive_key(self, serial: str, public_der: bytes) -> None:
        """Make a drive's RSA key (SPKI, DER) TRUSTED as security officer.

        Repeating changes nothing. Raises KekInvalidError when the key is not RSA 2048..4096.
        """
        trust_public_key(self._token, check_drive_key(serial, public_der), f"drive {serial}")

    def signing_key(self, label: str) -> SignMixin:
        """Return the token's P-256 private key `label`; raises KeyAbsentError."""
        return self._token.signing_key(label)

    def clear_cache(self) -> bool:
        """Clear the cache, if there is one; return whether it held anything."""
        return False

    def drive_key(self, public_der: bytes) -> WrapMixin:
        """Return the enrolled public key of a drive; raises DriveKeyUnknownError."""
        public_key = check_drive_key("", public_der)
        found = self._token.trusted_public_key(spki_hash(public_key))
        if found is None:
            raise DriveKeyUnknownError(
                f"The drive's wrapping key {spki_hash(public_key).hex()[:16]}... is not enrolled "
                f"in the token {self._token.label}; enrol the drive."
            )
        return found

    # Private

    def _certificates(self, template: dict[Attribute, Any]) -> Sequence[Any]:
        return self._token.find(
            {
                Attribute.CLASS: ObjectClass.CERTIFICATE,
                Attribute.CERTIFICATE_TYPE: CertificateType.X_509,
                **template,
            }
        )

    def _kek(self, found: Any) -> Kek | None:
        """Return the KEK of a certificate object; None if it is not a KEK's."""
        try:
            certificate = x509.load_der_x509_certificate(found[Attribute.VALUE])
            public_key = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm):
            return None
        identity = found[Attribute.ID]
        if not isinstance(public_key, rsa.RSAPublicKey) or identity != spki_hash(public_key):
            return None
        return Kek(
            label=found[Attribute.LABEL],
            spki_hash=identity,
            certificate=certificate,
            has_private=self._token.private_half(public_key) is not None,
            bits=public_key.key_size,
        )

    def _free_label(self, label: str) -> str:
        label = normalize_label(label)
        for kek in self.list():
            if label_key(kek.label) == label_key(label):
                raise LabelDuplicateError(
                    f"The keystore {self._token.label} has another certificate labelled "
                    f"{kek.label!r}; choose another label or remove that key first."
                )
        return label

    def _label_for(self, label: str, certificate: x509.Certificate) -> str:
        """Return the label under which this certificate is or may be stored."""
        label = normalize_label(label)
        identity = spki_hash(_rsa_public_key(certificate))
        for kek in self.list():
            same_label = label_key(kek.label) == label_key(label)
            if same_label and kek.certificate == certificate:
                return kek.label
            if kek.spki_hash == identity and not same_label:
                raise KekDuplicateError(
                    f"The keystore {self._token.label} has this public key already, labelled "
                    f"{kek.label!r}."
                )
        return self._free_label(label)

    def _write_certificate(
        self, label: str, certificate: x509.Certificate, public_key: rsa.RSAPublicKey
    ) -> Kek:
        """Write the certificate if it is absent, which completes the KEK."""
        identity = spki_hash(public_key)
        with self._token.translate_refusal("finish a KEK"):
            private: Any = self._token.private_half(public_key)
            if not self._certificates({Attribute.ID: identity}):
                self._token.session.create_object(
                    {
                        Attribute.CLASS: ObjectClass.CERTIFICATE,
                        Attribute.CERTIFICATE_TYPE: CertificateType.X_509,
                        Attribute.TOKEN: True,
                        Attribute.PRIVATE: False,
                        Attribute.LABEL: label,
                        Attribute.ID: identity,
                        Attribute.SUBJECT: certificate.subject.public_bytes(),
                        Attribute.ISSUER: certificate.issuer.public_bytes(),
                        Attribute.SERIAL_NUMBER: der_integer(certificate.serial_number),
                        Attribute.VALUE: certificate.public_bytes(serialization.Encoding.DER),
                    }
                )
            if private is not None and private[Attribute.LABEL] == PENDING_LABEL:
                private[Attribute.LABEL] = label
        return self.find_by_hash(identity)

    def _remove_pending(self) -> None:
        """Remove private halves that an interruption left without a certificate."""
        halves = self._token.find(
            {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.KEY_TYPE: KeyType.RSA}
        )
        for private in halves:
            with self._token.translate_refusal("remove an unfinished KEK"):
                unfinished = private[Attribute.LABEL] == PENDING_LABEL or private[
                    Attribute.ID
                ].startswith(RESTRICTED_ID_PREFIX)
                if unfinished and not self._certificates(
                    {Attribute.ID: spki_hash(rsa_public(private))}
                ):
                    private.destroy()


def _check_bits(bits: int) -> None:
    if not MIN_KEK_BITS <= bits <= MAX_KEK_BITS:
        raise KekInvalidError(
            f"A KEK is an RSA key of {MIN_KEK_BITS} to {MAX_KEK_BITS} bits; this has {bits}."
        )


def _check_rsa_key(public_key: object, whose: str) -> rsa.RSAPublicKey:
    if not isinstance(public_key, rsa.RSAPublicKey):
        raise KekInvalidError(f"The key of {whose} is not an RSA key.")
    _check_bits(public_key.key_size)
    return public_key


def _rsa_public_key(certificate: x509.Certificate) -> rsa.RSAPublicKey:
    return _check_rsa_key(
        certificate.public_key(), f"the certificate {certificate.subject.rfc4514_string()}"
    )


def _rsa_private_key(pem: bytes, password: bytes | None) -> rsa.RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password)
    except (ValueError, TypeError) as error:
        # TypeError: a password is missing or not needed. Neither text holds key material.
        raise KekInvalidError(f"The KEK's private key cannot be read: {error}") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise KekInvalidError("The KEK's private key is not an RSA key.")
    return key


def check_drive_key(serial: str, public_der: bytes) -> rsa.RSAPublicKey:
    """Return a drive's wrapping key from SPKI, DER; raises KekInvalidError."""
    whose = f"drive {serial}" if serial else "the drive"
    try:
        public_key = serialization.load_der_public_key(public_der)
    except ValueError:
        raise KekInvalidError(f"The wrapping key of {whose} is not a public key in DER.") from None
    return _check_rsa_key(public_key, whose)
