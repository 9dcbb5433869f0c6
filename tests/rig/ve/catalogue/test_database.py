"""The catalogue database: migrations, transactions and errors."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from rig.ve.catalogue import database as module
from rig.ve.catalogue import settings
from rig.ve.catalogue.database import HEAD, Catalogue, CatalogueError, upgrade
from rig.ve.catalogue.model import PoolSettings
from rig.ve.catalogue.schema import Base, PhysicalRow


def migrated(path: Path) -> Catalogue:
    """Return a catalogue created by the migrations, one after the other."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as link:
        upgrade(link, HEAD)
    engine.dispose()
    return Catalogue(path)


def description(path: Path) -> dict[str, list[object]]:
    """Return columns, keys and indices of each table, as SQLite has them."""
    with closing(sqlite3.connect(path)) as raw:
        tables = [row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE sql > ''")]
        found: dict[str, list[object]] = {}
        for table in sorted(tables):
            rows = [tuple(row) for row in raw.execute(f"PRAGMA table_xinfo('{table}')")]
            rows += raw.execute(f"PRAGMA foreign_key_list('{table}')").fetchall()
            for _, index, *unique in sorted(raw.execute(f"PRAGMA index_list('{table}')")):
                rows.append((unique, raw.execute(f"PRAGMA index_xinfo('{index}')").fetchall()))
            found[table] = sorted(rows, key=repr)
        return found


def test_new_catalogue_has_the_tables_that_the_migrations_make(tmp_path: Path) -> None:
    migrated(tmp_path / "migrated.db").close()
    Catalogue(tmp_path / "new.db").close()
    assert description(tmp_path / "new.db") == description(tmp_path / "migrated.db")
    with closing(sqlite3.connect(tmp_path / "new.db")) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]


def test_migrations_end_in_the_tables_that_the_code_works_with(tmp_path: Path) -> None:
    catalogue = migrated(tmp_path / "catalogue.db")
    with catalogue.reading() as session:
        context = MigrationContext.configure(
            session.connection(), opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []
    assert ScriptDirectory(str(module._MIGRATIONS)).get_current_head() == HEAD
    assert catalogue.integrity() == []


def test_catalogue_of_the_first_schema_keeps_its_rows(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'catalogue.db'}")
    with engine.begin() as link:
        upgrade(link, "0001")
        link.exec_driver_sql(
            "INSERT INTO physical_volume (volser, pool, state, encryption, keys, borrowed,"
            " capacity_bytes, written_bytes, active_bytes, active_volumes, block_count,"
            " first_epoch, close_wanted, move_when_eligible)"
            " VALUES ('TAP001', 2, 'filling', 'encrypted', '[]', 1, 100, 9, 9, 1, 3, 7, 0, 0)"
        )
    engine.dispose()
    with Catalogue(tmp_path / "catalogue.db").reading() as session:
        row = session.get_one(PhysicalRow, "TAP001")
        assert (row.block_count, row.first_epoch, row.read_only) == (3, 7, False)
        assert row.cartridge_id is None
        assert row.end_offset is None


def test_transaction_is_whole_or_not_at_all(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "catalogue.db")

    def fail() -> None:
        with catalogue.transaction() as session:
            settings.set_pool(session, PoolSettings(1))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with catalogue.transaction() as session:
        settings.set_pool(session, PoolSettings(2))
    catalogue.close()
    with Catalogue(tmp_path / "catalogue.db").reading() as session:
        assert settings.pool(session, 2) == PoolSettings(2)
        with pytest.raises(CatalogueError, match="Pool 1 is not configured; configured: 2"):
            settings.pool(session, 1)


KILLED = """
import os, signal, sys
from contextlib import closing
from pathlib import Path
from rig.ve.catalogue import settings
from rig.ve.catalogue.database import Catalogue
from rig.ve.catalogue.model import PoolSettings
catalogue = Catalogue(Path(sys.argv[1]))
with catalogue.transaction() as session:
    settings.set_pool(session, PoolSettings(1))
with catalogue.transaction() as session:
    settings.set_pool(session, PoolSettings(2))
    session.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_transaction_that_is_killed_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    done = subprocess.run([sys.executable, "-c", KILLED, path], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    with Catalogue(path).reading() as session:
        assert settings.pool(session, 1) == PoolSettings(1)
        with pytest.raises(CatalogueError):
            settings.pool(session, 2)


def test_catalogue_file_of_another_format_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    path.write_bytes(b"no database, but long enough to look like one " * 100)
    with pytest.raises(CatalogueError, match=r"cannot be used \(file is not a database\)"):
        Catalogue(path)
    with pytest.raises(CatalogueError, match="unable to open database file"):
        Catalogue(tmp_path / "absent" / "catalogue.db")


def test_catalogue_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    Catalogue(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(CatalogueError, match="written by a newer version"):
        Catalogue(path)
