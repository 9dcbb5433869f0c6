"""What a key manager does with data keys (DKs): make, wrap to KEKs and drives, take out of EEDKs.

A DK is a handle in the token throughout; bytes go in and out only wrapped (KEY-12).
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
    EEDK_VERSION,
    REMEMBERED_EEDKS,
    Eedk,
    KeyLabel,
    KeyMode,
    check_volume,
)
from hsm.keys.keystore import Kek, Keystore
from hsm.keys.labels import label_key
from hsm.keys.signature import signature_holds
from hsm.pkcs11.data_key import DataKey
from hsm.pkcs11.oaep import OaepHash

EKM_SIGNING_LABEL: Final = "taperig ekm signing"
_UNSIGNED: Final = bytes(8)


class DataKeys:
    """The data keys of one key manager (EKM): its keystore, its signing key, its partners."""

    def __init__(
        self,
        keystore: Keystore,
        partners: Sequence[ec.EllipticCurvePublicKey] = (),
        signing_key: ec.EllipticCurvePrivateKey | None = None,
    ) -> None:
        """Use the EKM's signing key in the keystore's token, or the one given.

        `partners` are the P-256 keys of other EKMs whose EEDKs are opened too; `signing_key` is for
        a token that makes no P-256 keys. Raises KeyAbsentError.
        """
        self._keystore = keystore
        self._token = keystore.token
        self._signing_key = signing_key
        if signing_key is None:
            keystore.signing_key(EKM_SIGNING_LABEL)
            self.public_key = self._token.p256_public_key(EKM_SIGNING_LABEL)
            """The P-256 key that the signatures of this EKM hold under."""
        else:
            self.public_key = signing_key.public_key()
        self._signers = (self.public_key, *partners)
        self._signer = lru_cache(REMEMBERED_EEDKS)(self._find_signer)
        self._opened: set[bytes] = set()

    def sign(self, data: bytes) -> bytes:
        """Return the EKM's ECDSA P-256 signature over SHA-256 of `data`, DER."""
        if self._signing_key is not None:
            return self._signing_key.sign(data, ec.ECDSA(hashes.SHA256()))
        return self._token.sign_p256(self._keystore.signing_key(EKM_SIGNING_LABEL), data)

    def forget(self) -> bool:
        """Look at the token afresh from now on; say whether anything of it was remembered."""
        self._opened.clear()
        return self._keystore.forget()

    def try_out(self) -> None:
        """See that the token is still there; raises TokenGoneError when not."""
        self._token.check_present()

    def generate(self) -> DataKey:
        """Make a fresh random AES-256 data key (KEY-1). Destroy it after use."""
        return self._token.generate_data_key()

    def make_eedk(self, data_key: DataKey, kek: Kek, mode: KeyMode, volume: str) -> Eedk:
        """Return the data key wrapped by the KEK for `volume`, signed by this EKM."""
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
        """Return the two EEDKs of a cartridge (KEY-2), one for each of one or two labels (KEY-11).

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
        """Return the KEKs of one or two labels; raises as make_pair does. Makes no key."""
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

    def known(self, labels: Sequence[str]) -> list[Kek | None]:
        """Return the KEK of each label, None where the keystore has none."""
        keks = {label_key(kek.label): kek for kek in self._keystore.list()}
        return [keks.get(label_key(label)) for label in labels]

    def open_eedk(self, eedk: Eedk, volume: str) -> DataKey:
        """Return the data key out of an EEDK of `volume`. Destroy it after use.

        Raises EedkForgedError, EedkWrongVolumeError, LabelUnknownError (clear mode, names the key),
        KekHashUnknownError (hash mode, cannot name it, KEY-8), KekPublicOnlyError,
        EedkUnopenedError (the KEK does not open it).
        """
        signer = self._signer(eedk)
        if signer is None:
            raise EedkForgedError(
                f"The EEDK of volume {eedk.volume} bears no signature of this key manager or of a "
                "partner."
            )
        if eedk.volume != volume:
            raise EedkWrongVolumeError(
                f"The EEDK belongs to volume {eedk.volume} and not to {volume}."
            )
        kek = self._kek_of(eedk)
        private_key = self._keystore.private_key(kek)
        try:
            data_key = self._token.unwrap_data_key(
                eedk.wrapped,
                private_key,
                eedk.oaep_hash,
                modulus_bytes=kek.bits // 8,
                # What this key manager signed, it wrapped from a key of 32 bytes; see make_eedk.
                check_length=signer != 0,
            )
        except (UnwrapRefusedError, NotADataKeyError) as error:
            raise EedkUnopenedError(
                f"The key labelled {kek.label!r} does not open the EEDK of volume {volume}: {error}"
            ) from None
        if len(self._opened) >= REMEMBERED_EEDKS:
            self._opened.clear()
        self._opened.add(eedk.encode())
        return data_key

    def rewrapping(
        self, eedks: Sequence[bytes], volume: str, drive_public_der: bytes, oaep_hash: OaepHash
    ) -> Callable[[], bytes | None] | None:
        """Return what wraps the data key in the EEDKs of `volume` for a drive, at less cost.

        Only for EEDKs that open_eedk() opened before, so that signature and data key were looked
        at. None, or a call that returns None, when that cannot be done, for whatever reason:
        open_eedk() and wrap_for_drive() do it, or say why it cannot be. The call raises
        TokenRefusedError when the token keeps a data key that it was told to destroy.
        """
        for encoded, eedk in _of_volume(eedks, volume):
            if encoded not in self._opened:
                continue
            with suppress(TaperigError):
                kek = self._kek_of(eedk)
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
        """Return the SEDK: the data key wrapped under an enrolled drive's RSA key (SPKI, DER).

        `oaep_hash` is what the drive's secure element can do; the token's own by default. Raises
        DriveKeyUnknownError.
        """
        return self._token.wrap_data_key(
            data_key, self._keystore.drive_key(drive_public_der), oaep_hash
        )

    def _find_signer(self, eedk: Eedk) -> int | None:
        """Return who signed it: 0 for this key manager itself, a partner's number, None."""
        signature, signed = eedk.signature, eedk.signed_bytes()
        for number, key in enumerate(self._signers):
            if signature_holds(key, signature, signed):
                return number
        return None

    def _kek_of(self, eedk: Eedk) -> Kek:
        if eedk.kek_hash is not None:
            return self._keystore.find_by_hash(eedk.kek_hash)
        return self._keystore.find(eedk.label or "")

    def _signed(self, eedk: Eedk) -> Eedk:
        return eedk.with_signature(self.sign(eedk.signed_bytes()))


def _of_volume(eedks: Sequence[bytes], volume: str) -> list[tuple[bytes, Eedk]]:
    """Return the EEDKs that can be read, each with its bytes; none if one is of another volume."""
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
