"""Tables of measures. Nothing here is ever charged for."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Dialect,
    Index,
    Integer,
    String,
    Table,
    TypeDecorator,
)

from dcloud_spawner.measuring.figures import Figures
from dcloud_spawner.store.database import UtcDateTime
from dcloud_spawner.store.schema import metadata


class UtcSecond(TypeDecorator[datetime]):
    """An aware UTC time of whole seconds, kept as a number: these rows are many and small."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("naive datetime: the store takes aware UTC times only")
        return None if value is None else int(value.timestamp())

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromtimestamp(value, UTC)


def _figures() -> list[Column[int]]:
    """A column for each figure; those that are counted from nothing are never empty."""
    return [
        Column(field.name, BigInteger, nullable=field.default is None) for field in fields(Figures)
    ]


measures = Table(
    "measures",
    metadata,
    Column("workload", String(32), primary_key=True),
    # Length of the piece of time: 10, 60 or 3600.
    Column("seconds", Integer, primary_key=True, autoincrement=False),
    # Its beginning.
    Column("at", UtcSecond, primary_key=True, autoincrement=False),
    *_figures(),
    # What is too old goes by this.
    Index("ix_measures_age", "seconds", "at"),
    # A session's rows lie together.
    sqlite_with_rowid=False,
)

session_measures = Table(
    "session_measures",
    metadata,
    Column("workload", String(32), primary_key=True),
    # The last reading of its counters: the next one is compared with it.
    Column("read_at", UtcDateTime, nullable=False),
    Column("reading", JSON, nullable=False),
    *_figures(),
)
