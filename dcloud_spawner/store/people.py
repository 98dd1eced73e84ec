"""Who has asked for something: their groups and rights in the hub, as they were then."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, select, update

from dcloud_spawner.store.ledger_schema import people


@dataclass(frozen=True)
class Person:
    """One of them."""

    user: str
    groups: Sequence[str]
    administrator: bool
    seen_at: datetime


def note(
    connection: Connection, user: str, groups: Collection[str], administrator: bool, at: datetime
) -> None:
    """Write what the hub says of somebody now."""
    values = {"groups": sorted(groups), "administrator": administrator, "seen_at": at}
    changed = connection.execute(update(people).where(people.c.user == user).values(**values))
    if changed.rowcount == 0:
        connection.execute(people.insert().values(user=user, **values))


def find(connection: Connection, user: str) -> Person | None:
    """Somebody; None who has never asked for anything."""
    row = connection.execute(select(people).where(people.c.user == user)).one_or_none()
    return Person(**row._mapping) if row else None


def remove(connection: Connection, user: str) -> None:
    """Nothing is known of somebody any more."""
    connection.execute(delete(people).where(people.c.user == user))


def everybody(connection: Connection) -> list[Person]:
    """All of them, by name."""
    return [
        Person(**row._mapping) for row in connection.execute(select(people).order_by(people.c.user))
    ]
