"""The inputs of a simulation build, and their hash."""

import hashlib
import json
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import cocotb_tools.config

from hdl.files import file_hash
from hdl.verilator.toolchain import Toolchain

Variant = Literal["plain", "waves", "coverage"]


_VERILOG = (".sv", ".svh", ".v", ".vh")

# The main loop that the runner compiles into every simulation.
COCOTB_MAIN = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"


# -O2 on the model's hot code is seven times -O0; cold code (constructors, tables) runs once.
MAKE_FLAGS = ("OPT_FAST=-O2", "OPT_SLOW=-O0", "OPT_GLOBAL=-O2")


@dataclass(frozen=True)
class Recipe:
    """The inputs of a simulation build."""

    toplevel: str
    hdl: tuple[Path, ...]
    cpp: tuple[Path, ...]
    variant: Variant
    parameters: dict[str, int | str]
    defines: dict[str, str]
    includes: tuple[Path, ...]
    main: Path
    flags: tuple[str, ...]
    build_hash: bool = False
    """Whether the top has a parameter BuildHash: it receives the first 32 bits of the digest."""

    def digest(self, toolchain: Toolchain) -> str:
        """Return the hash of everything that the executable depends on."""
        return _hash(
            {
                "toplevel": self.toplevel,
                "sources": [(s.name, file_hash(s)) for s in self._files()],
                "parameters": self.parameters,
                "build hash": self.build_hash,
                "defines": self.defines,
                "tools": self._tools(toolchain),
                "cocotb": version("cocotb"),
                "python": sys.version,
            }
        )

    def _files(self) -> list[Path]:
        included = [f for d in self.includes for f in sorted(d.iterdir()) if f.suffix in _VERILOG]
        return [*self.hdl, *self.cpp, self.main, *included, *sorted(self.main.parent.glob("*.h"))]

    def runtime_digest(self, toolchain: Toolchain) -> str:
        """Return the hash of what Verilator's run-time library depends on."""
        return _hash(self._tools(toolchain))

    def _tools(self, toolchain: Toolchain) -> dict[str, object]:
        return {
            "versions": toolchain.version,
            "make": [toolchain.environment.get("MAKEFLAGS", ""), *MAKE_FLAGS],
            "flags": self.flags,
        }


def _hash(description: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:24]
