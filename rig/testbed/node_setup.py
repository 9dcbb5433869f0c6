"""Set a node up from the lab: settings, pools, constructs, offline drives."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import select

from hsm.keys.eedk import KeyLabel, KeyMode
from rig.lab.installation import InstallationPart
from rig.lab.model import Lab, NodeUnit, PoolUnit
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
from rig.ve.node import MAX_INSERT, Node, NodeError, NodeSettings
from rig.ve.prerequisites import drives_in_use, encryption_refusals


def node_settings(lab: Lab, name: str) -> NodeSettings:
    """Return the settings of a node from the lab file."""
    unit = lab.nodes[name]
    return NodeSettings(name, int(unit.cache_mb * 1e6), int(unit.cartridge_mb * 1e6))


def offline_drives(lab: Lab, unit: InstallationPart, folder: Path) -> dict[str, str]:
    """Return drives that the node may not use, and why (PRE-1, PRE-2, PRE-5)."""
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
    installation = unit.record(ekms=len(lab.ekms))
    uses = drives_in_use(installation, encrypted_volumes=encrypted)
    return {use.drive.serial: use.message for use in uses if not use.online}


def encryption_refusals_of(lab: Lab, name: str) -> dict[str, str]:
    """Return why drives of a node may not write encrypted, by serial (PRE-7)."""
    if lab.installation is None:
        return {}
    serials = [drive.serial for drive in lab.drives_of(name)]
    return encryption_refusals(lab.installation.record(ekms=len(lab.ekms_of(name))), serials)


def report_offline(node: Node, offline: Mapping[str, str]) -> None:
    """Raise an intervention for each drive that is offline; clear others'."""
    now = node.clock.now()
    with node.change() as session:
        for row in session.scalars(select(DriveRow.serial)):
            if row not in offline:
                operator_messages.clear_intervention(session, f"drive {row}", now)
        for serial, why in offline.items():
            operator_messages.raise_intervention(session, f"drive {serial}", why, now)


def enter_lab_settings(node: Node, lab: Lab, unit: NodeUnit, *, insert: bool = True) -> None:
    """Enter new pools and constructs of the lab, and the first cartridges.

    Without `insert`, no cartridges: they come from elsewhere.
    """
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
    if insert and fresh and not node.parts.cartridges.volsers():
        node.insert(next_volsers(node, unit.cartridges))


def next_volsers(node: Node, count: int) -> Sequence[str]:
    """Return VOLSERs that the node does not have.

    They are TAP001 to TAP999, then T01000 and on.

    Raises NodeError when there are not so many.
    """
    with node.catalogue.reading() as session:
        taken = {*node.parts.cartridges.volsers(), *session.scalars(select(PhysicalRow.volser))}
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
