"""Run a cocotb bench from a pytest test.

    def test_ghash() -> None:
        run_bench("ghash", rtl("drive_crypto_pkg.sv", "gf128_mul.sv", "ghash.sv"), "bench_ghash")

The module named last is in the folder of the calling test; its `@cocotb.test()` coroutines are the
bench. If one fails, or the module has none, the pytest test fails. The report begins with the seed
of the random numbers and the failed test's own words; then the bench is run again for a waveform.

`pytest --seed N` repeats a run: it sets TAPERIG_SEED.
"""

import inspect
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from cocotb_tools.runner import Verilator

from hdl.errors import BenchError, BuildError
from hdl.files import read_end
from hdl.sources import RTL_DIRECTORY
from hdl.verilator.power_up import power_up_plusargs
from hdl.verilator.recipe import Variant
from hdl.verilator.toolchain import OLDEST_FOR_BENCHES, find_toolchain
from hdl.verilator.verilate import library_path, verilate

# A folder for one coverage.dat of every bench; when it is set, all benches count coverage.
COVERAGE_VARIABLE = "TAPERIG_COVERAGE"
SEED_VARIABLE = "TAPERIG_SEED"

_LOG_TAIL_LINES = 60


@dataclass(frozen=True, slots=True)
class BenchOutcome:
    """What one cocotb test of a bench came to."""

    test: str
    seconds: float
    """Wall time."""
    failure: str = ""
    """The failed test's own words; empty when it passed."""


OutcomeListener = Callable[[Sequence[BenchOutcome]], None]
outcome_listeners: list[OutcomeListener] = []
"""Called with the outcomes of each bench, also of one that failed."""


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
    power_up_seed: int | None = None,
    module_directory: Path | None = None,
    output_directory: Path | None = None,
    flags: Sequence[str] = (),
) -> None:
    """Build `toplevel` and run the cocotb tests of `test_module` on it.

    `vlt` are Verilator control files, for example to make an internal signal accessible.
    `power_up_seed` is the seed of random initial values; see power_up.py.
    `output_directory` receives bench.log, results.xml, and dump.fst or coverage.dat according to
    `variant` (WAVES=1 in the environment selects waves). The default is a temporary folder, which
    is kept, and named, only after a failure or with waves. The seed is that of TAPERIG_SEED, else a
    new one. A failed bench runs once more, with the same seed, for a waveform, unless WAVES is 0.
    Raises BenchError when a test failed or none ran.
    """
    find_toolchain().require(OLDEST_FOR_BENCHES, "the oldest that runs the benches")
    if environment_flag("WAVES"):
        variant = "waves"
    if coverage := os.environ.get(COVERAGE_VARIABLE):
        variant = "coverage"
    bench = _Bench(
        toplevel,
        [*vlt, *sources],
        test_module,
        seed=_seed() if seed is None else seed,
        parameters=dict(parameters or {}),
        environment=dict(extra_env or {}),
        plusargs=[*plusargs, *power_up_plusargs(power_up_seed)],
        flags=tuple(flags),
        modules=module_directory or Path(inspect.stack()[1].filename).parent,
    )
    print(f"{bench.name}: seed {bench.seed}")
    output = output_directory or Path(tempfile.mkdtemp(prefix=f"taperig-bench-{toplevel}-"))
    outcomes = bench.run(output, variant, testcase)
    for listener in outcome_listeners:
        listener(outcomes)
    if failed := [outcome for outcome in outcomes if outcome.failure]:
        waves = ""
        if variant == "plain" and os.environ.get("WAVES") != "0":
            waves = bench.waveform(output, [outcome.test for outcome in failed])
        raise BenchError(bench.report(output, failed, len(outcomes), waves))
    if not outcomes:
        raise BenchError(bench.failure("ran no test", output))
    if coverage:
        name = f"{toplevel}-{test_module}-{os.getpid()}-{time.monotonic_ns()}.dat"
        shutil.copy(output / "coverage.dat", Path(coverage) / name)
    if variant == "waves":
        print(f"waves: {output / 'dump.fst'}")
    elif output_directory is None:
        shutil.rmtree(output, ignore_errors=True)


@dataclass(frozen=True)
class _Bench:
    """A top level and the cocotb tests for it."""

    toplevel: str
    sources: list[Path]
    module: str
    seed: int
    parameters: dict[str, int | str]
    environment: dict[str, str]
    plusargs: list[str]
    flags: tuple[str, ...]
    modules: Path

    @property
    def name(self) -> str:
        return f"{self.module} on {self.toplevel}"

    def run(
        self, output: Path, variant: Variant, testcase: str | Sequence[str] | None
    ) -> list[BenchOutcome]:
        """Build and run; raise BenchError when the simulator left no results."""
        built = verilate(
            self.toplevel,
            self.sources,
            variant=variant,
            parameters=self.parameters,
            defines={"RTL_ASSERTIONS": "1"},
            flags=self.flags,
        )
        output.mkdir(parents=True, exist_ok=True)
        results = output / "results.xml"
        results.unlink(missing_ok=True)
        runner = Verilator()
        runner.log.setLevel("CRITICAL")
        sys.path.insert(0, str(self.modules))
        try:
            runner.test(
                test_module=self.module,
                hdl_toplevel=self.toplevel,
                hdl_toplevel_lang="verilog",
                build_dir=built.directory,
                test_dir=output,
                testcase=testcase,
                seed=self.seed,
                plusargs=self.plusargs,
                parameters=self.parameters,
                extra_env={
                    "COCOTB_ANSI_OUTPUT": "0",
                    "LD_LIBRARY_PATH": library_path(),
                    **self.environment,
                },
                waves=variant == "waves",
                results_xml=str(results),
                log_file=output / "bench.log",
            )
        except RuntimeError as error:  # the simulator itself crashed
            raise BenchError(self.failure(f"stopped ({error})", output)) from error
        except SystemExit:
            pass  # the runner exits after a failing test; results.xml has the details
        finally:
            sys.path.remove(str(self.modules))
        try:
            return [_outcome(case) for case in ElementTree.parse(results).iter("testcase")]
        except (OSError, ElementTree.ParseError) as error:
            raise BenchError(self.failure(f"left no results ({error})", output)) from error

    def waveform(self, output: Path, tests: Sequence[str]) -> str:
        """Run failed tests again with waves; return a sentence that names them."""
        try:
            again = self.run(output / "waves", "waves", tests)
        except (BenchError, BuildError) as error:
            return f"No waveform could be made: {str(error).splitlines()[0]}"
        waves = output / "waves" / "dump.fst"
        if any(outcome.failure for outcome in again):
            return f"The waveform is in {waves}."
        return f"It did not fail again with the waveform on, which is in {waves}."

    def report(self, output: Path, failed: Sequence[BenchOutcome], ran: int, waves: str) -> str:
        """Return the text of a failure, the first failed test's words first."""
        words = "".join(f"{outcome.test}: {outcome.failure}\n" for outcome in failed)
        return self.failure(f"failed {len(failed)} of {ran}", output, f"{words}{waves}\n")

    def failure(self, what: str, output: Path, words: str = "") -> str:
        """Return a text that begins with the seed and ends with the log."""
        log = output / "bench.log"
        text = read_end(log) if log.is_file() else "(no log)"
        tail = "\n".join(text.splitlines()[-_LOG_TAIL_LINES:])
        return (
            f"{self.name} {what} with seed {self.seed} (`pytest --seed {self.seed}` repeats it).\n"
            f"{words}{log} ends:\n{tail}"
        )


def _outcome(case: ElementTree.Element) -> BenchOutcome:
    wrong = case.find("failure")
    if wrong is None:
        wrong = case.find("error")
    words = ""
    if wrong is not None:
        words = wrong.get("message") or wrong.text or wrong.get("type") or "failed"
    return BenchOutcome(
        test=case.get("name", "?"),
        seconds=float(case.get("time", 0)),
        failure=words,
    )


def _seed() -> int:
    text = os.environ.get(SEED_VARIABLE)
    if not text:
        return random.SystemRandom().randrange(1 << 31)
    if not text.isascii() or not text.isdigit() or int(text) >= 1 << 31:
        raise BenchError(
            f"The environment variable {SEED_VARIABLE} is '{text}'; set it to a number from 0 to "
            f"{(1 << 31) - 1}, or unset it."
        )
    return int(text)


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
