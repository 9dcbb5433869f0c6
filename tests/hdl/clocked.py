"""What the cocotb benches share: clock and reset, and a look at every register of a design.

Inputs change and outputs are read at falling edges, where nothing else moves.  "Latency n" means:
n falling edges from the one that set the input to the first that sees the output.
"""

import random
from collections.abc import Iterator
from typing import Any

from cocotb.clock import Clock
from cocotb.handle import HierarchyArrayObject, HierarchyObject, ValueObjectBase
from cocotb.triggers import FallingEdge


async def start(dut: Any, **inputs: int) -> None:
    """Start a clock on `dut.clk_i`, set `inputs`, and take the design through reset."""
    for name, value in inputs.items():
        getattr(dut, name).value = value
    dut.rst_ni.value = 0
    Clock(dut.clk_i, 10, unit="ns").start()
    await clocks(dut, 2)
    dut.rst_ni.value = 1
    await clocks(dut, 2)


async def clocks(dut: Any, count: int = 1) -> None:
    """Wait for `count` falling edges of the clock."""
    for _ in range(count):
        await FallingEdge(dut.clk_i)


def registers(scope: Any) -> Iterator[tuple[str, int]]:
    """Yield path and value of every register (`*_q`) at and below `scope`.

    The build must have had registers_visible.vlt, or registers_flippable.vlt.
    """
    for child in scope:
        if isinstance(child, HierarchyObject | HierarchyArrayObject):
            yield from registers(child)
        elif isinstance(child, ValueObjectBase) and child._name.endswith("_q"):
            yield child._path, int(child.value)


def left_over(scope: Any, *, at_least: int) -> list[str]:
    """Return the registers that are not zero; `at_least` so many there must be to look at."""
    found = list(registers(scope))
    assert len(found) >= at_least, f"only {len(found)} registers are visible: {found}"
    return [path for path, value in found if value != 0]


def find(scope: Any, path: str) -> Any:
    """Return what lies at `path` below `scope`; generated blocks are named as in `gen[3].u_x`."""
    for step in path.replace("[", ".[").split("."):
        scope = scope[int(step[1:-1])] if step.startswith("[") else getattr(scope, step)
    return scope


def flip(scope: Any, path: str, choice: random.Random) -> None:
    """Turn over one bit of a register; the build must have had registers_flippable.vlt."""
    register = find(scope, path)
    register.value = int(register.value) ^ 1 << choice.randrange(len(register))
