"""The base of all models of configuration files."""

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
    """A map of a configuration file: strict, immutable, no unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        ser_json_bytes="hex",
        val_json_bytes="hex",
        defer_build=True,
    )

    file_kind: ClassVar[str] = "the configuration file"
    """The name in messages of a file with this model at its root."""
    file_hint: ClassVar[str] = "name another one"
    """What to do when the file cannot be read."""
    secret: ClassVar[str] = ""
    """The secret that users may write here by mistake; if set, no value is shown."""

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values, which are validated too."""
        kept = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**kept, **changes})


def from_folder(path: Path, info: ValidationInfo) -> Path:
    """Return a path relative to its configuration file's folder; expand ``~``.

    A path that is not from a file is unchanged.
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
"""A path; in a configuration file, a relative one starts at the file's folder."""

Name = Annotated[
    str,
    Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$", description=NAME_RULE),
]


def spell(where: Location) -> str:
    """Return a place as text: ``boards.sim.clock_mhz``, ``drives[0].serial``."""
    text = ""
    for part in where:
        if isinstance(part, int) and text and not text.endswith("pools"):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text or "the file"


def shown(value: object, longest: int = 60) -> str:
    """Return a value as text for a message, cut when it is long."""
    if value is None:
        return "empty"
    if isinstance(value, dict | list):
        return "a map" if isinstance(value, dict) else f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."
