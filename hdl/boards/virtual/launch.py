"""Build the virtual board and start it as a child process."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from hdl.sources import (
    BOARD_DIRECTORY,
    GENERATED_DIRECTORY,
    RTL_DIRECTORY,
    SIM_DIRECTORY,
    VIRTUAL_DIRECTORY,
    board_sources,
    rtl_packages,
)
from hdl.verilator.power_up import power_up_plusargs
from hdl.verilator.recipe import Recipe
from hdl.verilator.verilate import BuiltSim, build, recipe_of, simulation_environment
from hdl.widths import DEFAULT_WIDTH, PARAMETER, require_width

TOP = "virtual_top"


def build_virtual_board(
    *,
    bank_bytes: int = 65536,
    word_bytes: int = DEFAULT_WIDTH,
    on_build: Callable[[str], None] | None = None,
) -> BuiltSim:
    """Build the virtual board, or take it from the cache.

    Raises HdlError for a width that the engine does not have.
    """
    return build(virtual_recipe(bank_bytes=bank_bytes, word_bytes=word_bytes), on_build=on_build)


def virtual_recipe(*, bank_bytes: int = 65536, word_bytes: int = DEFAULT_WIDTH) -> Recipe:
    """Return all that the virtual board is built from.

    Raises HdlError for a width that the engine does not have.
    """
    require_width(word_bytes)
    return recipe_of(
        TOP,
        [
            VIRTUAL_DIRECTORY / "root.vlt",
            *rtl_packages(),
            *board_sources(),
            VIRTUAL_DIRECTORY / "virtual_top.sv",
            VIRTUAL_DIRECTORY / "serial_line.cpp",
            SIM_DIRECTORY / "parent_watch.cpp",
            SIM_DIRECTORY / "transport_key.cpp",
        ],
        parameters={"BankBytes": bank_bytes, PARAMETER: word_bytes},
        reach_top=False,
        build_hash=True,
        includes=(RTL_DIRECTORY, GENERATED_DIRECTORY, BOARD_DIRECTORY),
        flags=("-LDFLAGS", "-rdynamic", "-Wno-DECLFILENAME"),
    )


def start_virtual_board(
    built: BuiltSim,
    listener: int,
    terminal: int,
    log: Path,
    *,
    transport_key: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start the board, which serves an inherited socket and terminal.

    `listener` is a listening socket, `terminal` the master of a pseudo-terminal. The board's output
    goes to `log`. It ends on SIGTERM or when this process ends.
    """
    command = [
        str(built.executable),
        f"+parent={os.getpid()}",
        f"+serial_socket={listener}",
        f"+serial_pty={terminal}",
        *power_up_plusargs(),
    ]
    if transport_key is not None:
        command.append(f"+transport_key={transport_key.absolute()}")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COCOTB_")},
        **simulation_environment(),
        "COCOTB_TOPLEVEL": TOP,
        "COCOTB_TEST_MODULES": "hdl.boards.virtual.idle",
        "COCOTB_RESULTS_FILE": str(log.with_suffix(".xml").absolute()),
        "COCOTB_ANSI_OUTPUT": "0",
        "COCOTB_REWRITE_ASSERTION_FILES": "",  # by pytest, which takes a tenth of a second
        "TOPLEVEL_LANG": "verilog",
    }
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=environment,
            pass_fds=(listener, terminal),
            start_new_session=True,
        )
