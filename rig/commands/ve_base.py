"""What all commands of ``rig ve`` share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from rig.lab import Lab

ve_app = typer.Typer(
    no_args_is_help=True,
    help="The virtualization engine: pools, volumes, cache, migration, reclaim.",
)
reclaim_app = typer.Typer(no_args_is_help=True, help="Reclaim: what is eligible, and doing it.")
ve_app.add_typer(reclaim_app, name="reclaim")

NodeOption = Annotated[
    str | None,
    typer.Option("--node", metavar="NAME", help="Node of the lab file; by default the first."),
]


@contextmanager
def looking(lab: Lab, node: str | None) -> Iterator[tuple[Session, float, str]]:
    """The catalogue of a node at one moment, the node's time, and its name."""
    from rig.node_station import choose_node, open_catalogue
    from rig.state import state_dir
    from rig.ve.clock import Clock, offset

    name = choose_node(lab, node)
    with (
        open_catalogue(state_dir(), lab, name) as catalogue,
        catalogue.reading() as session,
    ):
        yield session, Clock(offset(session)).now(), name
