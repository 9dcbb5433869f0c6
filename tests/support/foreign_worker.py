"""Use a Token on a token that is not SoftHSM; print the outcomes as JSON.

Run it where that token is. Arguments: module, label, variable of the PIN, accepted risks.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from pkcs11 import Attribute
from pkcs11 import exceptions as refusals

from hsm.errors import TaperigError
from hsm.keys.key_generation import generate_rsa, trust_public_key
from hsm.pkcs11.accepted_risks import TokenRisk
from hsm.pkcs11.config import TokenConfig
from hsm.pkcs11.encoding import big_integer, spki_hash
from hsm.pkcs11.oaep import oaep_padding
from hsm.pkcs11.pins import PinSource
from hsm.pkcs11.templates import UNTRUSTED_PUBLIC
from hsm.pkcs11.token import Token, open_token


def _outcome(call: Any) -> str:
    try:
        call().destroy()
    except TaperigError as error:
        return type(error).__name__
    return "accepted"


def main() -> None:
    """Use the token as the rig does, and try to misuse it."""
    module, label, pin, *accept = sys.argv[1:]
    config = TokenConfig(
        module=Path(module),
        label=label,
        pin=PinSource(env=pin),
        accept=frozenset(TokenRisk(word) for word in accept),
    )
    with open_token(config) as token:
        public = generate_rsa(token, 2048, "a test's KEK")
        private, _ = token.unwrapping_key("a test's KEK")
        padding = oaep_padding(token.oaep_hash)

        def unwrap(payload: bytes) -> Any:
            return token.unwrap_data_key(public.encrypt(payload, padding), private, token.oaep_hash)

        report: dict[str, Any] = {"risks": sorted(token.capabilities.risks)}
        report["lengths"] = {
            str(length): _outcome(lambda length=length: unwrap(os.urandom(length)))
            for length in (16, 24, 31, 32, 33)
        }
        damaged = bytes(256)
        report["damaged"] = _outcome(
            lambda: token.unwrap_data_key(damaged, private, token.oaep_hash)
        )
        with unwrap(bytes(32)) as data_key:
            key = data_key.handle
            report["protected"] = [bool(key[Attribute.SENSITIVE]), bool(key[Attribute.EXTRACTABLE])]
            try:
                report["value"] = len(key[Attribute.VALUE])
            except refusals.PKCS11Error as error:
                report["value"] = type(error).__name__
        report["forged"] = _forged(token)
        private.destroy()
    print(json.dumps(report))


def _forged(token: Token) -> dict[str, bool]:
    """Find a public key while another key bears its CKA_ID, then for real."""
    real, other = (rsa.generate_private_key(65537, 2048).public_key() for _ in range(2))
    forged = token.session.create_object(
        {
            **UNTRUSTED_PUBLIC,
            Attribute.LABEL: "forged",
            Attribute.ID: spki_hash(real),
            Attribute.MODULUS: big_integer(other.public_numbers().n),
            Attribute.PUBLIC_EXPONENT: big_integer(65537),
        }
    )
    before = token.trusted_public_key(spki_hash(real)) is not None
    trust_public_key(token, real, "real")
    found: Any = token.trusted_public_key(spki_hash(real))
    after = found is not None and found[Attribute.MODULUS] == big_integer(real.public_numbers().n)
    for key in (forged, found):
        with suppress(refusals.ObjectHandleInvalid):  # NSS keeps one public key for a CKA_ID
            key.destroy()
    return {"forged key found": before, "real key found": after}


if __name__ == "__main__":
    main()
