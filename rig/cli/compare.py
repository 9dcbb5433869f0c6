"""``rig compare``: what changed between runs, and whether it became worse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rig.cli.options import JsonOption, print_json


def compare(
    old: Annotated[
        Path,
        typer.Argument(metavar="OLD", help="results.json, a run's folder, or a folder of them."),
    ],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The same of the newer run or runs.")],
    as_json: JsonOption = False,
) -> None:
    """Compare the results of two runs: what changed, and by how much.

    Worse is a check, step or scenario that turned from pass or is missing, a rate or ratio that
    fell by more than 1 %, and a gap or latency that grew by more than 1 % of its limit (25 % where
    the seeds differ). In two folders the runs of the same name are compared. Times are not.

    Exits 0 if nothing is worse or missing, 1 if something is, 2 if they cannot be compared.
    """
    from rig.report import comparison as report
    from rig.report.tables import output_width
    from rig.results.comparison import Comparison, Difference, DifferenceKind
    from rig.results.comparison import compare as compare_runs
    from rig.results.reading import pair_results, read_results

    found: dict[str, Comparison] = {}
    for name, (one, other) in pair_results(old, new).items():
        if one is not None and other is not None:
            found[name] = compare_runs(read_results(one), read_results(other))
        else:
            kind = DifferenceKind.NEW if one is None else DifferenceKind.MISSING
            old_path, new_path = (None if each is None else str(each) for each in (one, other))
            found[name] = Comparison([Difference(kind, "", "the run", old_path, new_path)])
    good = not any(each.bad for each in found.values())
    if as_json:
        runs: list[dict[str, Any]] = [
            {"name": name or None, **report.as_json(each)} for name, each in found.items()
        ]
        print_json({"verdict": "pass" if good else "fail", "runs": runs})
    else:
        for name, each in found.items():
            if name:
                print(name)
            for line in report.lines(each, output_width()):
                print(line)
        print("PASS  nothing is worse" if good else "FAIL  something is worse or missing")
    raise typer.Exit(0 if good else 1)
