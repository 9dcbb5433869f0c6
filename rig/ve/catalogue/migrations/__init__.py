"""Alembic's migrations of the catalogue.

`rig.ve.catalogue.database` runs them.
"""
