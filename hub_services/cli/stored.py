"""Reading the platform's database from the command line, without starting an engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from dcloud_spawner.settings import Settings
from dcloud_spawner.store.database import Database


def database_exists(settings: Settings) -> bool:
    """Whether an ``up`` has made the database; a PostgreSQL one is taken to exist."""
    return bool(settings.database_url) or Path(settings.state / "dcloud.sqlite").exists()


@contextmanager
def reading(settings: Settings) -> Iterator[Connection]:
    """A consistent read of the database, closed afterwards."""
    database = Database(settings.store_url)
    try:
        with database.reading() as connection:
            yield connection
    finally:
        database.close()
