"""Rules and errors that all parts of a lab file share."""

from hsm.errors import TaperigError

RESOURCE_RULE = "a VISA resource, 'ASRL/dev/ttyUSB0::INSTR' or 'TCPIP::HOST::PORT::SOCKET'"


class LabError(TaperigError):
    """A lab file cannot be read, or has a mistake."""
