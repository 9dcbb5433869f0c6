"""The virtual board's cocotb module; C++ serves the board until it ends."""

from typing import Any

import cocotb
from cocotb.triggers import Event


@cocotb.test()
async def idle(dut: Any) -> None:
    """Keep the simulation running."""
    await Event().wait()
