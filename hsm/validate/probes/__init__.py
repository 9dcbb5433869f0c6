"""All probes, in the order in which they run."""

from hsm.validate.findings import Probe, by_name
from hsm.validate.probes import (
    attacks,
    attributes,
    data_keys,
    declared,
    faults,
    key_wrap,
    life,
    oaep,
    objects,
    rates,
    rsa_keys,
)

AREAS: dict[str, str] = {
    "declared": "Declarations of the module",
    "data_keys": "Data keys",
    "oaep": "RSA-OAEP",
    "key_wrap": "AES key wrap",
    "rsa_keys": "Key-encryption keys",
    "objects": "Certificates, labels, identifiers",
    "attributes": "Attributes: enforced, or only stored",
    "attacks": "Attacks on a data key or a KEK",
    "faults": "Wrong and damaged input",
    "life": "Sessions, threads, processes",
    "rates": "Rates",
}
"""Titles of the areas."""

PROBES: dict[str, Probe] = by_name(
    [
        *declared.PROBES,
        *data_keys.PROBES,
        *oaep.PROBES,
        *key_wrap.PROBES,
        *rsa_keys.PROBES,
        *objects.PROBES,
        *attributes.PROBES,
        *attacks.PROBES,
        *faults.PROBES,
        *life.PROBES,
        *rates.PROBES,
    ]
)
"""All probes by name."""
