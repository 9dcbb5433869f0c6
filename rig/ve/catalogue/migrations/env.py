"""Run by Alembic: migrates the connection that the catalogue hands over."""

from alembic import context

from rig.ve.catalogue.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
