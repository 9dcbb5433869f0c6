"""Where a token's PIN comes from: the environment or a file, never the configuration itself."""

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from hsm.errors import PinFileExposedError, PinFileUnreadableError, PinUnsetError
from hsm.files import write_private

PIN_DIGITS = 16
MAX_PIN_BYTES = 255


@dataclass(frozen=True, slots=True)
class PinFromEnv:
    """A PIN held by the environment variable `name`."""

    name: str

    def read(self) -> str:
        """Return the PIN; raises PinUnsetError."""
        pin = os.environ.get(self.name, "")
        if not pin:
            raise PinUnsetError(
                f"The environment variable {self.name} holds no PIN; export it or name a PIN file."
            )
        return pin


@dataclass(frozen=True, slots=True)
class PinFromFile:
    """A PIN held by the first line of the file `path`, whose mode must be 0600."""

    path: Path

    def read(self) -> str:
        """Return the PIN; raises PinFileExposedError, PinFileUnreadableError."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & 0o177:
                    raise PinFileExposedError(
                        f"The PIN file {self.path} has mode {mode:04o}, so others may read it; "
                        f"run chmod 600 {self.path}."
                    )
                content = file.read(MAX_PIN_BYTES + 2)
        except OSError as error:
            raise PinFileUnreadableError(
                f"The PIN file {self.path} cannot be read: {error.strerror}."
            ) from None
        line = content.split(b"\n", 1)[0].rstrip(b"\r")
        if not line or len(line) > MAX_PIN_BYTES or not line.isascii():
            raise PinFileUnreadableError(
                f"The PIN file {self.path} should hold one line of 1 to {MAX_PIN_BYTES} ASCII "
                "characters."
            )
        return line.decode("ascii")


PinSource = PinFromEnv | PinFromFile


def pin_as_plain(source: PinSource) -> dict[str, str]:
    """Return where a PIN is, as plain values."""
    if isinstance(source, PinFromEnv):
        return {"env": source.name}
    return {"file": str(source.path.absolute())}


def pin_from_plain(plain: dict[str, str]) -> PinSource:
    """Return the source that pin_as_plain gave."""
    return PinFromEnv(plain["env"]) if "env" in plain else PinFromFile(Path(plain["file"]))


def ensure_pin_file(path: Path) -> PinFromFile:
    """Return the PIN file at `path`, making it (mode 0600, random digits) when it is not there.

    The file appears under its name whole or not at all, so an interrupted run can be repeated.
    """
    if not path.exists():
        pin = "".join(secrets.choice("0123456789") for _ in range(PIN_DIGITS))
        write_private(path, pin.encode() + b"\n")
    return PinFromFile(path)
