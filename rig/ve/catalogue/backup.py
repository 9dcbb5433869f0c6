"""Database backups: what is on a filled cartridge besides its volumes.

A backup is a JSON document, compressed (zlib). It has what labels do not say: the settings, every
cartridge of the node, the volumes that expired while copies of them are still on tape, and the map
of the cartridge that carries it. It has no map of any other cartridge: each filled one carries its
own, and the labels of the rest say the same. So no backup depends on another, a backup can be
missing only with the cartridge that it describes, and its size does not grow with the number of
logical volumes.

A backup takes `SHARE` of its cartridge at most. What does not fit is left out, first the map, then
expired volumes; `restore` takes the map from the labels, and expired volumes that it does not know
come back marked as found on tape.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import JSON, select
from sqlalchemy.orm import Session

from hsm.errors import TaperigError
from rig.ve.catalogue import settings
from rig.ve.catalogue.schema import (
    Base,
    CopyRow,
    DriveRow,
    LogicalRow,
    ManagementClassRow,
    PhysicalRow,
    PoolRow,
    RetiredNameRow,
    SettingRow,
    StorageGroupRow,
    TrafficRow,
)

VERSION = 1
SHARE = 0.02
"""Of a cartridge's capacity that its backup takes at most."""
LEAST_BYTES = 65_536
"""What a backup may take of any cartridge, however small."""
MAX_BYTES = 256_000_000
"""A backup that is longer than this, compressed or not, is refused."""
SEQUENCE = "database backup"
"""The setting that counts the backups of a node."""
TABLES: tuple[type[Base], ...] = (
    SettingRow,
    PoolRow,
    StorageGroupRow,
    ManagementClassRow,
    DriveRow,
    TrafficRow,
    PhysicalRow,
)


_HASH_BYTES = 32
"""What a volume takes of a map at least: its SHA-256, which nothing compresses."""


class BackupError(TaperigError):
    """What is on tape as a database backup is none."""


@dataclass(frozen=True, slots=True)
class DatabaseBackup:
    """A database backup."""

    node: str
    sequence: int
    time: float
    volser: str
    cartridge_id: str
    first_epoch: int
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    """The rows of `TABLES` by the table's name."""
    expired: Mapping[str, int]
    """Expired volumes with copies on tape, and their generation."""
    expired_complete: bool
    map: Sequence[tuple[int, int, Mapping[str, Any]]] | None
    """First block, number of blocks and header label of the active volumes on this cartridge."""

    def encode(self) -> bytes:
        """Return the bytes that go to tape."""
        content = {
            "backup": VERSION,
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
        }
        return zlib.compress(json.dumps(content, separators=(",", ":")).encode("ascii"), 9)

    @classmethod
    def decode(cls, data: bytes) -> DatabaseBackup:
        """Read a backup; raises BackupError."""
        match _content(data):
            case {
                "backup": 1,
                "node": str(node),
                "sequence": int(sequence),
                "time": float(time),
                "volser": str(volser),
                "cartridge_id": str(cartridge_id),
                "first_epoch": int(first_epoch),
                "tables": dict(tables),
                "expired": dict(expired),
                "expired_complete": bool(complete),
                "map": list() | None as tape_map,
                **others,
            } if not others and all(_is_number(each) for each in (sequence, *expired.values())):
                rows = {table.__tablename__: list(_rows(table, tables)) for table in TABLES}
                return cls(
                    *(node, sequence, time, volser, cartridge_id, first_epoch, rows),
                    *(expired, complete, None if tape_map is None else _map(tape_map)),
                )
        raise BackupError("It is no database backup of this version.")


def make_backup(session: Session, row: PhysicalRow, node: str, now: float) -> DatabaseBackup:
    """Return the backup that goes to a cartridge, as much of it as fits."""
    limit = max(LEAST_BYTES, int(SHARE * row.capacity_bytes))
    backup = DatabaseBackup(
        node,
        next_sequence(session),
        now,
        row.volser,
        row.cartridge_id or "",
        row.first_epoch,
        {table.__tablename__: _dump(session, table) for table in TABLES},
        _expired(session),
        True,
        None if row.active_volumes * _HASH_BYTES > limit else _map_of(session, row.volser, now),
    )
    if len(backup.encode()) > limit:
        backup = replace(backup, map=None)
    while backup.expired and len(backup.encode()) > limit:
        fewer = dict(list(backup.expired.items())[: len(backup.expired) // 2])
        backup = replace(backup, expired=fewer, expired_complete=False)
    return backup


def next_sequence(session: Session) -> int:
    """Return the number of the next backup of this node."""
    last: int = settings.setting(session, SEQUENCE, {"sequence": 0})["sequence"]
    return last + 1


def set_sequence(session: Session, sequence: int) -> None:
    """Store the number of the newest backup of this node."""
    settings.set_setting(session, SEQUENCE, {"sequence": sequence})


def _dump(session: Session, table: type[Base]) -> list[dict[str, Any]]:
    columns = table.__table__.columns
    return [dict(row._mapping) for row in session.execute(select(*columns))]


def _expired(session: Session) -> dict[str, int]:
    on_tape = select(CopyRow.name).where(CopyRow.name == RetiredNameRow.name).exists()
    query = select(RetiredNameRow.name, RetiredNameRow.generation).where(on_tape)
    return dict(session.execute(query).all())


def _map_of(session: Session, volser: str, now: float) -> list[tuple[int, int, dict[str, Any]]]:
    query = (
        select(CopyRow, LogicalRow)
        .join(LogicalRow, LogicalRow.name == CopyRow.name)
        .where(CopyRow.volser == volser, CopyRow.active)
        .order_by(CopyRow.first_block)
    )
    pool = session.get_one(PhysicalRow, volser).pool
    return [
        (
            copy.first_block,
            copy.blocks,
            {
                "label": "header",
                "volume": volume.name,
                "size": volume.size,
                "sha256": volume.sha256,
                "path": volume.source,
                "generation": volume.generation,
                "storage_group": volume.storage_group,
                "management_class": volume.management_class,
                "written": volume.written,
                "role": copy.role,
                "pool": pool,
                "copied": now,
            },
        )
        for copy, volume in session.execute(query)
    ]


# Decode what is on tape


def _content(data: bytes) -> object:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, MAX_BYTES)
        if not unpacker.eof or unpacker.unused_data:
            raise BackupError("It is cut off, or too long for a database backup.")
        return json.loads(text.decode("ascii"))
    except (zlib.error, ValueError, RecursionError):
        raise BackupError("It is not compressed JSON.") from None


def _rows(table: type[Base], tables: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, each with every column and its type."""
    columns = table.__table__.columns
    rows = tables.get(table.__tablename__)
    for row in rows if isinstance(rows, list) else [None]:
        if not isinstance(row, dict) or row.keys() != set(columns.keys()):
            raise BackupError(f"Its table {table.__tablename__} has other columns.")
        for column in columns:
            value = row[column.key]
            kinds = (list, dict) if isinstance(column.type, JSON) else (column.type.python_type,)
            if value is None and column.nullable:
                continue
            if type(value) not in kinds or (type(value) is int and not _is_number(value)):
                raise BackupError(f"Its table {table.__tablename__} has a wrong {column.key}.")
        yield row


def _map(rows: list[Any]) -> list[tuple[int, int, Mapping[str, Any]]]:
    checked: list[tuple[int, int, Mapping[str, Any]]] = []
    for row in rows:
        match row:
            case [int(first), int(blocks), dict(label)] if _is_number(first) and blocks >= 2:
                checked.append((first, blocks, label))
            case _:
                raise BackupError("Its map has a wrong line.")
    return checked


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63
