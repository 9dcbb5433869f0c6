"""Turn SystemVerilog into a simulation, once for every content of its sources.

A finished build is one directory in the user's cache, named by a hash over the text of all
sources, all flags and the versions of all tools.  It holds the executable and the build log.
It appears by one rename, under a lock: two processes that want it build it once.

Beside the builds lie the objects of Verilator's run-time library, compiled with the first build
and taken by all later ones with the same tools and flags: they are most of a small bench's build.
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


# What is to be reached below the top is asked for by name in a .vlt file.
_TOP_REACH = ("--public-depth", "1")

_COMMON_FLAGS = ("--timing", "--assert", "-Wno-fatal", "-Wno-WIDTH", "-O3")


_KEEP_S = 30 * 24 * 3600


@dataclass(frozen=True)
class BuiltSim:
    """A compiled simulation: the top module's name, its executable, and which variant it is."""

    toplevel: str
    executable: Path
    variant: Variant
    was_cached: bool

    @property
    def directory(self) -> Path:
        """The cache directory that holds the executable and build.log."""
        return self.executable.parent


def cache_path() -> Path:
    """Return the path of the user's cache directory for built simulations."""
    return user_cache_path("taperig") / "sim"


def cache_directory() -> Path:
    """Return the user's cache directory for built simulations, made when absent."""
    directory = cache_path()
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def simulation_flags(variant: Variant) -> tuple[str, ...]:
    """Return the flags that every simulation of `variant` is Verilated with."""
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
    reach_top: bool = True,
    main: Path | None = None,
    jobs: int = 2,
    on_build: Callable[[str], None] | None = None,
) -> BuiltSim:
    """Build `toplevel` from `sources` or take it from the cache; see `recipe_of` and `build`."""
    recipe = recipe_of(
        toplevel,
        sources,
        variant=variant,
        parameters=parameters,
        defines=defines,
        includes=includes,
        flags=flags,
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
    reach_top: bool = True,
    main: Path | None = None,
) -> Recipe:
    """Return what `toplevel` is built from: `sources` (.sv, .v, .vlt, .cpp) and flags.

    Packages come before the modules that import them.  Python reaches the signals of the top
    module when `reach_top`, and else only what .vlt files among the sources name.  `main` is a
    C++ file with a main loop to take in place of cocotb's.
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
    )


def build_name(recipe: Recipe, toolchain: Toolchain) -> str:
    """Return the name of a build in the cache: a hash over all that it is made from."""
    return f"{recipe.toplevel}-{recipe.variant}-{recipe.digest(toolchain)}"


def build(
    recipe: Recipe, *, jobs: int = 2, on_build: Callable[[str], None] | None = None
) -> BuiltSim:
    """Build what a recipe says or take it from the cache.

    `on_build` is called with one line for the user when, and only when, something has to be
    compiled.
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
        with contextlib.suppress(OSError):  # a cache that cannot be written serves what it has
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
    """Put files in the cache as one directory by one rename: there whole or not at all."""
    staging = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        for file in files:
            shutil.copy2(file, staging / file.name)
        staging.rename(final)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        if not final.is_dir():  # else another build of the same was faster
            raise


def _prune(root: Path) -> None:
    """Remove what no build has used for a month."""
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
    """Return the LD_LIBRARY_PATH under which a built simulation finds cocotb's libraries."""
    before = os.environ.get("LD_LIBRARY_PATH")
    return os.pathsep.join([str(cocotb_tools.config.libs_dir), *([before] if before else [])])


def simulation_environment() -> dict[str, str]:
    """Return the variables that a built simulation needs to find cocotb and Python at run time."""
    from cocotb_tools.runner import Verilator  # takes a fifth of a second

    require_libpython()
    runner = Verilator()
    runner.env = {}
    runner._set_env_common()
    # Not in the executable, which serves every checkout and Python environment.
    runner.env["LD_LIBRARY_PATH"] = library_path()
    # An empty entry in sys.path is the current directory, which is another one for the child.
    paths = [str(Path(__file__).parents[2]), *(path for path in sys.path if path)]
    runner.env["PYTHONPATH"] = os.pathsep.join(paths)
    return {k: v for k, v in runner.env.items() if os.environ.get(k) != v}
