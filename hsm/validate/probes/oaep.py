"""RSA-OAEP, compared with an implementation outside the token."""

import os
from functools import partial
from typing import Final

from pkcs11 import Attribute

from hsm.pkcs11.structures import oaep
from hsm.validate.attempt import attempt
from hsm.validate.findings import Probe, ProbeAnswer, Status, good_if
from hsm.validate.session import HASHES, TokenUnderTest, outside_decrypt, outside_oaep

LABEL: Final = b"taperig"


def _wrap(name: str, label: bytes, token: TokenUnderTest) -> ProbeAnswer:
    mechanism, mgf, _ = HASHES[name]
    key = token.wrappable_data_key()
    wrapped = attempt(token.session.wrap, oaep(mechanism, mgf, label), token.outside_public, key)
    if wrapped.refused:
        return ProbeAnswer(_bad(name, label), "refused", wrapped.code)
    try:
        value = outside_decrypt(token.outside, wrapped.value, name, label or None)
    except ValueError:
        return ProbeAnswer(Status.RISK, "wraps, but it cannot be unwrapped outside", wrapped.code)
    return good_if(
        len(value) == 32,
        "wraps; unwrapped outside, 32 bytes",
        f"wraps; unwrapped outside, {len(value)} bytes",
        wrapped.code,
        bad=Status.RISK,
    )


def _unwrap(name: str, label: bytes, token: TokenUnderTest) -> ProbeAnswer:
    mechanism, mgf, _ = HASHES[name]
    value = os.urandom(32)
    wrapped = token.kek.public_key.encrypt(value, outside_oaep(name, label or None))
    template = token.aes_template(EXTRACTABLE=True)
    for absent in (Attribute.EXTRACTABLE,) if not token.honours_protection else ():
        del template[absent]
    opened = attempt(
        token.session.unwrap, oaep(mechanism, mgf, label), token.kek.private, wrapped, template
    )
    if opened.refused:
        return ProbeAnswer(_bad(name, label), "refused", opened.code)
    return good_if(
        token.read_by_wrapping(opened.value) == value,
        "unwraps what was wrapped outside",
        "unwraps to another key",
        opened.code,
        bad=Status.RISK,
    )


def _bad(name: str, label: bytes) -> Status:
    """Return the grade of a refusal: the rig uses no label and no SHA-384."""
    return Status.NOTE if label or name == "SHA-384" else Status.LACKS


PROBES: Final = tuple(
    Probe(
        f"oaep.{name.lower().replace('-', '')}{'_label' if label else ''}_{way}",
        f"{way.capitalize()}, {name}{', with a label' if label else ''}",
        partial(function, name, label),
    )
    for name in HASHES
    for label in (b"", LABEL)
    for way, function in (("wrap", _wrap), ("unwrap", _unwrap))
)
