"""The transcript of a key exchange, and what is signed of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from hsm.ekm.protocol.messages import Ack, KeyReply, KeyRequest, frame
from hsm.keys import deterministic_cbor

Signed = KeyRequest | KeyReply | Ack


class Transcript:
    """SHA-256 over the exact bytes of an exchange so far.

    A signed message is signed over this hash continued by the message's own bytes without the
    signature, each preceded by its length, and by the role that signs. So a signature made for one
    message, role or exchange never fits another.
    """

    def __init__(self) -> None:
        """Begin an exchange."""
        self._hash = hashlib.sha256(b"taperig key exchange 2")

    def add(self, data: bytes) -> None:
        """Take a message that was sent or received."""
        self._hash.update(frame(data))

    def to_verify(self, message: Signed, data: bytes) -> bytes:
        """Return the 32 bytes that the signature of ``message``, which came as ``data``, is over.

        The signature is cut out of ``data``.
        """
        member = _signature_member(message.signature)
        end = len(data) - message.AFTER_SIGNATURE
        begin = end - len(member)
        return self._digest(message, b"%c%b%b" % (data[0] - 1, data[1:begin], data[end:]))

    def signed(self, message: Signed, sign: Callable[[bytes], bytes]) -> bytes:
        """Return the bytes of ``message`` with the signature that ``sign`` makes; take them.

        Raises MessageError for a field a peer would refuse.
        """
        draft = self.draft(message)
        return draft.signed(sign(draft.digest))

    def draft(self, message: Signed) -> Draft:
        """Return ``message`` as it awaits its signature; raises as ``signed`` does."""
        part = message.without_signature()
        return Draft(self, message, part, self._digest(message, part))

    def _digest(self, message: Signed, part: bytes) -> bytes:
        continued = self._hash.copy()
        continued.update(b"signature over %b%b" % (message.TYPE.encode(), frame(part)))
        return continued.digest()


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that lacks but its signature, which is to be made over ``digest``."""

    _transcript: Transcript
    _message: Signed
    _part: bytes
    digest: bytes

    def signed(self, signature: bytes) -> bytes:
        """Return the message's bytes with the signature; the transcript takes them."""
        part, member = self._part, _signature_member(signature)
        end = len(part) - self._message.AFTER_SIGNATURE
        data = b"%c%b%b%b" % (part[0] + 1, part[1:end], member, part[end:])
        self._transcript.add(data)
        return data


def _signature_member(signature: bytes) -> bytes:
    """Return the encoded member of a map: without the head of the map that is only it."""
    return deterministic_cbor.encode_ordered({"signature": signature})[1:]
