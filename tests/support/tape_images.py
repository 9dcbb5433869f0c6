"""Tape images for tests, written block by block."""

from pathlib import Path

from rig.ve.volumes.awstape import ImageWriter
from rig.ve.volumes.standard_labels import DataSetLabel, FormatLabel, VolumeLabel

MARK = None


def write_tape(path: Path, *blocks: bytes | None) -> Path:
    """Write an image of these blocks; None is a tape mark."""
    with ImageWriter(path) as tape:
        for block in blocks:
            if block is None:
                tape.tape_mark()
            else:
                tape.block(block)
    return path


def labelled(volser: str, name: str, *data: bytes, count: int | None = None) -> list[bytes | None]:
    """Return the blocks of a labelled tape with one data set.

    `count` is the block count of its EOF1.
    """
    header = DataSetLabel("HDR1", name, volser, 1, 0)
    trailer = DataSetLabel("EOF1", name, volser, 1, len(data) if count is None else count)
    return [
        VolumeLabel(volser).encode(),
        header.encode(),
        FormatLabel("HDR2", 32_760).encode(),
        MARK,
        *data,
        MARK,
        trailer.encode(),
        FormatLabel("EOF2", 32_760).encode(),
        MARK,
        MARK,
    ]
