"""Import and export of logical volumes as tape images: AWSTAPE, HET, SIMH.

An image enters whole, its bytes are the volume's data, and the volume keeps the name that its VOL1
label gives. A volume that came as something else leaves as a labelled tape with one data set.
"""

from __future__ import annotations

import datetime
import shutil
from dataclasses import dataclass
from pathlib import Path

from rig.ve.volumes.awstape import AwsTapeError
from rig.ve.volumes.image_formats import ImageFormat, format_of, open_image, read_image
from rig.ve.volumes.logical_volume import VolumeError, VolumeFile
from rig.ve.volumes.standard_labels import (
    DataSetLabel,
    FormatLabel,
    LabelError,
    VolumeLabel,
    is_label,
    parse_label,
)

EXPORT_BLOCK_BYTES = 32_760
"""Block size of data sets written here: the longest that every access method takes."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set on an image: its name, data blocks and bytes."""

    name: str
    blocks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TapeImage:
    """What is on an image. `volser` is None on a tape without standard labels."""

    volser: str | None
    data_sets: tuple[DataSet, ...]
    blocks: int  # labels included
    bytes: int  # labels included


def inspect_image(path: Path) -> TapeImage:
    """Read an image to its end and check its labels and block counts.

    Raises AwsTapeError where the image is damaged or a label does not fit what is on the tape.
    """
    scan = _ImageScan(path)
    for block in read_image(path):
        try:
            scan.take(block)
        except LabelError as error:
            raise AwsTapeError(f"On the tape image {path}: {error}") from error
    return scan.end()


def is_image(path: Path) -> bool:
    """Whether a file begins as a tape image does."""
    return format_of(path) is not None


def volume_of_image(path: Path, name: str | None = None) -> VolumeFile:
    """Return the logical volume of an image, named by VOL1 or `name`.

    Raises AwsTapeError for a damaged image, VolumeError when nothing names it.
    """
    volser = inspect_image(path).volser
    if name is None and volser is None:
        raise VolumeError(
            f"The tape image {path} has no VOL1 label; give the name that its volume shall have."
        )
    return VolumeFile.of(name or str(volser), path)


def export_image(
    name: str,
    data: Path,
    target: Path,
    created: datetime.date,
    form: ImageFormat = ImageFormat.AWS,
) -> None:
    """Write a volume's data as a tape image.

    Data that is an image is copied, in its own format; other data becomes one data set.

    The data set is named ``TAPERIG.<volume>`` and has the date `created`.
    """
    if is_image(data):
        partial = target.with_name(f".{target.name}.partial")
        try:
            shutil.copyfile(data, partial)
            partial.replace(target)
        except OSError as error:
            raise AwsTapeError(
                f"The tape image {target} cannot be written ({error.strerror}); name another place."
            ) from error
        return
    with open_image(target, form) as tape, data.open("rb") as file:
        label = DataSetLabel("HDR1", f"TAPERIG.{name}", name, 1, 0, created)
        tape.block(VolumeLabel(name, "TAPERIG").encode())
        tape.block(label.encode())
        tape.block(FormatLabel("HDR2", EXPORT_BLOCK_BYTES).encode())
        tape.tape_mark()
        blocks = 0
        while block := file.read(EXPORT_BLOCK_BYTES):
            tape.block(block)
            blocks += 1
        tape.tape_mark()
        tape.block(DataSetLabel("EOF1", label.name, name, 1, blocks, created).encode())
        tape.block(FormatLabel("EOF2", EXPORT_BLOCK_BYTES).encode())
        tape.tape_mark()
        tape.tape_mark()


class _ImageScan:
    """A scan along an image: label groups and data, between tape marks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._volser: str | None = None
        self._found: list[DataSet] = []
        self._open: DataSetLabel | None = None  # the data set whose HDR1 was read last
        self._in_data = False  # the file after the header labels
        self._blocks = self._bytes = 0
        self._data_blocks = self._data_bytes = 0  # of the data set
        self._marks = 0

    def take(self, block: bytes | None) -> None:
        if block is None:
            self._mark()
            return
        if not self._blocks and not self._marks:
            label = parse_label(block)
            if isinstance(label, VolumeLabel):
                self._volser = label.volser
        elif self._volser is not None:
            self._labelled(block)
        self._blocks += 1
        self._bytes += len(block)

    def end(self) -> TapeImage:
        if not self._blocks and not self._marks:
            raise AwsTapeError(
                f"The tape image {self._path} has no block; name one that was written."
            )
        if self._open is not None and self._open.name.strip("0"):
            raise AwsTapeError(
                f"On the tape image {self._path} the data set {self._open.name} has no EOF1 or "
                f"EOV1 label behind it: the image was cut off; create it again."
            )
        return TapeImage(self._volser, tuple(self._found), self._blocks, self._bytes)

    def _mark(self) -> None:
        self._in_data = self._open is not None and not self._in_data
        self._marks += 1

    def _labelled(self, block: bytes) -> None:
        if self._in_data:
            self._data_blocks += 1
            self._data_bytes += len(block)
            return
        label = parse_label(block)
        if isinstance(label, DataSetLabel) and label.kind == "HDR1":
            self._open = label
            self._data_blocks = self._data_bytes = 0
        elif isinstance(label, DataSetLabel):
            self._close(label)
        elif not is_label(block):
            raise LabelError("there is data where only labels can be.")

    def _close(self, label: DataSetLabel) -> None:
        if self._open is None:
            raise LabelError(f"there is a label {label.kind} of {label.name} without its HDR1.")
        if label.blocks != self._data_blocks:
            raise LabelError(
                f"the label {label.kind} of {label.name} counts {label.blocks} blocks, but "
                f"{self._data_blocks} are there."
            )
        self._found.append(DataSet(label.name, self._data_blocks, self._data_bytes))
        self._open = None
