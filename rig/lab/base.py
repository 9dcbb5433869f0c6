"""What every part of a lab file has in common."""

from pydantic import BaseModel, ConfigDict

from hsm.errors import TaperigError

Location = tuple[str | int, ...]
"""A place in a lab file: the keys and list indices that lead to it."""

NAME_RULE = "a name of letters, digits, '.', '_' and '-'"
RESOURCE_RULE = "a VISA resource, 'ASRL/dev/ttyUSB0::INSTR' or 'TCPIP::HOST::PORT::SOCKET'"
PIN_RULE = "'{env: NAME}' or '{file: PATH}', the place of the PIN"


class LabError(TaperigError):
    """lab.yaml cannot be read, or says something that cannot be."""


class Part(BaseModel):
    """A map of the lab file: no unknown keys, no conversions, no changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def spell(where: Location) -> str:
    """``boards.sim.clock_mhz``, ``drives[0].serial``."""
    text = ""
    for part in where:
        if isinstance(part, int) and text and not text.endswith("pools"):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text or "the file"
