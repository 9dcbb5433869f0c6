"""The cartridges of a node: files in a folder, mounted by its drives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from hsm.errors import TaperigError
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import (
    SUFFIX,
    CartridgeMemory,
    DamagedCartridgeError,
    Flags,
    TapeFormat,
    UnusableCartridgeError,
)
from rig.ve.catalogue.model import TapeEncryption
from rig.ve.catalogue.transactions import TapeFacts

ENCRYPTION = {
    TapeFormat.BLANK: TapeEncryption.BLANK,
    TapeFormat.CLEAR: TapeEncryption.CLEAR,
    TapeFormat.ENCRYPTED: TapeEncryption.ENCRYPTED,
}


class CartridgeStoreError(TaperigError):
    """A cartridge file cannot be used."""


class CartridgeMismatchError(CartridgeStoreError, UnusableCartridgeError):
    """A cartridge is not the one that the catalogue knows."""

    def __init__(self, volser: str, text: str) -> None:
        """Keep the VOLSER."""
        super().__init__(text)
        self.volser = volser


class RequireKnown(Protocol):
    """Compares a cartridge's memory with what the catalogue knows."""

    def __call__(self, volser: str, memory: CartridgeMemory, *, cut_off: bool) -> None:
        """Raise CartridgeMismatchError for another cartridge.

        With `cut_off`, a write to it was cut off, which explains some differences.
        """


def _anything(volser: str, memory: CartridgeMemory, *, cut_off: bool) -> None:
    """Take any cartridge: there is no catalogue."""


class CartridgeStore:
    """The cartridge files of a node, which its drives mount."""

    def __init__(self, folder: Path, require_known: RequireKnown = _anything) -> None:
        """Use `folder`, which is made when absent.

        `require_known` is asked at each mount, before anything moves.
        """
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._require_known = require_known
        self._facts: dict[str, TapeFacts] = {}
        self._notes: dict[str, list[str]] = {}

    def path(self, volser: str) -> Path:
        """Return the path of a cartridge's file."""
        return self.folder / f"{volser}{SUFFIX}"

    def volsers(self) -> list[str]:
        """Return the VOLSERs of all cartridge files, sorted."""
        return sorted(path.name.removesuffix(SUFFIX) for path in self.folder.glob(f"*{SUFFIX}"))

    @contextmanager
    def mounted(self, volser: str, *, write: bool, cut_off: bool = False) -> Iterator[Cartridge]:
        """Mount a cartridge; at its demount, keep what `facts` returns.

        With `cut_off`, a write to it was cut off and is not settled. Raises CartridgeMismatchError,
        with nothing on it changed, for one that the catalogue does not know so.
        """
        path = self.path(volser)

        def accept(memory: CartridgeMemory) -> None:
            self._require_known(volser, memory, cut_off=cut_off)
            if memory.volser != volser:
                raise CartridgeMismatchError(
                    volser,
                    f"The cartridge in {path} is {memory.volser}, not {volser}: files were "
                    f"exchanged; put them back.",
                )

        with Cartridge.open(path, write=write, accept=accept) as cartridge:
            try:
                yield cartridge
            finally:
                self._facts[volser] = facts_of(cartridge)
                self._notes[volser] = cartridge.notes

    def facts(self, volser: str) -> TapeFacts:
        """Return what was on a cartridge at its last demount."""
        return self._facts[volser]

    def notes(self, volser: str) -> list[str]:
        """Return what was odd or repaired at a cartridge's last mount."""
        return self._notes.get(volser, [])

    def inspect(self, volser: str, *, repair: bool = False) -> TapeFacts:
        """Read what is on a cartridge without its key.

        With `repair`, after a write that was cut off, torn records are cut off first.
        """
        with self.mounted(volser, write=repair, cut_off=repair) as cartridge:
            if cartridge.damage:
                raise DamagedCartridgeError(cartridge.damage)
        return self.facts(volser)


def facts_of(cartridge: Cartridge) -> TapeFacts:
    """Return what can be read of a cartridge without its key."""
    labels = [header.block for header in cartridge.headers if Flags.LABEL in header.flags]
    memory = cartridge.found
    return TapeFacts(
        cartridge_id=memory.cartridge_id.hex(),
        format_version=memory.version,
        encryption=ENCRYPTION[cartridge.format],
        first_epoch=memory.first_epoch,
        epoch=memory.epoch,
        block_count=cartridge.block_count,
        end_offset=memory.end_offset,
        data_bytes=sum(h.length for h in cartridge.headers if Flags.LABEL not in h.flags),
        label_blocks=tuple(labels),
    )
