"""What a soak is asked for: its lab, board, seed and length."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hsm.configuration.part import Part
from rig.lab.model import Lab


class SoakPlan(Part):
    """What makes two soaks the same."""

    lab_file: str
    lab_sha256: str
    """Of the content of the lab file, as it was checked."""
    board: str
    seed: Annotated[int, Field(ge=0, lt=1 << 63)]
    hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    engine_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None


def lab_sha256(lab: Lab) -> str:
    """Return the hash of a lab file's content."""
    return hashlib.sha256(lab.model_dump_json().encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """A soak, as the command line asks for it."""

    plan: SoakPlan
    resumed: Path | None = None
    """The folder of the soak to go on with."""
    part: int | None = None
    """The only part to run."""
