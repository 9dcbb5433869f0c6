"""The nodes of one run, on the drive and key managers of its session."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hsm.errors import TaperigError
from rig.drive.cartridge_format import TapeFormat
from rig.testbed.node_setup import next_volsers
from rig.testbed.run_cartridges import note_key_managers
from rig.testbed.session import LabSession
from rig.ve.catalogue import settings
from rig.ve.catalogue.model import PoolSettings, StorageGroup
from rig.ve.node import CARTRIDGES, Node, NodeSettings
from rig.ve.tape.cartridge_store import CartridgeStore


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
