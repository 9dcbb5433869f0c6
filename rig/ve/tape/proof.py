"""Prove EEDKs with key manager and hardware (CART-5).

A key manager opens each, and the hardware compares the data key in it with the cartridge's.

An EEDK that no key manager can open would lose the tape, so it is found out before anything
depends on it.
"""

from __future__ import annotations

from typing import Final

from hsm.ekm.protocol.errors import EkmUnavailable, ErrorCode, ExchangeError
from rig.drive.drive import Drive
from rig.ve.ekm.relay import Relay

_NOT_HERE: Final = frozenset(
    (ErrorCode.KEK_PUBLIC_ONLY, ErrorCode.KEK_ABSENT, ErrorCode.UNKNOWN_LABEL)
)
"""The refusals of a key manager that has no private half of the EEDK's KEK."""


def prove(drive: Drive, relay: Relay, eedk: bytes) -> bool:
    """Prove an EEDK with any key manager that opens it.

    Returns False when all that could be asked have only the public half of its KEK: then its
    signature, its KEK and the length of its ciphertext are right (see `DataKeys.open_eedk`), and
    its content is not proved. Raises DriveError when it holds another key, ExchangeError when it
    was refused, EkmUnavailable.
    """
    refusals: list[ExchangeError] = []
    lost: list[EkmUnavailable] = []
    for each in relay.each():
        session = drive.proof_session(eedk)
        try:
            each.exchange(session)
        except EkmUnavailable as error:
            lost.append(error)
        except ExchangeError as error:
            if error.code not in _NOT_HERE and not refusals:
                raise
            refusals.append(error)
        else:
            drive.prove(session.grant)
            return True
    if any(refusal.code is ErrorCode.KEK_PUBLIC_ONLY for refusal in refusals):
        return False
    raise (*refusals, *lost)[0]
