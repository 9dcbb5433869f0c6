"""Rules and errors that all parts of a lab file share."""

from typing import Final

from hsm.errors import TaperigError

RESOURCE_RULE = "a VISA resource, 'ASRL/dev/ttyUSB0::INSTR' or 'TCPIP::HOST::PORT::SOCKET'"

NATIVE_RATES: Final[dict[str, float]] = {
    "TS1120": 104e6,
    "TS1130": 160e6,
    "TS1140": 250e6,
    "TS1150": 360e6,
    "TS1155": 360e6,
    "TS1160": 400e6,
    "TS1170": 400e6,
}
"""Native data rate of each drive model, in bytes a second."""


class LabError(TaperigError):
    """A lab file cannot be read, or has a mistake."""
