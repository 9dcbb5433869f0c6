"""Certificates, and how objects are named and found."""

import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, CertificateType, ObjectClass

from hsm.pkcs11.encoding import der_integer
from hsm.validate.attempt import attempt
from hsm.validate.findings import Answer, Probe, Status, good_if
from hsm.validate.session import Bench
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


def _certificate_kept(bench: Bench) -> Answer:
    certificate = _certificate()
    made = attempt(bench.session.create, bench.kept(_template(certificate)))
    if made.refused:
        return Answer(Status.LACKS, "not kept", made.code)
    identity = bench.session.get(made.value, Attribute.ID)
    other = bench.library.open_session(bench.slot)
    try:
        found = other.find({Attribute.CLASS: ObjectClass.CERTIFICATE, Attribute.ID: identity})
        same = len(found) == 1 and other.get(found[0], Attribute.VALUE) == certificate.public_bytes(
            serialization.Encoding.DER
        )
    finally:
        other.close()
        bench.session.destroy(made.value)
    gone = not bench.session.find({Attribute.ID: identity})
    if not gone:
        return Answer(Status.RISK, "kept, and not to be removed", made.code)
    return good_if(
        same,
        "kept, found by CKA_ID in another session, unchanged; removed",
        "kept, and not found again as it was",
        made.code,
        bad=Status.LACKS,
    )


def _label_case(bench: Bench) -> Answer:
    made = bench.session.create(
        bench.mine(_template(_certificate()) | {Attribute.TOKEN: False}, OTHER_CASE_LABEL)
    )
    identity = bench.session.get(made, Attribute.ID)
    found = bench.session.find({Attribute.LABEL: LABEL, Attribute.ID: identity})
    bench.session.destroy(made)
    if found:
        return Answer(Status.NOTE, "compares without case", "C_FindObjects: CKR_OK")
    return Answer(
        Status.NOTE, "compares with case; the keystore compares without", "C_FindObjects: CKR_OK"
    )


def _label_unique(bench: Bench) -> Answer:
    first = bench.session.create(bench.mine(_template(_certificate())))
    second = attempt(bench.session.create, bench.mine(_template(_certificate())))
    bench.session.destroy(first)
    if second.refused:
        return Answer(Status.NOTE, "refuses a second object of one label and CKA_ID", second.code)
    bench.session.destroy(second.value)
    return Answer(Status.NOTE, "takes any number; the keystore refuses duplicates", second.code)


def _label_long(bench: Bench) -> Answer:
    label = "Ünïcode " + "x" * 56  # 64 characters, as KEY-5 allows
    made = attempt(
        bench.session.create, {**bench.mine(_template(_certificate())), Attribute.LABEL: label}
    )
    if made.refused:
        return Answer(Status.LACKS, "refused", made.code)
    kept = bench.session.get(made.value, Attribute.LABEL).decode("utf-8", "replace")
    bench.session.destroy(made.value)
    return good_if(
        kept == label, "kept whole", f"kept as {kept[:16]!r}...", made.code, bad=Status.LACKS
    )


PROBES: Final = (
    Probe("objects.certificate", "An X.509 certificate as an object", _certificate_kept),
    Probe("objects.label_case", "Are labels compared with case?", _label_case),
    Probe("objects.label_unique", "Two objects of one label", _label_unique),
    Probe("objects.label_long", "A label of 64 characters, two of them not ASCII", _label_long),
)
