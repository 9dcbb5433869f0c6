"""AES key wrap, with which a secure element seals, and similar mechanisms."""

import os
from collections.abc import Callable
from functools import partial
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import (
    aes_key_unwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap,
    aes_key_wrap_with_padding,
)
from cryptography.hazmat.primitives.padding import PKCS7
from pkcs11 import Mechanism

from hsm.pkcs11.structures import MechanismCall
from hsm.validate.attempt import attempt
from hsm.validate.findings import Probe, ProbeAnswer, Status, good_if
from hsm.validate.session import TokenUnderTest

_IV: Final = bytes(range(16))
_Outside = Callable[[bytes, bytes], bytes]


def _cbc(key: bytes, value: bytes) -> bytes:
    pad, cipher = PKCS7(128).padder(), Cipher(algorithms.AES(key), modes.CBC(_IV)).encryptor()
    return cipher.update(pad.update(value) + pad.finalize()) + cipher.finalize()


def _cbc_open(key: bytes, wrapped: bytes) -> bytes:
    unpad, cipher = PKCS7(128).unpadder(), Cipher(algorithms.AES(key), modes.CBC(_IV)).decryptor()
    return unpad.update(cipher.update(wrapped) + cipher.finalize()) + unpad.finalize()


KINDS: Final[dict[str, tuple[str, MechanismCall, _Outside, _Outside]]] = {
    "key_wrap": (
        "AES-KEY-WRAP (RFC 3394)",
        MechanismCall(Mechanism.AES_KEY_WRAP),
        aes_key_wrap,
        aes_key_unwrap,
    ),
    "key_wrap_pad": (
        "AES-KEY-WRAP-PAD (RFC 5649)",
        MechanismCall(Mechanism.AES_KEY_WRAP_PAD),
        aes_key_wrap_with_padding,
        aes_key_unwrap_with_padding,
    ),
    "key_wrap_kwp": (
        "AES-KEY-WRAP-KWP (RFC 5649, PKCS#11 3.0)",
        MechanismCall(Mechanism.AES_KEY_WRAP_KWP),
        aes_key_wrap_with_padding,
        aes_key_unwrap_with_padding,
    ),
    "cbc_pad": ("AES-CBC-PAD", MechanismCall(Mechanism.AES_CBC_PAD, _IV), _cbc, _cbc_open),
}
"""Title, mechanism, and the functions that wrap and unwrap outside."""


def _wrap(kind: str, token: TokenUnderTest) -> ProbeAnswer:
    _, mechanism, _, open_outside = KINDS[kind]
    secret = os.urandom(32)
    transport = token.import_aes_key(secret, WRAP=True)
    key = token.wrappable_data_key()
    wrapped = attempt(token.session.wrap, mechanism, transport, key)
    if wrapped.refused:
        return ProbeAnswer(_bad(kind), "refused", wrapped.code)
    try:
        same = open_outside(secret, wrapped.value) == token.read_by_wrapping(key)
    except Exception as error:  # the implementation outside may raise anything
        return ProbeAnswer(
            Status.NOTE, f"wraps, but not as the RFC says ({type(error).__name__})", wrapped.code
        )
    return good_if(
        same,
        f"wraps to {len(wrapped.value)} bytes, as outside",
        "wraps another value",
        wrapped.code,
        bad=Status.RISK,
    )


def _unwrap(kind: str, token: TokenUnderTest) -> ProbeAnswer:
    _, mechanism, wrap_outside, _ = KINDS[kind]
    secret, value = os.urandom(32), os.urandom(32)
    transport = token.import_aes_key(secret, UNWRAP=True)
    template = (
        token.aes_template()
        if not token.honours_protection
        else token.aes_template(EXTRACTABLE=True)
    )
    opened = attempt(
        token.session.unwrap, mechanism, transport, wrap_outside(secret, value), template
    )
    if opened.refused:
        return ProbeAnswer(Status.NOTE, "refused", opened.code)
    return good_if(
        token.read_by_wrapping(opened.value) == value,
        "unwraps what was wrapped outside",
        "unwraps to another key",
        opened.code,
        bad=Status.NOTE,
    )


def _bad(kind: str) -> Status:
    return Status.LACKS if kind == "key_wrap" else Status.NOTE


PROBES: Final = tuple(
    Probe(f"key_wrap.{kind}_{way}", f"{title}: {way}", partial(function, kind))
    for kind, (title, *_) in KINDS.items()
    for way, function in (("wrap", _wrap), ("unwrap", _unwrap))
)
