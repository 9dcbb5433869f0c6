"""The sequences of the VE: write from BOT, append, read.

The virtualization engine mounts cartridges, configures a drive, relays the key exchange and moves
data. Each numbered step (`STEPS`) is recorded as an event with its time, duration and outcome. The
error of a failed step is raised after the demount.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

from hsm.errors import TaperigError
from hsm.keys.eedk import KeyLabel
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import Flags, RecordHeader, TapeFormat
from rig.drive.drive import READ_AHEAD_BYTES, Block, Direction, Drive
from rig.drive.sense import DriveError, KeyRequired, Sense, sense_of
from rig.results.events import EventLog
from rig.ve.catalogue.backup import MAX_BYTES, BackupError
from rig.ve.catalogue.model import PoolSettings
from rig.ve.ekm.relay import Relay
from rig.ve.tape.cartridge_contents import (
    UNREADABLE_BLOCK,
    BackupSink,
    CartridgeContents,
    label_runs,
    last_volume,
)
from rig.ve.tape.cartridge_store import CartridgeStore
from rig.ve.tape.prefetch import prefetched
from rig.ve.tape.proof import prove
from rig.ve.volumes.logical_volume import (
    VolumeError,
    VolumeFile,
    VolumeHeader,
    blocks_of,
    decode_label,
    in_batches,
    prepare,
)
from rig.ve.volumes.reading import NullSink, VolumeReader, VolumeSink, VolumeSinkError

BATCH_BYTES = 4 * 1024 * 1024
"""Data handed to the drive at once, in bytes."""

DAMAGE = UNREADABLE_BLOCK | {Sense.FORMAT_CORRUPTED, Sense.POSITION}
"""The sense of a run of blocks that is damaged, or lies behind the end of what is left."""

ReportProgress = Callable[[int, int], None]
"""Called with the bytes moved so far, and all there are, while data is moved."""


@dataclass(frozen=True, slots=True)
class ReadReport:
    """Volumes read, in the order on tape, and those that are incomplete."""

    volumes: list[VolumeHeader]
    incomplete: list[str]
    bytes: int  # of the whole volumes
    damaged: dict[int, str]
    """Why runs of blocks cannot be read, by their first block."""


class DriveSequences:
    """The sequences of one drive: mount, key exchange, data, demount."""

    def __init__(
        self,
        drive: Drive,
        proxy: Relay,
        cartridges: CartridgeStore,
        events: EventLog,
        progress: ReportProgress = lambda done, total: None,
    ) -> None:
        """Prepare; `events` records each step, `progress` the data moved."""
        self.drive = drive
        self.proxy = proxy
        self.cartridges = cartridges
        self.events = events
        self.progress = progress

    # The three sequences

    def write_from_bot(
        self, pool: PoolSettings, volumes: Sequence[VolumeFile], volser: str
    ) -> tuple[KeyLabel, ...]:
        """Write volumes from BOT on a cartridge with its pool's settings (BOT-5).

        What was on the cartridge is replaced. Returns the keys whose EEDKs were not proved, because
        no key manager has their private half.
        """
        headers = prepare(volumes)
        batches = self._batches(volumes, headers)
        unproved: tuple[KeyLabel, ...] = ()
        with self._mounted("BOT-1", "BOT-4", volser, write=True) as cartridge:
            if pool.encrypt:
                with self._step("BOT-2a", volser) as detail:
                    self.drive.set_encryption(pool.keys, allow_public_only=pool.allow_public_only)
                    detail["keys"] = [f"{key.label} ({key.mode})" for key in pool.keys]
                    first = next(batches)
                self._ask_for_key("BOT-2b", volser, lambda: self.drive.write(first))
                self._exchange("BOT-2c", "BOT-2d", cartridge)
                unproved = self._prove_eedks(volser, pool)
                with self._step("BOT-2e", volser) as detail:
                    self._write(first, batches, headers, detail)
            else:
                with self._step("BOT-3a", volser):
                    self.drive.set_encryption(None)
                with self._step("BOT-3b", volser) as detail:
                    self._write(next(batches), batches, headers, detail)
        return unproved

    def append(self, volser: str, volumes: Sequence[VolumeFile]) -> None:
        """Append volumes to a cartridge, in its own format and under its key."""
        headers = prepare(volumes)
        batches = self._batches(volumes, headers)
        with self._mounted("APP-1", "APP-4", volser, write=True) as cartridge:
            if cartridge.format is TapeFormat.ENCRYPTED:
                with self._step("APP-2a", volser) as detail:
                    detail["format"] = cartridge.format.name.lower()
                with self._step("APP-2b", volser) as detail:
                    detail["block"] = self.drive.locate_append_point()
                    first = next(batches)
                self._ask_for_key("APP-2c", volser, lambda: self.drive.write(first))
                self._exchange("APP-2d", "APP-2e", cartridge)
                with self._step("APP-2f", volser) as detail:
                    self._write(first, batches, headers, detail)
            else:
                with self._step("APP-3a", volser) as detail:
                    detail["format"] = cartridge.format.name.lower()
                with self._step("APP-3b", volser) as detail:
                    detail["block"] = self.drive.locate_append_point()
                    self._write(next(batches), batches, headers, detail)

    def read(
        self,
        volser: str,
        sink: VolumeSink | None = None,
        names: Iterable[str] | None = None,
        at: Sequence[range] | None = None,
    ) -> ReadReport:
        """Read a cartridge's volumes into `sink`: all, or those of these names.

        With `at`, only these runs of blocks are read, in the order given, each of whole volumes. A
        damaged one stops none of the others.
        """
        reader = VolumeReader(sink or NullSink(), names)
        damaged: dict[int, str] = {}

        def read(cartridge: Cartridge, detail: dict[str, Any]) -> None:
            damaged.update(self._read(cartridge, reader, at, detail))

        self._reading(volser, read)
        return ReadReport(reader.whole, reader.incomplete, reader.bytes, damaged)

    def read_labels(self, volser: str) -> CartridgeContents:
        """Read the volume labels of a cartridge, and what it holds without a key.

        What cannot be read of it is named in the result.
        """
        contents = CartridgeContents(volser)
        self._reading(volser, lambda cartridge, detail: self._scan(cartridge, contents, detail))
        return contents

    def read_backup(self, volser: str) -> CartridgeContents:
        """Read the database backup of a cartridge, with the map of its volumes.

        Where there is none, or it cannot be used, the labels are read.
        """
        contents = CartridgeContents(volser)

        def read(cartridge: Cartridge, detail: dict[str, Any]) -> None:
            if not self._take_backup(cartridge, contents, detail):
                self._scan(cartridge, contents, detail)

        self._reading(volser, read)
        return contents

    # Parts of the sequences

    def _reading(self, volser: str, read: Callable[[Cartridge, dict[str, Any]], None]) -> None:
        """Mount a cartridge to read it, with its key where it is encrypted."""
        with self._mounted("READ-1", "READ-4", volser, write=False) as cartridge:
            if cartridge.format is TapeFormat.ENCRYPTED:
                with self._step("READ-2a", volser) as detail:
                    detail["format"] = cartridge.format.name.lower()
                if cartridge.block_count:
                    self._ask_for_key("READ-2b", volser, self.drive.read)
                    self._exchange("READ-2c", "READ-2d", cartridge)
                with self._step("READ-2e", volser) as detail:
                    read(cartridge, detail)
            else:
                with self._step("READ-3", volser) as detail:
                    read(cartridge, detail)

    @contextmanager
    def _mounted(
        self, mount: str, demount: str, volser: str, *, write: bool
    ) -> Iterator[Cartridge]:
        """Mount a cartridge; in any case zeroize and demount."""
        with ExitStack() as mounting:
            with self._step(mount, volser) as detail:
                cartridge = mounting.enter_context(self.cartridges.mounted(volser, write=write))
                detail["format"] = self.drive.load(cartridge).name.lower()
                if cartridge.notes:
                    detail["notes"] = list(cartridge.notes)
            try:
                yield cartridge
            except BaseException:
                with suppress(TaperigError):  # recorded as a step; the caller gets the first error
                    self._demount(demount, volser)
                raise
            self._demount(demount, volser)

    def _demount(self, step: str, volser: str) -> None:
        with self._step(step, volser) as detail:
            self.drive.unload()
            detail["zeroized"] = True

    def _ask_for_key(self, step: str, volser: str, command: Callable[[], object]) -> None:
        """Send a command that the drive answers with "key required"."""
        with self._step(step, volser) as detail:
            if not self.drive.encrypting:  # before a block goes to tape in the clear (CART-3)
                raise TaperigError(
                    f"Drive {self.drive.serial} is not in encryption mode, so nothing was written "
                    f"to {volser}."
                )
            try:
                command()
            except KeyRequired as required:
                detail["sense"] = required.sense.code
                return
            raise TaperigError(
                f"Drive {self.drive.serial} went on with {volser} without a data key; it is not "
                f"in encryption mode."
            )

    def _exchange(self, exchange: str, set_key: str, cartridge: Cartridge) -> None:
        with self._step(exchange, cartridge.volser):
            session = self.drive.key_session()
            self.proxy.exchange(session)
            grant = session.grant
        with self._step(set_key, cartridge.volser) as detail:
            before = len(cartridge.notes)
            self.drive.accept_key(grant)
            if notes := cartridge.notes[before:]:  # of its memory, which the key has unlocked
                detail["notes"] = notes

    def _prove_eedks(self, volser: str, pool: PoolSettings) -> tuple[KeyLabel, ...]:
        """Prove the EEDKs just made; return the keys of those that were not."""
        with self._step("CART-5", volser) as detail:
            eedks = self.drive.granted_eedks
            keys = [pool.keys[0], pool.keys[-1]]
            proved = [prove(self.drive, self.proxy, eedk) for eedk in eedks]
            detail["proved"] = sum(proved)
            unproved = tuple(key for key, known in zip(keys, proved, strict=True) if not known)
            if unproved:
                detail["not proved"] = [f"{key.label} ({key.mode})" for key in unproved]
            if len(unproved) == len(eedks) and not pool.allow_public_only:
                raise TaperigError(
                    f"No key manager opens either EEDK of {volser}; nothing was written. Look into "
                    f"the key manager's audit log."
                )
            return unproved

    def _batches(
        self, volumes: Sequence[VolumeFile], headers: Sequence[VolumeHeader]
    ) -> Iterator[list[Block]]:
        blocks = (
            block
            for volume, header in zip(volumes, headers, strict=True)
            for block in blocks_of(volume, header, self.drive.max_block_bytes)
        )
        return in_batches(blocks, BATCH_BYTES)

    def _write(
        self,
        first: list[Block],
        batches: Iterator[list[Block]],
        headers: Sequence[VolumeHeader],
        detail: dict[str, Any],
    ) -> None:
        total = sum(header.size for header in headers)
        detail.update(volumes=len(headers), bytes=0, blocks=0)
        # While the drive writes, the next batch is read from its file.
        with prefetched(batches) as ready:
            self.drive.write_batches(
                chain([first], ready), lambda batch: self._moved(detail, batch, total)
            )
        self._add_figures(detail, Direction.WRITE)

    def _read(
        self,
        cartridge: Cartridge,
        reader: VolumeReader,
        at: Sequence[range] | None,
        detail: dict[str, Any],
    ) -> dict[int, str]:
        """Read runs of blocks, or the whole tape.

        Returns why some of the runs cannot be read, by their first block.
        """
        runs = [range(cartridge.block_count)] if at is None else list(at)
        total = sum(
            header.length
            for run in runs
            for header in cartridge.headers[run.start : run.stop]
            if Flags.LABEL not in header.flags
        )
        detail.update(bytes=0, blocks=0)
        if at is not None:
            detail["positions"] = [run.start for run in runs]
        damaged: dict[int, str] = {}
        while runs:
            position = runs[0].start
            try:
                for run in _joined(runs):
                    position = run.start
                    if at is not None:
                        self.drive.locate(run.start)
                    # While blocks are checked and passed on, the drive reads the next.
                    wanted = self._blocks_of(cartridge, None if at is None else run)
                    with prefetched(wanted) as ready:
                        for blocks in ready:
                            for block in blocks:
                                reader.take(block)
                                position += 1
                            self._moved(detail, blocks, total)
                runs = []
            except (DriveError, VolumeError) as error:
                if at is None or not _is_damage(error):
                    raise
                number = next(n for n, run in enumerate(runs) if position in run)
                damaged[runs[number].start] = str(error)
                runs = runs[number + 1 :]
            finally:
                reader.finish()
        detail["volumes"] = len(reader.whole)
        if reader.incomplete:
            detail["incomplete"] = reader.incomplete
        if damaged:
            detail["damaged"] = sorted(damaged)
        self._add_figures(detail, Direction.READ)
        return damaged

    def _scan(
        self, cartridge: Cartridge, contents: CartridgeContents, detail: dict[str, Any]
    ) -> None:
        """Read the labels; a block that cannot be read stops none of the others."""
        labels: dict[int, bytes | str] = {}
        for run in label_runs(cartridge.headers):
            position = run.start
            while position < run.stop:
                self.drive.locate(position)
                try:
                    rest = _length(cartridge.headers[position : run.stop])
                    blocks = self.drive.read(min(READ_AHEAD_BYTES, rest))
                except DriveError as error:
                    if error.sense not in UNREADABLE_BLOCK:
                        raise
                    if Flags.LABEL in cartridge.headers[position].flags:
                        labels[position] = str(error)
                    position += 1
                    continue
                labels.update((n, b.data) for n, b in enumerate(blocks, position) if b.label)
                position += len(blocks)
        contents.add_labels(cartridge, labels)
        detail["volumes"] = len(contents.volumes)
        self._add_figures(detail, Direction.READ)

    def _take_backup(
        self, cartridge: Cartridge, contents: CartridgeContents, detail: dict[str, Any]
    ) -> bool:
        """Take what a cartridge holds from its backup; return whether it says so."""
        run = last_volume(cartridge.headers)
        if run is None or _length(cartridge.headers[run.start : run.stop]) > MAX_BYTES:
            return False
        sink = BackupSink()
        try:
            self.drive.locate(run.start)
            (label,) = self.drive.read(cartridge.headers[run.start].length)
            if sink.wants(decode_label(label.data)):
                if damaged := self._read(cartridge, VolumeReader(sink), [run], detail):
                    raise BackupError(damaged[run.start])
                return contents.add_backup(cartridge, run, sink)
        except DriveError as error:
            if error.sense not in UNREADABLE_BLOCK:
                raise
            contents.add_unusable_backup(error)
        except (BackupError, VolumeError) as error:
            contents.add_unusable_backup(error)
        return False

    def _blocks_of(self, cartridge: Cartridge, run: range | None) -> Iterator[list[Block]]:
        """Read to the end of the tape, or exactly to the end of a run."""
        while run is None or self.drive.position < run.stop:
            most = READ_AHEAD_BYTES
            if run is not None:
                rest = cartridge.headers[self.drive.position : run.stop]
                most = min(most, _length(rest))
            blocks = self.drive.read(most)
            if not blocks:
                return
            yield blocks

    def _moved(self, detail: dict[str, Any], blocks: Sequence[Block], total: int) -> None:
        detail["bytes"] += sum(len(block.data) for block in blocks if not block.label)
        detail["blocks"] += len(blocks)
        self.progress(min(detail["bytes"], total), total)

    def _add_figures(self, detail: dict[str, Any], direction: Direction) -> None:
        """Add what the engine counted for this step, labels included."""
        detail["engine"] = {
            operation.name.lower(): {
                "bytes": counted.bytes,
                "records": counted.records,
                "cycles": counted.cycles,
                "promised_cycles": self.drive.promised_clocks[way, operation],
            }
            for (way, operation), counted in self.drive.figures.items()
            if way is direction
        }

    @contextmanager
    def _step(self, step: str, volser: str) -> Iterator[dict[str, Any]]:
        with self.events.step(step, STEPS[step], volser) as detail:
            try:
                yield detail
            except TaperigError as error:
                sense = sense_of(error)
                if sense is not None:
                    detail["sense"] = sense.code
                raise


def _is_damage(error: DriveError | VolumeError) -> bool:
    """Whether a run of blocks is not as it was written, while others may be."""
    if isinstance(error, DriveError):
        return error.sense in DAMAGE
    return not isinstance(error, VolumeSinkError)


def _length(headers: Sequence[RecordHeader]) -> int:
    """Return the data of these records, in bytes."""
    return sum(header.length for header in headers)


def _joined(runs: Iterable[range]) -> Iterator[range]:
    """Join consecutive runs of blocks, which are read without a stop."""
    before: range | None = None
    for run in runs:
        if before is not None and before.stop == run.start:
            before = range(before.start, run.stop)
            continue
        if before is not None:
            yield before
        before = run
    if before is not None:
        yield before


STEPS = {
    "BOT-1": "mount the physical volume",
    "BOT-2a": "set encryption mode and key labels, start writing",
    "BOT-2b": "the drive asks for a data key",
    "BOT-2c": "key exchange with the EKM through the VE",
    "BOT-2d": "the drive decrypts the data key and sets it",
    "CART-5": "both EEDKs are opened and proved",
    "BOT-2e": "write at full speed, encrypted",
    "BOT-3a": "turn encryption mode off",
    "BOT-3b": "write in the clear",
    "BOT-4": "zeroize and demount",
    "APP-1": "mount the physical volume",
    "APP-2a": "the drive recognizes the encryption format",
    "APP-2b": "position to the append point",
    "APP-2c": "the drive asks for the data key",
    "APP-2d": "key exchange with the EKM through the VE",
    "APP-2e": "the drive decrypts the data key and sets it",
    "APP-2f": "write at full speed, encrypted",
    "APP-3a": "the drive stays in non-encryption mode",
    "APP-3b": "position and write in the clear",
    "APP-4": "zeroize and demount",
    "READ-1": "mount the physical volume",
    "READ-2a": "the drive recognizes the encryption format",
    "READ-2b": "the drive asks for the data key",
    "READ-2c": "key exchange with the EKM through the VE",
    "READ-2d": "the drive decrypts the data key and sets it",
    "READ-2e": "read at full speed, decrypted",
    "READ-3": "read in the clear",
    "READ-4": "zeroize and demount",
}
