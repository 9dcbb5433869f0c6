"""Build simulations from SystemVerilog, cached by content.

A build is one folder in the user's cache, named by a hash over the text of all sources, all flags
and the versions of all tools. It holds the executable and the build log. It is created by one
rename under a lock, so two processes that need it build it once.

The cache also holds the objects of Verilator's run-time library. The first build compiles them, and
later builds with the same tools and flags use them: they take most of the time of a small build.
"""

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

import cocotb_tools.config
from platformdirs import user_cache_path

from hdl.errors import BuildError
from hdl.verilator.recipe import COCOTB_MAIN, Recipe, Variant
from hdl.verilator.runner import build_folder, compile_recipe
from hdl.verilator.toolchain import Toolchain, find_toolchain, require_fst, require_libpython

_VARIANT_FLAGS: dict[Variant, tuple[str, ...]] = {
    "plain": (),
    "waves": ("--trace-fst", "--trace-structs"),
    "coverage": ("--coverage-line", "--coverage-toggle", "--coverage-user"),
}


# Signals below the top are made accessible by name in .vlt files.
_TOP_REACH = ("--public-depth", "1")

_COMMON_FLAGS = ("--timing", "--assert", "-Wno-fatal", "-Wno-WIDTH", "-O3")


_KEEP_S = 30 * 24 * 3600


@dataclass(frozen=True)
class BuiltSim:
    """A compiled simulation: top module, executable, variant."""

    toplevel: str
    executable: Path
    variant: Variant
    was_cached: bool

    @property
    def directory(self) -> Path:
        """Return the cache folder with the executable and build.log."""
        return self.executable.parent


def cache_path() -> Path:
    """Return the user's cache folder for simulations; raise BuildError."""
    try:
        return user_cache_path("taperig") / "sim"
    except RuntimeError:
        raise BuildError(
            "The cache folder cannot be found: this user has no home folder; set XDG_CACHE_HOME to "
            "a folder that you can write."
        ) from None


def cache_directory() -> Path:
    """Return the user's cache folder for simulations; create it if absent."""
    directory = cache_path()
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def simulation_flags(variant: Variant) -> tuple[str, ...]:
    """Return Verilator's flags for every simulation of `variant`."""
    return (*_COMMON_FLAGS, *_VARIANT_FLAGS[variant])


def verilate(
    toplevel: str,
    sources: Sequence[Path],
    *,
    variant: Variant = "plain",
    parameters: Mapping[str, int | str] | None = None,
    defines: Mapping[str, str] | None = None,
    includes: Sequence[Path] = (),
    flags: Sequence[str] = (),
    build_hash: bool = False,
    reach_top: bool = True,
    main: Path | None = None,
    jobs: int = 2,
    on_build: Callable[[str], None] | None = None,
) -> BuiltSim:
    """Build `toplevel` from `sources`, or take it from the cache.

    See `recipe_of` and `build` for the arguments.
    """
    recipe = recipe_of(
        toplevel,
        sources,
        variant=variant,
        parameters=parameters,
        defines=defines,
        includes=includes,
        flags=flags,
        build_hash=build_hash,
        reach_top=reach_top,
        main=main,
    )
    return build(recipe, jobs=jobs, on_build=on_build)


def recipe_of(
    toplevel: str,
    sources: Sequence[Path],
    *,
    variant: Variant = "plain",
    parameters: Mapping[str, int | str] | None = None,
    defines: Mapping[str, str] | None = None,
    includes: Sequence[Path] = (),
    flags: Sequence[str] = (),
    build_hash: bool = False,
    reach_top: bool = True,
    main: Path | None = None,
) -> Recipe:
    """Return the inputs of a build of `toplevel`.

    `sources` are .sv, .v, .vlt and .cpp files, packages before the modules that import them.
    Python can access the signals of the top module if `reach_top`, and otherwise only those that
    .vlt files name. With `build_hash` the top's parameter BuildHash is set.
    `main` is a C++ file with a main loop that replaces cocotb's.
    """
    missing = [str(source) for source in sources if not Path(source).is_file()]
    if missing:
        raise BuildError(f"Cannot build {toplevel}: no such source file: {', '.join(missing)}")
    return Recipe(
        toplevel=toplevel,
        hdl=tuple(Path(s).resolve() for s in sources if Path(s).suffix != ".cpp"),
        cpp=tuple(Path(s).resolve() for s in sources if Path(s).suffix == ".cpp"),
        variant=variant,
        parameters=dict(parameters or {}),
        defines=dict(defines or {}),
        includes=tuple(Path(i).resolve() for i in includes),
        main=main.resolve() if main is not None else COCOTB_MAIN,
        flags=(
            *simulation_flags(variant),
            *(_TOP_REACH if reach_top else ()),
            *flags,
        ),
        build_hash=build_hash,
    )


def build_name(recipe: Recipe, toolchain: Toolchain) -> str:
    """Return the name of a build in the cache, with the hash of its inputs."""
    return f"{recipe.toplevel}-{recipe.variant}-{recipe.digest(toolchain)}"


def build(
    recipe: Recipe, *, jobs: int = 2, on_build: Callable[[str], None] | None = None
) -> BuiltSim:
    """Build a recipe, or take the build from the cache.

    `on_build` is called with a line for the user only when something has to be compiled.
    """
    toplevel, variant = recipe.toplevel, recipe.variant
    toolchain = find_toolchain()
    require_libpython()
    if variant == "waves":
        require_fst()
    root = cache_path()
    name = build_name(recipe, toolchain)
    final = root / name
    executable = final / toplevel
    if executable.is_file():
        with contextlib.suppress(OSError):  # a read-only cache is usable, too
            os.utime(final)
        return BuiltSim(toplevel, executable, variant, was_cached=True)
    with contextlib.ExitStack() as locked:
        try:
            cache_directory()
            locked.enter_context(_lock(root / f"{name}.lock"))
        except OSError as error:
            raise _cannot_store(toplevel, root, error) from error
        if executable.is_file():
            return BuiltSim(toplevel, executable, variant, was_cached=True)
        if on_build is not None:
            on_build(f"Building the simulation of {toplevel} ({variant}), once for these sources")
        _build_into(final, recipe, toolchain, jobs)
        _prune(root)
    return BuiltSim(toplevel, executable, variant, was_cached=False)


def _build_into(final: Path, recipe: Recipe, toolchain: Toolchain, jobs: int) -> None:
    runtime = final.parent / f"runtime-{recipe.runtime_digest(toolchain)}"
    with build_folder() as folder:
        work = compile_recipe(folder, recipe, toolchain, sorted(runtime.glob("*.o")), jobs)
        try:
            _publish(final, [work / recipe.toplevel, folder.log])
            if runtime.is_dir():
                os.utime(runtime)
            else:
                _publish(runtime, sorted(work.glob("verilated*.o")))
        except OSError as error:
            raise _cannot_store(recipe.toplevel, final.parent, error) from error


def _cannot_store(toplevel: str, root: Path, error: OSError) -> BuildError:
    return BuildError(
        f"The simulation of {toplevel} cannot be stored in {root} ({error.strerror}); "
        "set XDG_CACHE_HOME to a folder that you can write, with some free space."
    )


def _publish(final: Path, files: Sequence[Path]) -> None:
    """Put files into the cache as one folder, by one rename."""
    staging = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        for file in files:
            shutil.copy2(file, staging / file.name)
        staging.rename(final)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        if not final.is_dir():  # else another process built the same
            raise


def _prune(root: Path) -> None:
    """Remove cache entries that no build has used for a month."""
    oldest = time.time() - _KEEP_S
    for entry in root.iterdir():
        if entry.stat().st_mtime < oldest:
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)


def library_path() -> str:
    """Return the LD_LIBRARY_PATH with which a simulation finds cocotb."""
    before = os.environ.get("LD_LIBRARY_PATH")
    return os.pathsep.join([str(cocotb_tools.config.libs_dir), *([before] if before else [])])


def simulation_environment() -> dict[str, str]:
    """Return the environment with which a simulation finds cocotb and Python.

    It is what cocotb's runner gives a test, without importing cocotb and pytest into this process,
    which takes a fifth of a second.
    """
    libpython = require_libpython()
    # An empty entry in sys.path means the current directory, and the child has another one.
    paths = [str(Path(__file__).parents[2]), *(path for path in sys.path if path)]
    return {
        "GPI_USERS": f"{libpython};{_cocotb_simulator()},initialize",
        "PYGPI_PYTHON_BIN": sys.executable,
        "PYTHONPATH": os.pathsep.join(paths),
        # Not in the executable, which serves every checkout and Python environment.
        "LD_LIBRARY_PATH": library_path(),
    }


def _cocotb_simulator() -> Path:
    """Return the module of cocotb that a simulation loads."""
    package = [str(cocotb_tools.config.base_cocotb_dir)]
    found = PathFinder.find_spec("cocotb.simulator", package)
    if found is None or found.origin is None:
        raise BuildError(
            f"cocotb in {package[0]} lacks its module cocotb.simulator; remove .venv and run "
            "`make setup`."
        )
    return Path(found.origin).resolve()
