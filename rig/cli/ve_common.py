"""Options and context managers that the commands of ``rig ve`` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rig.cli.help import CommandLine
from rig.cli.options import OptionError, lab_of, print_json

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from rig.lab.model import Lab
    from rig.report.console import ConsoleReport
    from rig.ve.node import Node

ve_app = CommandLine(help="The virtualization engine: pools, volumes, cache, migration, reclaim.")
reclaim_app = CommandLine(help="Reclaim: plan it, run it, set when it is inhibited.")

SETTINGS, VOLUMES, VIEWS = "Settings", "Volumes and drives", "Views"
"""The headings under which the help lists the commands."""

ve_app.add_typer(reclaim_app, name="reclaim", rich_help_panel=VOLUMES)

StorageGroupOption = Annotated[
    str | None,
    typer.Option(
        "--storage-group", metavar="NAME", help="Storage group: chooses the primary pool."
    ),
]
ManagementClassOption = Annotated[
    str | None,
    typer.Option(
        "--management-class",
        metavar="NAME",
        help="Management class: chooses the secondary pool, if any.",
    ),
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Replace a volume that exists; its content is lost.")
]


@contextmanager
def open_catalogue_of(lab: Lab, node: str | None) -> Iterator[tuple[Session, float, str]]:
    """Read the catalogue of a node at one moment.

    Yields a session, the node's time and its name.
    """
    from rig.report.console import ConsoleReport
    from rig.testbed.node import choose_node, open_catalogue
    from rig.testbed.state import state_dir
    from rig.ve.catalogue.clock import Clock, offset

    name = choose_node(lab, node)
    with (
        open_catalogue(state_dir(), lab, name, ConsoleReport(error_stream=True)) as catalogue,
        catalogue.reading() as session,
    ):
        yield session, Clock(offset(session)).now(), name


@contextmanager
def open_node_of(
    lab: Path | None, node: str | None, *, drives: bool, quiet: bool = False, insert: bool = True
) -> Iterator[tuple[Node, ConsoleReport]]:
    """Open a node to change it.

    With `drives`, its gates and key managers are started. A new one gets the first cartridges of
    the lab, if `insert`.
    """
    from rig.report.console import ConsoleReport
    from rig.results.events import EventLog
    from rig.testbed.node import choose_node, open_node
    from rig.testbed.state import locked_state, state_dir

    checked, state = lab_of(lab), state_dir()
    report, events = ConsoleReport(error_stream=quiet), EventLog()
    name = choose_node(checked, node)
    if not drives:
        with open_node(checked, name, state, report, events, drives=False, insert=insert) as opened:
            yield opened, report
        return
    with (
        locked_state(state, report.line),
        open_node(checked, name, state, report, events, insert=insert) as opened,
    ):
        for line in opened.recovered:
            report.line(f"recovered  {line}")
        events.listeners.append(report.step)
        yield opened, report


def read_into_folder(
    out: Path,
    names: list[str],
    copy: Callable[[str, Path, Path, float], None],
    *,
    suffix: Callable[[Path], str] = lambda source: "",
    lab: Path | None,
    node: str | None,
    as_json: bool,
) -> None:
    """Read logical volumes into files of a folder; print their names.

    `copy` is called with a volume's name, its file in the cache, the file to write and the node's
    time; `suffix` says how the name of the file to write ends. Drives are started only when a
    volume is not in the cache. One that fails stops none of the others; then the command exits 1.
    """
    from hsm.errors import TaperigError

    rows: list[dict[str, str]] = []
    failures: list[TaperigError] = []

    def deliver(opened: Node, name: str) -> None:
        source = opened.read(name)
        target = out / f"{name}{suffix(source)}"
        try:
            out.mkdir(parents=True, exist_ok=True)
            copy(name, source, target, opened.clock.now())
        except OSError as error:
            raise TaperigError(
                f"{name} cannot be put at {target} ({error.strerror}); choose another --out."
            ) from None
        finally:
            opened.release(name)
        rows.append({"volume": name, "file": str(target)})
        if not as_json:
            print(f"{name}  {target}")

    with open_node_of(lab, node, drives=False, quiet=as_json) as (opened, _):
        absent = set(opened.absent(names))
    with open_node_of(lab, node, drives=bool(absent), quiet=as_json) as (opened, report):
        for name in names:
            try:
                deliver(opened, name)
            except TaperigError as error:
                failures.append(error)
        if failures and not rows:
            raise failures[0]
        for failure in failures:
            report.error(str(failure))
    if as_json:
        print_json(rows)
    if failures:
        raise typer.Exit(1)


def refuse_existing(node: Node, names: list[str]) -> None:
    """Refuse names that logical volumes have already."""
    taken = node.existing(names)
    if taken:
        raise OptionError(
            f"There is a logical volume {', '.join(taken)} already; nothing was written. Choose "
            f"another name, or replace the volume with --replace."
        )
