"""The FPGA boards that bitstreams are built for, and their last builds.

A target is a board: its chip in the placer's terms, its top module, its pins. Its folder
`hdl/boards/<name>` also holds `last_build.json`, the checked-in summary of the last build that met
the clock: the maximum frequency and the hash of the sources.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from hdl.errors import BuildError
from hdl.files import read_text
from hdl.fpga.families import BOARDS_DIRECTORY, ECP5, FAMILIES, Family
from hdl.sources import HDL_DIRECTORY, rtl_sources

COMMON_DIRECTORY = BOARDS_DIRECTORY / "common"
FPGA_DIRECTORY = BOARDS_DIRECTORY / "fpga"  # what every board has, but not the virtual one
LAST_BUILD = "last_build.json"


@dataclass(frozen=True)
class Target:
    """A board with an FPGA: chip, top module, pins, parameters."""

    name: str
    title: str
    chip: str  # option of the placer that names the chip, without its dashes; Gowin: the die
    package: str  # Gowin: the order number, which has the speed grade too
    speed_grade: int
    top: str
    clock_hz: int  # the engine's clock, which the PLL of the top derives from its parameters
    ebr: int  # block RAMs of 18 kbit on the chip (embedded block RAM)
    loader: str  # openFPGALoader's name of the board
    parameters: Mapping[str, int] = field(default_factory=dict)
    family: Family = ECP5
    pins_of: str | None = None  # another board with the same top and pins
    folder: Path | None = None  # for a design outside hdl/boards

    @property
    def directory(self) -> Path:
        """Return the folder of the board: top, pins, last build."""
        return self.folder if self.folder is not None else BOARDS_DIRECTORY / self._board

    @property
    def pins(self) -> Path:
        """Return the file that assigns ports to pins."""
        return self.directory / f"{self._board}{self.family.pins_suffix}"

    @property
    def last_build_file(self) -> Path:
        """Return the checked-in summary of the last good build."""
        if self.pins_of is not None:
            return BOARDS_DIRECTORY / self.name / LAST_BUILD
        return self.directory / LAST_BUILD

    @property
    def _board(self) -> str:
        return self.pins_of or self.name

    def name_of(self, path: Path) -> str:
        """Return a source's path relative to the design, with slashes."""
        root = HDL_DIRECTORY if self.folder is None else self.folder
        return path.relative_to(root).as_posix()

    def sources(self) -> list[Path]:
        """Return every SystemVerilog file of the board, packages first."""
        if self.folder is not None:
            return sorted(self.folder.glob("*.sv"))
        packages = sorted(COMMON_DIRECTORY.glob("*_pkg.sv"))
        common = sorted(set(COMMON_DIRECTORY.rglob("*.sv")) - set(packages))
        own = sorted(self.directory.glob("*.sv"))
        fpga = [*FPGA_DIRECTORY.glob("*.sv"), *self.family.directory.glob("*.sv")]
        return [*packages, *rtl_sources(), *common, *sorted(fpga), *own]


# The PLL outputs. hdl/boards/ulx3s/README.md explains what limits the first.
_ULX3S_MHZ = 80
_SMALL_ULX3S_MHZ = 50
_EVALUATION_MHZ = 100

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="ulx3s",
            title="Radiona ULX3S, ECP5-85F, speed grade 6",
            chip="85k",
            package="CABGA381",
            speed_grade=6,
            top="ulx3s_top",
            clock_hz=_ULX3S_MHZ * 1_000_000,
            ebr=208,
            loader="ulx3s",
            parameters={"ClockMhz": _ULX3S_MHZ, "BankBytes": 32768},
        ),
        Target(
            name="ulx3s_45f",
            title="Radiona ULX3S, ECP5-45F, speed grade 6",
            chip="45k",
            package="CABGA381",
            speed_grade=6,
            top="ulx3s_top",
            clock_hz=_SMALL_ULX3S_MHZ * 1_000_000,
            ebr=108,
            loader="ulx3s",
            parameters={"ClockMhz": _SMALL_ULX3S_MHZ, "WordBytes": 4, "BankBytes": 16384},
            pins_of="ulx3s",
        ),
        Target(
            name="ecp5_evn",
            title="Lattice ECP5 evaluation board, ECP5-5G-85F, speed grade 8",
            chip="um5g-85k",
            package="CABGA381",
            speed_grade=8,
            top="ecp5_evn_top",
            clock_hz=_EVALUATION_MHZ * 1_000_000,
            ebr=208,
            loader="ecp5_evn",
            parameters={"ClockMhz": _EVALUATION_MHZ, "BankBytes": 16384},
        ),
    )
}


def fpga_sources() -> list[Path]:
    """Return the files of bitstreams only, and the cell models for lint."""
    tops = [path for target in TARGETS.values() for path in sorted(target.directory.glob("*.sv"))]
    folders = [FPGA_DIRECTORY, *(family.directory for family in FAMILIES)]
    shared = [path for folder in folders for path in sorted(folder.rglob("*.sv"))]
    return [*shared, *dict.fromkeys(tops)]


def find_target(name: str) -> Target:
    """Return the target of this name; raise BuildError for an unknown one."""
    if name in TARGETS:
        return TARGETS[name]
    near = get_close_matches(name, TARGETS, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(TARGETS)}."
    raise BuildError(f"There is no FPGA board '{name}'; {hint}")


@dataclass(frozen=True)
class LastBuild:
    """The last good build of a board, from its checked-in summary."""

    target: str
    fmax_mhz: float
    clock_mhz: float
    source_hash: str
    bitstream_sha256: str


def last_build(target: Target) -> LastBuild | None:
    """Return the last good build that is checked in, if any."""
    try:
        text = read_text(target.last_build_file)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(
            f"{target.last_build_file} cannot be read ({error}); "
            f"write it again with: rig board build {target.name} --record"
        ) from None
    try:
        found = json.loads(text)
        return LastBuild(
            target=str(found["target"]),
            fmax_mhz=float(found["fmax_mhz"]),
            clock_mhz=float(found["clock_mhz"]),
            source_hash=str(found["source_hash"]),
            bitstream_sha256=str(found["bitstream_sha256"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BuildError(
            f"{target.last_build_file} is not a summary of a build ({error}); "
            f"write it again with: rig board build {target.name} --record"
        ) from None
