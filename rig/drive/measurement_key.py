"""Keys for measurements, which reach the gates as data keys do.

They are made by the rig, wrapped for the drive as a key manager does, and sealed by its secure
element. No data key is ever used in this way.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from rig.drive.secure_element import SecureElement
from rig.engine.throughput import MeasureError

_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "SHA-1": hashes.SHA1,
    "SHA-256": hashes.SHA256,
}


def seal_measurement_key(element: SecureElement, key: bytes) -> bytes:
    """Return the key sealed for the gates, as data keys are."""
    public = load_der_public_key(element.wrap_public_der)
    algorithm = _HASHES.get(element.oaep_hash)
    if not isinstance(public, rsa.RSAPublicKey) or algorithm is None:
        raise MeasureError(
            f"The drive {element.serial} wants keys wrapped in a way that the rig cannot do "
            f"({type(public).__name__}, OAEP with {element.oaep_hash}); no rate can be measured."
        )
    wrapped = public.encrypt(
        key,
        padding.OAEP(mgf=padding.MGF1(algorithm()), algorithm=algorithm(), label=None),
    )
    return element.rewrap_for_engine(wrapped)
