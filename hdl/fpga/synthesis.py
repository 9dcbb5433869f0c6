"""Bitstream builds: synthesis, place and route, packing.

All tools come from PyPI. The result depends only on sources, parameters, seed and tool versions:
the sources are copied beside the results, and every tool works there with relative names.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdl.errors import BuildError
from hdl.files import file_hash
from hdl.fpga import floorplan
from hdl.fpga.families import Chip
from hdl.fpga.report import Routed, read_instances, read_report
from hdl.fpga.targets import Target
from hdl.fpga.tools import SYNTHESIS, find_tool, require, version

REPORT = "report.json"
DEFAULT_SEED = 1
_NETLIST = "netlist.json"

# The placer stops optimizing when its estimate meets the requested clock, and its estimate is
# pessimistic before routing. So the requested clock is this factor above the board's clock.
_CLOCK_MARGIN = 1.25
_FREQUENCY = re.compile(r'^(FREQUENCY PORT "\w+" )([0-9.]+)( MHZ ;)', re.MULTILINE)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """A bitstream and its report."""

    target: Target
    bitstream: Path
    report_file: Path
    report: dict[str, Any]

    @property
    def fmax_mhz(self) -> float:
        """Return the maximum clock frequency of the design, in megahertz."""
        return float(self.report["fmax_mhz"])

    @property
    def meets_clock(self) -> bool:
        """Return whether the board's clock is not above the maximum frequency."""
        return self.fmax_mhz * 1e6 >= self.target.clock_hz


def source_hash(target: Target) -> str:
    """Return the SHA-256 over sources, pins, parameters and sites."""
    digest = hashlib.sha256()
    settings = {
        "chip": target.chip,
        "package": target.package,
        "speed": target.speed_grade,
        "top": target.top,
        "parameters": dict(sorted(target.parameters.items())),
        "placer": [
            _CLOCK_MARGIN,
            floorplan.sbox_sites(),
            floorplan.bank_sites(),
            floorplan.window_sites(),
            floorplan.unwrap_sites(),
        ],
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for path in sorted([*target.sources(), target.pins], key=target.name_of):
        content = path.read_bytes()
        digest.update(f"\n{target.name_of(path)} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def build(
    target: Target,
    folder: Path,
    *,
    seeds: Sequence[int] = (DEFAULT_SEED,),
    progress: Progress = lambda line: None,
) -> Built:
    """Build the bitstream of a board in `folder` and write its report.

    Takes the seed with the highest clock frequency. The BUILD_HASH register reads the first 32
    bits of the source hash.
    """
    if not seeds:
        raise BuildError("A build needs at least one seed; give --seed N.")
    family = target.family
    for tool in (SYNTHESIS, family.placer, family.packer):
        find_tool(tool)
    folder.mkdir(parents=True, exist_ok=True)
    whole_hash = source_hash(target)
    sources = copy_sources(target, folder)
    progress(f"synthesizing {target.top} for {target.title}")
    synthesize(target, folder, sources, build_hash=int(whole_hash[:8], 16))
    instances = read_instances(folder / _NETLIST, target.top)
    if target.chip in floorplan.CHIPS:
        floorplan.fix_block_rams(folder / _NETLIST, target.top)

    tried: dict[int, Routed] = {}
    for seed in dict.fromkeys(seeds):
        progress(f"placing and routing with seed {seed}")
        tried[seed] = place_and_route(target, folder, seed, instances)
        progress(f"seed {seed}: {tried[seed].fmax_mhz} MHz")
    best = max(tried, key=lambda seed: tried[seed].fmax_mhz)
    bitstream = folder / f"{target.name}{family.bitstream_suffix}"
    progress("packing the bitstream")
    arguments = family.pack_arguments(folder / routed_name(target, best), bitstream.name)
    require(family.packer, arguments, folder, folder / "pack.log", "Packing the bitstream")

    routed = tried[best].as_json()
    del routed["clock"]
    report: dict[str, Any] = {
        "target": target.name,
        "title": target.title,
        **routed,
        "clock_mhz": target.clock_hz / 1e6,
        "ebr_on_chip": target.ebr,
        "seed": best,
        "seeds": [{"seed": seed, "fmax_mhz": found.fmax_mhz} for seed, found in tried.items()],
        "parameters": dict(target.parameters),
        "source_hash": whole_hash,
        "bitstream_sha256": file_hash(bitstream),
        "tools": {SYNTHESIS: version(SYNTHESIS), family.placer: version(family.placer)},
    }
    report_file = folder / REPORT
    report_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return Built(target, bitstream, report_file, json.loads(report_file.read_text()))


def synthesize(
    target: Target, folder: Path, sources: Sequence[str], build_hash: int | None
) -> None:
    """Synthesize the netlist of a target from `sources`, files in `folder`."""
    settings = dict(target.parameters)
    if build_hash is not None:
        settings["BuildHash"] = build_hash
    parameters = " ".join(f"-set {name} {value}" for name, value in sorted(settings.items()))
    script = [f"read_verilog -sv {' '.join(sources)}"]
    if parameters:
        script.append(f"chparam {parameters} {target.top}")
    script.append(f"{target.family.synthesis} -top {target.top} -json {_NETLIST}")
    (folder / "synthesis.ys").write_text("\n".join(script) + "\n", encoding="utf-8")
    arguments = ["-q", "-l", "synthesis.log", "-s", "synthesis.ys"]
    require(SYNTHESIS, arguments, folder, folder / "synthesis.out", f"Synthesis of {target.top}")


def place_and_route(target: Target, folder: Path, seed: int, instances: dict[str, str]) -> Routed:
    """Place and route the netlist in `folder`; write its result there."""
    timing = f"seed{seed}.timing.json"
    pins = folder / f"constraints{target.family.pins_suffix}"
    board_pins = (folder / target.name_of(target.pins)).read_text("utf-8")
    pins.write_text(_with_clock_margin(board_pins), "utf-8")
    chip = Chip(target.chip, target.package, target.speed_grade)
    arguments = [
        *target.family.place_arguments(chip, pins.name, routed_name(target, seed)),
        *("--json", _NETLIST),
        *("--freq", str(_CLOCK_MARGIN * target.clock_hz / 1e6)),
        *("--seed", str(seed)),
        *("--report", timing),
        "--timing-allow-fail",  # the report has the frequency, also when it is too low
        "--quiet",
        *("--log", f"seed{seed}.log"),
    ]
    log = folder / f"seed{seed}.out"
    require(target.family.placer, arguments, folder, log, f"Place and route with seed {seed}")
    report = (folder / timing).read_text(encoding="utf-8")
    return read_report(report, instances, target.family)


def routed_name(target: Target, seed: int) -> str:
    """Return the name of what place and route with a seed writes."""
    return f"seed{seed}{target.family.routed_suffix}"


def _with_clock_margin(pins: str) -> str:
    """Return the constraints of a board with its clocks raised by the margin."""
    return _FREQUENCY.sub(
        lambda found: f"{found[1]}{_CLOCK_MARGIN * float(found[2]):g}{found[3]}", pins
    )


def write_summary(built: Built) -> Path:
    """Write the summary of a build that meets its board's clock.

    Raises BuildError for a build that does not.
    """
    if not built.meets_clock:
        raise BuildError(
            f"The build for {built.target.title} was not recorded: its clock is "
            f"{built.target.clock_hz / 1e6:g} MHz, and the best seed reaches "
            f"{built.fmax_mhz:g} MHz. Try other seeds with --seed, or lower the clock in "
            "hdl/fpga/targets.py."
        )
    file = built.target.last_build_file
    file.parent.mkdir(exist_ok=True)  # a board with the pins of another has no other file there
    file.write_text(json.dumps(built.report, indent=2) + "\n", encoding="utf-8")
    return file


def copy_sources(target: Target, folder: Path) -> list[str]:
    """Copy a board's sources into `folder`; return the names of the RTL files."""
    names: list[str] = []
    for path in [*target.sources(), target.pins]:
        name = target.name_of(path)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
        names.append(name)
    return names[:-1]
