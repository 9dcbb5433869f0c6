"""Data keys (DKs) of a key manager: generate, wrap, unwrap.

A DK is always a handle in the token; its bytes enter and leave the token only wrapped (KEY-12).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hsm.errors import (
    EedkError,
    EedkForgedError,
    EedkMalformedError,
    EedkUnopenedError,
    EedkWrongVolumeError,
    NotADataKeyError,
    PairUnreadableError,
    TaperigError,
    UnwrapRefusedError,
)
from hsm.keys.eedk import (
    ALGORITHM,
    CACHED_EEDKS,
    EEDK_VERSION,
    Eedk,
    KeyLabel,
    KeyMode,
    check_volume,
)
from hsm.keys.keystore import Kek, Keystore
from hsm.keys.labels import label_key
from hsm.keys.signature import signature_is_valid
from hsm.pkcs11.data_key import DataKey
from hsm.pkcs11.oaep import OaepHash

EKM_SIGNING_LABEL: Final = "taperig ekm signing"
_UNSIGNED: Final = bytes(8)


class DataKeys:
    """The data keys of one key manager, with its keystore and signing key."""

    def __init__(
        self,
        keystore: Keystore,
        partners: Sequence[ec.EllipticCurvePublicKey] = (),
        signing_key: ec.EllipticCurvePrivateKey | None = None,
    ) -> None:
        """Use the EKM's signing key in the keystore's token, or ``signing_key``.

        `partners` are the P-256 keys of other EKMs whose EEDKs are opened too; `signing_key` is for
        a token that cannot make P-256 keys. Raises KeyAbsentError.
        """
        self._keystore = keystore
        self._token = keystore.token
        self._signing_key = signing_key
        if signing_key is None:
            keystore.signing_key(EKM_SIGNING_LABEL)
            self.public_key = self._token.p256_public_key(EKM_SIGNING_LABEL)
            """The P-256 key that verifies the signatures of this EKM."""
        else:
            self.public_key = signing_key.public_key()
        self._signers = (self.public_key, *partners)
        self._signer = lru_cache(CACHED_EEDKS)(self._find_signer)
        self._opened: set[bytes] = set()

    def sign(self, data: bytes) -> bytes:
        """Return the EKM's ECDSA P-256 signature over SHA-256 of `data`, DER."""
        if self._signing_key is not None:
            return self._signing_key.sign(data, ec.ECDSA(hashes.SHA256()))
        return self._token.sign_p256(self._keystore.signing_key(EKM_SIGNING_LABEL), data)

    def clear_cache(self) -> bool:
        """Clear all caches of the token; return whether they held anything."""
        self._opened.clear()
        return self._keystore.clear_cache()

    def check_token_present(self) -> None:
        """Check that the token is still present; raises TokenGoneError if not."""
        self._token.check_present()

    def generate(self) -> DataKey:
        """Generate a random AES-256 data key (KEY-1). Destroy it after use."""
        return self._token.generate_data_key()

    def make_eedk(self, data_key: DataKey, kek: Kek, mode: KeyMode, volume: str) -> Eedk:
        """Return an EEDK for `volume`: the wrapped data key, signed by this EKM."""
        check_volume(volume)
        wrapped = self._token.wrap_data_key(data_key, self._keystore.public_key(kek))
        clear = mode is KeyMode.CLEAR
        return self._signed(
            Eedk(
                version=EEDK_VERSION,
                algorithm=ALGORITHM,
                oaep_hash=self._token.oaep_hash,
                mode=mode,
                label=kek.label if clear else None,
                kek_hash=None if clear else kek.spki_hash,
                wrapped=wrapped,
                volume=volume,
                signature=_UNSIGNED,
            )
        )

    def make_pair(
        self,
        data_key: DataKey,
        labels: Sequence[KeyLabel],
        volume: str,
        *,
        allow_public_only: bool = False,
    ) -> tuple[Eedk, Eedk]:
        """Return the two EEDKs of a cartridge, from one or two labels (KEY-11).

        Raises LabelUnknownError naming the label (KEY-9), PairUnreadableError when neither KEK has
        its private half here, unless `allow_public_only`.
        """
        keks = self.check_labels(labels, allow_public_only=allow_public_only)
        pair = [
            self.make_eedk(data_key, kek, label.mode, volume)
            for kek, label in zip(keks, labels, strict=True)
        ]
        if len(pair) == 1:
            pair.append(self.make_eedk(data_key, keks[0], labels[0].mode, volume))
        return pair[0], pair[1]

    def check_labels(
        self, labels: Sequence[KeyLabel], *, allow_public_only: bool = False
    ) -> list[Kek]:
        """Return the KEKs of one or two labels; raises as make_pair does."""
        if len(labels) not in (1, 2):
            raise EedkError(f"A cartridge takes one or two key labels, not {len(labels)}.")
        keks = [self._keystore.find(label.label) for label in labels]
        if not allow_public_only and not any(kek.has_private for kek in keks):
            names = " and ".join(repr(kek.label) for kek in keks)
            raise PairUnreadableError(
                f"The keystore {self._token.label} has no private half of {names}, so this site "
                "could not read the tape; add one, or set allow_public_only for the pool."
            )
        return keks

    def find_keks(self, labels: Sequence[str]) -> list[Kek | None]:
        """Return the KEK of each label, None where the keystore has none."""
        keks = {label_key(kek.label): kek for kek in self._keystore.list()}
        return [keks.get(label_key(label)) for label in labels]

    def open_eedk(self, eedk: Eedk, volume: str) -> DataKey:
        """Unwrap the data key in an EEDK of `volume`. Destroy it after use.

        Raises EedkForgedError, EedkWrongVolumeError, LabelUnknownError (clear mode, names the key),
        KekHashUnknownError (hash mode, cannot name it, KEY-8), KekPublicOnlyError,
        EedkUnopenedError (the KEK does not open it).
        """
        signer = self._signer(eedk)
        if signer is None:
            raise EedkForgedError(
                f"The EEDK of volume {eedk.volume} has no signature of this key manager or of a "
                "partner; add the key manager that wrote it to partners."
            )
        if eedk.volume != volume:
            raise EedkWrongVolumeError(
                f"The EEDK belongs to volume {eedk.volume} and not to {volume}."
            )
        kek = self._find_kek(eedk)
        if len(eedk.wrapped) != kek.bits // 8:
            raise EedkUnopenedError(
                f"The EEDK of volume {volume} was not made with the key labelled {kek.label!r}: "
                f"its ciphertext has {len(eedk.wrapped)} bytes, the key's modulus {kek.bits // 8}."
            )
        private_key = self._keystore.private_key(kek)
        try:
            data_key = self._token.unwrap_data_key(
                eedk.wrapped,
                private_key,
                eedk.oaep_hash,
                modulus_bytes=kek.bits // 8,
                # This key manager signs only EEDKs of 32-byte keys; see make_eedk.
                check_length=signer != 0,
            )
        except (UnwrapRefusedError, NotADataKeyError) as error:
            raise EedkUnopenedError(
                f"The key labelled {kek.label!r} does not open the EEDK of volume {volume}: {error}"
            ) from None
        if len(self._opened) >= CACHED_EEDKS:
            self._opened.clear()
        self._opened.add(eedk.encode())
        return data_key

    def prepare_rewrap(
        self, eedks: Sequence[bytes], volume: str, drive_public_der: bytes, oaep_hash: OaepHash
    ) -> Callable[[], bytes | None] | None:
        """Return a fast function that rewraps the EEDKs' data key for a drive.

        It serves only EEDKs of `volume` that open_eedk() opened before, because that verified
        signature and data key. Where it is impossible, this method or the function returns None;
        then open_eedk() and wrap_for_drive() do the work or raise the cause. The function raises
        TokenRefusedError when the token does not destroy a data key.
        """
        for encoded, eedk in _decode_eedks(eedks, volume):
            if encoded not in self._opened:
                continue
            with suppress(TaperigError):
                kek = self._find_kek(eedk)
                if len(eedk.wrapped) == kek.bits // 8:
                    return partial(
                        self._token.rewrap_data_key,
                        eedk.wrapped,
                        self._keystore.private_key(kek),
                        eedk.oaep_hash,
                        self._keystore.drive_key(drive_public_der),
                        oaep_hash,
                    )
        return None

    def wrap_for_drive(
        self, data_key: DataKey, drive_public_der: bytes, oaep_hash: OaepHash | None = None
    ) -> bytes:
        """Return the SEDK: the data key wrapped with an enrolled drive's RSA key.

        `drive_public_der` is that key (SPKI, DER); `oaep_hash` is the one that the drive's secure
        element supports, by default the token's own. Raises DriveKeyUnknownError.
        """
        return self._token.wrap_data_key(
            data_key, self._keystore.drive_key(drive_public_der), oaep_hash
        )

    def _find_signer(self, eedk: Eedk) -> int | None:
        """Return the signer: 0 for this key manager, a partner's number, or None."""
        signature, signed = eedk.signature, eedk.signed_bytes()
        for number, key in enumerate(self._signers):
            if signature_is_valid(key, signature, signed):
                return number
        return None

    def _find_kek(self, eedk: Eedk) -> Kek:
        if eedk.kek_hash is not None:
            return self._keystore.find_by_hash(eedk.kek_hash)
        return self._keystore.find(eedk.label or "")

    def _signed(self, eedk: Eedk) -> Eedk:
        return eedk.with_signature(self.sign(eedk.signed_bytes()))


def _decode_eedks(eedks: Sequence[bytes], volume: str) -> list[tuple[bytes, Eedk]]:
    """Return the well-formed EEDKs with their bytes; none if a volume differs."""
    found = []
    for encoded in eedks:
        try:
            eedk = Eedk.decode(encoded)
        except EedkMalformedError:
            continue
        if eedk.volume != volume:
            return []
        found.append((encoded, eedk))
    return found
