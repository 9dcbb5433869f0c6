"""Run Verilator and make on a recipe, in a folder of links to the sources.

make cannot handle blanks in paths, so it sees no path through the user's own folders. A simulation
prints the names of the links: they are the same in every checkout, as the cache requires.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cocotb_tools.config

from hdl.errors import BuildError
from hdl.files import MAX_BYTES, read_end
from hdl.sources import HDL_DIRECTORY
from hdl.tool_process import run_with_children
from hdl.verilator.recipe import MAKE_FLAGS, Recipe
from hdl.verilator.toolchain import Toolchain

_LOG_TAIL_LINES = 30


class BuildFolder:
    """A temporary folder without blanks in its path, and the links in it."""

    def __init__(self, path: Path) -> None:
        """Start without links."""
        self.path = path
        self.log = path / "build.log"
        self._links: dict[Path, str] = {}

    def folder(self, real: Path) -> str:
        """Return the link to the folder `real`, relative to this folder."""
        if real.is_relative_to(HDL_DIRECTORY):
            return str(Path(self._link(HDL_DIRECTORY, "hdl")) / real.relative_to(HDL_DIRECTORY))
        return self._link(real, f"folder{len(self._links)}")

    def file(self, real: Path) -> str:
        """Return the link to the file `real`, relative to this folder."""
        if any(character.isspace() for character in real.name):
            raise BuildError(
                f"The source {real} has a blank in its file name, which make cannot handle; "
                "rename the file."
            )
        return f"{self.folder(real.parent)}/{real.name}"

    def absolute(self, name: str) -> str:
        """Return the absolute path of a name, for commands that run elsewhere."""
        return str(self.path / name)

    def run(self, command: Sequence[str], environment: dict[str, str], toplevel: str) -> None:
        """Run a command here; on failure raise BuildError with the log's end."""
        with self.log.open("a") as log:
            code, _ = run_with_children(
                command, folder=self.path, environment=environment, output=log
            )
        if code != 0:
            raise BuildError(
                f"{toplevel} does not build ({Path(command[0]).name} ended with exit code "
                f"{code}); the log ends:\n{_tail(self.readable_log())}"
            )

    def readable_log(self) -> str:
        """Return the end of the log with the paths of the real sources."""
        text = read_end(self.log, MAX_BYTES).replace(f"{self.path}/", "")
        for real, name in self._links.items():
            text = re.sub(rf"(?<![\w/.]){name}/", f"{real}/".replace("\\", r"\\"), text)
        return text

    def _link(self, real: Path, name: str) -> str:
        if real not in self._links:
            (self.path / name).symlink_to(real, target_is_directory=True)
            self._links[real] = name
        return self._links[real]


@contextmanager
def build_folder() -> Iterator[BuildFolder]:
    """Create a temporary folder for a build, and remove it at the end."""
    blank = any(character.isspace() for character in tempfile.gettempdir())
    try:
        with tempfile.TemporaryDirectory(
            prefix="taperig-build-", dir="/tmp" if blank else None
        ) as path:
            yield BuildFolder(Path(path))
    except OSError as error:
        raise BuildError(
            f"The simulation cannot be built in a temporary folder ({error.strerror}, "
            f"{error.filename}); set TMPDIR to a folder that you can write, with some free space."
        ) from error


def compile_recipe(
    folder: BuildFolder, recipe: Recipe, toolchain: Toolchain, objects: Sequence[Path], jobs: int
) -> Path:
    """Compile a recipe; return the folder with the executable and all objects.

    `objects` are the objects of Verilator's run-time library that exist already, if any.
    """
    environment = toolchain.full_environment()
    verilator = str(toolchain.verilator)
    if root := toolchain.environment.get("VERILATOR_ROOT"):
        environment["VERILATOR_ROOT"] = folder.absolute(folder.folder(Path(root)))
        verilator = f"{environment['VERILATOR_ROOT']}/bin/{toolchain.verilator.name}"
    libraries = folder.absolute(folder.folder(Path(cocotb_tools.config.libs_dir)))
    work = folder.path / "work"
    work.mkdir()
    code = (recipe.main, *recipe.cpp)
    parameters = dict(recipe.parameters)
    if recipe.build_hash:
        parameters["BuildHash"] = f"32'h{recipe.digest(toolchain)[:8]}"
    verilate = [
        *(verilator, "-cc", "--exe", "-Mdir", str(work), "--prefix", "Vtop", "--vpi"),
        *("--top-module", recipe.toplevel, "-o", recipe.toplevel, "--timescale", "1ns/1ps"),
        *("-LDFLAGS", f"-L{libraries} -lcocotbvpi_verilator"),
        *recipe.flags,
        *(f"-D{name}={value}" for name, value in recipe.defines.items()),
        *(f"-I{folder.folder(include)}" for include in recipe.includes),
        *(f"-G{name}={value}" for name, value in parameters.items()),
        *(folder.absolute(folder.file(source)) for source in code),  # make runs in `work`
        *(folder.file(source) for source in recipe.hdl),
    ]
    folder.run(verilate, environment, recipe.toplevel)
    for file in objects:
        # The copies are newer than the makefile, so make does not compile them again.
        (work / file.name).write_bytes(file.read_bytes())
    trace = f"VM_TRACE={int(recipe.variant == 'waves')}"
    make = ["make", "-j", str(jobs), "-C", str(work), "-f", "Vtop.mk", trace, *MAKE_FLAGS]
    folder.run(make, environment, recipe.toplevel)
    folder.log.write_text(folder.readable_log())
    return work


def _tail(text: str) -> str:
    lines = text.splitlines()
    errors = [line for line in lines if "%Error" in line or " error: " in line]
    return "\n".join([*errors[:10], "...", *lines[-_LOG_TAIL_LINES:]])
