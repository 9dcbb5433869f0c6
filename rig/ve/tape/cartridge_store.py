"""The cartridges of a node: files in a folder, mounted by its drives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hsm.errors import TaperigError
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import FORMAT_VERSION, SUFFIX, Flags, TapeFormat
from rig.ve.catalogue.model import TapeEncryption
from rig.ve.catalogue.transactions import TapeFacts

_ENCRYPTION = {
    TapeFormat.BLANK: TapeEncryption.BLANK,
    TapeFormat.CLEAR: TapeEncryption.CLEAR,
    TapeFormat.ENCRYPTED: TapeEncryption.ENCRYPTED,
}


class CartridgeStoreError(TaperigError):
    """A cartridge file cannot be used."""


class CartridgeStore:
    """The cartridge files of a node, which its drives mount."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which is made when absent."""
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._facts: dict[str, TapeFacts] = {}

    def path(self, volser: str) -> Path:
        """Return the path of a cartridge's file."""
        return self.folder / f"{volser}{SUFFIX}"

    def volsers(self) -> list[str]:
        """Return the VOLSERs of all cartridge files, sorted."""
        return sorted(path.name.removesuffix(SUFFIX) for path in self.folder.glob(f"*{SUFFIX}"))

    @contextmanager
    def mounted(self, volser: str, *, write: bool) -> Iterator[Cartridge]:
        """Mount a cartridge; at its demount, keep what `facts` returns."""
        path = self.path(volser)
        with Cartridge.open(path, write=write) as cartridge:
            if cartridge.volser != volser:
                raise CartridgeStoreError(
                    f"The cartridge in {path} is {cartridge.volser}, not {volser}: files were "
                    f"exchanged; put them back."
                )
            try:
                yield cartridge
            finally:
                self._facts[volser] = facts_of(cartridge)

    def facts(self, volser: str) -> TapeFacts:
        """Return what was on a cartridge at its last demount."""
        return self._facts[volser]

    def inspect(self, volser: str, *, repair: bool = False) -> TapeFacts:
        """Read what is on a cartridge without its key.

        With `repair`, records torn by a power cut are cut off first.
        """
        with self.mounted(volser, write=repair) as cartridge:
            if cartridge.damage:
                raise CartridgeStoreError(cartridge.damage)
        return self.facts(volser)


def facts_of(cartridge: Cartridge) -> TapeFacts:
    """Return what can be read of a cartridge without its key."""
    labels = [header.block for header in cartridge.headers if Flags.LABEL in header.flags]
    memory = cartridge.memory
    return TapeFacts(
        cartridge_id=memory.cartridge_id.hex(),
        format_version=FORMAT_VERSION,
        encryption=_ENCRYPTION[cartridge.format],
        first_epoch=memory.first_epoch,
        epoch=memory.epoch,
        block_count=cartridge.block_count,
        end_offset=memory.end_offset,
        data_bytes=sum(h.length for h in cartridge.headers if Flags.LABEL not in h.flags),
        label_blocks=tuple(labels),
    )
