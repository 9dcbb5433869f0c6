"""cocotb's Verilator runner with the flags and the environment that our simulations need."""

from collections.abc import Sequence
from pathlib import Path

from cocotb_tools.runner import Verilator

from hdl.verilator.recipe import COCOTB_MAIN, MAKE_FLAGS, Recipe
from hdl.verilator.toolchain import Toolchain

# The runner makes every signal of the design reachable, which takes minutes to compile for a
# pipelined engine.
_REACH = "--public-flat-rw"


class BuildRunner(Verilator):
    """cocotb's Verilator runner with the flags and the environment that we need."""

    def __init__(
        self, toolchain: Toolchain, recipe: Recipe, objects: Sequence[Path], jobs: int
    ) -> None:
        """Take the objects of Verilator's run-time library that are compiled already, if any."""
        super().__init__()
        self._toolchain = toolchain
        self._recipe = recipe
        self._objects = objects
        self._jobs = jobs

    def _set_env_common(self) -> None:
        super()._set_env_common()
        self.env.update(self._toolchain.environment)

    def _simulator_in_path_build_only(self) -> None:
        self.executable = str(self._toolchain.verilator)

    def _build_command(self) -> list[list[str]]:
        verilate, _make = super()._build_command()
        main = {str(COCOTB_MAIN): str(self._recipe.main)}
        command = [main.get(word, word) for word in verilate if word != _REACH]
        command += [str(source) for source in self._recipe.cpp]
        trace = str(int(self._recipe.variant == "waves"))
        make = ["make", "-j", str(self._jobs), "-C", str(self.build_dir), "-f", "Vtop.mk"]
        # Copied after the makefile is written, they are newer than it, so make keeps them.
        copy = [["cp", *map(str, self._objects), str(self.build_dir)]] if self._objects else []
        return [command, *copy, [*make, f"VM_TRACE={trace}", *MAKE_FLAGS]]
