"""Open a node: the lab's own for `rig ve`, or one for a single run.

The lab's node is under `ve/NAME` in the state folder. What the lab file says of its pools and
constructs is entered when the node does not know them yet; after that, `rig ve pools` and
`rig ve constructs` change them, and the lab file does not.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sqlalchemy import select

from hsm.errors import TaperigError
from hsm.keys.eedk import KeyLabel, KeyMode
from rig.drive.cartridge_format import TapeFormat
from rig.drive.drive import Drive
from rig.lab.model import Lab, LabError, NodeUnit, PoolUnit
from rig.results.events import EventLog, TaskDisplay
from rig.testbed.run_cartridges import note_key_managers
from rig.testbed.session import LabSession, open_session
from rig.ve.catalogue import operator_messages, settings
from rig.ve.catalogue.database import FILE, Catalogue
from rig.ve.catalogue.model import (
    ManagementClass,
    PoolSettings,
    StorageGroup,
    TapeEncryption,
    VolumeState,
)
from rig.ve.catalogue.schema import (
    DriveRow,
    ManagementClassRow,
    PhysicalRow,
    PoolRow,
    StorageGroupRow,
)
from rig.ve.node import CARTRIDGES, MAX_INSERT, Node, NodeError, NodeSettings
from rig.ve.prerequisites import drives_in_use
from rig.ve.tape.cartridge_store import CartridgeStore


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


def node_settings(lab: Lab, name: str) -> NodeSettings:
    """Return the settings of a node from the lab file."""
    unit = lab.nodes[name]
    return NodeSettings(name, int(unit.cache_mb * 1e6), int(unit.cartridge_mb * 1e6))


@contextmanager
def open_node(
    lab: Lab,
    name: str,
    state: Path,
    report: TaskDisplay,
    events: EventLog | None = None,
    *,
    drives: bool = True,
) -> Iterator[Node]:
    """Open a node; without `drives` nothing goes to tape or comes from there."""
    events = EventLog() if events is None else events
    unit = lab.nodes[name]
    offline = _offline(lab, node_folder(state, name)) if drives else {}
    with ExitStack() as stack:
        opened: list[Drive] = []
        proxy = None
        if drives:
            units = [each for each in lab.drives_of(name) if each.serial not in offline]
            session = stack.enter_context(open_session(lab, name, state, report, events, units))
            opened = [each.drive for each in session.drives]
            proxy = session.proxy
        node = stack.enter_context(
            Node(
                node_folder(state, name),
                opened,
                proxy,
                settings=node_settings(lab, name),
                events=events,
            )
        )
        _enter_lab_settings(node, lab, unit)
        if drives:
            _report_offline(node, offline)
        yield node


@contextmanager
def open_catalogue(state: Path, lab: Lab, name: str, report: TaskDisplay) -> Iterator[Catalogue]:
    """Open the catalogue of a node to read it.

    When there is none, the node is opened once, which creates it.
    """
    path = node_folder(state, name) / FILE
    if not path.exists():
        with open_node(lab, name, state, report, drives=False):
            pass
    catalogue = Catalogue(path)
    try:
        yield catalogue
    finally:
        catalogue.close()


def _offline(lab: Lab, folder: Path) -> dict[str, str]:
    """Return drives that the node may not use, and why (PRE-1, PRE-2, PRE-5)."""
    if lab.installation is None:
        return {}
    encrypted = False
    if (folder / FILE).exists():
        catalogue = Catalogue(folder / FILE)
        with catalogue.reading() as session:
            query = select(PhysicalRow.volser).where(
                PhysicalRow.encryption == TapeEncryption.ENCRYPTED.value,
                PhysicalRow.state != VolumeState.SCRATCH.value,
            )
            encrypted = session.scalar(query.limit(1)) is not None
        catalogue.close()
    installation = lab.installation.record(ekms=len(lab.ekms))
    uses = drives_in_use(installation, encrypted_volumes=encrypted)
    return {use.drive.serial: use.message for use in uses if not use.online}


def _report_offline(node: Node, offline: Mapping[str, str]) -> None:
    """Raise an intervention for each drive that is offline; clear others'."""
    now = node.clock.now()
    with node.change() as session:
        for row in session.scalars(select(DriveRow.serial)):
            if row not in offline:
                operator_messages.clear_intervention(session, f"drive {row}", now)
        for serial, why in offline.items():
            operator_messages.raise_intervention(session, f"drive {serial}", why, now)


def _enter_lab_settings(node: Node, lab: Lab, unit: NodeUnit) -> None:
    """Enter new pools and constructs of the lab, and the first cartridges."""
    with node.change() as session:
        fresh = session.scalar(select(PoolRow.number).limit(1)) is None
        for number, pool in sorted((lab.pools if unit.pools is None else unit.pools).items()):
            if session.get(PoolRow, number) is None:
                settings.set_pool(session, pool_settings(number, pool))
        for name, number in unit.storage_groups.items():
            if session.get(StorageGroupRow, name) is None:
                settings.set_storage_group(session, StorageGroup(name, number))
        for name, number in unit.management_classes.items():
            if session.get(ManagementClassRow, name) is None:
                settings.set_management_class(session, ManagementClass(name, number))
    if fresh and not node.parts.cartridges.volsers():
        node.insert(next_volsers(node, unit.cartridges))


class RunNodes:
    """The nodes of one run, under the run's folder.

    The lab's own nodes are not touched. Once a run has passed, its nodes are of no use.
    """

    def __init__(self, run_folder: Path) -> None:
        """Choose a new folder for them, which the first node makes."""
        paths = (run_folder / f"nodes{'' if each == 1 else -each}" for each in itertools.count(1))
        self.folder = next(path for path in paths if not path.exists())
        self._sessions: dict[Path, list[LabSession]] = {}

    @contextmanager
    def open(
        self,
        name: str,
        session: LabSession,
        pools: Iterable[PoolSettings],
        *,
        cache_bytes: int,
        cartridge_bytes: int,
        cartridges: int,
    ) -> Iterator[Node]:
        """Open a node on a session's drive and key managers.

        It is created when absent.

        It gets a storage group for each pool (`storage_group`), and blank cartridges.
        """
        folder = self.folder / name.replace(" ", "-")
        self._sessions.setdefault(folder, []).append(session)
        with Node(
            folder,
            [session.drive.drive],
            session.proxy,
            settings=NodeSettings(name, cache_bytes, cartridge_bytes),
            events=session.events,
        ) as node:
            if not node.parts.cartridges.volsers():
                with node.change() as change:
                    for pool in pools:
                        settings.set_pool(change, pool)
                        group = StorageGroup(storage_group(pool.number), pool.number)
                        settings.set_storage_group(change, group)
                node.insert(next_volsers(node, cartridges))
            yield node

    def keep(self) -> None:
        """Note the key managers of the nodes, for when the run is removed.

        Best effort: without the note, the operator is told what to do then.
        """
        for folder, sessions in self._sessions.items():
            with suppress(OSError, TaperigError):
                note_key_managers(folder, sessions)

    def discard(self) -> list[str]:
        """Remove the nodes and report their cartridges to the key managers.

        Returns a sentence for each key manager that the rig may not administer.
        """
        notes: list[str] = []
        for folder, sessions in self._sessions.items():
            if cartridges := _written_cartridges(folder):
                for session in sessions:
                    notes += _forget(session, cartridges)
        shutil.rmtree(self.folder, ignore_errors=True)
        return notes


def _written_cartridges(folder: Path) -> list[tuple[str, bytes]]:
    """Return VOLSER and id of each cartridge that key managers may know."""
    cartridges = CartridgeStore(folder / CARTRIDGES)
    written = []
    for volser in cartridges.volsers():
        with cartridges.mounted(volser, write=False) as cartridge:
            if cartridge.format is not TapeFormat.BLANK:
                written.append((volser, cartridge.memory.cartridge_id))
    return written


def _forget(session: LabSession, cartridges: Sequence[tuple[str, bytes]]) -> Iterator[str]:
    from hsm.ekm.admin.administrator import (  # takes its time to import
        Administrator,
        read_admin_secret,
    )

    if configs := session.administered():
        secret = read_admin_secret(session.provisioned.admin_secret)
        Administrator(configs, secret).forget_cartridges(cartridges)
    words = ", ".join(f"{volser} --id {cartridge_id.hex()}" for volser, cartridge_id in cartridges)
    for name in session.external:
        yield (
            f"Key manager {name} was not started by the rig, so it still counts this run's "
            f"cartridges; have its administrator run `rig ekm cartridge forget` for {words}."
        )


def storage_group(pool: int) -> str:
    """Return the storage group of a pool, on a node of a run."""
    return f"POOL{pool}"


def next_volsers(node: Node, count: int) -> Sequence[str]:
    """Return VOLSERs that the node does not have.

    They are TAP001 to TAP999, then T01000 and on.

    Raises NodeError when there are not so many.
    """
    taken = set(node.parts.cartridges.volsers())
    names = (f"TAP{each:03}" if each < 1000 else f"T{each:05}" for each in range(1, 100_000))
    most = min(count, MAX_INSERT)
    free = list(itertools.islice((name for name in names if name not in taken), most))
    if count > len(free):
        raise NodeError(
            f"{count} cartridges cannot be inserted at once; nothing was inserted. Give at most "
            f"{len(free)}."
        )
    return free


def pool_settings(number: int, unit: PoolUnit) -> PoolSettings:
    """Return the settings of a pool as the lab file gives them."""
    keys = tuple(KeyLabel(key.label, KeyMode(key.mode)) for key in unit.keys)
    return PoolSettings(number, unit.encrypt, keys, unit.allow_public_only)
