"""Rates: operations a second in one process and one session, not graded."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from pkcs11 import Attribute, Mechanism

from hsm.pkcs11.structures import MechanismCall
from hsm.pkcs11.templates import PRIVATE_HALF
from hsm.validate.attempt import ProbeSkippedError
from hsm.validate.findings import Probe, ProbeAnswer, Status
from hsm.validate.raw_pkcs11 import RefusedCallError
from hsm.validate.session import AES_256, TokenUnderTest

SECONDS: Final = 0.5
_P256: Final = bytes.fromhex("06082a8648ce3d030107")


def _rate(operation: Callable[[], object], what: str) -> ProbeAnswer:
    try:
        operation()  # warm up: the first call may fill caches of the module
    except RefusedCallError as refusal:
        raise ProbeSkippedError(f"refused ({refusal})") from None
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < SECONDS:
        operation()
        count += 1
    return ProbeAnswer(Status.NOTE, what, rate=count / passed)


def _generate(token: TokenUnderTest) -> ProbeAnswer:
    template = token.aes_template(EXTRACTABLE=True) | {Attribute.VALUE_LEN: 32}
    session = token.session
    return _rate(
        lambda: session.destroy(session.generate_key(AES_256, template)),
        "AES-256, made and destroyed",
    )


def _wrap(token: TokenUnderTest) -> ProbeAnswer:
    key, mechanism = token.wrappable_data_key(), token.oaep
    return _rate(
        lambda: token.session.wrap(mechanism, token.outside_public, key),
        f"with RSA 2048, {token.best_hash}",
    )


def _unwrap(bits: int, token: TokenUnderTest) -> ProbeAnswer:
    kek = token.kek if bits == 2048 else token.make_kek(bits)
    wrapped, mechanism = token.wrap_outside(os.urandom(32), kek), token.oaep
    template, session = token.session_template(token.unwrap_template), token.session
    return _rate(
        lambda: session.destroy(session.unwrap(mechanism, kek.private, wrapped, template)),
        f"with RSA {bits}, {token.best_hash}, key destroyed",
    )


def _key_wrap(token: TokenUnderTest) -> ProbeAnswer:
    transport = token.import_aes_key(os.urandom(32), WRAP=True)
    key, mechanism = token.wrappable_data_key(), MechanismCall(Mechanism.AES_KEY_WRAP)
    return _rate(lambda: token.session.wrap(mechanism, transport, key), "with AES-256")


def _sign(token: TokenUnderTest) -> ProbeAnswer:
    _, private = token.session.generate_pair(
        MechanismCall(Mechanism.EC_KEY_PAIR_GEN),
        token.session_template({Attribute.EC_PARAMS: _P256, Attribute.VERIFY: True}),
        token.session_template({**PRIVATE_HALF, Attribute.TOKEN: False, Attribute.SIGN: True}),
    )
    mechanism, digest = MechanismCall(Mechanism.ECDSA), bytes(range(32))
    return _rate(lambda: token.session.sign(mechanism, private, digest), "P-256, of a digest")


def _find(token: TokenUnderTest) -> ProbeAnswer:
    identity = token.session.get(token.kek.private, Attribute.ID)
    return _rate(lambda: token.session.find({Attribute.ID: identity}), "one object, by CKA_ID")


def _session(token: TokenUnderTest) -> ProbeAnswer:
    return _rate(lambda: token.library.open_session(token.slot).close(), "opened and closed")


def _make_pair(token: TokenUnderTest) -> ProbeAnswer:
    return _rate(lambda: token.session.destroy(token.make_kek(2048).private), "RSA 2048")


PROBES: Final = (
    Probe("rates.generate", "C_GenerateKey", _generate),
    Probe("rates.wrap", "C_WrapKey, RSA-OAEP", _wrap),
    Probe("rates.unwrap", "C_UnwrapKey, RSA-OAEP", partial(_unwrap, 2048)),
    Probe("rates.unwrap_4096", "C_UnwrapKey, RSA-OAEP", partial(_unwrap, 4096), seconds=180.0),
    Probe("rates.key_wrap", "C_WrapKey, AES-KEY-WRAP", _key_wrap),
    Probe("rates.sign", "C_Sign, ECDSA", _sign),
    Probe("rates.find", "C_FindObjects", _find),
    Probe("rates.session", "C_OpenSession", _session),
    Probe("rates.make_pair", "C_GenerateKeyPair", _make_pair),
)
