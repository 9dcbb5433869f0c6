"""The key service of an exchange: data keys in a token, errors as codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from hsm.ekm.drive_table import EnrolledDrive
from hsm.ekm.exchange import Steps
from hsm.ekm.protocol.errors import ErrorCode, ExchangeError
from hsm.ekm.protocol.fields import LabelState
from hsm.ekm.protocol.messages import KeyGrant
from hsm.errors import (
    DriveKeyUnknownError,
    EedkForgedError,
    EedkMalformedError,
    EedkUnopenedError,
    EedkWrongVolumeError,
    KekHashUnknownError,
    KekPublicOnlyError,
    LabelUnknownError,
    PairUnreadableError,
    TaperigError,
    TokenError,
)
from hsm.keys.data_keys import DataKeys
from hsm.keys.eedk import Eedk, KeyLabel
from hsm.pkcs11.data_key import DataKey

_GENERATE_CODES: dict[type[TaperigError], ErrorCode] = {
    LabelUnknownError: ErrorCode.UNKNOWN_LABEL,
    PairUnreadableError: ErrorCode.PUBLIC_ONLY_PAIR,
}
_OPEN_CODES: dict[type[TaperigError], ErrorCode] = {
    EedkMalformedError: ErrorCode.CORRUPT_EEDK,
    EedkForgedError: ErrorCode.FORGED_EEDK,
    EedkWrongVolumeError: ErrorCode.WRONG_VOLUME,
    EedkUnopenedError: ErrorCode.WRONG_KEK,
    LabelUnknownError: ErrorCode.KEK_ABSENT,
    KekHashUnknownError: ErrorCode.KEK_ABSENT,
    KekPublicOnlyError: ErrorCode.KEK_PUBLIC_ONLY,
}
_COMMON_CODES: dict[type[TaperigError], ErrorCode] = {
    DriveKeyUnknownError: ErrorCode.DRIVE_KEY_ABSENT,
    TokenError: ErrorCode.KEYSTORE_FAILURE,
    TaperigError: ErrorCode.INTERNAL_FAILURE,
}
_TOKEN_CODES = (ErrorCode.KEYSTORE_FAILURE, ErrorCode.WRONG_KEK)
_ABSENT_TOKEN_CODES = (
    *_TOKEN_CODES,
    ErrorCode.UNKNOWN_LABEL,
    ErrorCode.KEK_ABSENT,
    ErrorCode.KEK_PUBLIC_ONLY,
    ErrorCode.PUBLIC_ONLY_PAIR,
    ErrorCode.DRIVE_KEY_ABSENT,
)
"""The codes that a missing token causes too, because nothing is found in it."""


class TokenKeyService:
    """A ``hsm.ekm.exchange.KeyService`` on the data keys of a token (EKM-3).

    A key is reported absent only while the token is present; otherwise TokenGoneError is raised,
    which is reported to no drive.
    """

    def __init__(
        self, data_keys: DataKeys, is_retiring: Callable[[bytes], bool] = lambda kek_hash: False
    ) -> None:
        """Use the data keys of an open token.

        ``is_retiring`` returns whether new EEDKs with a KEK, given by its hash, are forbidden.
        """
        self._data_keys = data_keys
        self._is_retiring = is_retiring

    def generate(
        self,
        drive: EnrolledDrive,
        volume: str,
        labels: Sequence[KeyLabel],
        allow_public_only: bool,
    ) -> KeyGrant:
        """Generate a data key; return it wrapped for the drive, and its EEDKs.

        Labels are looked up before any key is made (KEY-9).
        """
        with self._check_token_on_refusal():
            return self._retry_without_cache(
                lambda: self._generate(drive, volume, labels, allow_public_only)
            )

    def translate(
        self, drive: EnrolledDrive, volume: str, eedks: Sequence[bytes]
    ) -> Steps[KeyGrant]:
        """Unwrap the data key from either EEDK; return it wrapped for the drive."""
        rewrap = self._data_keys.prepare_rewrap(eedks, volume, drive.wrap_spki, drive.oaep_hash)
        yield
        try:
            sedk = rewrap() if rewrap is not None else None
        except TaperigError as error:
            raise _with_code(error, {}) from None
        if sedk is not None:
            return KeyGrant(sedk)
        with self._check_token_on_refusal():
            return self._retry_without_cache(lambda: self._translate(drive, volume, eedks))

    @contextmanager
    def _check_token_on_refusal(self) -> Iterator[None]:
        """Raise TokenGoneError in place of a refusal when the token is gone."""
        try:
            yield
        except ExchangeError as error:
            self._check_token(error)
            raise

    def _check_token(self, error: ExchangeError) -> None:
        if error.code in _ABSENT_TOKEN_CODES:
            self._data_keys.check_token_present()

    def _retry_without_cache(self, work: Callable[[], KeyGrant]) -> KeyGrant:
        """Do the work; when the token refuses, repeat it with an empty cache."""
        try:
            return work()
        except ExchangeError as error:
            if error.code not in _TOKEN_CODES or not self._data_keys.clear_cache():
                raise
        return work()

    def _generate(
        self,
        drive: EnrolledDrive,
        volume: str,
        labels: Sequence[KeyLabel],
        allow_public_only: bool,
    ) -> KeyGrant:
        with _with_error_codes(_GENERATE_CODES):
            self._check_labels(labels, allow_public_only)
            with self._data_keys.generate() as data_key:
                pair = self._data_keys.make_pair(
                    data_key, labels, volume, allow_public_only=allow_public_only
                )
                sedk = self._sedk(data_key, drive)
            self._check_labels(
                labels, allow_public_only
            )  # a key may have begun to retire meanwhile
        return KeyGrant(sedk, (pair[0].encode(), pair[1].encode()))

    def _check_labels(self, labels: Sequence[KeyLabel], allow_public_only: bool) -> None:
        for kek in self._data_keys.check_labels(labels, allow_public_only=allow_public_only):
            if self._is_retiring(kek.spki_hash):
                raise LabelUnknownError(
                    f"The key labelled {kek.label!r} is being retired, so no new cartridge is "
                    "written with it; give the pool another label."
                )

    def _translate(self, drive: EnrolledDrive, volume: str, eedks: Sequence[bytes]) -> KeyGrant:
        with self._opened(eedks, volume) as data_key, _with_error_codes({}):
            return KeyGrant(self._sedk(data_key, drive))

    def rekey(
        self,
        drive: EnrolledDrive,
        volume: str,
        eedks: Sequence[bytes],
        labels: Sequence[KeyLabel],
        allow_public_only: bool,
    ) -> KeyGrant:
        """Unwrap the data key from either EEDK; return it with two new EEDKs.

        The new labels are looked up before any EEDK is opened (KEY-9).
        """
        with self._check_token_on_refusal():
            with _with_error_codes(_GENERATE_CODES):
                self._check_labels(labels, allow_public_only)
            with self._opened(eedks, volume) as data_key, _with_error_codes(_GENERATE_CODES):
                pair = self._data_keys.make_pair(
                    data_key, labels, volume, allow_public_only=allow_public_only
                )
                sedk = self._sedk(data_key, drive)
                self._check_labels(labels, allow_public_only)
        return KeyGrant(sedk, (pair[0].encode(), pair[1].encode()))

    def label_states(self, labels: Sequence[str]) -> tuple[LabelState, ...]:
        """Return the state of each label, in order (EKM-11)."""
        with _with_error_codes({}):
            known = self._data_keys.find_keks(labels)
        if None in known:
            self._data_keys.check_token_present()
        return tuple(
            LabelState(label, kek.spki_hash, kek.has_private) if kek else LabelState(label)
            for label, kek in zip(labels, known, strict=True)
        )

    def _sedk(self, data_key: DataKey, drive: EnrolledDrive) -> bytes:
        return self._data_keys.wrap_for_drive(data_key, drive.wrap_spki, drive.oaep_hash)

    def _opened(self, eedks: Sequence[bytes], volume: str) -> DataKey:
        """Open either EEDK (READ-2d); refuse both if one is of another volume."""
        failures: list[ExchangeError] = []
        for data in eedks:
            try:
                with _with_error_codes(_OPEN_CODES):
                    return self._data_keys.open_eedk(Eedk.decode(data), volume)
            except ExchangeError as failure:
                if failure.code in (ErrorCode.WRONG_VOLUME, ErrorCode.KEYSTORE_FAILURE):
                    raise
                failures.append(failure)
        text = " ".join(dict.fromkeys(map(str, failures)))
        raise ExchangeError(failures[0].code, text) from None


@contextmanager
def _with_error_codes(codes: dict[type[TaperigError], ErrorCode]) -> Iterator[None]:
    """Turn errors of the key side into ExchangeErrors with their codes."""
    try:
        yield
    except ExchangeError:
        raise
    except TaperigError as error:
        raise _with_code(error, codes) from None


def _with_code(error: TaperigError, codes: dict[type[TaperigError], ErrorCode]) -> ExchangeError:
    code = next(
        code for kind, code in {**codes, **_COMMON_CODES}.items() if isinstance(error, kind)
    )
    return ExchangeError(code, str(error))
