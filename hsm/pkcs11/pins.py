"""Sources of a PIN: the environment or a file, never the configuration."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import ClassVar, Final, Self

from pydantic import Field, model_validator

from hsm.configuration.part import LocalPath, Part
from hsm.errors import PinFileExposedError, PinFileUnreadableError, PinUnsetError
from hsm.files import open_to_read, read_at_most, write_private

PIN_RULE: Final = "'{env: NAME}' or '{file: PATH}', the place of the PIN"
PIN_DIGITS: Final = 16
MAX_PIN_BYTES: Final = 255


class PinSource(Part):
    """The place that a PIN is read from when it is needed; never the PIN."""

    secret: ClassVar[str] = "a PIN"

    env: str | None = Field(
        default=None, min_length=1, description="the name of an environment variable"
    )
    file: LocalPath | None = Field(
        default=None, description="the path of a file (mode 0600) whose first line is the PIN"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("exactly one of env and file")
        return self

    def read(self, what: str = "PIN") -> str:
        """Return the PIN, or another secret that ``what`` names.

        Raises PinUnsetError, PinFileExposedError, PinFileUnreadableError.
        """
        if self.file is not None:
            return _first_line(self.file, what)
        secret = os.environ.get(self.env or "", "")
        if not secret:
            raise PinUnsetError(
                f"The environment variable {self.env} holds no {what}; export it or name a file "
                f"that holds the {what}."
            )
        return secret


def _first_line(path: Path, what: str) -> str:
    try:
        with open_to_read(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o177:
                raise PinFileExposedError(
                    f"The {what} file {path} has mode {mode:04o}, so others may read it; "
                    f"run chmod 600 {path}."
                )
            content = read_at_most(file, MAX_PIN_BYTES + 2)
    except OSError as error:
        raise PinFileUnreadableError(
            f"The {what} file {path} cannot be read: {error.strerror}."
        ) from None
    line = content.split(b"\n", 1)[0].rstrip(b"\r")
    if not line or len(line) > MAX_PIN_BYTES or not line.isascii():
        raise PinFileUnreadableError(
            f"The {what} file {path} should hold one line of 1 to {MAX_PIN_BYTES} ASCII characters."
        )
    return line.decode("ascii")


def ensure_pin_file(path: Path) -> PinSource:
    """Return the PIN file at `path`; make it if it is absent.

    A new file has mode 0600 and random digits. It is written atomically, so an interrupted run can
    be repeated.
    """
    if not path.exists():
        pin = "".join(secrets.choice("0123456789") for _ in range(PIN_DIGITS))
        write_private(path, pin.encode() + b"\n")
    return PinSource(file=path)
