"""The append-only action log: one row for everything that changes state (invariant 10).

Rows are chained by hash: ``hash = SHA-256(previous_hash + canonical JSON of the row)``, so a
row that was changed or taken out later is found by :func:`verify`. Appending happens inside
the caller's write transaction, which the database serialises, so the chain never forks.
What a chain alone cannot show is that its end was cut off: whoever wants to know that keeps
what :func:`head` says elsewhere and gives it to :func:`verify`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from dcloud_spawner.store.database import storable
from dcloud_spawner.store.schema import events

GENESIS = "0" * 64
"""``previous_hash`` of the first row."""


@dataclass(frozen=True)
class Actor:
    """A person or a part of the platform, and the address it acts from."""

    name: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """What one row will say."""

    actor: Actor
    action: str
    target: str
    result: str = "ok"
    detail: Mapping[str, object] = field(default_factory=dict)


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


@dataclass(frozen=True)
class Head:
    """The last row of the chain at some time."""

    sequence: int
    hash: str


def _digest(previous_hash: str, row: Mapping[str, object]) -> str:
    at = row["at"]
    assert isinstance(at, datetime)
    body = {**row, "at": at.astimezone(UTC).isoformat(timespec="microseconds")}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256((previous_hash + text).encode()).hexdigest()


def note(
    connection: Connection,
    actor: Actor,
    action: str,
    target: str,
    *,
    at: datetime,
    result: str = "ok",
    detail: Mapping[str, object] | None = None,
) -> int:
    """Add one row and return its sequence number.

    ``detail`` must hold no secret. Raises ValueError or TypeError when it is not JSON.
    """
    return note_all(connection, [Line(actor, action, target, result, detail or {})], at=at)


def note_all(connection: Connection, lines: Iterable[Line], *, at: datetime) -> int:
    """Add rows in one statement, as :func:`note` would one by one; returns the last sequence
    number of the chain."""
    last = head(connection)
    rows = []
    for line in lines:
        row: dict[str, object] = {
            "sequence": last.sequence + 1,
            "at": at,
            "actor": storable(line.actor.name)[:255],
            "action": line.action,
            "target": storable(line.target)[:255],
            "source": storable(line.actor.source)[:255],
            "result": line.result,
            # What is read back is what is hashed: keys as text, tuples as lists, no NaN.
            "detail": json.loads(json.dumps(line.detail, allow_nan=False)),
        }
        digest = _digest(last.hash, row)
        rows.append({**row, "previous_hash": last.hash, "hash": digest})
        last = Head(last.sequence + 1, digest)
    if rows:
        connection.execute(events.insert(), rows)
    return last.sequence


def head(connection: Connection) -> Head:
    """The end of the chain now; sequence 0 while it is empty."""
    last = connection.execute(
        select(events.c.sequence, events.c.hash).order_by(events.c.sequence.desc()).limit(1)
    ).one_or_none()
    return Head(last.sequence, last.hash) if last else Head(0, GENESIS)


def read(
    connection: Connection, *, target: str | None = None, after: int = 0, limit: int = 1000
) -> Sequence[Event]:
    """Rows in order, from after a sequence number, of one target or all."""
    query = select(events).where(events.c.sequence > after).order_by(events.c.sequence)
    if target is not None:
        query = query.where(events.c.target == target)
    return [Event(**row._mapping) for row in connection.execute(query.limit(limit))]


def verify(connection: Connection, known: Head | None = None) -> Iterator[str]:
    """Walk the whole chain; yield one sentence for each row that is not as it was written.

    ``known`` is a head that was noted before; without it, rows cut off at the end are not found.
    """
    previous_hash, expected = GENESIS, 1
    missing = known is not None and known.sequence > 0
    for row in _rows(connection):
        if isinstance(row, str):
            yield row
            return
        if row.sequence != expected:
            yield f"row {expected} is missing before row {row.sequence}"
        if row.previous_hash != previous_hash:
            yield f"row {row.sequence} does not continue the row before it"
        if row.hash != _digest(row.previous_hash, {name: getattr(row, name) for name in _HASHED}):
            yield f"row {row.sequence} was changed after it was written"
        if known is not None and row.sequence == known.sequence:
            missing = False
            if row.hash != known.hash:
                yield f"row {row.sequence} is not the one that was noted"
        previous_hash, expected = row.hash, row.sequence + 1
    if missing and known is not None:
        yield f"row {known.sequence} was noted once and is missing"


_HASHED = ("sequence", "at", "actor", "action", "target", "source", "result", "detail")


def _rows(connection: Connection) -> Iterator[Event | str]:
    """Every row in order; a sentence instead of one whose fields are not even of their types."""
    after = 0
    while True:
        try:
            page = read(connection, after=after)
        except (ValueError, TypeError, DBAPIError) as error:
            yield f"a row behind row {after} cannot be read: {error}"
            return
        yield from page
        if not page:
            return
        after = page[-1].sequence
