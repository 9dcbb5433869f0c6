"""Certificates, labels and identifiers of objects."""

import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, CertificateType, ObjectClass

from hsm.pkcs11.encoding import der_integer
from hsm.validate.attempt import attempt
from hsm.validate.findings import Probe, ProbeAnswer, Status, good_if
from hsm.validate.session import TokenUnderTest
from hsm.validate.tagged_objects import LABEL, OTHER_CASE_LABEL


def _certificate() -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, LABEL)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    return (
        builder.not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )


def _template(certificate: x509.Certificate) -> dict[Any, Any]:
    return {
        Attribute.CLASS: ObjectClass.CERTIFICATE,
        Attribute.CERTIFICATE_TYPE: CertificateType.X_509,
        Attribute.PRIVATE: False,
        Attribute.SUBJECT: certificate.subject.public_bytes(),
        Attribute.ISSUER: certificate.issuer.public_bytes(),
        Attribute.SERIAL_NUMBER: der_integer(certificate.serial_number),
        Attribute.VALUE: certificate.public_bytes(serialization.Encoding.DER),
    }


def _certificate_kept(token: TokenUnderTest) -> ProbeAnswer:
    certificate = _certificate()
    creation = attempt(token.session.create, token.token_template(_template(certificate)))
    if creation.refused:
        return ProbeAnswer(Status.LACKS, "refused", creation.code)
    identity = token.session.get(creation.value, Attribute.ID)
    other = token.library.open_session(token.slot)
    try:
        found = other.find({Attribute.CLASS: ObjectClass.CERTIFICATE, Attribute.ID: identity})
        same = len(found) == 1 and other.get(found[0], Attribute.VALUE) == certificate.public_bytes(
            serialization.Encoding.DER
        )
    finally:
        other.close()
        token.session.destroy(creation.value)
    gone = not token.session.find({Attribute.ID: identity})
    if not gone:
        return ProbeAnswer(Status.RISK, "stored, but cannot be removed", creation.code)
    return good_if(
        same,
        "stored, found by CKA_ID in another session, unchanged; removed",
        "stored, but not found unchanged",
        creation.code,
        bad=Status.LACKS,
    )


def _label_case(token: TokenUnderTest) -> ProbeAnswer:
    certificate = token.session.create(
        token.session_template(
            _template(_certificate()) | {Attribute.TOKEN: False}, OTHER_CASE_LABEL
        )
    )
    identity = token.session.get(certificate, Attribute.ID)
    found = token.session.find({Attribute.LABEL: LABEL, Attribute.ID: identity})
    token.session.destroy(certificate)
    if found:
        return ProbeAnswer(Status.NOTE, "compares without case", "C_FindObjects: CKR_OK")
    return ProbeAnswer(
        Status.NOTE, "compares with case; the keystore compares without", "C_FindObjects: CKR_OK"
    )


def _label_unique(token: TokenUnderTest) -> ProbeAnswer:
    first = token.session.create(token.session_template(_template(_certificate())))
    second = attempt(token.session.create, token.session_template(_template(_certificate())))
    token.session.destroy(first)
    if second.refused:
        return ProbeAnswer(
            Status.NOTE, "refuses a second object of one label and CKA_ID", second.code
        )
    token.session.destroy(second.value)
    return ProbeAnswer(Status.NOTE, "accepts them; the keystore refuses duplicates", second.code)


def _label_long(token: TokenUnderTest) -> ProbeAnswer:
    label = "Ünïcode " + "x" * 56  # 64 characters, as KEY-5 allows
    creation = attempt(
        token.session.create,
        {**token.session_template(_template(_certificate())), Attribute.LABEL: label},
    )
    if creation.refused:
        return ProbeAnswer(Status.LACKS, "refused", creation.code)
    kept = token.session.get(creation.value, Attribute.LABEL).decode("utf-8", "replace")
    token.session.destroy(creation.value)
    return good_if(
        kept == label, "stored", f"stored as {kept[:16]!r}...", creation.code, bad=Status.LACKS
    )


PROBES: Final = (
    Probe("objects.certificate", "X.509 certificate as an object", _certificate_kept),
    Probe("objects.label_case", "Case in the comparison of labels", _label_case),
    Probe("objects.label_unique", "Two objects with the same label", _label_unique),
    Probe("objects.label_long", "A label of 64 characters, two of them not ASCII", _label_long),
)
