"""Alembic's migrations of the catalogue; `rig.ve.catalogue` runs them when it opens one."""
