"""Lists of all registers of a design, for properties about all of them.

A property set that says "every register is zero" or "every register is the same in two copies"
must also cover registers that are added later. So its .sby file has a line

    #registers FILE TOP[(PARAMETER=VALUE,...)] INSTANCE [INSTANCE] but REGEX

and before the set runs, FILE is written beside it. FILE has a wire for each register of module TOP
whose path does not match REGEX, connected by name to that register in the wrapper's instance
(Yosys' attribute `hierconn`). With one instance FILE defines `all_zero`, with two `all_same`.
Registers that match REGEX are listed in comments.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdl.errors import HdlError
from hdl.tool_process import run_with_children

_DIRECTIVE = re.compile(r"#registers (\S+) (\w+)(?:\(([\w=,]+)\))? (\w+)(?: (\w+))? but (\S+)")


class RegisterListError(HdlError):
    """The registers of a design could not be listed."""


def write_register_lists(folder: Path, sby: Path, environment: Mapping[str, str]) -> None:
    """Write the files of the `#registers` lines of `sby` into `folder`."""
    text = sby.read_text()
    for line in re.findall(r"^#registers .*$", text, re.MULTILINE):
        found = _DIRECTIVE.fullmatch(line.strip())
        if found is None:
            raise RegisterListError(
                f"{sby.name}: the line '{line}' cannot be read; write "
                "'#registers FILE TOP INSTANCE [INSTANCE] but REGEX'."
            )
        file, top, settings, first, second, but = found.groups()
        parameters = dict(each.split("=") for each in settings.split(",")) if settings else {}
        files = re.search(r"\[files\]\n(.*?)(?:\n\[|\Z)", text, re.DOTALL)
        assert files is not None
        # All sources without generated files and without the wrapper, which comes last.
        sources = [each for each in files.group(1).split() if not each.endswith(".svh")][:-1]
        widths = register_widths(folder, sources, top, parameters, environment)
        instances = [each for each in (first, second) if each]
        (folder / file).write_text(_declarations(widths, instances, re.compile(but)))


def netlists(
    folder: Path,
    sources: list[str],
    top: str,
    parameters: Mapping[str, str],
    environment: Mapping[str, str],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the flat netlist of `top` in Yosys' JSON: complete, and cleaned.

    The cleaned netlist has no cells that nothing reads.
    """
    settings = [f"chparam -set {name} {value} {top}" for name, value in parameters.items()]
    listings = [folder / f"{top}.{stage}.json" for stage in ("whole", "clean")]
    script = "; ".join(
        [
            f"read -formal {' '.join(sources)}",
            *settings,
            f"hierarchy -top {top}",
            "proc -norom",
            "memory_collect",
            "flatten",
            f"write_json {listings[0].name}",
            "opt_clean",
            f"write_json {listings[1].name}",
        ]
    )
    code, words = run_with_children(
        ["yosys", "-q", "-p", script], folder=folder, environment=environment
    )
    if code != 0:
        raise RegisterListError(f"Yosys cannot read the netlist of {top}: {words}")
    whole, clean = (json.loads(each.read_text())["modules"][top] for each in listings)
    return whole, clean


def register_widths(
    folder: Path,
    sources: list[str],
    top: str,
    parameters: Mapping[str, str],
    environment: Mapping[str, str],
) -> dict[str, int]:
    """Return the width in bits of every register of `top` by its path."""
    whole, clean = netlists(folder, sources, top, parameters, environment)
    # Yosys also makes registers of the variables of functions and loops. They have no name, and
    # nothing reads them, so the cleaned netlist does not have them.
    if unnamed := named_registers(clean)[1]:
        raise RegisterListError(
            f"{len(unnamed)} register bits of {top} have no name, so no property can cover them."
        )
    return named_registers(whole)[0]


def named_registers(module: dict[str, Any]) -> tuple[dict[str, int], set[int | str]]:
    """Return register widths by name, and the register bits without a name."""
    driven = {
        bit
        for cell in module["cells"].values()
        if is_flip_flop(cell)
        for bit in cell["connections"]["Q"]
    }
    # A register may have several names; take one whose bits are all register bits.
    found: dict[str, int] = {}
    named: set[int | str] = set()
    names = sorted(module["netnames"], key=lambda name: (not _is_register(name), name))
    for name in names:
        net = module["netnames"][name]
        bits = net["bits"]
        hidden = "$" in name or net["hide_name"]
        if hidden or not driven.issuperset(bits) or named.issuperset(bits):
            continue
        found[name] = len(bits)
        named.update(bits)
    return found, driven - named


def is_flip_flop(cell: dict[str, Any]) -> bool:
    """Return whether a netlist cell is a register."""
    return re.fullmatch(r"\$(a|s|al)?dff(e|ce|sr|sre)?", cell["type"]) is not None


def _is_register(name: str) -> bool:
    return name.endswith("_q") or "field_storage_" in name  # the generated register block's


def _declarations(widths: dict[str, int], instances: list[str], but: re.Pattern[str]) -> str:
    listed = {name: width for name, width in widths.items() if not but.fullmatch(name)}
    exempt = sorted(widths.keys() - listed.keys())
    lines = [f"// exempt: {name}" for name in exempt]
    terms = []
    for index, (name, width) in enumerate(sorted(listed.items())):
        for instance in instances:
            size = f"[{width - 1}:0] " if width > 1 else ""
            lines.append(f"(* hierconn *) wire {size}\\{instance}.{name} ;")
        first = f"\\{instances[0]}.{name} "
        other = f"\\{instances[1]}.{name} " if len(instances) == 2 else "'0"
        lines.append(f"wire registers_{index} = {first} == {other};")
        terms.append(f"registers_{index}")
    result = "all_same" if len(instances) == 2 else "all_zero"
    lines.append(f"wire {result} = &{{{', '.join(terms)}}};")
    return "\n".join(lines) + "\n"
