"""The migrations, each a file; the newest is `rig.ve.catalogue.database.HEAD`."""
