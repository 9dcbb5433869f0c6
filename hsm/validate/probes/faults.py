"""Faulty input: wrong lengths, damage, another key, another hash."""

import os
from functools import partial
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from pkcs11 import Attribute, Mechanism

from hsm.pkcs11.structures import MechanismCall
from hsm.validate.attempt import Attempt, ProbeSkippedError, attempt
from hsm.validate.findings import Probe, ProbeAnswer, Status, good_if
from hsm.validate.session import HASHES, TokenUnderTest, outside_oaep

_KEY_WRAP: Final = MechanismCall(Mechanism.AES_KEY_WRAP)


def _unwrap(token: TokenUnderTest, wrapped: bytes) -> Attempt:
    template = token.session_template(token.unwrap_template)
    return attempt(token.session.unwrap, token.oaep, token.kek.private, wrapped, template)


def _tells_length(token: TokenUnderTest) -> ProbeAnswer:
    key, _ = token.known_data_key()
    length = attempt(token.session.number, key, Attribute.VALUE_LEN)
    if length.refused:
        return ProbeAnswer(Status.LACKS, "not reported", length.code)
    return good_if(length.value == 32, "32", str(length.value), length.code, bad=Status.LACKS)


def _wrong_length(length: int, token: TokenUnderTest) -> ProbeAnswer:
    opened = _unwrap(token, token.wrap_outside(os.urandom(length)))
    if opened.refused:
        return ProbeAnswer(Status.GOOD, "refused", opened.code)
    reported = attempt(token.session.number, opened.value, Attribute.VALUE_LEN)
    if reported.value == length and length in (16, 24):
        return ProbeAnswer(Status.NOTE, f"an AES key, VALUE_LEN {length}", opened.code)
    return ProbeAnswer(
        Status.LACKS,
        f"unwrapped as an AES key, VALUE_LEN "
        f"{'not reported' if reported.refused else reported.value}",
        opened.code,
    )


def _damaged(token: TokenUnderTest) -> ProbeAnswer:
    whole = token.wrap_outside(os.urandom(32))
    codes = []
    for place in (0, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        opened = _unwrap(token, bytes(damaged))
        if not opened.refused:
            return ProbeAnswer(Status.RISK, f"unwrapped, with byte {place} damaged", opened.code)
        codes.append(opened.code)
    return ProbeAnswer(Status.GOOD, "refused", " or ".join(dict.fromkeys(codes)))


def _cut(token: TokenUnderTest) -> ProbeAnswer:
    opened = _unwrap(token, token.wrap_outside(os.urandom(32))[:-1])
    return good_if(opened.refused, "refused", "opened", opened.code, bad=Status.RISK)


def _empty(token: TokenUnderTest) -> ProbeAnswer:
    opened = _unwrap(token, b"")
    return good_if(opened.refused, "refused", "opened", opened.code, bad=Status.RISK)


def _other_key(token: TokenUnderTest) -> ProbeAnswer:
    other = rsa.generate_private_key(65537, 2048).public_key()
    opened = _unwrap(token, other.encrypt(os.urandom(32), outside_oaep(token.best_hash)))
    return good_if(opened.refused, "refused", "opened", opened.code, bad=Status.RISK)


def _other_hash(token: TokenUnderTest) -> ProbeAnswer:
    other = next(name for name in HASHES if name != token.best_hash)
    wrapped = token.kek.public_key.encrypt(os.urandom(32), outside_oaep(other))
    opened = _unwrap(token, wrapped)
    return good_if(opened.refused, "refused", "opened", opened.code, bad=Status.RISK)


def _damaged_key_wrap(token: TokenUnderTest) -> ProbeAnswer:
    secret = os.urandom(32)
    transport = token.import_aes_key(secret, UNWRAP=True)
    whole = aes_key_wrap(secret, os.urandom(32))
    template = token.session_template(token.unwrap_template)
    undamaged = attempt(token.session.unwrap, _KEY_WRAP, transport, whole, template)
    if undamaged.refused:
        raise ProbeSkippedError(f"AES-KEY-WRAP does not unwrap ({undamaged.code})")
    damaged = bytearray(whole)
    damaged[9] ^= 1
    opened = attempt(token.session.unwrap, _KEY_WRAP, transport, bytes(damaged), template)
    return good_if(opened.refused, "refused", "opened", opened.code, bad=Status.RISK)


def _after_refusal(token: TokenUnderTest) -> ProbeAnswer:
    """Unwrap a valid EEDK after 100 refused ones."""
    damaged = bytes(token.kek.public_key.key_size // 8)
    for _ in range(100):
        _unwrap(token, damaged)
    opened = _unwrap(token, token.wrap_outside(os.urandom(32)))
    return good_if(
        not opened.refused, "unwraps as before", "no longer unwraps", opened.code, bad=Status.RISK
    )


PROBES: Final = (
    Probe("faults.tells_length", "VALUE_LEN of an unwrapped data key", _tells_length),
    *(
        Probe(
            f"faults.length_{length}",
            f"Unwrap of {length} {'byte' if length == 1 else 'bytes'} as an AES key",
            partial(_wrong_length, length),
        )
        for length in (16, 24, 31, 33, 1)
    ),
    Probe("faults.damaged", "Unwrap of a damaged EEDK", _damaged),
    Probe("faults.cut", "Unwrap of an EEDK without its last byte", _cut),
    Probe("faults.empty", "Unwrap of 0 bytes", _empty),
    Probe("faults.other_key", "Unwrap of an EEDK of another KEK", _other_key),
    Probe("faults.other_hash", "Unwrap of an EEDK with another OAEP hash", _other_hash),
    Probe("faults.damaged_key_wrap", "AES-KEY-WRAP: unwrap of a damaged key", _damaged_key_wrap),
    Probe("faults.after", "Unwrap after 100 refused ones", _after_refusal),
)
