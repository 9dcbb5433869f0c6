"""From the sources to a bitstream: synthesize, place and route, pack, with tools from PyPI only.

The outcome depends on sources, parameters, seed and tool versions and on nothing else: the sources
are copied beside the results and every tool works there with relative names.
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
from hdl.fpga import floorplan
from hdl.fpga.report import Routed, read_instances, read_report
from hdl.fpga.targets import Target
from hdl.fpga.tools import PACKER, PLACER, SYNTHESIS, find_tool, require, version

REPORT = "report.json"
DEFAULT_SEED = 1
_NETLIST = "netlist.json"

# The placer tries no harder than the clock asks, and thinks paths longer than they are once routed:
# it is asked for so many times the clock.
_HASTE = 1.25
_FREQUENCY = re.compile(r'^(FREQUENCY PORT "\w+" )([0-9.]+)( MHZ ;)', re.MULTILINE)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """A bitstream and what is known of it."""

    target: Target
    bitstream: Path
    report_file: Path
    report: dict[str, Any]

    @property
    def fmax_mhz(self) -> float:
        """The fastest clock at which the gates are known to work, in megahertz."""
        return float(self.report["fmax_mhz"])

    @property
    def meets_clock(self) -> bool:
        """Whether the board's PLL runs the gates no faster than that."""
        return self.fmax_mhz * 1e6 >= self.target.clock_hz


def source_hash(target: Target) -> str:
    """Return the SHA-256 of all that the gates are made from: sources, pins, parameters, sites."""
    digest = hashlib.sha256()
    settings = {
        "chip": target.chip,
        "package": target.package,
        "speed": target.speed_grade,
        "top": target.top,
        "parameters": dict(sorted(target.parameters.items())),
        "placer": [
            _HASTE,
            floorplan.sbox_sites(),
            floorplan.bank_sites(),
            floorplan.window_sites(),
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
    say: Say = lambda line: None,
) -> Built:
    """Build the bitstream of a board in `folder`, with the best of `seeds`; write its report.

    The build hash that the gates show is the first 32 bits of the source hash.
    """
    if not seeds:
        raise BuildError("A build needs at least one seed; give --seed N.")
    for tool in (SYNTHESIS, PLACER, PACKER):
        find_tool(tool)
    folder.mkdir(parents=True, exist_ok=True)
    whole_hash = source_hash(target)
    sources = copy_sources(target, folder)
    say(f"synthesizing {target.top} for {target.title}")
    synthesize(target, folder, sources, build_hash=int(whole_hash[:8], 16))
    instances = read_instances(folder / _NETLIST, target.top)
    if target.chip in floorplan.CHIPS:
        floorplan.fix_block_rams(folder / _NETLIST, target.top)

    tried: dict[int, Routed] = {}
    for seed in dict.fromkeys(seeds):
        say(f"placing and routing with seed {seed}")
        tried[seed] = place_and_route(target, folder, seed, instances)
        say(f"seed {seed}: {tried[seed].fmax_mhz} MHz")
    best = max(tried, key=lambda seed: tried[seed].fmax_mhz)
    bitstream = folder / f"{target.name}.bit"
    say("packing the bitstream")
    arguments = ["--compress", f"seed{best}.config", bitstream.name]
    require(PACKER, arguments, folder, folder / "pack.log", "Packing the bitstream")

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
        "bitstream_sha256": hashlib.sha256(bitstream.read_bytes()).hexdigest(),
        "tools": {SYNTHESIS: version(SYNTHESIS), PLACER: version(PLACER)},
    }
    report_file = folder / REPORT
    report_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return Built(target, bitstream, report_file, json.loads(report_file.read_text()))


def synthesize(
    target: Target, folder: Path, sources: Sequence[str], build_hash: int | None
) -> None:
    """Make the netlist of a target in `folder`, whose files `sources` are."""
    settings = dict(target.parameters)
    if build_hash is not None:
        settings["BuildHash"] = build_hash
    chosen = " ".join(f"-set {name} {value}" for name, value in sorted(settings.items()))
    script = [f"read_verilog -sv {' '.join(sources)}"]
    if chosen:
        script.append(f"chparam {chosen} {target.top}")
    script.append(f"synth_ecp5 -top {target.top} -json {_NETLIST}")
    (folder / "synthesis.ys").write_text("\n".join(script) + "\n", encoding="utf-8")
    arguments = ["-q", "-l", "synthesis.log", "-s", "synthesis.ys"]
    require(SYNTHESIS, arguments, folder, folder / "synthesis.out", f"Synthesis of {target.top}")


def place_and_route(target: Target, folder: Path, seed: int, instances: dict[str, str]) -> Routed:
    """Place and route the netlist in `folder` from a seed; write seed<N>.config beside it."""
    timing = f"seed{seed}.timing.json"
    pins = folder / "hastened.lpf"
    pins.write_text(hastened((folder / target.name_of(target.pins)).read_text("utf-8")), "utf-8")
    arguments = [
        f"--{target.chip}",
        *("--package", target.package),
        *("--speed", str(target.speed_grade)),
        *("--json", _NETLIST),
        *("--lpf", pins.name),
        *("--freq", str(_HASTE * target.clock_hz / 1e6)),
        *("--seed", str(seed)),
        *("--report", timing),
        *("--textcfg", f"seed{seed}.config"),
        "--timing-allow-fail",  # how fast it is stands in the report, also when it is too slow
        "--quiet",
        *("--log", f"seed{seed}.log"),
    ]
    log = folder / f"seed{seed}.out"
    require(PLACER, arguments, folder, log, f"Place and route with seed {seed}")
    return read_report((folder / timing).read_text(encoding="utf-8"), instances)


def hastened(pins: str) -> str:
    """Return the constraints of a board with its clocks faster than they are, for the placer."""
    return _FREQUENCY.sub(lambda found: f"{found[1]}{_HASTE * float(found[2]):g}{found[3]}", pins)


def write_summary(built: Built) -> Path:
    """Check in what a good build found: refuses one that is slower than its board's clock."""
    if not built.meets_clock:
        raise BuildError(
            f"{built.target.title} would run its gates at {built.target.clock_hz / 1e6:g} MHz, and "
            f"the best of the seeds reaches {built.fmax_mhz:g} MHz; try other seeds with --seed, "
            f"or lower the clock in hdl/fpga/targets.py."
        )
    file = built.target.last_build_file
    file.write_text(json.dumps(built.report, indent=2) + "\n", encoding="utf-8")
    return file


def copy_sources(target: Target, folder: Path) -> list[str]:
    """Copy what a board is made of into `folder`; return the names of its RTL sources there."""
    names: list[str] = []
    for path in [*target.sources(), target.pins]:
        name = target.name_of(path)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
        names.append(name)
    return names[:-1]
