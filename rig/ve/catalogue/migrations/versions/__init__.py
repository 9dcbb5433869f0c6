"""The migrations, each a file.

The newest is `rig.ve.catalogue.database.HEAD`.
"""
