"""Lists every register of a design, so that a property can speak of all of them.

A property set that says "every register is zero" or "every register is the same in two copies"
must not forget the one that was added last.  So its .sby file has a line

    #registers FILE TOP[(PARAMETER=VALUE,...)] INSTANCE [INSTANCE] but REGEX

and before it runs, FILE is written beside it: a wire for each register of module TOP whose path
does not match REGEX, tied by name to that register in the wrapper's instance (Yosys' attribute
`hierconn`).  With one instance FILE defines `all_zero`, with two `all_same`; and `exempt`
registers are listed in a comment.
"""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdl.errors import HdlError

_DIRECTIVE = re.compile(r"#registers (\S+) (\w+)(?:\(([\w=,]+)\))? (\w+)(?: (\w+))? but (\S+)")


class RegisterListError(HdlError):
    """The registers of a design could not be listed."""


def write_register_lists(folder: Path, sby: Path, environment: Mapping[str, str]) -> None:
    """Write the files that the `#registers` lines of `sby` ask for, into `folder`."""
    text = sby.read_text()
    for line in re.findall(r"^#registers .*$", text, re.MULTILINE):
        found = _DIRECTIVE.fullmatch(line.strip())
        if found is None:
            raise RegisterListError(f"{sby.name}: '{line}' is not '#registers FILE TOP ... but'.")
        file, top, settings, first, second, but = found.groups()
        parameters = dict(each.split("=") for each in settings.split(",")) if settings else {}
        files = re.search(r"\[files\]\n(.*?)(?:\n\[|\Z)", text, re.DOTALL)
        assert files is not None
        # All sources but what is generated and the wrapper, which comes last.
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
    """Return `top` as Yosys' JSON has a module: flat, all of it, and without what nothing reads."""
    settings = " ".join(f"-chparam {name} {value}" for name, value in parameters.items())
    listings = [folder / f"{top}.{stage}.json" for stage in ("whole", "clean")]
    script = "; ".join(
        [
            f"read -formal {' '.join(sources)}",
            f"hierarchy {settings} -top {top}",
            "proc -norom",
            "memory_collect",
            "flatten",
            f"write_json {listings[0].name}",
            "opt_clean",
            f"write_json {listings[1].name}",
        ]
    )
    answer = subprocess.run(
        ["yosys", "-q", "-p", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise RegisterListError(f"Yosys does not list the registers of {top}: {answer.stderr}")
    whole, clean = (json.loads(each.read_text())["modules"][top] for each in listings)
    return whole, clean


def register_widths(
    folder: Path,
    sources: list[str],
    top: str,
    parameters: Mapping[str, str],
    environment: Mapping[str, str],
) -> dict[str, int]:
    """Return the width in bits of every register of `top`, by its path below it."""
    whole, clean = netlists(folder, sources, top, parameters, environment)
    # Yosys makes registers of the variables of functions and loops, too. They have no name of
    # their own, and nothing reads them: then they are gone from the cleaned design.
    if nameless := named_registers(clean)[1]:
        raise RegisterListError(f"{len(nameless)} register bits of {top} bear no name.")
    return named_registers(whole)[0]


def named_registers(module: dict[str, Any]) -> tuple[dict[str, int], set[int | str]]:
    """Return the width of each register by name, and the register bits that have no name."""
    driven = {
        bit
        for cell in module["cells"].values()
        if is_flip_flop(cell)
        for bit in cell["connections"]["Q"]
    }
    # Several names may show one register; any that is a register through and through will do.
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
    """Tell whether a cell of a netlist is a register."""
    return re.fullmatch(r"\$(a|s|al)?dff(e|ce|sr|sre)?", cell["type"]) is not None


def _is_register(name: str) -> bool:
    return name.endswith("_q") or "field_storage_" in name  # ours, and the register block's


def _declarations(widths: dict[str, int], instances: list[str], but: re.Pattern[str]) -> str:
    told = {name: width for name, width in widths.items() if not but.fullmatch(name)}
    spared = sorted(widths.keys() - told.keys())
    lines = [f"// exempt: {name}" for name in spared]
    terms = []
    for index, (name, width) in enumerate(sorted(told.items())):
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
