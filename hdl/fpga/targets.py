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
from hdl.sources import HDL_DIRECTORY, rtl_sources

BOARDS_DIRECTORY = HDL_DIRECTORY / "boards"
COMMON_DIRECTORY = BOARDS_DIRECTORY / "common"
ECP5_DIRECTORY = BOARDS_DIRECTORY / "ecp5"
LAST_BUILD = "last_build.json"


@dataclass(frozen=True)
class Target:
    """A board with an ECP5: chip, speed grade, top module, pins, parameters."""

    name: str
    title: str
    chip: str  # option of the placer that names the chip, without its dashes
    package: str
    speed_grade: int
    top: str
    clock_hz: int  # the engine's clock, which the PLL of the top derives from its parameters
    ebr: int  # block RAMs of 18 kbit on the chip
    loader: str  # openFPGALoader's name of the board
    parameters: Mapping[str, int] = field(default_factory=dict)
    folder: Path | None = None  # for a design outside hdl/boards

    @property
    def directory(self) -> Path:
        """Return the folder of the board: top, pins, last build."""
        return self.folder if self.folder is not None else BOARDS_DIRECTORY / self.name

    @property
    def pins(self) -> Path:
        """Return the file that assigns ports to pins."""
        return self.directory / f"{self.name}.lpf"

    @property
    def last_build_file(self) -> Path:
        """Return the checked-in summary of the last good build."""
        return self.directory / LAST_BUILD

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
        return [*packages, *rtl_sources(), *common, *sorted(ECP5_DIRECTORY.glob("*.sv")), *own]


# The PLL outputs. hdl/boards/ulx3s/README.md explains what limits the first.
_ULX3S_MHZ = 80
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
    return [*sorted(ECP5_DIRECTORY.rglob("*.sv")), *tops]


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
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BuildError(
            f"{target.last_build_file} is not a summary of a build ({error}); "
            f"write it again with: rig board build {target.name} --record"
        ) from None
