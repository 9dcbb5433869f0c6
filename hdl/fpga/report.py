"""What place and route found, read from the placer's report: speed, size, critical path."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hdl.errors import BuildError


@dataclass(frozen=True)
class ModuleShare:
    """How much of the critical path lies in one instance; delays in nanoseconds."""

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
    modules: tuple[ModuleShare, ...]  # in the order in which the path passes them


@dataclass(frozen=True)
class Routed:
    """One run of place and route; frequency in megahertz."""

    fmax_mhz: float
    clock: str
    lut4: int
    ff: int
    ebr: int
    critical_path: CriticalPath

    def as_json(self) -> dict[str, Any]:
        """Return plain values for a report."""
        return asdict(self)


def read_report(text: str, instances: Mapping[str, str]) -> Routed:
    """Read the JSON report of nextpnr-ecp5.

    `instances` has the module of each instance path of the flattened design. Of several clocks the
    one of the gates counts: it has the longest path among those that the report gives a
    frequency. Times within one clock only; a path between clocks is a synchronizer's.
    """
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
            lut4=used["TRELLIS_COMB"],
            ff=used["TRELLIS_FF"],
            ebr=used["DP16KD"],
            critical_path=_critical_path(slowest["path"], instances),
        )
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise BuildError(
            f"The report of place and route is not what nextpnr-ecp5 0.11 writes "
            f"({type(error).__name__}: {error}); install the version in requirements.lock."
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
    """Return the innermost instance whose path the cell's name begins with; '' is the top."""
    inside = [path for path in instances if path and cell.startswith(f"{path}.")]
    return max(inside, key=len, default="")


def _plain_module(name: str) -> str:
    """`$paramod$0123abcd\\record_bank` or `$paramod\\record_bank\\Words=...` to `record_bank`."""
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
