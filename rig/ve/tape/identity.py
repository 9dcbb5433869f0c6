"""Whether a cartridge is the one that the catalogue knows (CART-1).

Checksums in the memory of a cartridge tell damage, not forgery: an older copy of its file, or one
whose memory was rewritten, is whole in itself. The catalogue cannot be exchanged with it.
"""

from __future__ import annotations

from rig.drive.cartridge_format import CartridgeMemory
from rig.ve.catalogue import operator_messages, transactions
from rig.ve.catalogue.clock import Clock
from rig.ve.catalogue.database import Catalogue
from rig.ve.catalogue.model import VolumeState
from rig.ve.catalogue.schema import PhysicalRow
from rig.ve.tape.cartridge_store import ENCRYPTION, CartridgeMismatchError

_VERSION = "format version"
_BLOCKS = "number of blocks"
_END = "end of data"


def differences(row: PhysicalRow, memory: CartridgeMemory) -> dict[str, str]:
    """Return in what a cartridge's memory differs, with a clause for each.

    What the catalogue does not know yet is not compared.
    """
    return {
        what: f"its {what} is {there}, the catalogue says {known}"
        for what, known, there in (
            ("VOLSER", row.volser, memory.volser),
            ("cartridge id", row.cartridge_id, memory.cartridge_id.hex()),
            (_VERSION, row.format_version, memory.version),
            ("encryption", row.encryption, ENCRYPTION[memory.format].value),
            ("epoch of the write from BOT", row.first_epoch, memory.first_epoch),
            ("append epoch", row.epoch, memory.epoch),
            (_BLOCKS, row.block_count, memory.block_count),
            (_END, row.end_offset, memory.end_offset),
        )
        if known is not None and known != there
    }


def inexplicable(row: PhysicalRow, memory: CartridgeMemory) -> dict[str, str]:
    """Return those that no write of this node that was cut off explains.

    Such a write has a later epoch. From BOT, on a scratch cartridge, it may have changed all but
    the cartridge's id; else what was acknowledged before it is still there.
    """
    found = differences(row, memory)
    epoch = row.first_epoch if row.epoch is None else row.epoch
    if row.state == VolumeState.SCRATCH.value and memory.first_epoch > epoch:
        return {what: text for what, text in found.items() if what in {"VOLSER", "cartridge id"}}
    if row.format_version == 1 and memory.version == 2:  # a rekey copies it
        found.pop(_VERSION, None)
        found.pop(_END, None)
    if memory.epoch >= epoch:
        found.pop("append epoch", None)
        if memory.block_count >= row.block_count:
            found.pop(_BLOCKS, None)
            found.pop(_END, None)
    return found


def require_known(
    catalogue: Catalogue, clock: Clock, volser: str, memory: CartridgeMemory, *, cut_off: bool
) -> None:
    """Raise CartridgeMismatchError and an intervention for another one.

    With `cut_off`, a write of this node to it was cut off. When all agrees, an intervention that
    said otherwise is cleared (OPER-2).
    """
    subject = transactions.cartridge_subject(volser)
    with catalogue.reading() as session:
        row = session.get(PhysicalRow, volser)
        if row is None or row.state == VolumeState.EJECTED.value:
            return  # what comes from elsewhere is compared when it is inserted
        found = inexplicable(row, memory) if cut_off else differences(row, memory)
        is_open = subject in operator_messages.open_subjects(session, subject)
    if not found and (cut_off or not is_open):
        return
    text = (
        f"Cartridge {volser} is not what the catalogue knows: {'; '.join(found.values())}. Nothing "
        f"on it was read or written. Put the right cartridge in its place; `rig ve check` compares "
        f"all."
    )
    with catalogue.transaction() as session:
        if not found:
            operator_messages.clear_intervention(session, subject, clock.now())
            return
        operator_messages.raise_intervention(session, subject, text, clock.now())
    raise CartridgeMismatchError(volser, text)
