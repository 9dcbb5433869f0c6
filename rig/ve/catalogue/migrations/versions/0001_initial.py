"""The first schema of the catalogue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "drive",
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("mounts", sa.Integer(), nullable=False),
        sa.Column("volser", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_drive")),
    )
    op.create_table(
        "event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("cleared", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_event_kind"), ["kind"], unique=False)

    op.create_table(
        "logical_volume",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("storage_group", sa.String(), nullable=False),
        sa.Column("management_class", sa.String(), nullable=False),
        sa.Column("written", sa.Double(), nullable=False),
        sa.Column("accessed", sa.Double(), nullable=False),
        sa.Column("in_cache", sa.Boolean(), nullable=False),
        sa.Column("mounted", sa.Boolean(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_logical_volume")),
    )
    with op.batch_alter_table("logical_volume", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_logical_volume_in_cache_accessed"),
            ["in_cache", "accessed"],
            unique=False,
        )

    op.create_table(
        "management_class",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("secondary_pool", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_management_class")),
    )
    op.create_table(
        "physical_volume",
        sa.Column("volser", sa.String(), nullable=False),
        sa.Column("pool", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("encryption", sa.String(), nullable=False),
        sa.Column("keys", sa.JSON(), nullable=False),
        sa.Column("borrowed", sa.Boolean(), nullable=False),
        sa.Column("capacity_bytes", sa.Integer(), nullable=False),
        sa.Column("written_bytes", sa.Integer(), nullable=False),
        sa.Column("active_bytes", sa.Integer(), nullable=False),
        sa.Column("active_volumes", sa.Integer(), nullable=False),
        sa.Column("block_count", sa.Integer(), nullable=False),
        sa.Column("first_epoch", sa.Integer(), nullable=False),
        sa.Column("last_written", sa.Double(), nullable=True),
        sa.Column("last_accessed", sa.Double(), nullable=True),
        sa.Column("last_inactivated", sa.Double(), nullable=True),
        sa.Column("close_wanted", sa.Boolean(), nullable=False),
        sa.Column("backup_block", sa.Integer(), nullable=True),
        sa.Column("writing_pool", sa.Integer(), nullable=True),
        sa.Column("move_pool", sa.Integer(), nullable=True),
        sa.Column("move_when_eligible", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("volser", name=op.f("pk_physical_volume")),
    )
    with op.batch_alter_table("physical_volume", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_physical_volume_pool"), ["pool"], unique=False)

    op.create_table(
        "pool",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("encrypt", sa.Boolean(), nullable=False),
        sa.Column("keys", sa.JSON(), nullable=False),
        sa.Column("allow_public_only", sa.Boolean(), nullable=False),
        sa.Column("borrow", sa.Boolean(), nullable=False),
        sa.Column("return_borrowed", sa.Boolean(), nullable=False),
        sa.Column("reclaim_pool", sa.Integer(), nullable=True),
        sa.Column("threshold_percent", sa.Integer(), nullable=False),
        sa.Column("days_since_access", sa.Integer(), nullable=False),
        sa.Column("days_since_write", sa.Integer(), nullable=False),
        sa.Column("days_since_inactivation", sa.Integer(), nullable=False),
        sa.Column("inactivation_max_active_percent", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_pool")),
    )
    op.create_table(
        "retired_name",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_retired_name")),
    )
    op.create_table(
        "setting",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_setting")),
    )
    op.create_table(
        "storage_group",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("pool", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_storage_group")),
    )
    op.create_table(
        "traffic",
        sa.Column("hour", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("pool", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("encrypted", sa.Boolean(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("volumes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "pool", "encrypted", name=op.f("pk_traffic")),
    )
    op.create_table(
        "premigration",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("pool", sa.Integer(), nullable=False),
        sa.Column("queued", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["name"], ["logical_volume.name"], name=op.f("fk_premigration_name")
        ),
        sa.PrimaryKeyConstraint("name", "role", name=op.f("pk_premigration")),
    )
    with op.batch_alter_table("premigration", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_premigration_pool"), ["pool"], unique=False)

    op.create_table(
        "stacked_copy",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("volser", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("first_block", sa.Integer(), nullable=False),
        sa.Column("blocks", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["volser"], ["physical_volume.volser"], name=op.f("fk_stacked_copy_volser")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stacked_copy")),
        sa.UniqueConstraint(
            "volser", "first_block", name=op.f("uq_stacked_copy_volser_first_block")
        ),
    )
    with op.batch_alter_table("stacked_copy", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_stacked_copy_name"), ["name"], unique=False)


def downgrade() -> None:
    """Take it back."""
    with op.batch_alter_table("stacked_copy", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_stacked_copy_name"))

    op.drop_table("stacked_copy")
    with op.batch_alter_table("premigration", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_premigration_pool"))

    op.drop_table("premigration")
    op.drop_table("traffic")
    op.drop_table("storage_group")
    op.drop_table("setting")
    op.drop_table("retired_name")
    op.drop_table("pool")
    with op.batch_alter_table("physical_volume", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_physical_volume_pool"))

    op.drop_table("physical_volume")
    op.drop_table("management_class")
    with op.batch_alter_table("logical_volume", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_logical_volume_in_cache_accessed"))

    op.drop_table("logical_volume")
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_event_kind"))

    op.drop_table("event")
    op.drop_table("drive")
