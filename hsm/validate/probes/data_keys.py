"""Data keys: AES-256, made in the token, neither readable nor usable."""

from functools import partial
from typing import Final

from pkcs11 import Attribute, Mechanism

from hsm.pkcs11.structures import MechanismCall
from hsm.validate.attempt import attempt
from hsm.validate.findings import Probe, ProbeAnswer, Status, good_if
from hsm.validate.session import AES_256, TokenUnderTest


def _generate(bits: int, token: TokenUnderTest) -> ProbeAnswer:
    template = token.aes_template(EXTRACTABLE=True, SENSITIVE=True)
    creation = attempt(
        token.session.generate_key, AES_256, {**template, Attribute.VALUE_LEN: bits // 8}
    )
    bad = Status.LACKS if bits == 256 else Status.NOTE
    return good_if(not creation.refused, "made", "not made", creation.code, bad=bad)


def _as_the_rig_does(token: TokenUnderTest) -> ProbeAnswer:
    key = token.data_key()
    length = token.session.number(key, Attribute.VALUE_LEN)
    kept = all(
        token.session.is_set(key, name) is value
        for name, value in token.data_key_template.items()
        if isinstance(value, bool)
    )
    if not kept:
        return ProbeAnswer(Status.RISK, "made, with other attributes than requested")
    return ProbeAnswer(Status.GOOD, f"made, {length} bytes", "C_GenerateKey: CKR_OK")


def _distinct(token: TokenUnderTest) -> ProbeAnswer:
    values = {token.read_by_wrapping(token.wrappable_data_key()) for _ in range(8)}
    good = len(values) == 8 and all(len(value) == 32 for value in values)
    return good_if(
        good, "8 keys, 8 values of 32 bytes", "values repeat or are short", "", bad=Status.RISK
    )


def _random(token: TokenUnderTest) -> ProbeAnswer:
    drawn = attempt(token.session.random, 32)
    if drawn.refused:
        return ProbeAnswer(Status.NOTE, "refused", drawn.code)
    again = token.session.random(32)
    return good_if(
        drawn.value != again, "two draws differ", "two draws are equal", drawn.code, bad=Status.RISK
    )


def _value_hidden(token: TokenUnderTest) -> ProbeAnswer:
    read = attempt(token.session.get, token.data_key(), Attribute.VALUE)
    return good_if(read.refused, "refused", "the value is returned", read.code, bad=Status.RISK)


def _no_use(token: TokenUnderTest) -> ProbeAnswer:
    used = attempt(
        token.session.encrypt, MechanismCall(Mechanism.AES_ECB), token.data_key(), bytes(16)
    )
    return good_if(used.refused, "refused", "it encrypts", used.code, bad=Status.RISK)


def _dies_with_session(token: TokenUnderTest) -> ProbeAnswer:
    other = token.library.open_session(token.slot)
    template = {**token.aes_template(EXTRACTABLE=True), Attribute.VALUE_LEN: 32}
    key = other.generate_key(AES_256, template)
    identity = other.get(key, Attribute.ID)
    seen = len(token.session.find({Attribute.ID: identity}))
    other.close()
    left = len(token.session.find({Attribute.ID: identity}))
    return good_if(
        seen >= 1 and left == seen - 1,
        "gone when its session is closed",
        f"{left} of {seen} keys left when the session was closed",
        "C_CloseSession: CKR_OK",
        bad=Status.RISK,
    )


PROBES: Final = (
    Probe("data_keys.as_rig", "A data key as the rig makes it", _as_the_rig_does),
    *(
        Probe(
            f"data_keys.aes_{bits}", f"AES-{bits} key made in the token", partial(_generate, bits)
        )
        for bits in (128, 192, 256)
    ),
    Probe("data_keys.distinct", "Are data keys different?", _distinct),
    Probe("data_keys.random", "Random bytes", _random),
    Probe("data_keys.value_hidden", "Read the value of a data key", _value_hidden),
    Probe("data_keys.no_use", "Encrypt with a data key (ENCRYPT false)", _no_use),
    Probe("data_keys.dies", "A session key after its session is closed", _dies_with_session),
)
