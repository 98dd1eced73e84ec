"""Reading the platform's database from the command line, without starting an engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from dcloud_spawner.settings import Settings
from dcloud_spawner.store import workloads
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.workloads import Workload


def database_exists(settings: Settings) -> bool:
    """Whether an ``up`` has made the database; a PostgreSQL one is taken to exist."""
    return bool(settings.database_url) or Path(settings.state / "dcloud.sqlite").exists()


def running_servers(settings: Settings) -> list[Workload]:
    """What holds resources now; empty before the first ``up``."""
    if not database_exists(settings):
        return []
    database = Database(settings.store_url)
    try:
        database.migrate()
        with database.reading() as connection:
            return list(workloads.holding(connection))
    finally:
        database.close()


@contextmanager
def reading(settings: Settings) -> Iterator[Connection]:
    """A consistent read of the database, closed afterwards."""
    database = Database(settings.store_url)
    try:
        with database.reading() as connection:
            yield connection
    finally:
        database.close()
