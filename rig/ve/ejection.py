"""Eject cartridges; the catalogue keeps what is on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from hsm.errors import TaperigError
from hsm.files import sync_directory
from rig.ve.catalogue import transactions
from rig.ve.catalogue.model import VolumeState
from rig.ve.catalogue.schema import CopyRow, LogicalRow, PhysicalRow
from rig.ve.insertion import place_file, same_file
from rig.ve.tape.jobs import NodeParts

MAX_PLACE = 64
"""Characters in the name of a place."""


class EjectionError(TaperigError):
    """A cartridge cannot be ejected."""


@dataclass(frozen=True, slots=True)
class Ejected:
    """A cartridge that was ejected."""

    volser: str
    place: str
    file: Path
    volumes: tuple[str, ...]
    """Logical volumes that cannot be read until it is back."""


def only_on(session: Session, volser: str) -> list[str]:
    """Return the logical volumes that nothing but this cartridge has."""
    other, holder = aliased(CopyRow), aliased(PhysicalRow)
    elsewhere = (
        select(other.name)
        .join(holder, holder.volser == other.volser)
        .where(
            other.active,
            other.bad.is_(False),
            other.volser != volser,
            holder.state != VolumeState.EJECTED.value,
        )
    )
    query = (
        select(LogicalRow.name)
        .join(CopyRow, CopyRow.name == LogicalRow.name)
        .where(
            CopyRow.volser == volser,
            CopyRow.active,
            LogicalRow.in_cache.is_(False),
            LogicalRow.name.not_in(elsewhere),
        )
    )
    return sorted(session.scalars(query))


def eject(
    parts: NodeParts, volser: str, place: str, folder: Path, *, only_copies: bool = False
) -> Ejected:
    """Eject a cartridge to a place; its file moves into `folder`.

    Without `only_copies`, one that alone has some logical volume stays. The file is in both places
    until the catalogue says that it is ejected; a second call completes after an interruption.
    """
    if not (0 < len(place) <= MAX_PLACE and place.isprintable() and place.strip() == place):
        raise EjectionError(
            f"{place[:MAX_PLACE]!r} names no place; give 1 to {MAX_PLACE} printable characters."
        )
    source, target = parts.cartridges.path(volser), folder / parts.cartridges.path(volser).name
    with parts.locks.locked(volser):
        with parts.catalogue.reading() as session:
            row = transactions.physical(session, volser)
            again = row.state == VolumeState.EJECTED.value
            alone = only_on(session, volser)
            if again and (row.ejected_to != place or not (source.exists() or target.exists())):
                transactions.require_in_node(row)
        if row.writing_pool is not None:
            raise EjectionError(
                f"Cartridge {volser} is being written; it was not ejected. Try again after "
                f"`rig ve work`."
            )
        if alone and not only_copies and not again:
            more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
            raise EjectionError(
                f"Cartridge {volser} has the only copy of {', '.join(alone[:3])}{more}, which "
                f"nobody can read while it is away; it was not ejected. Give --only-copies to "
                f"eject it all the same."
            )
        _place(source, target)
        with parts.catalogue.transaction() as session:
            row = transactions.physical(session, volser)
            row.state, row.ejected_to = VolumeState.EJECTED.value, place
            row.close_wanted, row.move_pool, row.move_when_eligible = False, None, False
        _remove(source)
    return Ejected(volser, place, target, tuple(alone))


def _place(source: Path, target: Path) -> None:
    """Put the file where it goes; refuse to replace another one."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EjectionError(
            f"The folder {target.parent} cannot be made ({error.strerror}); nothing was ejected. "
            f"Choose another --out."
        ) from None
    if not target.exists():
        place_file(source, target)
    elif source.exists() and not same_file(source, target):
        raise EjectionError(
            f"There is another file {target} already; nothing was ejected. Choose another --out."
        )


def _remove(source: Path) -> None:
    try:
        source.unlink(missing_ok=True)
        sync_directory(source.parent)
    except OSError as error:
        raise EjectionError(
            f"{source} is ejected, and its file cannot be removed ({error.strerror}); correct the "
            f"rights of the folder, and eject it again."
        ) from None
