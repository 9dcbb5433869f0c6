"""The journal of a soak: a line for each part that ended.

The first line says which soak it is. A kill at any byte loses at most the part under way: what is
behind the last whole line is cut off when the soak goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError

from hsm.configuration.part import Part
from hsm.errors import TaperigError
from hsm.files import open_regular, reason_and_cure
from rig.engine.soak import PartFigures
from rig.results.results import write_whole
from rig.scenarios.soak_options import SoakPlan

NAME: Final = "soak.jsonl"
_LONGEST_LINE: Final = 64 * 1024

_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
_Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class JournalError(TaperigError):
    """The journal of a soak cannot be read or written, or is of another one."""


class SoakHeader(SoakPlan):
    """The first line of a journal: a plan, and the gates that it began on."""

    format: Literal["taperig-soak-1"] = "taperig-soak-1"
    build_hash: Annotated[int, Field(ge=0, lt=1 << 32)]

    @property
    def plan(self) -> SoakPlan:
        """The plan alone."""
        return SoakPlan(**self.model_dump(exclude={"format", "build_hash"}))


class _Figures(Part):
    part: _Count
    seconds: _Number
    records: _Count
    bytes: _Count
    keys: _Count
    cycles: Annotated[int, Field(gt=0, lt=1 << 63)]
    promised_cycles: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    all_cycles: _Count
    longest_gap: _Count
    longest_latency: _Count


class _Wrong(Part):
    part: _Count
    wrong: str


_LINE: Final = TypeAdapter[_Figures | _Wrong](_Figures | _Wrong)


@dataclass(slots=True)
class Total:
    """The sums and the worst figures of the parts of a soak."""

    parts: int = 0
    seconds: float = 0.0
    records: int = 0
    bytes: int = 0
    keys: int = 0
    cycles: int = 0
    promised_cycles: float = 0.0
    all_cycles: int = 0
    longest_gap: int = 0
    gap_part: int = 0
    longest_latency: int = 0
    latency_part: int = 0
    least_ratio: float = float("inf")
    """The least ratio of the promised clocks to those of a part."""
    ratio_part: int = 0
    wrong: str | None = None
    """What was wrong in the part after the last one counted."""

    def add(self, number: int, figures: PartFigures, seconds: float) -> None:
        """Add a part."""
        self.parts += 1
        self.seconds += seconds
        self.records += figures.records
        self.bytes += figures.bytes
        self.keys += figures.keys
        self.cycles += figures.cycles
        self.promised_cycles += figures.promised_cycles
        self.all_cycles += figures.all_cycles
        if figures.longest_gap > self.longest_gap:
            self.longest_gap, self.gap_part = figures.longest_gap, number
        if figures.longest_latency > self.longest_latency:
            self.longest_latency, self.latency_part = figures.longest_latency, number
        ratio = figures.promised_cycles / figures.cycles
        if ratio < self.least_ratio:
            self.least_ratio, self.ratio_part = ratio, number


class Journal:
    """The journal of a soak, open and locked for this process."""

    def __init__(self, path: Path, file: BufferedRandom) -> None:
        """Take a journal that `begin` or `resume` opened."""
        self._path = path
        self._file = file
        file.seek(0, os.SEEK_END)

    def __enter__(self) -> Self:
        """Return the journal; it closes at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the file, which ends the lock."""
        with suppress(OSError):  # of a line that could not be written, which was reported
            self._file.close()

    def read(self) -> Total:
        """Return what the parts add up to; cut off a line that is not whole."""
        total = Total()
        self._file.seek(0)
        self._file.readline(_LONGEST_LINE)
        number, whole = 1, self._file.tell()
        while (line := self._file.readline(_LONGEST_LINE)).endswith(b"\n"):
            number, whole = number + 1, self._file.tell()
            self._add_line(total, line, number)
        if len(line) == _LONGEST_LINE:
            raise _damaged(self._path, number + 1)
        self._file.seek(whole)
        self._file.truncate()
        return total

    def _add_line(self, total: Total, line: bytes, number: int) -> None:
        try:
            entry = _LINE.validate_json(line)
        except ValidationError:
            raise _damaged(self._path, number) from None
        if entry.part != total.parts + 1 or total.wrong is not None:
            raise _damaged(self._path, number)
        if isinstance(entry, _Wrong):
            total.wrong = entry.wrong
        else:
            figures = PartFigures(**entry.model_dump(exclude={"part", "seconds"}))
            total.add(entry.part, figures, entry.seconds)

    def add(self, number: int, figures: PartFigures, seconds: float) -> None:
        """Append a part that ended."""
        self._append({"part": number, "seconds": round(seconds, 3), **asdict(figures)})

    def add_wrong(self, number: int, wrong: str) -> None:
        """Append what was wrong in a part, which ends the soak."""
        self._append({"part": number, "wrong": wrong})

    def _append(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise JournalError(
                f"The journal {self._path} cannot be written: {reason_and_cure(error)}; what is in "
                f"it is kept, and `rig soak --resume {self._path.parent}` goes on."
            ) from None


def begin(folder: Path, header: SoakHeader) -> Journal:
    """Write the journal's first line and open it; raises ResultsError."""
    path = write_whole(folder / NAME, header.model_dump_json() + "\n")
    return _open(path)


def read_header(folder: Path) -> SoakHeader:
    """Return which soak a folder holds; raises JournalError."""
    path = folder / NAME
    try:
        with open_regular(path) as file:
            first = file.readline(_LONGEST_LINE)
    except FileNotFoundError:
        raise JournalError(
            f"{folder} holds no soak: it has no {NAME}; name the folder that `rig soak` gave."
        ) from None
    except OSError as error:
        raise JournalError(
            f"The journal {path} cannot be read: {reason_and_cure(error)}."
        ) from None
    try:
        return SoakHeader.model_validate_json(first)
    except ValidationError:
        raise _damaged(path, 1) from None


def resume(folder: Path) -> tuple[Journal, Total]:
    """Open a journal to go on; return what is in it.

    What a kill left behind the last whole line is cut off. Raises JournalError.
    """
    journal = _open(folder / NAME)
    try:
        total = journal.read()
    except BaseException:
        journal.close()
        raise
    return journal, total


def _open(path: Path) -> Journal:
    try:
        file = path.open("r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            file.close()
            raise
    except BlockingIOError:
        raise JournalError(
            f"The soak in {path.parent} is under way in another process; wait for its end."
        ) from None
    except OSError as error:
        raise JournalError(
            f"The journal {path} cannot be opened: {reason_and_cure(error)}."
        ) from None
    return Journal(path, file)


def _damaged(path: Path, line: int) -> JournalError:
    return JournalError(
        f"The journal {path} is damaged in line {line:,}; begin a new soak in another folder."
    )
