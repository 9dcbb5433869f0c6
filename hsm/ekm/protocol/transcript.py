"""The transcript of a key exchange, and the signatures over it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from hsm.ekm.protocol.messages import Ack, KeyReply, KeyRequest, frame
from hsm.keys import deterministic_cbor

SignedMessage = KeyRequest | KeyReply | Ack


class Transcript:
    """SHA-256 over the exact bytes of an exchange so far.

    A signature covers this hash, continued with the message's type and its bytes without the
    signature; each message is preceded by its length. So a signature made for one message, role or
    exchange is never valid for another.
    """

    def __init__(self) -> None:
        """Start the transcript of an exchange."""
        self._hash = hashlib.sha256(b"taperig key exchange 2")

    def add(self, data: bytes) -> None:
        """Add a message that was sent or received."""
        self._hash.update(frame(data))

    def to_verify(self, message: SignedMessage, data: bytes) -> bytes:
        """Return the 32 bytes that the signature of a received message covers.

        ``message`` was received as ``data``; the signature is cut out of it.
        """
        member = _signature_member(message.signature)
        end = len(data) - message.AFTER_SIGNATURE
        begin = end - len(member)
        return self._digest(message, b"%c%b%b" % (data[0] - 1, data[1:begin], data[end:]))

    def signed(self, message: SignedMessage, sign: Callable[[bytes], bytes]) -> bytes:
        """Sign ``message``, add it to the transcript and return its bytes.

        Raises MessageError for a field a peer would refuse.
        """
        draft = self.draft(message)
        return draft.signed(sign(draft.digest))

    def draft(self, message: SignedMessage) -> Draft:
        """Return ``message`` prepared for its signature; raises as ``signed``."""
        part = message.without_signature()
        return Draft(self, message, part, self._digest(message, part))

    def _digest(self, message: SignedMessage, part: bytes) -> bytes:
        continued = self._hash.copy()
        continued.update(b"signature over %b%b" % (message.TYPE.encode(), frame(part)))
        return continued.digest()


@dataclass(frozen=True, slots=True)
class Draft:
    """A message without its signature, which is to be made over ``digest``."""

    _transcript: Transcript
    _message: SignedMessage
    _part: bytes
    digest: bytes

    def signed(self, signature: bytes) -> bytes:
        """Return the signed message's bytes, and add them to the transcript."""
        part, member = self._part, _signature_member(signature)
        end = len(part) - self._message.AFTER_SIGNATURE
        data = b"%c%b%b%b" % (part[0] + 1, part[1:end], member, part[end:])
        self._transcript.add(data)
        return data


def _signature_member(signature: bytes) -> bytes:
    """Return the encoded ``signature`` member of a map."""
    return deterministic_cbor.encode_ordered({"signature": signature})[1:]
