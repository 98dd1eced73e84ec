"""Alembic's entry point. Runs inside one serialised write transaction, so that several
processes may start at once and only the first does the work."""

from __future__ import annotations

from alembic import context

from dcloud_spawner.store import (
    datasets_schema,  # noqa: F401
    ledger_schema,  # noqa: F401 (its tables are of the metadata)
    measures_schema,  # noqa: F401
)
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.schema import metadata

database: Database = context.config.attributes["database"]

with database.transaction() as connection:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    context.run_migrations()
