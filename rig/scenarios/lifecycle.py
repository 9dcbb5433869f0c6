"""What the stories of pools over time share: a node of their own on the station's drive."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from hsm.errors import TaperigError
from hsm.keys.eedk import KeyLabel
from rig.scenarios.base import Stage
from rig.ve.catalogue import settings, transactions
from rig.ve.catalogue.model import PoolSettings, StorageGroup, TapeEncryption, VolumeState
from rig.ve.catalogue.schema import PhysicalRow
from rig.ve.node import Node, NodeSettings

GROUP = "STORY"
VOLUME_BYTES = 20_000
VOLUMES = 12
PER_CARTRIDGE = 3


@dataclass
class Story:
    """A node, and what its volumes must hold."""

    stage: Stage
    node: Node
    contents: dict[str, bytes]

    def write(self, name: str, data: bytes) -> None:
        """Write a volume as a host does, and unload it."""
        self.node.write(name, [data], len(data), storage_group=GROUP)
        self.node.unload(name)
        self.contents[name] = data

    def work(self, *, reclaim: bool = False) -> None:
        """Let the drive do what is ordered; what fails ends the story."""
        failures = self.node.work(reclaim=reclaim).failures
        if failures:
            raise failures[0]

    def tapes(self, pool: int) -> dict[str, int]:
        """Cartridges of a pool that hold data, by the key that they are under."""
        found: dict[str, int] = {}
        with self.node.catalogue.reading() as session:
            for row in session.scalars(select(PhysicalRow).where(PhysicalRow.pool == pool)):
                if row.state != VolumeState.SCRATCH.value:
                    name = "none" if not row.keys else row.keys[0]["label"]
                    found[name] = found.get(name, 0) + 1
        return found

    def judge(self, words: str, rules: tuple[str, ...]) -> None:
        """Every volume comes back from tape as it was written, and nothing disagrees."""
        settings = self.node.settings
        self.node.let_go(settings.cache_bytes)
        different = [name for name, data in self.contents.items() if self._read(name) != data]
        self.stage.check(
            f"{words}: every volume is read back from tape byte for byte",
            not different,
            f"{len(self.contents)} volumes" if not different else ", ".join(different),
            rules,
        )
        findings = self.node.check(deep=True).findings
        self.stage.check(
            f"{words}: catalogue, cache and cartridges agree",
            not findings,
            "; ".join(findings),
        )

    def _read(self, name: str) -> bytes:
        data = self.node.read(name).read_bytes()
        self.node.unload(name)
        return data

    def on_encrypted(self) -> int:
        """How many of the volumes have their copy on an encrypted cartridge."""
        count = 0
        with self.node.catalogue.reading() as session:
            for name in self.contents:
                (copy,) = transactions.active_copies(session, name)
                row = session.get_one(PhysicalRow, copy.volser)
                count += row.encryption == TapeEncryption.ENCRYPTED.value
        return count


@contextmanager
def told(stage: Stage, name: str, pools: Sequence[PoolSettings]) -> Iterator[Story]:
    """Begin a story on a node of its own, whose storage group names the first of the pools."""
    station = stage.station
    size = PER_CARTRIDGE * VOLUME_BYTES
    chosen = NodeSettings(name, 2 * VOLUMES * VOLUME_BYTES, size)
    with tempfile.TemporaryDirectory(prefix="story-", dir=station.cartridges) as scratch:
        folder = Path(scratch)
        with Node(folder, [station.drive], station.proxy, settings=chosen) as node:
            with node.change() as session:
                for pool in pools:
                    settings.set_pool(session, pool)
                settings.set_storage_group(session, StorageGroup(GROUP, pools[0].number))
            node.insert(f"STY{number:03}" for number in range(1, 16))
            yield Story(stage, node, {})


def pieces(stage: Stage, count: int) -> list[bytes]:
    """So many different contents of the files to write, of 20 kB at most, none empty."""
    found: list[bytes] = []
    for path in stage.files:
        with path.open("rb") as file:
            while len(found) < count and (piece := file.read(VOLUME_BYTES)):
                found.append(piece)
    if not found:
        raise TaperigError("All files to write are empty; name others with --data.")
    return [found[number % len(found)] for number in range(count)]


def two_keys(stage: Stage) -> tuple[KeyLabel, KeyLabel]:
    """Two different keys of the lab."""
    lab = stage.station.lab
    labels = [*(kek.label for kek in lab.keks), *lab.labels_of(lab.run_node)]
    distinct = list({KeyLabel(label).label: KeyLabel(label) for label in labels}.values())
    if len(distinct) < 2:
        raise TaperigError(
            "The story of KEKs over time needs two keys; name two under keks in the lab file."
        )
    return distinct[0], distinct[1]
