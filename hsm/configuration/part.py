"""What every model of a configuration file has in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
)

Location = tuple[str | int, ...]
"""A place in a configuration file: the keys and list indices that lead to it."""

NAME_RULE = "a name of letters, digits, '.', '_' and '-'"


class Part(BaseModel):
    """A map of a configuration file: no unknown keys, no conversions, no changes."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, ser_json_bytes="hex", val_json_bytes="hex"
    )

    file_kind: ClassVar[str] = "the configuration file"
    """What a file with this model at its root is called."""
    file_hint: ClassVar[str] = "name another one"
    """What to do when it cannot be read."""
    secret: ClassVar[str] = ""
    """What people are tempted to write here instead; then no value of this part is shown."""

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values, which are checked too."""
        kept = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**kept, **changes})


def from_folder(path: Path, info: ValidationInfo) -> Path:
    """Return a path as seen from the folder of the file that it stands in; ``~`` is a home.

    One that stands in no file stays as it is.
    """
    folder: Path | None = (info.context or {}).get("folder")
    if folder is None:
        return path
    if "\0" in str(path):
        raise ValueError("a path has no zero bytes")
    try:
        return folder / path.expanduser()
    except RuntimeError:
        raise ValueError("no such user") from None


LocalPath = Annotated[
    Path,
    Field(strict=False),
    AfterValidator(from_folder),
    PlainSerializer(lambda path: str(path.absolute()), when_used="json"),
]
"""A path; a relative one in a configuration file is taken from the file's own folder."""

Name = Annotated[
    str,
    Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$", description=NAME_RULE),
]


def spell(where: Location) -> str:
    """Return a place in words: ``boards.sim.clock_mhz``, ``drives[0].serial``."""
    text = ""
    for part in where:
        if isinstance(part, int) and text and not text.endswith("pools"):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text or "the file"


def shown(value: object, longest: int = 60) -> str:
    """Return a value as a message shows it, cut when it is long."""
    if value is None:
        return "empty"
    if isinstance(value, dict | list):
        return "a map" if isinstance(value, dict) else f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."
