"""Nodes for tests, on the site's real drive, gates and key manager."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import select

from hsm.keys.eedk import KeyLabel
from rig.ve.catalogue import settings, transactions
from rig.ve.catalogue.model import PhysicalVolume, PoolSettings, StackedCopy, StorageGroup
from rig.ve.catalogue.schema import EventRow
from rig.ve.ekm.proxy import EkmProxy
from rig.ve.node import Node, NodeSettings
from tests.support.tape_site import Site

KEK_1 = KeyLabel("KEK 1")
KEK_2 = KeyLabel("KEK 2")
CLEAR = PoolSettings(1)
ENCRYPTED = PoolSettings(2, True, (KEK_1,))


def content(seed: int, size: int = 3000) -> bytes:
    return random.Random(seed).randbytes(size)


def put(
    node: Node,
    name: str,
    data: bytes,
    group: str | None = None,
    management_class: str | None = None,
) -> None:
    """Write a volume and unload it."""
    node.write(name, [data], len(data), storage_group=group, management_class=management_class)
    node.unload(name)


def work(node: Node) -> None:
    """Run the queued tape jobs; none may fail."""
    report = node.work()
    assert not report.failures, report.failures


def copies(node: Node, name: str) -> list[StackedCopy]:
    with node.catalogue.reading() as session:
        return [row.record() for row in transactions.active_copies_of(session, name)]


def tape(node: Node, volser: str) -> PhysicalVolume:
    with node.catalogue.reading() as session:
        return transactions.physical(session, volser).record()


def evict(node: Node) -> None:
    """Evict everything from the cache that may leave it."""
    node.free_cache(node.settings.cache_bytes)


def assert_agrees(node: Node) -> None:
    assert node.check(deep=True).findings == ()


class NodeFactory:
    """Opens nodes in a test's own folder."""

    def __init__(self, site: Site, folder: Path, stack: ExitStack) -> None:
        self.site = site
        self.folder = folder
        self.stack = stack
        self.opened: list[Node] = []

    def node(
        self,
        *pools: PoolSettings,
        cartridges: int = 6,
        cache_bytes: int = 1_000_000,
        cartridge_bytes: int = 20_000,
        proxy: EkmProxy | None = None,
    ) -> Node:
        """Open a new node with these pools.

        It has a storage group SGn for each pool n.
        """
        node = self.open(proxy, cache_bytes, cartridge_bytes)
        with node.change() as session:
            for pool in sorted(
                pools or (CLEAR, ENCRYPTED), key=lambda each: each.reclaim_pool or 0
            ):
                settings.set_pool(session, pool)
                settings.set_storage_group(session, StorageGroup(f"SG{pool.number}", pool.number))
        node.insert(f"TAP{number:03}" for number in range(1, cartridges + 1))
        return node

    def open(
        self,
        proxy: EkmProxy | None = None,
        cache_bytes: int = 1_000_000,
        cartridge_bytes: int = 20_000,
    ) -> Node:
        """Open the node, as a new process would."""
        chosen = NodeSettings("main", cache_bytes, cartridge_bytes)
        drive = self.site.drive()
        node = Node(self.folder / "node", [drive], proxy or self.site.proxy, settings=chosen)
        self.stack.callback(node.close)
        return node


def open_interventions(node: Node) -> list[str]:
    with node.catalogue.reading() as session:
        query = select(EventRow.subject).where(
            EventRow.kind == "intervention", EventRow.cleared.is_(None)
        )
        return list(session.scalars(query))
