"""The report of place and route: frequency, size, critical path."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hdl.errors import BuildError
from hdl.fpga.families import ECP5, Family


@dataclass(frozen=True)
class ModuleShare:
    """The part of the critical path in one instance; delays in nanoseconds."""

    module: str
    instance: str
    logic_ns: float
    routing_ns: float


@dataclass(frozen=True)
class CriticalPath:
    """The slowest path from register to register; delays in nanoseconds."""

    delay_ns: float
    logic_ns: float
    routing_ns: float
    start: str
    end: str
    modules: tuple[ModuleShare, ...]  # in the order of the path


@dataclass(frozen=True)
class Routed:
    """The result of one run of place and route; frequency in megahertz."""

    fmax_mhz: float
    clock: str
    lut4: int
    ff: int
    ebr: int
    critical_path: CriticalPath

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON types."""
        return asdict(self)


def read_report(text: str, instances: Mapping[str, str], family: Family = ECP5) -> Routed:
    """Parse the JSON report of nextpnr.

    `instances` has the module of each instance path of the flattened design. With several clocks,
    the slowest of those with a frequency in the report is the engine's clock. Only paths within
    that clock count; a path between clocks belongs to a synchronizer.
    """
    lut, ff, ram = family.cells
    tool = family.placer.removeprefix("yowasp-")
    try:
        report = json.loads(text)
        fmax = {name: float(found["achieved"]) for name, found in report["fmax"].items()}
        used = {name: int(found["used"]) for name, found in report["utilization"].items()}
        paths = report["critical_paths"]
        clock = min(fmax, key=fmax.__getitem__)
        slowest = next(p for p in paths if _clock(p["from"]) == _clock(p["to"]) == clock)
        return Routed(
            fmax_mhz=round(fmax[clock], 2),
            clock=clock,
            lut4=used[lut],
            ff=used[ff],
            ebr=used[ram],
            critical_path=_critical_path(slowest["path"], instances),
        )
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise BuildError(
            f"The report of place and route is not what {tool} 0.11 writes "
            f"({type(error).__name__}: {error}); install the version of requirements.lock."
        ) from error


def read_instances(netlist: Path, top: str) -> dict[str, str]:
    """Return the module of each instance path in a flattened netlist of Yosys."""
    modules = json.loads(netlist.read_text(encoding="utf-8"))["modules"]
    cells: dict[str, Any] = modules[top]["cells"]
    found = {"": top}
    for name, cell in cells.items():
        if cell["type"] == "$scopeinfo" and "module" in cell["attributes"]:
            found[name] = _plain_module(str(cell["attributes"]["module"]))
    return found


def instance_of(cell: str, instances: Iterable[str]) -> str:
    """Return the innermost instance that holds a cell; '' is the top."""
    inside = [path for path in instances if path and cell.startswith(f"{path}.")]
    return max(inside, key=len, default="")


def _plain_module(name: str) -> str:
    """Return the module name without Yosys' parameters.

    It is `record_bank` for `$paramod$0123abcd\\record_bank` and for
    `$paramod\\record_bank\\Words=...`.
    """
    parts = name.lstrip("\\").split("\\")
    return parts[1] if len(parts) > 1 and parts[0].startswith("$paramod") else parts[0]


def _clock(event: str) -> str:
    return event.removeprefix("posedge ").removeprefix("negedge ")


def _critical_path(steps: list[dict[str, Any]], instances: Mapping[str, str]) -> CriticalPath:
    total = {"logic": 0.0, "routing": 0.0}
    shares: list[ModuleShare] = []
    for step in steps:
        kind = "routing" if step["type"] == "routing" else "logic"
        delay = float(step["delay"])
        total[kind] += delay
        instance = instance_of(str(step["from"]["cell"]), instances)
        before = shares.pop() if shares and shares[-1].instance == instance else None
        shares.append(
            ModuleShare(
                module=instances.get(instance, ""),
                instance=instance,
                logic_ns=(before.logic_ns if before else 0.0) + delay * (kind == "logic"),
                routing_ns=(before.routing_ns if before else 0.0) + delay * (kind == "routing"),
            )
        )
    return CriticalPath(
        delay_ns=round(sum(total.values()), 3),
        logic_ns=round(total["logic"], 3),
        routing_ns=round(total["routing"], 3),
        start=str(steps[0]["from"]["cell"]),
        end=str(steps[-1]["to"]["cell"]),
        modules=tuple(
            ModuleShare(s.module, s.instance, round(s.logic_ns, 3), round(s.routing_ns, 3))
            for s in shares
        ),
    )
