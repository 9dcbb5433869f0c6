"""Rekey a cartridge: replace its EEDKs; its data is not rewritten.

The key manager opens an old EEDK and wraps the same data key again. Before the old EEDKs are
replaced, the drive's hardware proves the data key against the cartridge's key check, and each new
EEDK that a key manager here can open is opened and proved in the same way: an EEDK that no key
manager can open would lose the tape. A failure before that leaves the cartridge as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from hsm.errors import TaperigError
from hsm.keys.eedk import KeyLabel
from rig.drive.drive import Drive
from rig.drive.sense import sense_of
from rig.results.events import EventLog
from rig.ve.catalogue import settings, transactions
from rig.ve.catalogue.model import SCRATCH_POOL, PoolSettings, TapeEncryption, VolumeState
from rig.ve.catalogue.schema import keys_json
from rig.ve.ekm.relay import Relay
from rig.ve.tape.cartridge_store import CartridgeStore
from rig.ve.tape.jobs import NodeParts, reconcile_cartridge
from rig.ve.tape.proof import prove
from rig.ve.tape.sequences import DriveSequences

REKEY_STEPS = {
    "REKEY-1": "mount the physical volume",
    "REKEY-2": "key exchange: new EEDKs for the same data key",
    "REKEY-3": "the hardware proves the data key",
    "REKEY-4": "the new EEDKs are opened and proved",
    "REKEY-5": "replace the EEDKs in cartridge memory and on the media",
    "REKEY-6": "zeroize and demount",
}
"""The steps as they are recorded. The modelled system's rules do not number them."""


class RekeyError(TaperigError):
    """New EEDKs were refused; the cartridge keeps its old ones."""


@dataclass(frozen=True, slots=True)
class RekeyReport:
    """The result of a rekey: the new EEDKs, and which were opened here."""

    volser: str
    keys: tuple[KeyLabel, ...]
    eedks: tuple[bytes, ...]
    opened: tuple[bool, ...]


def rekey(
    drive: Drive,
    proxy: Relay,
    cartridges: CartridgeStore,
    events: EventLog,
    volser: str,
    keys: Sequence[KeyLabel],
    *,
    allow_public_only: bool = False,
) -> RekeyReport:
    """Rewrap a cartridge's data key for one or two other KEKs.

    When this returns, the old EEDKs are gone.

    ``allow_public_only`` admits keys none of which a key manager here can open. Raises
    ExchangeError, EkmUnavailable, DriveError, CartridgeError or RekeyError.
    """
    sequence = _Sequence(events, volser)
    with cartridges.mounted(volser, write=True) as cartridge:
        with sequence.step("REKEY-1") as detail:
            drive.load(cartridge)
            if cartridge.notes:
                detail["notes"] = list(cartridge.notes)
        try:
            with sequence.step("REKEY-2") as detail:
                session = drive.rekey_session(keys, allow_public_only=allow_public_only)
                proxy.exchange(session)
                grant = session.grant
                detail["keys"] = [f"{key.label} ({key.mode})" for key in keys]
            with sequence.step("REKEY-3"):
                drive.prove(grant)
            with sequence.step("REKEY-4") as detail:
                opened = tuple(prove(drive, proxy, eedk) for eedk in grant.eedks)
                detail["opened"] = sum(opened)
                if not any(opened) and not allow_public_only:
                    raise RekeyError(
                        f"No key manager here opens either new EEDK of {volser}, so it keeps its "
                        "old ones; look into the key manager's audit log."
                    )
            with sequence.step("REKEY-5"):
                drive.store_eedks(grant.eedks)
        except BaseException:
            with suppress(TaperigError):  # recorded as a step; the caller gets the first error
                _demount(sequence, drive)
            raise
        _demount(sequence, drive)
    return RekeyReport(volser, tuple(keys), grant.eedks, opened)


def rekeyable(session: Session, volser: str) -> PoolSettings:
    """Return the pool whose keys a cartridge would get.

    Raises RekeyError when it may not be rekeyed.
    """
    row = transactions.physical(session, volser)
    pool = settings.pool(session, row.pool) if row.pool != SCRATCH_POOL else None
    if row.writing_pool is not None:
        raise RekeyError(
            f"A write to cartridge {volser} was cut off and is not settled, so it keeps its keys; "
            f"`rig ve check` says why."
        )
    if pool is None or row.state == VolumeState.SCRATCH.value:
        raise RekeyError(
            f"Cartridge {volser} is scratch: no key is needed for what is on it. It gets its "
            f"pool's keys when it is written from BOT."
        )
    if row.encryption != TapeEncryption.ENCRYPTED.value:
        raise RekeyError(
            f"Cartridge {volser} is not encrypted, so it has no keys to replace; move its volumes "
            f"to an encrypted pool with: rig ve move {volser} --to POOL"
        )
    if not pool.encrypt:
        raise RekeyError(
            f"Pool {pool.number} of cartridge {volser} does not encrypt now, so it has no keys for "
            f"it; name them with: rig ve pools --set {pool.number} --encrypt --key LABEL"
        )
    return pool


def rekey_to_pool(parts: NodeParts, sequences: DriveSequences, volser: str) -> RekeyReport:
    """Rekey a node's cartridge to its pool's current keys.

    Until the cartridge surely has the new EEDKs only, the catalogue names old and new keys: a key
    is never taken for unused too early, also when the process is killed. One of version 1 becomes
    one of version 2, and is marked as being written meanwhile. Raises as `rekey` does.
    """
    with parts.locks.locked(volser):
        with parts.catalogue.reading() as session:
            rekeyable(session, volser)
        eedks = _eedks(parts.cartridges, volser)
        with parts.catalogue.transaction() as session:
            pool = rekeyable(session, volser)
            row = transactions.physical(session, volser)
            before, new = list(row.keys), keys_json(pool.keys)
            row.keys = before + [key for key in new if key not in before]
            row.writing_pool = row.pool
        try:
            report = rekey(
                sequences.drive,
                sequences.proxy,
                parts.cartridges,
                sequences.events,
                volser,
                pool.keys,
                allow_public_only=pool.allow_public_only,
            )
        except BaseException:
            with suppress(TaperigError):  # else the next start does it
                reconcile_cartridge(parts, volser)
                if _eedks(parts.cartridges, volser) == eedks:
                    with parts.catalogue.transaction() as session:
                        transactions.physical(session, volser).keys = before
            raise
        facts = parts.cartridges.facts(volser)
        with parts.catalogue.transaction() as session:
            row = transactions.physical(session, volser)
            row.keys = new
            transactions.enter_facts(row, facts)
            transactions.end_writing(session, row)
    return report


def _eedks(cartridges: CartridgeStore, volser: str) -> tuple[bytes, ...]:
    with cartridges.mounted(volser, write=False) as cartridge:
        return cartridge.memory.eedks


def _demount(sequence: _Sequence, drive: Drive) -> None:
    with sequence.step("REKEY-6") as detail:
        drive.unload()
        detail["zeroized"] = True


@dataclass(frozen=True, slots=True)
class _Sequence:
    events: EventLog
    volser: str

    @contextmanager
    def step(self, step: str) -> Iterator[dict[str, Any]]:
        with self.events.step(step, REKEY_STEPS[step], self.volser) as detail:
            try:
                yield detail
            except TaperigError as error:
                sense = sense_of(error)
                if sense is not None:
                    detail["sense"] = sense.code
                raise
