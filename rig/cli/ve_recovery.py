"""``rig ve``: cartridges that come and go, and a catalogue that is lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rig.cli.options import JsonOption, LabOption, NodeOption, OptionError, print_json
from rig.cli.ve_common import SETTINGS, VOLUMES, open_node_of, ve_app
from rig.report.text import plural

if TYPE_CHECKING:
    from hsm.errors import TaperigError
    from rig.report.console import ConsoleReport
    from rig.ve.intake import IntakeReport
    from rig.ve.node import Node

FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Folder of cartridge files; it stays as it is.")
]


@ve_app.command("insert", rich_help_panel=SETTINGS)
def insert(
    cartridges: Annotated[
        list[str] | None,
        typer.Argument(metavar="VOLSER|FILE", help="New VOLSERs, or files of cartridges."),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Insert N more, at most 10000, with the next free VOLSERs."
        ),
    ] = 0,
    pool: Annotated[
        int | None,
        typer.Option(
            metavar="POOL",
            min=1,
            max=32,
            help="Pool that cartridge files join; by default the one their labels name, if it "
            "encrypts as they do.",
        ),
    ] = None,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Insert cartridges: blank ones, or files that may hold volumes.

    A VOLSER makes a blank cartridge in the common scratch pool. A FILE (a path, or a name that ends
    with .tape) moves into the node, and its volumes enter the catalogue: the newest generation of
    each wins. Exits 1 when something cannot be read or is ambiguous.
    """
    from rig.testbed.node_setup import next_volsers
    from rig.ve.insertion import needs_drive

    if not cartridges and not count:
        raise OptionError("No cartridge was named; give VOLSERs, cartridge files, or --count N.")
    words = cartridges or []
    with open_node_of(lab, node, drives=False, quiet=as_json) as (opened, report):
        files = {word: file for word in words if (file := _file_of(opened, word)) is not None}
        if pool is not None and not files:
            raise OptionError("--pool is for cartridges that hold volumes; name their files.")
        blank = [word for word in words if word not in files]
        blank += next_volsers(opened, count)
        if blank:
            opened.insert(blank)
        read = any(needs_drive(opened.parts, file) for file in files.values())
        if not read:
            done = _insert_files(opened, report, files, pool, alone=not blank)
    if read:
        with open_node_of(lab, node, drives=True, quiet=as_json) as (opened, report):
            done = _insert_files(opened, report, files, pool, alone=not blank)
    chosen = [*blank, *done.cartridges]
    if as_json:
        print_json(chosen)
    elif chosen:
        print(" ".join(chosen))
    _end(done)


def _file_of(node: Node, word: str) -> Path | None:
    """Return the file that is meant, None for a cartridge to be made."""
    from rig.drive.cartridge_format import SUFFIX
    from rig.ve.catalogue.schema import PhysicalRow

    store = node.parts.cartridges
    if "/" in word or word.endswith(SUFFIX):
        return Path(word)
    with node.catalogue.reading() as session:
        row = session.get(PhysicalRow, word)
    if row is not None and row.ejected_to is not None:
        return store.path(word)
    return store.path(word) if row is None and store.path(word).exists() else None


def _insert_files(
    node: Node, report: ConsoleReport, files: dict[str, Path], pool: int | None, *, alone: bool
) -> IntakeReport:
    """Insert files one by one; what fails stops none of the others."""
    from hsm.errors import TaperigError
    from rig.ve.intake import IntakeReport

    done = IntakeReport()
    failures: list[TaperigError] = []
    for file in files.values():
        try:
            done.add(node.insert_cartridge(file, pool))
        except TaperigError as error:
            failures.append(error)
    if failures and alone and not done.cartridges:
        raise failures[0]
    done.findings += map(str, failures)
    _show(report, done)
    return done


@ve_app.command("eject", rich_help_panel=SETTINGS)
def eject(
    volsers: Annotated[list[str], typer.Argument(metavar="VOLSER", help="Physical volumes.")],
    to: Annotated[
        str, typer.Option("--to", metavar="PLACE", help="Where they go, for the catalogue.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder that their files move to.")
    ] = Path(),
    only_copies: Annotated[
        bool,
        typer.Option(
            "--only-copies", help="Also those that alone hold a volume; nobody can read it then."
        ),
    ] = False,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Eject cartridges to another place; the catalogue knows where they are.

    `rig ve insert FILE` brings one back, or takes it in at another node.
    """
    from hsm.errors import TaperigError

    done, failures = [], []
    with open_node_of(lab, node, drives=False, quiet=as_json) as (opened, report):
        for volser in dict.fromkeys(volsers):
            try:
                done.append(opened.eject(volser, to, out, only_copies=only_copies))
            except TaperigError as error:
                failures.append(error)
        if failures and not done:
            raise failures[0]
        for failure in failures:
            report.error(str(failure))
    if as_json:
        print_json(
            [
                {
                    "volser": each.volser,
                    "place": each.place,
                    "file": str(each.file),
                    "unreadable_volumes": list(each.volumes),
                }
                for each in done
            ]
        )
    else:
        for each in done:
            alone = f"; {plural(len(each.volumes), 'volume')} only there" if each.volumes else ""
            print(f"{each.volser}  {each.file}{alone}")
    if failures:
        raise typer.Exit(1)


@ve_app.command("rebuild", rich_help_panel=VOLUMES)
def rebuild(
    folder: FolderArgument,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the catalogue of an empty node anew, from cartridges alone.

    The cartridges are copied into the node. Of each volume the newest readable generation comes
    back, also when it had expired: labels do not say so. Exits 1 when something cannot be read or
    is ambiguous.
    """
    with open_node_of(lab, node, drives=True, quiet=as_json, insert=False) as (opened, report):
        done = opened.rebuild(folder)
        _show(report, done)
    _print(done, as_json=as_json)
    _end(done)


@ve_app.command("restore", rich_help_panel=VOLUMES)
def restore(
    folder: FolderArgument,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore the catalogue of an empty node from its backups on tape.

    The newest database backup among the cartridges gives the settings and what had expired; what
    was written after it comes from the cartridges. They are copied into the node. Exits 1 when
    something is missing, cannot be read or is ambiguous.
    """
    with open_node_of(lab, node, drives=True, quiet=as_json, insert=False) as (opened, report):
        done = opened.restore(folder)
        _show(report, done)
    _print(done, as_json=as_json)
    _end(done)


def _show(report: ConsoleReport, done: IntakeReport) -> None:
    for note in done.notes:
        report.line(note)
    for finding in done.findings:
        report.error(finding)


def _print(done: IntakeReport, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "cartridges": done.cartridges,
                "logical_volumes": len(done.volumes),
                "notes": done.notes,
                "findings": done.findings,
            }
        )
    else:
        print(
            f"{plural(len(done.volumes), 'logical volume')} from "
            f"{plural(len(done.cartridges), 'cartridge')}: {len(done.findings) or 'nothing'} wrong"
        )


def _end(done: IntakeReport) -> None:
    if done.findings:
        raise typer.Exit(1)
