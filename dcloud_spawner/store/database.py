"""Connections and transactions, the same on SQLite and PostgreSQL.

Writers are serialised by the database itself: ``BEGIN IMMEDIATE`` on SQLite, a
transaction-level advisory lock on PostgreSQL. So a scheduling pass sees a state
that nobody changes under it, in whichever process it runs, and a process that
dies releases the lock with its connection.

Functions that use a connection block; on an event loop call them through
``Platform.in_database_thread``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
from sqlalchemy import (
    Connection,
    DateTime,
    Dialect,
    Engine,
    Text,
    TypeDecorator,
    create_engine,
    event,
)
from sqlalchemy.engine import make_url
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeEngine

ADVISORY_LOCK = 0x0DC10D
"""Key of the one advisory lock that all writers share on PostgreSQL."""

_READ_ONLY = "dcloud_read_only"

_migrating = threading.Lock()
"""Alembic keeps its context in module globals: one migration a process at a time."""


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes on both databases; SQLite alone would drop the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime: the store takes aware UTC times only")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class AnyText(TypeDecorator[str]):
    """Text from outside (a container's log, a driver): what no database takes is replaced, for
    the last words of a program must not keep its workload from ending."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


class PathText(TypeDecorator[str]):
    """A path, in the order of its bytes on every database: what begins alike lies together, so a
    folder is a range of the index."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        collation = "C" if dialect.name == "postgresql" else None
        return dialect.type_descriptor(Text(collation=collation))


def storable(text: str) -> str:
    """The text without NUL and lone surrogates, which stand as U+FFFD."""
    return (
        text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


class Database:
    """One database, opened once a process."""

    def __init__(self, url: str, *, busy_timeout_seconds: float = 30.0) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.after_commit: list[Callable[[], None]] = []
        """Called after each write transaction of this process, on its thread; must not block."""
        if self.is_sqlite:
            self.engine = _sqlite_engine(url, busy_timeout_seconds)
        else:
            if self.url.get_driver_name() != "psycopg":
                self.url = self.url.set(drivername="postgresql+psycopg")
            self.engine = create_engine(self.url, pool_pre_ping=True, pool_size=10)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A write transaction, serialised with every other one; rolled back on any exception."""
        with self.engine.connect() as connection, connection.begin():
            if not self.is_sqlite:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
            yield connection
        for listener in self.after_commit:
            listener()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A consistent read that blocks no writer."""
        with self.engine.connect() as connection:
            if self.is_sqlite:
                connection = connection.execution_options(**{_READ_ONLY: True})
            else:
                connection = connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            with connection.begin():
                yield connection

    def migrate(self) -> None:
        """Bring the schema to the newest revision. Safe to call from several processes at once."""
        config = alembic.config.Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.attributes["database"] = self
        with _migrating:
            alembic.command.upgrade(config, "head")

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


def _sqlite_engine(url: str, busy_timeout_seconds: float) -> Engine:
    path = make_url(url).database
    if path and path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_engine(url, connect_args={"timeout": busy_timeout_seconds}, pool_size=10)

    @event.listens_for(engine, "connect")
    def _prepare(connection: object, record: ConnectionPoolEntry) -> None:
        # The driver's own implicit BEGIN is deferred: two readers that both want to write
        # would deadlock. We send BEGIN ourselves below.
        connection.isolation_level = None  # type: ignore[attr-defined]
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get(_READ_ONLY, False)
        # As on PostgreSQL, a write in a reading fails: it would not be serialised.
        connection.exec_driver_sql(f"PRAGMA query_only={int(read_only)}")
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
