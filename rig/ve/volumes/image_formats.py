"""The formats of tape images, told apart by what is in the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from itertools import islice
from pathlib import Path

from rig.ve.volumes import awstape
from rig.ve.volumes.awstape import AwsTapeError, ImageWriter
from rig.ve.volumes.simh_tape import SimhWriter, read_simh

_LOOKED_AT = 3
"""Blocks and tape marks that must fit a format to be taken for it."""


class ImageFormat(StrEnum):
    """A format of tape images; its value is how such names end."""

    AWS = "aws"
    HET = "het"
    SIMH = "tap"


def format_of(path: Path) -> ImageFormat | None:
    """Return the format of an image, None for a file that is none.

    AWS stands for HET as well, which differs in blocks that are compressed. A SIMH image begins
    with a record: a file of zeros would begin as one with tape marks.
    """
    for found, read in ((ImageFormat.AWS, awstape.read_image), (ImageFormat.SIMH, read_simh)):
        with suppress(AwsTapeError):
            first = list(islice(read(path), _LOOKED_AT))
            if first and (found is ImageFormat.AWS or first[0] is not None):
                return found
    return None


def read_image(path: Path) -> Iterator[bytes | None]:
    """Yield the blocks and tape marks of an image in any format.

    Raises AwsTapeError, with the place, at the first byte that does not fit.
    """
    return read_simh(path) if format_of(path) is ImageFormat.SIMH else awstape.read_image(path)


def open_image(path: Path, form: ImageFormat) -> ImageWriter:
    """Return a writer of an image in a format."""
    if form is ImageFormat.SIMH:
        return SimhWriter(path)
    return ImageWriter(path, compress=form is ImageFormat.HET)
