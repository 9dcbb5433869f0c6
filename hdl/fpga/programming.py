"""Load a bitstream into a board on USB, through openFPGALoader."""

import re
from dataclasses import dataclass
from pathlib import Path

from hdl.errors import HdlError, ToolchainError
from hdl.fpga.targets import Target
from hdl.fpga.tools import LOADER, Ended, run_tool

_MISSING_LIBRARY = re.compile(r"error while loading shared libraries: (\S+?):")
_DEBIAN_LIBRARIES = "libftdi1-2 libhidapi-libusb0 libusb-1.0-0"
_PROBE = re.compile(r"^\s*\d+\s+\d+\s+0x([0-9a-f]{4}):0x([0-9a-f]{4})\s+(.*)$", re.IGNORECASE)


class ProgrammingError(HdlError):
    """A bitstream did not get into a board."""


@dataclass(frozen=True)
class Cable:
    """A programming cable on USB: vendor and product number, and how it describes itself."""

    vendor: int
    product: int
    description: str


def program(target: Target, bitstream: Path, serial: str | None = None) -> None:
    """Load `bitstream` into the board, the one with this USB serial number when several are there.

    It is loaded into the chip's own memory and is gone with the power.
    """
    if not bitstream.is_file():
        raise ProgrammingError(
            f"There is no bitstream {bitstream}; make it with: rig board build {target.name}"
        )
    chosen = [] if serial is None else ["--ftdi-serial", serial]
    ended = _run(["-b", target.loader, *chosen, str(bitstream.resolve())])
    if ended.code == 0:
        return
    said = ended.text.strip()
    if "device not found" in said or "unable to open ftdi device" in said:
        which = "is on USB" if serial is None else f"with serial number {serial} is on USB"
        raise ProgrammingError(
            f"No {target.title} {which}; plug it in, and see that this user may open it "
            "(`rig board list` shows what is there)."
        )
    last = said.splitlines()[-1] if said else f"exit code {ended.code}"
    raise ProgrammingError(f"{target.title} was not programmed: openFPGALoader says '{last}'.")


def list_cables() -> list[Cable]:
    """Return the programming cables on USB."""
    ended = _run(["--scan-usb"])
    if ended.code != 0 and "No USB devices found" not in ended.text:
        raise ProgrammingError(
            f"USB cannot be searched: openFPGALoader says '{ended.text.strip()}'."
        )
    return parse_cables(ended.text)


def parse_cables(text: str) -> list[Cable]:
    """Read the table of `openFPGALoader --scan-usb`."""
    found = filter(None, map(_PROBE.match, text.splitlines()))
    return [Cable(int(m[1], 16), int(m[2], 16), " ".join(m[3].split())) for m in found]


def _run(arguments: list[str]) -> Ended:
    ended = run_tool(LOADER, arguments, Path.cwd())
    library = _MISSING_LIBRARY.search(ended.text)
    if library:
        raise ToolchainError(
            f"openFPGALoader needs the library {library[1]}, which this machine lacks; "
            f"install with: apt-get install {_DEBIAN_LIBRARIES}"
        )
    return ended
