"""IBM standard labels: the volume's VOL1, data sets' HDR1, EOF1, EOV1.

A label is a block of 80 characters in EBCDIC (code page 037). Labels of a data set stand before and
behind it, divided from it by tape marks:

    VOL1 | HDR1 HDR2 | mark | data | mark | EOF1 EOF2 | mark | HDR1 ... | mark mark

Source: z/OS DFSMS: Using Magnetic Tapes, SC26-7412-01, chapter 2.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from hsm.errors import TaperigError

LABEL_BYTES = 80
CODE_PAGE = "cp037"

_VOLSER = re.compile(r"[A-Z0-9@#$-]{1,6}")
_BLOCKS_LOW = 1_000_000


class LabelError(TaperigError):
    """A label has a field that is not valid."""


@dataclass(frozen=True, slots=True)
class VolumeLabel:
    """VOL1: the volume's serial (six characters at most) and its owner."""

    volser: str
    owner: str = ""

    def encode(self) -> bytes:
        """Return the label's 80 bytes."""
        return _encode(f"VOL1{self.volser:<6.6}{'':<31}{self.owner:<10.10}")


@dataclass(frozen=True, slots=True)
class DataSetLabel:
    """HDR1, EOF1 or EOV1: a data set's name, place and length."""

    kind: str  # HDR1, EOF1, EOV1
    name: str  # the last 17 characters of the data set's name
    volser: str
    sequence: int  # of the data set on the volume, from 1
    blocks: int  # data blocks; 0 in HDR1
    created: datetime.date | None = None

    def encode(self) -> bytes:
        """Return the label's 80 bytes."""
        high, low = divmod(self.blocks, _BLOCKS_LOW)
        return _encode(
            f"{self.kind}{self.name[-17:]:<17}{self.volser:<6.6}0001{self.sequence:04}"
            f"{'':<6}{_encode_date(self.created)}{_encode_date(None)}0{low:06}"
            f"{'TAPERIG':<13}{'':<3}{high:04}"
        )


@dataclass(frozen=True, slots=True)
class FormatLabel:
    """HDR2, EOF2 or EOV2: undefined records, one a block."""

    kind: str  # HDR2, EOF2, EOV2
    block_bytes: int

    def encode(self) -> bytes:
        """Return the label's 80 bytes."""
        return _encode(f"{self.kind}U{min(self.block_bytes, 32_760):05}{0:05}")


def parse_label(block: bytes) -> VolumeLabel | DataSetLabel | None:
    """Return a block as VOL1, HDR1, EOF1 or EOV1, or None.

    Raises LabelError when it is one of these and its fields are not what they must be.
    """
    if len(block) != LABEL_BYTES:
        return None
    text = block.decode(CODE_PAGE)
    kind = text[:4]
    if kind == "VOL1":
        return VolumeLabel(_volser(text[4:10], kind), text[41:51].rstrip())
    if kind in ("HDR1", "EOF1", "EOV1"):
        return DataSetLabel(
            kind=kind,
            name=text[4:21].rstrip(),
            volser=text[21:27].rstrip(),
            sequence=_number(text[31:35], kind, "data set sequence"),
            blocks=_number(text[76:80], kind, "block count") * _BLOCKS_LOW
            + _number(text[54:60], kind, "block count"),
            created=_date(text[41:47], kind),
        )
    return None


def is_label(block: bytes) -> bool:
    """Whether a block is a label: of the volume, a data set or the user."""
    if len(block) != LABEL_BYTES:
        return False
    return re.fullmatch(r"VOL[1-9]|UVL[1-9]|(HDR|EOF|EOV|UHL|UTL)[1-9]", _kind(block)) is not None


def _kind(block: bytes) -> str:
    return block[:4].decode(CODE_PAGE)


def _encode(text: str) -> bytes:
    return f"{text:<{LABEL_BYTES}}".encode(CODE_PAGE)


def _volser(field: str, kind: str) -> str:
    volser = field.rstrip()
    if not _VOLSER.fullmatch(volser):
        raise LabelError(
            f"The label {kind} names the volume {volser!r}; a serial has one to six of A-Z, 0-9, "
            f"@, #, $ and -."
        )
    return volser


def _number(field: str, kind: str, what: str) -> int:
    """Read a decimal field; blanks, as some systems leave them, count as zero."""
    digits = field.strip()
    if not digits:
        return 0
    if not (digits.isascii() and digits.isdigit()):
        raise LabelError(f"The {what} in label {kind} is {field!r}, which is no number.")
    return int(digits)


def _date(field: str, kind: str) -> datetime.date | None:
    """Read a date ``cyyddd``.

    Century is blank for 19, 0 for 20, 1 for 21; then year and day of the year.
    """
    if not field.strip().strip("0"):
        return None
    century = {" ": 1900, "0": 2000, "1": 2100}.get(field[0])
    day = field[1:]
    if century is None or not (day.isascii() and day.isdigit()) or not 1 <= int(day[2:]) <= 366:
        raise LabelError(f"The date in label {kind} is {field!r}, which is none (cyyddd).")
    first = datetime.date(century + int(day[:2]), 1, 1)
    return first + datetime.timedelta(days=int(day[2:]) - 1)


def _encode_date(date: datetime.date | None) -> str:
    if date is None:
        return " 00000"
    century = {19: " ", 20: "0", 21: "1"}[date.year // 100]
    return f"{century}{date.year % 100:02}{date.timetuple().tm_yday:03}"
