"""Do one operation of the rig on a token; run it where that token is.

Arguments: operation, module, label, variable of the PIN, accepted risks. The security officer's
PIN, if there is one, is in the variable TAPERIG_TEST_SO_PIN.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from pkcs11 import Attribute, ObjectClass

from hsm.keys.key_generation import (
    ensure_p256,
    generate_rsa,
    import_transport_key,
    transport_key_matches,
    trust_public_key,
)
from hsm.pkcs11.accepted_risks import TokenRisk
from hsm.pkcs11.config import TokenConfig
from hsm.pkcs11.encoding import spki_hash
from hsm.pkcs11.oaep import OaepHash, oaep_padding
from hsm.pkcs11.pins import PinSource
from hsm.pkcs11.token import Token, open_token


def seal(token: Token) -> None:
    """Seal a data key with AES-KEY-WRAP; unwrap it outside (RFC 3394)."""
    transport, value = secrets.token_bytes(32), secrets.token_bytes(32)
    public = generate_rsa(token, 2048, "seal")
    import_transport_key(token, "seal transport", transport)
    assert transport_key_matches(token, "seal transport", transport)
    private, _ = token.unwrapping_key("seal")
    wrapped = public.encrypt(value, oaep_padding(token.oaep_hash))
    with token.unwrap_data_key(wrapped, private, token.oaep_hash, check_length=False) as data_key:
        wrapping = token.find_secret("seal transport")
        assert wrapping is not None
        sealed = token.seal_data_key(data_key, wrapping)
    assert aes_key_unwrap(transport, sealed) == value


def sign(token: Token) -> None:
    """Sign with the token's P-256 key; verify the signature outside."""
    public = ensure_p256(token, "sign")
    signature = token.sign_p256(token.signing_key("sign"), b"signed")
    public.verify(signature, b"signed", ec.ECDSA(hashes.SHA256()))


def rewrap(token: Token) -> None:
    """Rewrap a data key; check that no key is left, also after refusals."""
    value = secrets.token_bytes(32)
    public = generate_rsa(token, 2048, "rewrap")
    drive = rsa.generate_private_key(65537, 2048)
    trust_public_key(token, drive.public_key(), "rewrap drive")
    private, _ = token.unwrapping_key("rewrap")
    receiver = token.trusted_public_key(spki_hash(drive.public_key()))
    assert receiver is not None
    padding, hash_ = oaep_padding(token.oaep_hash), token.oaep_hash
    wrapped = public.encrypt(value, padding)

    def rewrap_again(wrapped: bytes, receiver: Any) -> bytes | None:
        return token.rewrap_data_key(wrapped, private, hash_, receiver, hash_)

    with token.unwrap_data_key(wrapped, private, hash_, check_length=False) as data_key:
        assert drive.decrypt(token.wrap_data_key(data_key, receiver), padding) == value
    able = rewrap_again(wrapped, receiver)
    assert able is None or drive.decrypt(able, padding) == value
    assert rewrap_again(bytes(256), receiver) is None  # damaged
    assert rewrap_again(wrapped, private) is None  # no key to wrap with
    secret_keys = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.TOKEN: False}
    assert token.find(secret_keys) == []
    sys.stdout.write("able" if able else "unable")


def sha256(token: Token) -> None:
    """Unwrap with OAEP SHA-256, which the token must have chosen."""
    assert token.oaep_hash is OaepHash.SHA256
    public = generate_rsa(token, 2048, "sha256")
    private, _ = token.unwrapping_key("sha256")
    wrapped = public.encrypt(bytes(32), oaep_padding(OaepHash.SHA256))
    token.unwrap_data_key(wrapped, private, OaepHash.SHA256).destroy()


def main() -> None:
    """Do the operation; raise an exception when it fails."""
    operation, module, label, pin, *accept = sys.argv[1:]
    officer = "TAPERIG_TEST_SO_PIN"
    config = TokenConfig(
        module=Path(module),
        label=label,
        pin=PinSource(env=pin),
        so_pin=PinSource(env=officer) if officer in os.environ else None,
        accept=frozenset(TokenRisk(word) for word in accept),
    )
    with open_token(config) as token:
        {"seal": seal, "sign": sign, "sha256": sha256, "rewrap": rewrap}[operation](token)


if __name__ == "__main__":
    main()
