"""What a cartridge itself says that it holds: volumes, by their labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hsm.errors import EedkMalformedError, TaperigError
from hsm.keys.eedk import Eedk, KeyLabel, KeyMode
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import Flags, RecordHeader
from rig.drive.sense import Sense
from rig.ve.catalogue.backup import BackupError, DatabaseBackup
from rig.ve.catalogue.model import BACKUP_NAME
from rig.ve.catalogue.transactions import TapeFacts
from rig.ve.tape.cartridge_store import facts_of
from rig.ve.volumes.logical_volume import VolumeError, VolumeHeader, VolumeTrailer, decode_label

UNREADABLE_BLOCK = frozenset(
    (Sense.INTEGRITY, Sense.READ_ERROR, Sense.UNABLE_TO_DECRYPT, Sense.UNENCRYPTED_DATA)
)
"""The sense of a block that cannot be read, while others can."""

READ_THROUGH_BYTES = 1 << 20
"""Data between two labels up to which it is read, too: faster than to position."""

_BLOCKS_AT_ONCE = 64


class BackupSink:
    """A sink that takes a database backup into memory."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.header: VolumeHeader | None = None
        self.data = bytearray()

    @staticmethod
    def wants(label: VolumeHeader | VolumeTrailer) -> bool:
        """Whether a label begins a database backup."""
        return isinstance(label, VolumeHeader) and label.name == BACKUP_NAME

    def begin(self, header: VolumeHeader) -> None:
        """Begin the backup."""
        self.header = header

    def write(self, data: bytes) -> None:
        """Take more of it."""
        self.data += data

    def end(self) -> None:
        """End it: it is whole."""

    def abandon(self) -> None:
        """Drop it."""
        self.data.clear()


@dataclass(frozen=True, slots=True)
class VolumeOnTape:
    """A logical volume between its two labels on a cartridge."""

    header: VolumeHeader
    first_block: int
    blocks: int
    """Both labels included."""
    epoch: int = 0
    """The append epoch of its header label."""
    damage: str = ""
    """Why it cannot be read, if so: a sentence."""


@dataclass(slots=True)
class CartridgeContents:
    """The volumes on a cartridge, in their order, and its facts."""

    volser: str
    facts: TapeFacts | None = None
    keys: tuple[KeyLabel, ...] = ()
    """Of its EEDKs; in hash mode the label is the SHA-256 of the KEK, hexadecimal."""
    volumes: list[VolumeOnTape] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    """What cannot be read of it: a sentence each."""
    backup: DatabaseBackup | None = None
    """The database backup at its end, where that was asked for."""

    def _begin(self, cartridge: Cartridge) -> set[int]:
        """Take what needs no key; return the blocks that are damaged."""
        self.facts = facts_of(cartridge)
        self.keys = keys_of_eedks(cartridge.memory.eedks)
        if cartridge.damage:
            self.unreadable.append(_sentence(cartridge.damage))
        return set(_damaged_blocks(cartridge))

    def add_labels(self, cartridge: Cartridge, labels: Mapping[int, bytes | str]) -> None:
        """Add what the labels say, by block number: data, or why there is none.

        A volume whose second label is absent was cut off while it was written, and is none.
        """
        bad = self._begin(cartridge)
        opened: tuple[int, VolumeHeader] | None = None
        for block in sorted(labels):
            label = self._decoded(block, labels[block])
            if isinstance(label, VolumeHeader):
                opened = block, label
                continue
            if opened is not None:
                first, header = opened
                opened = None
                self._add_volume(cartridge, header, range(first, block + 1), label, bad)

    def add_backup(self, cartridge: Cartridge, run: range, sink: BackupSink) -> bool:
        """Take a cartridge's own backup; return whether it has a map of it.

        Raises BackupError for what is none, VolumeError for a map that is wrong.
        """
        assert sink.header is not None
        self.backup = DatabaseBackup.decode(bytes(sink.data))
        memory = cartridge.memory
        own = (self.backup.volser, self.backup.cartridge_id, self.backup.first_epoch)
        if self.backup.map is None or cartridge.damage:
            return False
        if own != (memory.volser, memory.cartridge_id.hex(), memory.first_epoch):
            raise BackupError(f"It is that of {self.backup.volser}.")
        labels = [decode_label(json.dumps(label).encode()) for _, _, label in self.backup.map]
        bad = self._begin(cartridge)
        for (first, blocks, _), header in zip(self.backup.map, labels, strict=True):
            if not isinstance(header, VolumeHeader) or first + blocks > run.start:
                raise BackupError("Its map has a wrong line.")
            trailer = VolumeTrailer(header.name, blocks - 2)
            self._add_volume(cartridge, header, range(first, first + blocks), trailer, bad)
        self.volumes.append(VolumeOnTape(sink.header, run.start, len(run)))
        return True

    def add_unusable_backup(self, error: TaperigError) -> None:
        """Name a backup that cannot be used; the labels are read instead."""
        self.volumes.clear()
        self.backup = None
        self.unreadable = [f"The database backup on {self.volser} cannot be used: {error}"]

    def _decoded(self, block: int, label: bytes | str) -> VolumeHeader | VolumeTrailer | None:
        try:
            if isinstance(label, bytes):
                return decode_label(label)
            why = label
        except VolumeError as error:
            why = str(error)
        self.unreadable.append(
            f"A volume label cannot be read, in block {block} of {self.volser}: {why}"
        )
        return None

    def _add_volume(
        self,
        cartridge: Cartridge,
        header: VolumeHeader,
        run: range,
        trailer: VolumeTrailer | None,
        bad: set[int],
    ) -> None:
        inside = cartridge.headers[run.start + 1 : run.stop - 1]
        size = sum(each.length for each in inside)
        damage = ""
        if spoiled := sorted(bad.intersection(run)):
            damage = f"block {spoiled[0]} is damaged: its CRC does not match"
        elif trailer is None:
            damage = f"its second label, in block {run.stop - 1}, cannot be read"
        elif (trailer.name, trailer.blocks, size) != (header.name, len(inside), header.size):
            damage = "its labels do not agree with the data between them"
        epoch = cartridge.headers[run.start].epoch
        self.volumes.append(VolumeOnTape(header, run.start, len(run), epoch, damage))


def label_runs(headers: Sequence[RecordHeader]) -> Iterator[range]:
    """Yield runs of blocks that hold every label, and little data."""
    run: range | None = None
    between = 0
    for header in headers:
        if Flags.LABEL not in header.flags:
            between += header.length
            continue
        if run is not None and between <= READ_THROUGH_BYTES:
            run = range(run.start, header.block + 1)
        else:
            if run is not None:
                yield run
            run = range(header.block, header.block + 1)
        between = 0
    if run is not None:
        yield run


def last_volume(headers: Sequence[RecordHeader]) -> range | None:
    """Return the blocks of the last volume, if the tape ends with one."""
    labels = [header.block for header in headers if Flags.LABEL in header.flags]
    if len(labels) < 2 or labels[-1] != len(headers) - 1:
        return None
    return range(labels[-2], labels[-1] + 1)


def keys_of_eedks(eedks: Sequence[bytes]) -> tuple[KeyLabel, ...]:
    """Return the labels and modes of a cartridge's EEDKs."""
    keys = []
    for data in eedks:
        try:
            eedk = Eedk.decode(data)
        except EedkMalformedError:
            continue  # the exchange says so, if the other one does not serve
        label = eedk.label or (eedk.kek_hash or b"").hex()
        keys.append(KeyLabel(label, KeyMode(eedk.mode)))
    return tuple(dict.fromkeys(keys))


def _damaged_blocks(cartridge: Cartridge) -> Iterator[int]:
    for first in range(0, cartridge.block_count, _BLOCKS_AT_ONCE):
        for record in cartridge.read(first, _BLOCKS_AT_ONCE):
            if not record.crc_matches:
                yield record.header.block


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
