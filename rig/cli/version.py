"""``rig --version``: versions of the rig, its gates and its simulator."""

from __future__ import annotations

from pathlib import Path

from rig.results.provenance import CHECKOUT, git_state, rig_version, simulator


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
        "version": rig_version(),
        "commit": commit(CHECKOUT),
        "gates": gates,
        "built": built,
        "verilator": name,
        "problem": why,
    }


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
    name, clean = git_state(checkout)
    return None if name is None else name[:12] + ("+dirty" if clean is False else "")
