"""The life of a pool's volumes on a node, for scenarios over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sqlalchemy import select

from hsm.errors import TaperigError
from hsm.keys.eedk import KeyLabel
from rig.report.text import plural
from rig.results.events import EventLog
from rig.scenarios.base import ScenarioContext
from rig.testbed.run_nodes import storage_group
from rig.ve.catalogue import transactions
from rig.ve.catalogue.model import PoolSettings, TapeEncryption, VolumeState
from rig.ve.catalogue.schema import PhysicalRow
from rig.ve.node import Node

VOLUME_BYTES = 20_000
VOLUMES = 12
PER_CARTRIDGE = 3
CARTRIDGES = 15


@dataclass
class Lifecycle:
    """A node over time, and the contents that its volumes must hold."""

    context: ScenarioContext
    node: Node
    group: str
    contents: dict[str, bytes]

    def write(self, name: str, data: bytes) -> None:
        """Write a volume as a host does, and unload it."""
        self.node.write(name, [data], len(data), storage_group=self.group)
        self.node.unload(name)
        self.contents[name] = data

    def work(self, *, reclaim: bool = False) -> None:
        """Run the queued tape jobs; a failure ends the scenario."""
        failures = self.node.work(reclaim=reclaim).failures
        if failures:
            raise failures[0]

    def tapes(self, pool: int) -> dict[str, int]:
        """Count a pool's cartridges with data, by the key they are under."""
        counts: dict[str, int] = {}
        with self.node.catalogue.reading() as session:
            for row in session.scalars(select(PhysicalRow).where(PhysicalRow.pool == pool)):
                if row.state != VolumeState.SCRATCH.value:
                    name = "none" if not row.keys else row.keys[0]["label"]
                    counts[name] = counts.get(name, 0) + 1
        return counts

    def judge(self, words: str, rules: tuple[str, ...]) -> None:
        """Check that volumes read back equal, and that the node agrees."""
        settings = self.node.settings
        self.node.free_cache(settings.cache_bytes)
        different = [name for name, data in self.contents.items() if self._read(name) != data]
        self.context.check(
            f"{words}: every volume is read back from tape byte for byte",
            not different,
            plural(len(self.contents), "volume") if not different else ", ".join(different),
            rules,
        )
        findings = self.node.check(deep=True).findings
        self.context.check(
            f"{words}: catalogue, cache and cartridges agree",
            not findings,
            "; ".join(findings),
        )

    def _read(self, name: str) -> bytes:
        data = self.node.read(name).read_bytes()
        self.node.unload(name)
        return data

    def on_encrypted(self) -> int:
        """Count the volumes whose copy is on an encrypted cartridge."""
        count = 0
        with self.node.catalogue.reading() as session:
            for name in self.contents:
                (copy,) = transactions.active_copies_of(session, name)
                row = session.get_one(PhysicalRow, copy.volser)
                count += row.encryption == TapeEncryption.ENCRYPTED.value
        return count


@contextmanager
def open_lifecycle(
    context: ScenarioContext, name: str, pools: Sequence[PoolSettings], volume_bytes: int
) -> Iterator[Lifecycle]:
    """Open a node of the run for a scenario over time.

    Its volumes are of a storage group that names the first pool, and PER_CARTRIDGE of so many bytes
    fill a cartridge.
    """
    group = storage_group(pools[0].number)
    with context.nodes.open(
        name,
        replace(context.session, events=EventLog()),  # its steps are not those that are judged
        pools,
        cache_bytes=2 * VOLUMES * VOLUME_BYTES,
        cartridge_bytes=PER_CARTRIDGE * volume_bytes,
        cartridges=CARTRIDGES,
    ) as node:
        yield Lifecycle(context, node, group, {})


def sample_contents(context: ScenarioContext, count: int) -> list[bytes]:
    """Return `count` contents of one size from the files to write.

    They are 20 kB, or what all files have together; they repeat when the files have fewer.
    """
    data = bytearray()
    for path in context.files:
        with path.open("rb") as file:
            data += file.read(count * VOLUME_BYTES - len(data))
    if not data:
        raise TaperigError("All files to write are empty; name others with --data.")
    size = min(VOLUME_BYTES, len(data))
    twice = bytes(data + data)
    starts = (number * size % len(data) for number in range(count))
    return [twice[start : start + size] for start in starts]


def choose_two_keys(context: ScenarioContext) -> tuple[KeyLabel, KeyLabel]:
    """Return two different keys of the lab."""
    lab = context.session.lab
    labels = [*(kek.label for kek in lab.keks), *lab.labels_of(lab.run_node)]
    distinct = list({KeyLabel(label).label: KeyLabel(label) for label in labels}.values())
    if len(distinct) < 2:
        raise TaperigError(
            "A scenario of KEKs over time needs two keys; name two under keks in the lab file."
        )
    return distinct[0], distinct[1]
