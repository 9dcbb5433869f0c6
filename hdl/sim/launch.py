"""Build the simulated board and start it as a child process."""

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from hdl.sim.wire import SOCKET_VARIABLE
from hdl.sources import GENERATED_DIRECTORY, RTL_DIRECTORY, SIM_DIRECTORY, rtl_packages
from hdl.verilator.power_up import power_up_plusargs
from hdl.verilator.recipe import Recipe, Variant
from hdl.verilator.verilate import BuiltSim, build, recipe_of, simulation_environment
from hdl.widths import DEFAULT_WIDTH, PARAMETER, require_width

TOP = "sim_top"
MAIN = SIM_DIRECTORY / "main.cpp"


def build_simulation(
    *,
    variant: Variant = "plain",
    word_bytes: int = DEFAULT_WIDTH,
    probes: Sequence[Path] = (),
    on_build: Callable[[str], None] | None = None,
) -> BuiltSim:
    """Build the simulated board, or take it from the cache.

    `probes` are Verilator control files that make internal signals visible, for tests only.
    """
    return build(simulation_recipe(variant, probes, word_bytes), on_build=on_build)


def simulation_recipe(
    variant: Variant = "plain", probes: Sequence[Path] = (), word_bytes: int = DEFAULT_WIDTH
) -> Recipe:
    """Return all that the simulated board is built from.

    Raises HdlError for a width that the engine does not have.
    """
    require_width(word_bytes)
    code = [file for file in sorted(SIM_DIRECTORY.glob("*.cpp")) if file != MAIN]
    own = [*sorted(SIM_DIRECTORY.glob("*.sv")), *code]
    control = [SIM_DIRECTORY / "server_signals.vlt"]
    if variant == "waves":
        control.append(SIM_DIRECTORY / "waves.vlt")
    return recipe_of(
        TOP,
        [*control, *probes, *rtl_packages(), *own],
        variant=variant,
        parameters={PARAMETER: word_bytes},
        reach_top=False,
        main=MAIN,
        build_hash=True,
        includes=(RTL_DIRECTORY, GENERATED_DIRECTORY),
        flags=("-LDFLAGS", "-rdynamic", "-Wno-DECLFILENAME"),
    )


def start_simulation(
    built: BuiltSim,
    descriptor: int,
    log: Path,
    *,
    transport_key: Path | None = None,
    waves: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start the simulation, which serves the inherited socket `descriptor`.

    Its output goes to `log`. It ends when the socket closes or this process ends.
    """
    command = [str(built.executable), f"+parent={os.getpid()}", *power_up_plusargs()]
    if transport_key is not None:
        command.append(f"+transport_key={transport_key.absolute()}")
    if waves is not None:
        command += ["--trace-file", str(waves.absolute())]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COCOTB_")},
        **simulation_environment(),
        "COCOTB_TOPLEVEL": TOP,
        "COCOTB_TEST_MODULES": "hdl.sim.serve",
        "COCOTB_RESULTS_FILE": str(log.with_suffix(".xml").absolute()),
        "COCOTB_ANSI_OUTPUT": "0",
        "COCOTB_REWRITE_ASSERTION_FILES": "",  # by pytest, which takes a tenth of a second
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "TOPLEVEL_LANG": "verilog",
        SOCKET_VARIABLE: str(descriptor),
    }
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=environment,
            pass_fds=(descriptor,),
            # Ctrl-C goes to the parent only, which then ends the simulation.
            start_new_session=True,
        )
