"""Home volumes. They outlive their user until an administrator purges them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, case, delete, func, select, update

from dcloud_spawner.store.schema import homes


@dataclass(frozen=True)
class Home:
    """One home volume; ``user_deleted_at`` is set while its user no longer exists."""

    volume: str
    user: str
    created_at: datetime
    user_deleted_at: datetime | None
    size_bytes: int | None
    """With the own space."""
    measured_at: datetime | None
    space_bytes: int | None
    """Of it in storage: the own space that goes with the home."""


def of_user(connection: Connection, user: str) -> Home | None:
    """The home of a user, present or deleted."""
    row = connection.execute(select(homes).where(homes.c.user == user)).one_or_none()
    return Home(**row._mapping) if row else None


def all_homes(connection: Connection) -> Sequence[Home]:
    """Every home, by user."""
    return [
        Home(**row._mapping) for row in connection.execute(select(homes).order_by(homes.c.user))
    ]


def insert(connection: Connection, volume: str, user: str, at: datetime) -> None:
    """Note that a user has a home volume."""
    connection.execute(homes.insert().values(volume=volume, user=user, created_at=at))


def mark_user_deleted(connection: Connection, user: str, at: datetime | None) -> bool:
    """Keep the home of a deleted user (or, with None, hand it to a new user of that name)."""
    result = connection.execute(
        update(homes).where(homes.c.user == user).values(user_deleted_at=at)
    )
    return result.rowcount == 1


def set_size(
    connection: Connection, volume: str, size_bytes: int, at: datetime, *, space_bytes: int = 0
) -> None:
    """Write the measured size of a home, and how much of it is the own space in storage."""
    connection.execute(
        update(homes)
        .where(homes.c.volume == volume)
        .values(size_bytes=size_bytes, measured_at=at, space_bytes=space_bytes)
    )


def set_space(connection: Connection, volume: str, space_bytes: int) -> None:
    """Write what is in the own space now; the home's size changes with it. Of a size that was
    measured before spaces were told apart nobody knows how much was the space: it stays."""
    apart = homes.c.space_bytes.is_not(None) | homes.c.size_bytes.is_(None)
    more = case((apart, space_bytes - func.coalesce(homes.c.space_bytes, 0)), else_=0)
    connection.execute(
        update(homes)
        .where(homes.c.volume == volume)
        .values(size_bytes=func.coalesce(homes.c.size_bytes, 0) + more, space_bytes=space_bytes)
    )


def remove(connection: Connection, user: str) -> bool:
    """Forget a home whose volume is purged."""
    return connection.execute(delete(homes).where(homes.c.user == user)).rowcount == 1
