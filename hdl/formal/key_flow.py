"""Structural information flow from key storage through a netlist.

The netlist is searched without a solver. A register that no path reaches from key storage cannot
depend on a key, in value or in time, from any state and after any number of clocks. So the search
is sufficient for non-interference. It is also conservative: an operation that cancels the key out
counts as a path.

The cipher is replaced by a module without a path, since ciphertext may leave.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from hdl.formal.netlist_registers import named_registers


def key_paths(module: dict[str, Any], keys: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """Return the registers and outputs that depend on a key and should not.

    `module` is a flat netlist. `keys` are patterns of the registers and inputs that hold keys,
    `allowed` of the registers that may depend on keys; no path is followed from these.
    Raises ValueError when a pattern matches nothing.
    """
    registers, unnamed = named_registers(module)
    bits_of = {name: set(module["netnames"][name]["bits"]) for name in registers}
    inputs = {n: p["bits"] for n, p in module["ports"].items() if p["direction"] == "input"}
    outputs = {n: p["bits"] for n, p in module["ports"].items() if p["direction"] == "output"}
    sources = _matching([*registers, *inputs], keys)
    exempt = {bit for name in _matching(registers, allowed) for bit in bits_of[name]}
    readers: dict[Any, list[str]] = defaultdict(list)
    for cell_name, cell in module["cells"].items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                for bit in bits:
                    readers[bit].append(cell_name)
    reached = {b for name in sources for b in (*bits_of.get(name, ()), *inputs.get(name, ()))}
    waiting = list(reached)
    while waiting:
        for cell_name in readers[waiting.pop()]:
            cell = module["cells"][cell_name]
            for bit in _driven(cell, reached):
                if bit not in reached and bit not in exempt:
                    reached.add(bit)
                    waiting.append(bit)
    found = [name for name in registers if name not in sources and bits_of[name] & reached]
    found += [name for name, bits in outputs.items() if reached.intersection(bits)]
    return sorted(found) + (["a register without a name"] if unnamed & reached else [])


# Cells whose output bit depends on the same bit of each input only: followed bit by bit.
_BITWISE = re.compile(r"\$(not|and|or|xor|xnor|mux|(a|s|al)?dff(e|ce|sr|sre)?|pos)")


def _driven(cell: dict[str, Any], reached: set[Any]) -> Iterable[Any]:
    """Return the outputs of a cell that depend on any of the reached bits."""
    connections, directions = cell["connections"], cell["port_directions"]
    output = next((port for port, way in directions.items() if way == "output"), None)
    if output is None:
        return ()
    width = len(connections[output])
    wide = {port: bits for port, bits in connections.items() if port != output}
    whole = not _BITWISE.fullmatch(cell["type"]) or any(
        reached.intersection(bits) and len(bits) != width for bits in wide.values()
    )
    driven: list[Any] = connections[output]
    if whole:
        return driven
    return [
        driven[i]
        for i in range(width)
        if any(len(bits) == width and bits[i] in reached for bits in wide.values())
    ]


def _matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    names = list(names)
    found = set()
    for pattern in patterns:
        fitting = {name for name in names if re.fullmatch(pattern, name)}
        if not fitting:
            raise ValueError(f"no register or input matches {pattern}")
        found |= fitting
    return found
