"""Helpers of the cocotb benches: clock, reset, access to all registers.

Inputs change and outputs are read at falling edges, where nothing else changes. "Latency n" means
n falling edges from the one that set the input to the first that sees the output.
"""

import random
from collections.abc import Iterator
from typing import Any

from cocotb.clock import Clock
from cocotb.handle import HierarchyArrayObject, HierarchyObject, ValueObjectBase
from cocotb.triggers import FallingEdge


async def start(dut: Any, **inputs: int) -> None:
    """Start a clock on `dut.clk_i`, set `inputs`, and reset the design."""
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

    Needs a build with registers_visible.vlt or registers_flippable.vlt.
    """
    for child in scope:
        if isinstance(child, HierarchyObject | HierarchyArrayObject):
            yield from registers(child)
        elif isinstance(child, ValueObjectBase) and child._name.endswith("_q"):
            yield child._path, int(child.value)


def nonzero_registers(scope: Any, *, at_least: int) -> list[str]:
    """Return the registers that are not zero, without the twins of control.

    Fails when fewer than `at_least` registers are visible.
    """
    found = list(registers(scope))
    assert len(found) >= at_least, f"only {len(found)} registers are visible: {found}"
    return [path for path, value in found if value != 0 and ".u_twin" not in path]


def find(scope: Any, path: str) -> Any:
    """Return the handle at `path` below `scope`, such as `gen[3].u_x.data_q`."""
    for step in path.replace("[", ".[").split("."):
        scope = scope[int(step[1:-1])] if step.startswith("[") else getattr(scope, step)
    return scope


def flip(scope: Any, path: str, choice: random.Random) -> None:
    """Flip one bit of a register; needs a build with registers_flippable.vlt."""
    register = find(scope, path)
    register.value = int(register.value) ^ 1 << choice.randrange(len(register))
