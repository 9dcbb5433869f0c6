"""Attributes that a token enforces, or only stores."""

import os
from typing import Final

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from pkcs11 import Attribute, Mechanism

from hsm.pkcs11.structures import MechanismCall
from hsm.pkcs11.templates import BARE_DATA_KEY
from hsm.validate.attempt import ProbeSkippedError, attempt
from hsm.validate.findings import Probe, ProbeAnswer, Status, good_if
from hsm.validate.raw_pkcs11 import RefusedCallError
from hsm.validate.session import (
    AES_256,
    PROTECTION,
    UNWRAPPED,
    TokenUnderTest,
    outside_oaep,
)
from hsm.validate.tagged_objects import tag_attributes

_PKCS1: Final = MechanismCall(Mechanism.RSA_PKCS)


def _sensitive(token: TokenUnderTest) -> ProbeAnswer:
    key = token.import_aes_key(os.urandom(32), SENSITIVE=True, EXTRACTABLE=True)
    read = attempt(token.session.get, key, Attribute.VALUE)
    return good_if(read.denied, "enforced", "only stored", read.code, bad=Status.RISK)


def _extractable_secret(token: TokenUnderTest) -> ProbeAnswer:
    template = {**token.aes_template(SENSITIVE=True, EXTRACTABLE=False), Attribute.VALUE_LEN: 32}
    key = token.session.generate_key(AES_256, template)
    wrapped = attempt(token.session.wrap, token.oaep, token.outside_public, key)
    return good_if(
        wrapped.denied,
        "enforced",
        "only stored: the key is wrapped",
        wrapped.code,
        bad=Status.RISK,
    )


def _wrap_with_trusted(token: TokenUnderTest) -> ProbeAnswer:
    template = {
        **token.aes_template(EXTRACTABLE=True, WRAP_WITH_TRUSTED=True),
        Attribute.VALUE_LEN: 32,
    }
    creation = attempt(token.session.generate_key, AES_256, template)
    if creation.refused:
        return ProbeAnswer(Status.LACKS, "unknown", creation.code)
    kept = attempt(token.session.is_set, creation.value, Attribute.WRAP_WITH_TRUSTED)
    if kept.refused or not kept.value:
        return ProbeAnswer(Status.LACKS, "accepted, but not stored", kept.code)
    wrapped = attempt(token.session.wrap, token.oaep, token.outside_public, creation.value)
    return good_if(
        wrapped.denied,
        "enforced",
        "only stored: any public key wraps it",
        wrapped.code,
        bad=Status.RISK,
    )


def _trusted_by_officer(token: TokenUnderTest) -> ProbeAnswer:
    """Make a TRUSTED key as the security officer; wrap a data key with it."""
    if not token.keeps_wrap_with_trusted:
        raise ProbeSkippedError("WRAP_WITH_TRUSTED is unknown, so TRUSTED protects nothing")
    pair = rsa.generate_private_key(65537, 2048)
    carrier = token.library.open_session(token.slot)  # session objects live as long as it does
    try:
        template = token.public_template(pair.public_key().public_numbers(), TRUSTED=True)
        with token.officer():
            creation = attempt(carrier.create, template)
        if creation.refused:
            return ProbeAnswer(
                Status.LACKS, "the security officer cannot make a TRUSTED key", creation.code
            )
        wrapped = attempt(token.session.wrap, token.oaep, creation.value, token.data_key())
        return good_if(
            not wrapped.refused,
            "the security officer makes it TRUSTED, and it wraps",
            "the security officer makes it TRUSTED, but it does not wrap",
            wrapped.code,
            bad=Status.LACKS,
        )
    finally:
        carrier.close()


def _allowed_mechanisms(token: TokenUnderTest) -> ProbeAnswer:
    template = token.private_template(
        outside := rsa.generate_private_key(65537, 2048),
        ALLOWED_MECHANISMS=[Mechanism.RSA_PKCS_OAEP],
    )
    creation = attempt(token.session.create, template)
    if creation.refused:
        return ProbeAnswer(Status.LACKS, "unknown", creation.code)
    wrapped = outside.public_key().encrypt(os.urandom(32), padding.PKCS1v15())
    opened = attempt(
        token.session.unwrap,
        _PKCS1,
        creation.value,
        wrapped,
        token.session_template(token.unwrap_template),
    )
    return good_if(
        opened.refused,
        "another mechanism is refused",
        "only stored: RSA PKCS#1 v1.5 unwraps",
        opened.code,
        bad=Status.LACKS,
    )


def _unwrap_template(token: TokenUnderTest) -> ProbeAnswer:
    """Unwrap against the UNWRAP_TEMPLATE of a KEK, which demands SENSITIVE."""
    demanded = {Attribute.SENSITIVE: True}
    template = token.private_template(
        outside := rsa.generate_private_key(65537, 2048), UNWRAP_TEMPLATE=demanded
    )
    creation = attempt(token.session.create, template)
    if creation.refused:
        return ProbeAnswer(Status.LACKS, "unknown", creation.code)
    mechanism, name = token.oaep, token.best_hash
    wrapped = outside.public_key().encrypt(os.urandom(32), outside_oaep(name))
    weak = token.aes_template(SENSITIVE=False)
    opened = attempt(token.session.unwrap, mechanism, creation.value, wrapped, weak)
    if opened.refused:
        return ProbeAnswer(Status.GOOD, "enforced: a weaker template is refused", opened.code)
    read = attempt(token.session.get, opened.value, Attribute.VALUE)
    return good_if(
        read.refused,
        "enforced: the key is sensitive all the same",
        "only stored: the value is returned",
        read.code,
        bad=Status.LACKS,
    )


def _modifiable(token: TokenUnderTest) -> ProbeAnswer:
    key = token.data_key()
    changed = attempt(token.session.set, key, {Attribute.ENCRYPT: True})
    if changed.refused:
        return ProbeAnswer(Status.GOOD, "enforced", changed.code)
    return good_if(
        not token.session.is_set(key, Attribute.ENCRYPT),
        "a change is accepted, without effect",
        "only stored: the key can get further uses",
        changed.code,
        bad=Status.LACKS,
    )


def _unwrap_honours(token: TokenUnderTest) -> ProbeAnswer:
    """Request each attribute alone, then both: tokens treat them differently."""
    rest = {
        name: value
        for name, value in BARE_DATA_KEY.items()
        if name not in (*PROTECTION, Attribute.MODIFIABLE)
    }
    wrong, code = [], ""
    for requested in ((PROTECTION[0],), (PROTECTION[1],), PROTECTION):
        template = token.session_template({**UNWRAPPED, **rest, **dict.fromkeys(requested, True)})
        wrapped = token.wrap_outside(os.urandom(32))
        opened = attempt(token.session.unwrap, token.oaep, token.kek.private, wrapped, template)
        names = " with ".join(name.name for name in requested)
        if opened.refused:
            wrong.append(f"{names} refused")
            code = opened.code
        elif not all(token.session.is_set(opened.value, name) for name in requested):
            wrong.append(f"{names} dropped silently")
        code = code or opened.code
    return good_if(not wrong, "honoured", ", ".join(wrong), code, bad=Status.LACKS)


def _unwrap_unmodifiable(token: TokenUnderTest) -> ProbeAnswer:
    template = {**token.unwrap_template, Attribute.MODIFIABLE: False}
    wrapped = token.wrap_outside(os.urandom(32))
    opened = attempt(
        token.session.unwrap,
        token.oaep,
        token.kek.private,
        wrapped,
        token.session_template(template),
    )
    if opened.refused:
        return ProbeAnswer(Status.NOTE, "refused", opened.code)
    modifiable = token.session.is_set(opened.value, Attribute.MODIFIABLE)
    return good_if(not modifiable, "honoured", "dropped silently", opened.code, bad=Status.NOTE)


def _set_afterwards(token: TokenUnderTest) -> ProbeAnswer:
    """Unwrap without protection, set SENSITIVE, then try to read the value."""
    weak = {
        name: value
        for name, value in token.data_key_template.items()
        if name not in (*PROTECTION, Attribute.MODIFIABLE)
    }
    key = token.session.unwrap(
        token.oaep,
        token.kek.private,
        token.wrap_outside(os.urandom(32)),
        token.session_template({**UNWRAPPED, **weak}),
    )
    changed = attempt(token.session.set, key, {Attribute.SENSITIVE: True})
    if changed.refused:
        return ProbeAnswer(Status.NOTE, "refused", changed.code)
    read = attempt(token.session.get, key, Attribute.VALUE)
    extractable = token.session.is_set(key, Attribute.EXTRACTABLE)
    return good_if(
        read.refused and extractable,
        "SENSITIVE set afterwards is enforced, and the key stays extractable",
        "SENSITIVE set afterwards is not enforced"
        if not read.refused
        else "the key is not extractable",
        read.code,
        bad=Status.NOTE,
    )


def _private_hidden(token: TokenUnderTest) -> ProbeAnswer:
    """Find a private object of the user after a logout."""
    template = {**token.aes_template(EXTRACTABLE=False), Attribute.VALUE_LEN: 32}
    key = token.session.generate_key(AES_256, {**template, **tag_attributes(token.owner)})
    identity = token.session.get(key, Attribute.ID)
    token.session.logout()
    try:
        found = token.session.find({Attribute.ID: identity})
    except RefusedCallError as refusal:
        return ProbeAnswer(Status.GOOD, "not found", f"{refusal.function}: {refusal.name}")
    finally:
        token.session.login(token.pins.user)
        token.discard_cached_keys()
    return good_if(
        not found, "not found", "found without a login", "C_FindObjects: CKR_OK", bad=Status.RISK
    )


PROBES: Final = (
    Probe("attributes.sensitive", "SENSITIVE", _sensitive),
    Probe("attributes.extractable", "EXTRACTABLE false, on a secret key", _extractable_secret),
    Probe("attributes.wrap_with_trusted", "WRAP_WITH_TRUSTED", _wrap_with_trusted),
    Probe(
        "attributes.trusted_by_officer", "TRUSTED, set by the security officer", _trusted_by_officer
    ),
    Probe("attributes.allowed_mechanisms", "ALLOWED_MECHANISMS", _allowed_mechanisms),
    Probe("attributes.unwrap_template", "UNWRAP_TEMPLATE", _unwrap_template),
    Probe("attributes.modifiable", "MODIFIABLE false", _modifiable),
    Probe("attributes.private", "PRIVATE, before login", _private_hidden),
    Probe(
        "attributes.unwrap_honours",
        "SENSITIVE and EXTRACTABLE in an unwrap template",
        _unwrap_honours,
    ),
    Probe(
        "attributes.unwrap_unmodifiable",
        "MODIFIABLE false in an unwrap template",
        _unwrap_unmodifiable,
    ),
    Probe("attributes.set_afterwards", "SENSITIVE set after the unwrap", _set_afterwards),
)
