"""The secure element's process: serves the drive's token over a socket.

It ends when the drive closes the link.

Started by `SecureElement.start` with the number of an inherited socket as its one argument.
"""

import signal
import socket
import sys
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from hsm.crash_log import run_main
from hsm.errors import (
    KeyAbsentError,
    NotADataKeyError,
    PkiError,
    TaperigError,
    TokenRefusedError,
    UnwrapRefusedError,
)
from hsm.keys.labels import DRIVE_IDENTITY_LABEL, DRIVE_WRAP_LABEL, TRANSPORT_LABEL
from hsm.keys.pki import load_certificate
from hsm.pkcs11.encoding import spki_der
from hsm.pkcs11.token import Token, open_token
from rig.drive.secure_element import decode_config, receive_message, send_message


class Keys:
    """The three keys of a drive, by handle."""

    def __init__(self, token: Token) -> None:
        """Find the keys; raises KeyAbsentError."""
        self._token = token
        self._identity = token.signing_key(DRIVE_IDENTITY_LABEL)
        self.identity_public = token.p256_public_key(DRIVE_IDENTITY_LABEL)
        self._unwrapping, self.wrap_public = token.unwrapping_key(DRIVE_WRAP_LABEL)
        transport = token.find_secret(TRANSPORT_LABEL)
        if transport is None:
            raise KeyAbsentError(
                f"The token {token.label} lacks the transport key; run `rig hsm init`."
            )
        self._transport = transport

    def sign(self, data: bytes) -> bytes:
        """Sign with the drive's identity."""
        return self._token.sign_p256(self._identity, data)

    def rewrap_for_engine(self, sedk: bytes) -> bytes:
        """Unwrap a data key and wrap it under the transport key, in the token."""
        with self._token.unwrap_data_key(sedk, self._unwrapping, self._token.oaep_hash) as data_key:
            return self._token.seal_data_key(data_key, self._transport)


def serve(link: socket.socket) -> None:
    """Open the token, then answer requests until the link closes."""
    first = receive_message(link)
    if first is None:
        return
    config = decode_config(first)
    try:
        certificate = load_certificate(config.certificate)
        with open_token(config.token) as token:
            keys = Keys(token)
            if certificate.public_key() != keys.identity_public:
                raise PkiError(
                    f"The certificate {config.certificate} is not that of the drive's identity "
                    "key; run `rig hsm init`."
                )
            send_message(
                link,
                {
                    "certificate": certificate.public_bytes(Encoding.DER),
                    "wrap_public": spki_der(keys.wrap_public),
                    "oaep_hash": token.oaep_hash.value,
                },
            )
            while (request := receive_message(link)) is not None:
                send_message(link, _answer(keys, request))
    except TaperigError as error:
        send_message(link, {"error": "start", "text": str(error)})


def _answer(keys: Keys, request: dict[str, Any]) -> dict[str, Any]:
    try:
        match request:
            case {"do": "sign", "data": bytes(data)}:
                return {"signature": keys.sign(data)}
            case {"do": "rewrap", "sedk": bytes(sedk)}:
                return {"sealed": keys.rewrap_for_engine(sedk)}
    except (UnwrapRefusedError, NotADataKeyError) as error:
        return {"error": "sedk", "text": str(error)}
    except TokenRefusedError as error:
        return {"error": "refused", "text": str(error)}
    return {"error": "refused", "text": "the request is not one that a secure element knows."}


def main() -> int:
    """Serve on the inherited socket until the drive closes it.

    Ctrl-C and SIGHUP are the drive's to handle.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as link:
        try:
            serve(link)
        except OSError:
            return 0  # the drive is gone or sent a malformed frame; it sees that this end closed
    return 0


if __name__ == "__main__":
    run_main(main, "The secure element")
