"""The virtual board's test module: the board is served from C++ until its process ends."""

from typing import Any

import cocotb
from cocotb.triggers import Event


@cocotb.test()
async def idle(dut: Any) -> None:
    """Let the clock run."""
    await Event().wait()
