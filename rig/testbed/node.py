"""Open a node: the lab's own, for `rig ve`.

It is under `ve/NAME` in the state folder. What the lab file says of its pools and constructs is
entered when the node does not know them yet; after that, `rig ve pools` and `rig ve constructs`
change them, and the lab file does not.

The node, its catalogue and the session take half a second to import, so that is done while the
processes of its drives and key managers start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hsm.ekm.service.front_process import FrontProcess
from rig.lab.model import Lab, LabError
from rig.results.events import EventLog, TaskDisplay

if TYPE_CHECKING:
    from rig.ve.catalogue.database import Catalogue
    from rig.ve.node import Node


def choose_node(lab: Lab, asked: str | None) -> str:
    """Return the node asked for, else the first of the lab."""
    if asked is None:
        return lab.run_node
    if asked not in lab.nodes:
        raise LabError(f"There is no node '{asked}' in the lab; known: {', '.join(lab.nodes)}.")
    return asked


def node_folder(state: Path, name: str) -> Path:
    """Return the folder of a node."""
    return state / "ve" / name


@contextmanager
def open_node(
    lab: Lab,
    name: str,
    state: Path,
    report: TaskDisplay,
    events: EventLog | None = None,
    *,
    drives: bool = True,
    insert: bool = True,
) -> Iterator[Node]:
    """Open a node; without `drives` nothing goes to tape or comes from there.

    A new one gets the first cartridges of the lab, if `insert`.
    """
    events = EventLog() if events is None else events
    folder = node_folder(state, name)
    offline = _offline(lab, folder) if drives else {}
    with ExitStack() as stack:
        started = None
        if drives:
            fronts = {  # first, because a key manager takes longest to start
                ekm.name: stack.enter_context(FrontProcess.of_lab(state, ekm.name))
                for ekm in lab.ekms_of(name)
                if ekm.start
            }
            from rig.testbed.session import start_session

            units = [each for each in lab.drives_of(name) if each.serial not in offline]
            started = stack.enter_context(
                start_session(lab, name, state, report, events, units, fronts=fronts)
            )
        from rig.testbed import node_setup  # while the processes start
        from rig.ve.node import Node

        session = None if started is None else started.open()
        node = stack.enter_context(
            Node(
                folder,
                [] if session is None else [each.drive for each in session.drives],
                None if session is None else session.proxy,
                settings=node_setup.node_settings(lab, name),
                events=events,
                refusals=node_setup.encryption_refusals_of(lab, name),
            )
        )
        node_setup.enter_lab_settings(node, lab, lab.nodes[name], insert=insert)
        if drives:
            node_setup.report_offline(node, offline)
        yield node


def _offline(lab: Lab, folder: Path) -> Mapping[str, str]:
    if lab.installation is None:
        return {}
    from rig.testbed.node_setup import offline_drives

    return offline_drives(lab, lab.installation, folder)


def labels_of(lab: Lab, name: str, state: Path) -> tuple[str, ...]:
    """Return the key labels of a node's pools as they are set now (OPER-3).

    A pool that the node does not know yet is as in the lab file.
    """
    from rig.ve.catalogue.database import FILE, Catalogue

    keys = {number: [key.label for key in pool.keys] for number, pool in lab.pools_of(name).items()}
    path = node_folder(state, name) / FILE
    if path.exists():
        from sqlalchemy import select

        from rig.ve.catalogue.schema import PoolRow

        catalogue = Catalogue(path)
        try:
            with catalogue.reading() as session:
                for row in session.scalars(select(PoolRow)):
                    keys[row.number] = [key.label for key in row.record().keys]
        finally:
            catalogue.close()
    return tuple(dict.fromkeys(label for _, labels in sorted(keys.items()) for label in labels))


def clear_lost_key_managers(name: str, state: Path, answering: Iterable[str]) -> None:
    """Clear a node's interventions for key managers that answer (OPER-2)."""
    from rig.ve.catalogue import operator_messages
    from rig.ve.catalogue.clock import Clock, offset
    from rig.ve.catalogue.database import FILE, Catalogue

    path = node_folder(state, name) / FILE
    if not path.exists():
        return
    catalogue = Catalogue(path)
    try:
        with catalogue.transaction() as session:
            now = Clock(offset(session)).now()
            operator_messages.clear_key_managers(session, answering, now)
    finally:
        catalogue.close()


@contextmanager
def open_catalogue(state: Path, lab: Lab, name: str, report: TaskDisplay) -> Iterator[Catalogue]:
    """Open the catalogue of a node to read it.

    When there is none, the node is opened once, which creates it.
    """
    from rig.ve.catalogue.database import FILE, Catalogue

    path = node_folder(state, name) / FILE
    if not path.exists():
        with open_node(lab, name, state, report, drives=False):
            pass
    catalogue = Catalogue(path)
    try:
        yield catalogue
    finally:
        catalogue.close()
