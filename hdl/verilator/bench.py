"""Run a cocotb bench from a pytest test.

    def test_ghash() -> None:
        run_bench("ghash", rtl("drive_crypto_pkg.sv", "gf128_mul.sv", "ghash.sv"), "bench_ghash")

The module named last is in the folder of the calling test; its `@cocotb.test()` coroutines are the
bench. If one fails, or the module has none, the pytest test fails and shows the end of the log.
"""

import inspect
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cocotb_tools.check_results import get_results
from cocotb_tools.runner import Verilator

from hdl.errors import BenchError
from hdl.files import read_end
from hdl.sources import RTL_DIRECTORY
from hdl.verilator.recipe import Variant
from hdl.verilator.verilate import library_path, verilate

# A folder for one coverage.dat of every bench; when it is set, all benches count coverage.
COVERAGE_VARIABLE = "TAPERIG_COVERAGE"

_LOG_TAIL_LINES = 60


def rtl(*names: str) -> list[Path]:
    """Return the paths of files in hdl/rtl, in the given order."""
    return [RTL_DIRECTORY / name for name in names]


def run_bench(
    toplevel: str,
    sources: Sequence[Path],
    test_module: str,
    *,
    parameters: Mapping[str, int | str] | None = None,
    vlt: Sequence[Path] = (),
    extra_env: Mapping[str, str] | None = None,
    testcase: str | Sequence[str] | None = None,
    variant: Variant = "plain",
    plusargs: Sequence[str] = (),
    seed: int | None = None,
    module_directory: Path | None = None,
    output_directory: Path | None = None,
    flags: Sequence[str] = (),
) -> None:
    """Build `toplevel` and run the cocotb tests of `test_module` on it.

    `vlt` are Verilator control files, for example to make an internal signal accessible.
    `output_directory` receives bench.log, results.xml, and dump.fst or coverage.dat according to
    `variant` (WAVES=1 in the environment selects waves). The default is a temporary folder, which
    is kept, and named, only after a failure or with waves.
    Raises BenchError when a test failed or none ran.
    """
    if environment_flag("WAVES"):
        variant = "waves"
    if coverage := os.environ.get(COVERAGE_VARIABLE):
        variant = "coverage"
    if module_directory is None:
        module_directory = Path(inspect.stack()[1].filename).parent
    built = verilate(
        toplevel, [*vlt, *sources], variant=variant, parameters=parameters, flags=flags
    )
    output = output_directory or Path(tempfile.mkdtemp(prefix=f"taperig-bench-{toplevel}-"))
    output.mkdir(parents=True, exist_ok=True)
    log = output / "bench.log"
    results = output / "results.xml"
    runner = Verilator()
    runner.log.setLevel("CRITICAL")
    sys.path.insert(0, str(module_directory))
    try:
        runner.test(
            test_module=test_module,
            hdl_toplevel=toplevel,
            hdl_toplevel_lang="verilog",
            build_dir=built.directory,
            test_dir=output,
            testcase=testcase,
            seed=seed,
            plusargs=list(plusargs),
            parameters=dict(parameters or {}),
            extra_env={
                "COCOTB_ANSI_OUTPUT": "0",
                "LD_LIBRARY_PATH": library_path(),
                **(extra_env or {}),
            },
            waves=variant == "waves",
            results_xml=str(results),
            log_file=log,
        )
    except RuntimeError as error:  # the simulator itself crashed
        raise BenchError(_failure(toplevel, test_module, f"stopped ({error})", log)) from error
    except SystemExit:
        pass  # the runner exits after a failing test; results.xml has the details
    finally:
        sys.path.remove(str(module_directory))
    try:
        ran, failed = get_results(results)
    except RuntimeError as error:
        what = f"left no results ({error})"
        raise BenchError(_failure(toplevel, test_module, what, log)) from error
    if failed:
        raise BenchError(_failure(toplevel, test_module, f"failed {failed} of {ran}", log))
    if ran == 0:
        raise BenchError(_failure(toplevel, test_module, "ran no test", log))
    if coverage:
        name = f"{toplevel}-{test_module}-{os.getpid()}-{time.monotonic_ns()}.dat"
        shutil.copy(output / "coverage.dat", Path(coverage) / name)
    if variant == "waves":
        print(f"waves: {output / 'dump.fst'}")
    elif output_directory is None:
        shutil.rmtree(output, ignore_errors=True)


def environment_flag(name: str) -> bool:
    """Return whether an environment variable says yes; unset and empty say no."""
    value = os.environ.get(name, "").lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("", "0", "false", "no", "off"):
        return False
    raise BenchError(
        f"The environment variable {name} is '{value}'; set it to 1 or 0, or unset it."
    )


def _failure(toplevel: str, module: str, what: str, log: Path) -> str:
    text = read_end(log) if log.is_file() else "(no log)"
    tail = "\n".join(text.splitlines()[-_LOG_TAIL_LINES:])
    return f"{module} on {toplevel} {what}; {log} ends:\n{tail}"
