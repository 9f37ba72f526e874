"""Connections, transactions and the way from a row to a record."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import alembic.command
import alembic.config
import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

RecordT = TypeVar("RecordT", bound=msgspec.Struct)


class Database:
    """Short transactions over one SQLAlchemy engine; SQLite in WAL mode with synchronous=FULL, or PostgreSQL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = _engine(url)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that may write: it holds SQLite's write lock from the start, so it never has to be retried."""
        with self._engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection

    def migrate(self, *, to: str = "head") -> None:
        """Bring the schema up to a revision, the newest; old data folders open in newer versions."""
        config = alembic.config.Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self._engine.connect() as connection:
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, to)
            connection.commit()

    def close(self) -> None:
        self._engine.dispose()


def _engine(url: str) -> Engine:
    # Errors of SQLAlchemy quote parameters otherwise: links with their signatures would end up in logs.
    engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"), hide_parameters=True)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by `Database.begin`, not guessed by the driver
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def one(connection: Connection, kind: type[RecordT], query: sa.Executable, **values: object) -> RecordT | None:
    """The first row as a record, or None. `values` are for its parameters: a query made once takes half the time."""
    row = connection.execute(query, values).mappings().first()
    return None if row is None else record(kind, row)


def many(connection: Connection, kind: type[RecordT], query: sa.Executable) -> list[RecordT]:
    return [record(kind, row) for row in connection.execute(query).mappings()]


def record(kind: type[RecordT], row: sa.RowMapping) -> RecordT:
    # SQLAlchemy's column names are a subclass of str, which msgspec takes for another type.
    return msgspec.convert({str(name): value for name, value in row.items()}, kind)
