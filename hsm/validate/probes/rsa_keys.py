"""Key-encryption keys, made or imported, and the P-256 signing key."""

from functools import partial
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from pkcs11 import Attribute, Mechanism

from hsm.pkcs11.structures import MechanismCall
from hsm.pkcs11.templates import PRIVATE_HALF
from hsm.validate.attempt import attempt
from hsm.validate.findings import Probe, ProbeAnswer, Status, good_if
from hsm.validate.session import KekPair, TokenUnderTest

_P256: Final = bytes.fromhex("06082a8648ce3d030107")


def _generate(bits: int, token: TokenUnderTest) -> ProbeAnswer:
    creation = attempt(token.make_kek, bits)
    if creation.refused:
        return ProbeAnswer(Status.NOTE if bits != 2048 else Status.LACKS, "not made", creation.code)
    kek: KekPair = creation.value
    value = bytes(range(32))
    opened = token.session.unwrap(
        token.oaep,
        kek.private,
        token.wrap_outside(value, kek),
        token.session_template(token.unwrap_template),
    )
    length = token.session.number(opened, Attribute.VALUE_LEN)
    return ProbeAnswer(
        Status.GOOD, f"made and unwraps (VALUE_LEN {length})", "C_GenerateKeyPair: CKR_OK"
    )


def _import(token: TokenUnderTest) -> ProbeAnswer:
    outside = rsa.generate_private_key(65537, 2048)
    imported = attempt(token.session.create, token.private_template(outside))
    if imported.refused:
        return ProbeAnswer(Status.LACKS, "refused", imported.code)
    kek = KekPair(imported.value, outside.public_key())
    opened = attempt(
        token.session.unwrap,
        token.oaep,
        kek.private,
        token.wrap_outside(bytes(32), kek),
        token.session_template(token.unwrap_template),
    )
    return good_if(
        not opened.refused, "imported and unwraps", "does not unwrap", opened.code, bad=Status.LACKS
    )


def _protected(token: TokenUnderTest) -> ProbeAnswer:
    private = token.kek.private
    wrong = [
        name.name
        for name, value in {**PRIVATE_HALF, Attribute.UNWRAP: True}.items()
        if name is not Attribute.TOKEN and token.session.is_set(private, name) is not value
    ]
    return good_if(
        not wrong, "as requested", f"not as requested: {', '.join(wrong)}", "", bad=Status.RISK
    )


def _history(token: TokenUnderTest) -> ProbeAnswer:
    answers = [
        attempt(token.session.is_set, token.kek.private, name)
        for name in (Attribute.ALWAYS_SENSITIVE, Attribute.NEVER_EXTRACTABLE, Attribute.LOCAL)
    ]
    if any(each.refused for each in answers):
        return ProbeAnswer(
            Status.NOTE, "not reported", next(each.code for each in answers if each.refused)
        )
    values = [each.value for each in answers]
    return good_if(
        all(values),
        "all three are true",
        f"{values}",
        "C_GetAttributeValue: CKR_OK",
        bad=Status.NOTE,
    )


def _hidden(token: TokenUnderTest) -> ProbeAnswer:
    read = attempt(token.session.get, token.kek.private, Attribute.PRIVATE_EXPONENT)
    return good_if(read.refused, "refused", "the value is returned", read.code, bad=Status.RISK)


def _default_extractable(token: TokenUnderTest) -> ProbeAnswer:
    _, private = token.session.generate_pair(
        MechanismCall(Mechanism.RSA_PKCS_KEY_PAIR_GEN),
        token.session_template(
            {Attribute.MODULUS_BITS: 2048, Attribute.PUBLIC_EXPONENT: b"\x01\x00\x01"}
        ),
        token.session_template({Attribute.UNWRAP: True, Attribute.PRIVATE: True}),
    )
    extractable = attempt(token.session.is_set, private, Attribute.EXTRACTABLE)
    return good_if(
        extractable.value is False,
        "not extractable",
        "extractable; the rig always sets the attribute",
        extractable.code,
        bad=Status.NOTE,
    )


def _signs(token: TokenUnderTest) -> ProbeAnswer:
    public, private = token.session.generate_pair(
        MechanismCall(Mechanism.EC_KEY_PAIR_GEN),
        token.session_template(
            {Attribute.EC_PARAMS: _P256, Attribute.VERIFY: True, Attribute.PRIVATE: False}
        ),
        token.session_template({**PRIVATE_HALF, Attribute.TOKEN: False, Attribute.SIGN: True}),
    )
    point = token.session.get(public, Attribute.EC_POINT)[-65:]
    digest = bytes(range(32))
    signed = attempt(token.session.sign, MechanismCall(Mechanism.ECDSA), private, digest)
    if signed.refused:
        return ProbeAnswer(Status.LACKS, "does not sign", signed.code)
    r, s = (int.from_bytes(half, "big") for half in (signed.value[:32], signed.value[32:]))
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point).verify(
            encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(hashes.SHA256()))
        )
    except InvalidSignature:
        return ProbeAnswer(Status.RISK, "signs, but the signature is wrong", signed.code)
    return ProbeAnswer(Status.GOOD, "made in the token; the signature is right", signed.code)


def _public_only(token: TokenUnderTest) -> ProbeAnswer:
    public = token.import_public_key(rsa.generate_private_key(65537, 2048).public_key())
    wrapped = attempt(token.session.wrap, token.oaep, public, token.wrappable_data_key())
    return good_if(
        not wrapped.refused, "imported, and wraps", "does not wrap", wrapped.code, bad=Status.LACKS
    )


PROBES: Final = (
    *(
        Probe(
            f"rsa_keys.generate_{bits}",
            f"RSA {bits} key pair made in the token",
            partial(_generate, bits),
            seconds=180.0,
        )
        for bits in (2048, 3072, 4096)
    ),
    Probe("rsa_keys.import", "RSA private key imported", _import),
    Probe("rsa_keys.protected", "Attributes of a KEK's private half", _protected),
    Probe("rsa_keys.history", "ALWAYS_SENSITIVE, NEVER_EXTRACTABLE and LOCAL of a KEK", _history),
    Probe("rsa_keys.hidden", "Read a KEK's private exponent", _hidden),
    Probe(
        "rsa_keys.default_extractable",
        "EXTRACTABLE of a private key by default",
        _default_extractable,
    ),
    Probe("rsa_keys.public_only", "A public-only KEK", _public_only),
    Probe("rsa_keys.p256", "P-256 key pair and ECDSA signature", _signs),
)
