"""The catalogue of a node, in one SQLite database.

Every change is one transaction, and it is on the disk when `transaction()` ends (write-ahead log,
synchronous). One process changes it, several may read it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.orm import Session

from hsm.errors import TaperigError

FILE = "catalogue.db"
HEAD = "0002"
"""The newest migration: what a catalogue is brought to when it is opened."""

_MIGRATIONS = Path(__file__).with_name("migrations")
_BUSY_S = 30.0
_VERSION_TABLE = """
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)
"""


class CatalogueError(TaperigError):
    """The catalogue cannot be used, or does not know what was asked for."""


class Catalogue:
    """An open catalogue."""

    def __init__(self, path: Path) -> None:
        """Open `path`; create it when absent, migrate an older one."""
        self.path = path
        self._engine = _engine(path)
        self._writing = threading.Lock()
        try:
            self._migrate()
        except SQLAlchemyError as error:
            self._engine.dispose()
            raise _unusable(path, error) from error

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Make one change, durable as a whole at the end, or not at all."""
        with self._writing, self._session("BEGIN IMMEDIATE") as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Read the catalogue as it is at one moment."""
        with self._session("BEGIN") as session:
            yield session

    @contextmanager
    def _session(self, begin: str) -> Iterator[Session]:
        try:
            with (
                self._engine.connect().execution_options(taperig_begin=begin) as connection,
                connection.begin(),
                Session(connection, expire_on_commit=False) as session,
            ):
                yield session
                session.flush()
        except DatabaseError as error:
            raise _unusable(self.path, error) from error

    def integrity(self) -> list[str]:
        """Return what SQLite's own checks find wrong; empty when all is well."""
        with self.reading() as session:
            answer = [row[0] for row in session.execute(text("PRAGMA integrity_check"))]
            broken = session.execute(text("PRAGMA foreign_key_check")).all()
        findings = [] if answer == ["ok"] else [f"the database: {line}" for line in answer]
        return findings + [f"a row of {row[0]} refers to nothing in {row[2]}" for row in broken]

    def _migrate(self) -> None:
        begin = {"taperig_begin": "BEGIN IMMEDIATE"}
        with self._engine.connect().execution_options(**begin) as link, link.begin():
            if link.execute(text("SELECT 1 FROM sqlite_master")).first() is None:
                _create(link)
            elif self._version(link) != HEAD:
                upgrade(link, HEAD)

    def _version(self, link: Connection) -> str | None:
        table = "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
        if link.execute(text(table)).first() is None:
            return None
        version: str | None = link.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return version


def _create(link: Connection) -> None:
    """Create the tables of a new catalogue at the newest revision.

    The migrations would give the same, but importing Alembic takes its time.
    """
    from rig.ve.catalogue.schema import Base

    Base.metadata.create_all(link, checkfirst=False)
    link.exec_driver_sql(_VERSION_TABLE)
    link.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})


def upgrade(link: Connection, revision: str) -> None:
    """Migrate a database, within the transaction that `link` is in."""
    from alembic import command  # not needed when the catalogue is new enough
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = link
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise CatalogueError(
            f"The catalogue {link.engine.url.database} was written by a newer version of this "
            f"program ({error}); use that version."
        ) from error


def _engine(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": _BUSY_S, "check_same_thread": False, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def _configure(raw: Any, _record: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            raw.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(link: Connection) -> None:
        link.exec_driver_sql(link.get_execution_options().get("taperig_begin", "BEGIN"))

    return engine


def _unusable(path: Path, error: Exception) -> CatalogueError:
    reason = str(getattr(error, "orig", None) or error).splitlines()[0]
    return CatalogueError(
        f"The catalogue {path} cannot be used ({reason}); check its rights and the free "
        "space of its disk. If it is damaged, restore it from a database backup on tape."
    )
