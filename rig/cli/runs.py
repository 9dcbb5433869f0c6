"""``rig runs``: list, show and remove the runs in the state folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsm.errors import TaperigError
from rig.cli.help import CommandLine
from rig.cli.options import JsonOption, print_json

if TYPE_CHECKING:
    from rig.results.runs import StoredRun

runs_app = CommandLine(help="The runs in the state folder: list, show, clean.")


class RunChoiceError(TaperigError):
    """A run does not exist, or no runs were chosen."""


def _folder() -> Path:
    from rig.testbed.state import state_path

    return state_path() / "runs"


def _runs() -> list[StoredRun]:
    from rig.results.runs import stored_runs

    return stored_runs(_folder())


@runs_app.command("list")
def runs_list(as_json: JsonOption = False) -> None:
    """List the runs, the oldest first."""
    from rig.cli.tables import print_table
    from rig.report import text

    rows = [_row(run) for run in _runs()]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        row["size"] = text.size(row["bytes"])
    columns = ("run", "time", "verdict", "scenarios", "seconds", "size")
    print_table(rows, columns, f"no runs in {_folder()}")


def _row(run: StoredRun) -> dict[str, Any]:
    results = run.results or {"scenarios": [], "duration_s": None}
    return {
        "run": run.name,
        "time": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.began)),
        "verdict": run.verdict,
        "scenarios": [scenario["name"] for scenario in results["scenarios"]],
        "seconds": results["duration_s"],
        "bytes": run.size(),
    }


@runs_app.command("show")
def runs_show(
    name: Annotated[
        str, typer.Argument(metavar="RUN", help="Name of a run; by default the newest.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Show a run: its verdict, the reasons of the verdict, and its files."""
    from rig.report import text
    from rig.results.runs import reasons

    runs = {run.name: run for run in _runs()}
    if not runs:
        raise RunChoiceError(f"There are no runs in {_folder()}; make one with `rig run`.")
    if name and name not in runs:
        raise RunChoiceError(f"There is no run '{name}' in {_folder()}; see `rig runs list`.")
    run = runs[name] if name else list(runs.values())[-1]
    why = [] if run.results is None else reasons(run.results)
    files = [str(path) for path in run.files()]
    row = _row(run)
    if as_json:
        print_json({**row, "folder": str(run.folder), "reasons": why, "files": files})
        return
    took = "" if row["seconds"] is None else f", {text.seconds(row['seconds'])}"
    print(f"run      {run.name}, {row['time']}{took}, {text.size(row['bytes'])}")
    print(f"verdict  {run.verdict}")
    for line in why:
        print(f"reason   {text.printable(line)}")
    for file in files:
        print(f"file     {file}")


@runs_app.command("clean")
def runs_clean(
    keep: Annotated[
        int | None,
        typer.Option("--keep", metavar="N", min=0, max=1_000_000, help="Keep the newest N runs."),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="DAYS",
            min=0,
            max=36_500,
            help="Remove only runs that began more than DAYS ago.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Remove old runs with all their files, without asking.

    A run under way stays. With both options a run goes only if both say so. The key managers
    forget the encrypted cartridges that go with it; where one cannot be told, the command that
    does it is named. Exits 1 if a run cannot be removed.
    """
    from rig.report import text
    from rig.results.runs import remove
    from rig.testbed.run_cartridges import forget, kept_cartridges

    if keep is None and older_than is None:
        raise RunChoiceError("Say which runs to remove: with --keep N, --older-than DAYS or both.")
    runs = _runs()
    newest = runs[len(runs) - keep :] if keep else []
    latest = time.time() - (older_than or 0.0) * 86_400
    removed: list[dict[str, Any]] = []
    failed: list[str] = []
    freed = 0
    for run in runs:
        if run.under_way or run in newest or (older_than is not None and run.began >= latest):
            continue
        size, cartridges = run.size(), kept_cartridges(run.folder)
        untold = dict(forget(cartridges))
        try:
            remove(run)
        except OSError as error:
            failed.append(f"{run.folder} cannot be removed ({error.strerror})")
        else:
            rows = [
                {
                    "volser": each.volser,
                    "id": each.cartridge_id.hex(),
                    "forgotten": each not in untold,
                    "why_not": untold.get(each),
                }
                for each in cartridges
            ]
            removed.append({"run": run.name, "bytes": size, "encrypted_cartridges": rows})
            freed += size
    if as_json:
        print_json({"removed": removed, "bytes": freed, "failed": failed})
    else:
        for row in removed:
            print(f"removed  {row['run']}, {text.size(row['bytes'])}")
        gone = [each for row in removed for each in row["encrypted_cartridges"]]
        if told := sum(each["forgotten"] for each in gone):
            print(f"forgot   {text.plural(told, 'cartridge')}, at all their key managers")
        for why in dict.fromkeys(each["why_not"] for each in gone if each["why_not"]):
            print(f"not told {text.printable(why)}; have the administrator run:")
            for each in gone:
                if each["why_not"] == why:
                    print(f"forget   rig ekm cartridge forget {each['volser']} --id {each['id']}")
        for line in failed:
            print(f"left     {line}")
        kept = text.plural(len(runs) - len(removed), "run")
        print(f"{text.plural(len(removed), 'run')} removed, {text.size(freed)}; {kept} left")
    raise typer.Exit(1 if failed else 0)
