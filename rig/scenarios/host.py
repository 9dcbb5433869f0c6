"""A host of a node: writes files as volumes and compares them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from hsm.files import same_content
from rig.testbed.run_nodes import storage_group
from rig.ve.catalogue import transactions
from rig.ve.node import Node
from rig.ve.volumes.logical_volume import VolumeFile

_PREFIXES = f"{ascii_uppercase}234567"
"""First character of the names of a pool's volumes, pools 1 to 32."""


@dataclass(frozen=True, slots=True)
class Host:
    """The only host of a node."""

    node: Node

    def write(self, volumes: Sequence[VolumeFile], pool: int) -> None:
        """Write files as volumes bound for a pool, and unload them."""
        for _ in self.node.write_files(volumes, storage_group=storage_group(pool)):
            pass

    def work(self) -> None:
        """Run the queued tape jobs; raise the first failure."""
        failures = self.node.work().failures
        if failures:
            raise failures[0]

    def empty_cache(self) -> None:
        """Evict every volume from the cache.

        Raises CacheFullError when one is not on tape.
        """
        self.node.free_cache(self.node.settings.cache_bytes)

    def recall(self, volumes: Sequence[VolumeFile]) -> None:
        """Recall volumes from tape; the cache must not have them."""
        self.node.recall([volume.name for volume in volumes])

    def differing(self, volumes: Sequence[VolumeFile]) -> list[str]:
        """Read volumes; return the names of those that differ from their file."""
        names = [volume.name for volume in volumes]
        files = self.node.read_all(names)
        different = [
            volume.name
            for volume, file in zip(volumes, files, strict=True)
            if not same_content(file, volume.source)
        ]
        self.node.unload_all(names)
        return different

    def cartridge_of(self, volume: VolumeFile) -> str:
        """Return the cartridge that has a volume's copy."""
        with self.node.catalogue.reading() as session:
            return transactions.active_copies_of(session, volume.name)[0].volser


def number_volumes(files: Iterable[Path], pool: int, first: int = 1) -> list[VolumeFile]:
    """Name files as volumes of a pool: A00001 on for pool 1, B00001 for 2."""
    prefix = _PREFIXES[pool - 1]
    return [VolumeFile.of(f"{prefix}{number:05}", file) for number, file in enumerate(files, first)]
