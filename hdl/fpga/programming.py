"""Load a bitstream into a board on USB, through openFPGALoader."""

import re
from dataclasses import dataclass
from pathlib import Path

from hdl.errors import HdlError, ToolchainError
from hdl.fpga.targets import Target
from hdl.fpga.tools import LOADER, ToolResult, run_tool

_MISSING_LIBRARY = re.compile(r"error while loading shared libraries: (\S+?):")
_DEBIAN_LIBRARIES = "libftdi1-2 libhidapi-libusb0 libusb-1.0-0"
_PROBE = re.compile(r"^\s*\d+\s+\d+\s+0x([0-9a-f]{4}):0x([0-9a-f]{4})\s+(.*)$", re.IGNORECASE)


class ProgrammingError(HdlError):
    """A board was not programmed."""


@dataclass(frozen=True)
class Cable:
    """A programming cable on USB: vendor, product, its own description."""

    vendor: int
    product: int
    description: str


def program(target: Target, bitstream: Path, serial: str | None = None) -> None:
    """Load a bitstream into the board.

    `serial` is a USB serial number that selects one of several boards. The bitstream goes into the
    chip's configuration memory and is lost at power-off.
    """
    if not bitstream.is_file():
        raise ProgrammingError(
            f"There is no bitstream {bitstream}; build it with: rig board build {target.name}"
        )
    selection = [] if serial is None else ["--ftdi-serial", serial]
    ended = _run(["-b", target.loader, *selection, str(bitstream.resolve())])
    if ended.code == 0:
        return
    output = ended.text.strip()
    if "device not found" in output or "unable to open ftdi device" in output:
        which = "is on USB" if serial is None else f"with serial number {serial} is on USB"
        raise ProgrammingError(
            f"No {target.title} {which}; connect it, and check that this user may open it "
            "(`rig board targets` lists the cables)."
        )
    last = output.splitlines()[-1] if output else f"exit code {ended.code}"
    raise ProgrammingError(f"{target.title} was not programmed: openFPGALoader says '{last}'.")


def list_cables() -> list[Cable]:
    """Return the programming cables on USB."""
    ended = _run(["--scan-usb"])
    if ended.code != 0 and "No USB devices found" not in ended.text:
        raise ProgrammingError(
            f"USB cannot be scanned: openFPGALoader says '{ended.text.strip()}'."
        )
    return parse_cables(ended.text)


def parse_cables(text: str) -> list[Cable]:
    """Parse the table of `openFPGALoader --scan-usb`."""
    found = filter(None, map(_PROBE.match, text.splitlines()))
    return [Cable(int(m[1], 16), int(m[2], 16), " ".join(m[3].split())) for m in found]


def _run(arguments: list[str]) -> ToolResult:
    ended = run_tool(LOADER, arguments, Path.cwd())
    library = _MISSING_LIBRARY.search(ended.text)
    if library:
        raise ToolchainError(
            f"openFPGALoader needs the library {library[1]}, which this machine lacks; "
            f"install with: apt-get install {_DEBIAN_LIBRARIES}"
        )
    return ended
