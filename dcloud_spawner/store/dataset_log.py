"""The action log of one thing, the newest first."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from dcloud_spawner.store.events import Event
from dcloud_spawner.store.schema import events


def latest(
    connection: Connection, target: str, *, before: int | None = None, limit: int = 100
) -> Sequence[Event]:
    """Rows about a target, those before a sequence number."""
    query = select(events).where(events.c.target == target)
    if before is not None:
        query = query.where(events.c.sequence < before)
    rows = connection.execute(query.order_by(events.c.sequence.desc()).limit(limit))
    return [Event(**row._mapping) for row in rows]
