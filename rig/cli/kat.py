"""``rig kat``: known answers through the gates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rig.cli.options import BoardOption, JsonOption, LabOption, OptionError, lab_of, print_json

if TYPE_CHECKING:
    from rig.engine.known_answers import KatReport

_SHOWN_FAILURES = 20


def kat(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="CAVP response file of AES-GCM, or the name of one of NIST's."
        ),
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="List the names of NIST's files.")
    ] = False,
    lab: LabOption = None,
    board: BoardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a file of known answers (CAVP) through the gates.

    Exits 0 only if no vector failed and at least one ran.
    """
    from rig.engine.known_answers import find_file, read_vectors, run_kat
    from rig.report.console import ConsoleReport
    from rig.report.text import plural
    from rig.testbed.boards import open_engine

    if listing:
        if file is not None or lab is not None or board is not None:
            raise OptionError("--list goes with no FILE, --lab or --board; it runs nothing.")
        _list(as_json)
        return
    if file is None:
        raise OptionError("Name a FILE of known answers; `rig kat --list` names NIST's.")
    path = find_file(file)
    vectors = read_vectors(path)
    report = ConsoleReport(error_stream=as_json)
    with (
        open_engine(lab_of(lab), board, report) as engine,
        report.task(f"{path.name}: {plural(len(vectors), 'vector')}", len(vectors)) as advance,
    ):
        result = run_kat(vectors, engine, advance)
    if as_json:
        print_json(_as_json(path, result))
    else:
        _print(path, result)
    raise typer.Exit(0 if result.good else 1)


def _list(as_json: bool) -> None:
    from rig.engine.known_answers import nist_files

    files = nist_files()
    if as_json:
        print_json({name: str(path) for name, path in files.items()})
        return
    for name in files:
        print(name)


def _print(path: Path, result: KatReport) -> None:
    print(f"{path}: {result.run} run, {result.passed} passed, {result.failed} failed")
    for reason, count in sorted(result.skipped.items()):
        print(f"  {count} skipped: {reason}")
    for failure in result.failures[:_SHOWN_FAILURES]:
        print(f"  line {failure.line}, Count = {failure.count}: {failure.reason}")
    if len(result.failures) > _SHOWN_FAILURES:
        print(f"  and {len(result.failures) - _SHOWN_FAILURES} more")
    if not result.run:
        print("  no vector fits the engine (256-bit key, 96-bit IV, 128-bit tag)")


def _as_json(path: Path, result: KatReport) -> dict[str, object]:
    return {
        "file": str(path),
        "run": result.run,
        "passed": result.passed,
        "failed": result.failed,
        "skipped": result.skipped,
        "failures": [
            {"line": failure.line, "count": failure.count, "reason": failure.reason}
            for failure in result.failures
        ],
    }
