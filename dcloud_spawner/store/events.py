"""The append-only action log: one row for everything that changes state (invariant 10).

Rows are chained by hash: ``hash = SHA-256(previous_hash + canonical JSON of the row)``, so a
row that was changed or taken out later is found by :func:`verify`. Appending happens inside
the caller's write transaction, which the database serialises, so the chain never forks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from dcloud_spawner.store.schema import events

GENESIS = "0" * 64
"""``previous_hash`` of the first row."""


@dataclass(frozen=True)
class Event:
    """One row of the action log."""

    sequence: int
    at: datetime
    actor: str
    action: str
    target: str
    source: str
    result: str
    detail: Mapping[str, object]
    previous_hash: str
    hash: str


def _digest(previous_hash: str, row: Mapping[str, object]) -> str:
    at = row["at"]
    assert isinstance(at, datetime)
    body = {**row, "at": at.isoformat(timespec="microseconds")}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256((previous_hash + text).encode()).hexdigest()


def append(
    connection: Connection,
    *,
    actor: str,
    action: str,
    target: str,
    at: datetime,
    source: str = "",
    result: str = "ok",
    detail: Mapping[str, object] | None = None,
) -> int:
    """Add one row and return its sequence number. ``detail`` must be JSON and hold no secret."""
    last = connection.execute(
        select(events.c.sequence, events.c.hash).order_by(events.c.sequence.desc()).limit(1)
    ).one_or_none()
    sequence, previous_hash = (last.sequence + 1, last.hash) if last else (1, GENESIS)
    row: dict[str, object] = {
        "sequence": sequence,
        "at": at,
        "actor": actor[:255],
        "action": action,
        "target": target[:255],
        "source": source[:255],
        "result": result,
        "detail": json.loads(json.dumps(detail or {})),
    }
    connection.execute(
        events.insert().values(**row, previous_hash=previous_hash, hash=_digest(previous_hash, row))
    )
    return sequence


def read(
    connection: Connection, *, target: str | None = None, after: int = 0, limit: int = 1000
) -> Sequence[Event]:
    """Rows in order, from after a sequence number, of one target or all."""
    query = select(events).where(events.c.sequence > after).order_by(events.c.sequence)
    if target is not None:
        query = query.where(events.c.target == target)
    return [Event(**row._mapping) for row in connection.execute(query.limit(limit))]


def verify(connection: Connection) -> Iterator[str]:
    """Walk the whole chain; yield one sentence for each row that is not as it was written."""
    previous_hash, expected = GENESIS, 1
    result = connection.execution_options(yield_per=1000).execute(
        select(events).order_by(events.c.sequence)
    )
    for row in result:
        body = {
            key: getattr(row, key)
            for key in ("sequence", "at", "actor", "action", "target", "source", "result", "detail")
        }
        if row.sequence != expected:
            yield f"row {expected} is missing before row {row.sequence}"
        if row.previous_hash != previous_hash:
            yield f"row {row.sequence} does not continue the row before it"
        if row.hash != _digest(row.previous_hash, body):
            yield f"row {row.sequence} was changed after it was written"
        previous_hash, expected = row.hash, row.sequence + 1
