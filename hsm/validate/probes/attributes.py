"""Is an attribute enforced, or does the token only store it?"""

import os
from typing import Final

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from pkcs11 import Attribute, Mechanism

from hsm.pkcs11.structures import MechanismCall
from hsm.validate.attempt import NotTriedError, attempt
from hsm.validate.findings import Answer, Probe, Status, good_if
from hsm.validate.raw_pkcs11 import RefusedCallError
from hsm.validate.session import AES_256, BARE_DATA_KEY, PROTECTION, UNWRAPPED, Bench, outside_oaep
from hsm.validate.tagged_objects import marks

_PKCS1: Final = MechanismCall(Mechanism.RSA_PKCS)


def _sensitive(bench: Bench) -> Answer:
    key = bench.known_aes(os.urandom(32), SENSITIVE=True, EXTRACTABLE=True)
    read = attempt(bench.session.get, key, Attribute.VALUE)
    return good_if(read.refused, "enforced", "only stored", read.code, bad=Status.RISK)


def _extractable_secret(bench: Bench) -> Answer:
    template = {**bench.aes(SENSITIVE=True, EXTRACTABLE=False), Attribute.VALUE_LEN: 32}
    key = bench.session.generate_key(AES_256, template)
    wrapped = attempt(bench.session.wrap, bench.oaep, bench.outside_public, key)
    return good_if(
        wrapped.refused, "enforced", "only stored: it is wrapped", wrapped.code, bad=Status.RISK
    )


def _wrap_with_trusted(bench: Bench) -> Answer:
    template = {**bench.aes(EXTRACTABLE=True, WRAP_WITH_TRUSTED=True), Attribute.VALUE_LEN: 32}
    made = attempt(bench.session.generate_key, AES_256, template)
    if made.refused:
        return Answer(Status.LACKS, "unknown", made.code)
    told = attempt(bench.session.is_set, made.value, Attribute.WRAP_WITH_TRUSTED)
    if told.refused or not told.value:
        return Answer(Status.LACKS, "taken, and forgotten", told.code)
    wrapped = attempt(bench.session.wrap, bench.oaep, bench.outside_public, made.value)
    return good_if(
        wrapped.refused,
        "enforced",
        "only stored: any public key wraps it",
        wrapped.code,
        bad=Status.RISK,
    )


def _trusted_by_officer(bench: Bench) -> Answer:
    """The officer makes a TRUSTED key that wraps what may be wrapped by such alone."""
    if not bench.knows_wrap_with_trusted:
        raise NotTriedError("WRAP_WITH_TRUSTED is unknown, so TRUSTED protects nothing")
    pair = rsa.generate_private_key(65537, 2048)
    carrier = bench.library.open_session(bench.slot)  # session objects live as long as it does
    try:
        template = bench.public_template(pair.public_key().public_numbers(), TRUSTED=True)
        with bench.officer():
            made = attempt(carrier.create, template)
        if made.refused:
            return Answer(Status.LACKS, "the officer cannot make a TRUSTED key", made.code)
        wrapped = attempt(bench.session.wrap, bench.oaep, made.value, bench.data_key())
        return good_if(
            not wrapped.refused,
            "the officer makes it TRUSTED, and it wraps",
            "TRUSTED by the officer, and does not wrap",
            wrapped.code,
            bad=Status.LACKS,
        )
    finally:
        carrier.close()


def _allowed_mechanisms(bench: Bench) -> Answer:
    template = bench.private_template(
        outside := rsa.generate_private_key(65537, 2048),
        ALLOWED_MECHANISMS=[Mechanism.RSA_PKCS_OAEP],
    )
    made = attempt(bench.session.create, template)
    if made.refused:
        return Answer(Status.LACKS, "unknown", made.code)
    wrapped = outside.public_key().encrypt(os.urandom(32), padding.PKCS1v15())
    opened = attempt(
        bench.session.unwrap, _PKCS1, made.value, wrapped, bench.mine(bench.unwrap_template)
    )
    return good_if(
        opened.refused,
        "another mechanism is refused",
        "only stored: RSA PKCS#1 v1.5 unwraps",
        opened.code,
        bad=Status.LACKS,
    )


def _unwrap_template(bench: Bench) -> Answer:
    """A KEK that says itself what it unwraps to: SENSITIVE, whatever the caller says."""
    demanded = {Attribute.SENSITIVE: True}
    template = bench.private_template(
        outside := rsa.generate_private_key(65537, 2048), UNWRAP_TEMPLATE=demanded
    )
    made = attempt(bench.session.create, template)
    if made.refused:
        return Answer(Status.LACKS, "unknown", made.code)
    mechanism, name = bench.oaep, bench.best_hash
    wrapped = outside.public_key().encrypt(os.urandom(32), outside_oaep(name))
    weak = bench.aes(SENSITIVE=False)
    opened = attempt(bench.session.unwrap, mechanism, made.value, wrapped, weak)
    if opened.refused:
        return Answer(Status.GOOD, "enforced: a weaker template is refused", opened.code)
    read = attempt(bench.session.get, opened.value, Attribute.VALUE)
    return good_if(
        read.refused,
        "enforced: the key is sensitive nevertheless",
        "only stored: the value is given out",
        read.code,
        bad=Status.LACKS,
    )


def _modifiable(bench: Bench) -> Answer:
    key = bench.data_key()
    changed = attempt(bench.session.set, key, {Attribute.ENCRYPT: True})
    if changed.refused:
        return Answer(Status.GOOD, "enforced", changed.code)
    return good_if(
        not bench.session.is_set(key, Attribute.ENCRYPT),
        "a change is taken and has no effect",
        "only stored: uses can be given to the key",
        changed.code,
        bad=Status.LACKS,
    )


def _unwrap_honours(bench: Bench) -> Answer:
    """Ask for each attribute alone, then for both: tokens differ in what they do to which."""
    rest = {
        name: value
        for name, value in BARE_DATA_KEY.items()
        if name not in (*PROTECTION, Attribute.MODIFIABLE)
    }
    wrong, code = [], ""
    for asked in ((PROTECTION[0],), (PROTECTION[1],), PROTECTION):
        template = bench.mine({**UNWRAPPED, **rest, **dict.fromkeys(asked, True)})
        wrapped = bench.wrapped_outside(os.urandom(32))
        opened = attempt(bench.session.unwrap, bench.oaep, bench.kek.private, wrapped, template)
        names = " with ".join(name.name for name in asked)
        if opened.refused:
            wrong.append(f"{names} refused")
            code = opened.code
        elif not all(bench.session.is_set(opened.value, name) for name in asked):
            wrong.append(f"{names} dropped silently")
        code = code or opened.code
    return good_if(not wrong, "honoured", ", ".join(wrong), code, bad=Status.LACKS)


def _unwrap_unmodifiable(bench: Bench) -> Answer:
    template = {**bench.unwrap_template, Attribute.MODIFIABLE: False}
    wrapped = bench.wrapped_outside(os.urandom(32))
    opened = attempt(
        bench.session.unwrap, bench.oaep, bench.kek.private, wrapped, bench.mine(template)
    )
    if opened.refused:
        return Answer(Status.NOTE, "refused", opened.code)
    told = bench.session.is_set(opened.value, Attribute.MODIFIABLE)
    return good_if(not told, "honoured", "dropped silently", opened.code, bad=Status.NOTE)


def _set_afterwards(bench: Bench) -> Answer:
    """The way around an unwrap template that is dropped: set SENSITIVE, read back, try to read."""
    weak = {
        name: value
        for name, value in bench.data_key_template.items()
        if name not in (*PROTECTION, Attribute.MODIFIABLE)
    }
    key = bench.session.unwrap(
        bench.oaep,
        bench.kek.private,
        bench.wrapped_outside(os.urandom(32)),
        bench.mine({**UNWRAPPED, **weak}),
    )
    made = attempt(bench.session.set, key, {Attribute.SENSITIVE: True})
    if made.refused:
        return Answer(Status.NOTE, "refused", made.code)
    read = attempt(bench.session.get, key, Attribute.VALUE)
    extractable = bench.session.is_set(key, Attribute.EXTRACTABLE)
    return good_if(
        read.refused and extractable,
        "SENSITIVE set afterwards holds, and the key stays extractable",
        "SENSITIVE set afterwards does not hold"
        if not read.refused
        else "the key is not extractable",
        read.code,
        bad=Status.NOTE,
    )


def _private_hidden(bench: Bench) -> Answer:
    """A private object of the user is not seen by a session that has not logged in."""
    template = {**bench.aes(EXTRACTABLE=False), Attribute.VALUE_LEN: 32}
    key = bench.session.generate_key(AES_256, {**template, **marks(bench.owner)})
    identity = bench.session.get(key, Attribute.ID)
    bench.session.logout()
    try:
        found = bench.session.find({Attribute.ID: identity})
    except RefusedCallError as refusal:
        return Answer(Status.GOOD, "not found", f"{refusal.function}: {refusal.name}")
    finally:
        bench.session.login(bench.pins.user)
        bench.forget()
    return good_if(
        not found, "not found", "found without a login", "C_FindObjects: CKR_OK", bad=Status.RISK
    )


PROBES: Final = (
    Probe("attributes.sensitive", "SENSITIVE", _sensitive),
    Probe("attributes.extractable", "EXTRACTABLE false, on a secret key", _extractable_secret),
    Probe("attributes.wrap_with_trusted", "WRAP_WITH_TRUSTED", _wrap_with_trusted),
    Probe("attributes.trusted_by_officer", "TRUSTED, given by the officer", _trusted_by_officer),
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
