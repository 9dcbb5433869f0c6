"""Identity of cartridges, bad copies, volumes found on tape."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS: dict[str, tuple[tuple[str, sa.types.TypeEngine[Any]], ...]] = {
    "physical_volume": (
        ("cartridge_id", sa.String()),
        ("format_version", sa.Integer()),
        ("epoch", sa.Integer()),
        ("end_offset", sa.Integer()),
        ("read_only", sa.Boolean()),
        ("ejected_to", sa.String()),
    ),
    "logical_volume": (("found_on_tape", sa.Boolean()),),
    "stacked_copy": (("bad", sa.Boolean()), ("last_read", sa.Double())),
}


def upgrade() -> None:
    """Add the columns; flags are false, and what is not known is null."""
    for table, columns in _COLUMNS.items():
        for name, kind in columns:
            flag = isinstance(kind, sa.Boolean)
            default = sa.false() if flag else None
            op.add_column(table, sa.Column(name, kind, nullable=not flag, server_default=default))


def downgrade() -> None:
    """Drop the columns."""
    for table, columns in _COLUMNS.items():
        for name, _ in reversed(columns):
            op.drop_column(table, name)
