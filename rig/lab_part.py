"""What every part of a lab file has in common."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A map of the lab file: no unknown keys, no conversions, no changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
