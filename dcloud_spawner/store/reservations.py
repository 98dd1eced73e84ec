"""Advance reservations: GPUs kept for some people from a time to a time.

A reservation names no accelerators: a pass keeps as many free as it needs. It begins and ends
by the clock, see :func:`due_changes`; whoever runs a pass writes that down.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, select, update

from dcloud_spawner.store.schema import reservations


class ReservationState(StrEnum):
    """The life of a reservation."""

    PLANNED = "planned"
    """It has not begun."""
    ACTIVE = "active"
    """It has begun: its GPUs are kept for its people."""
    ENDED = "ended"
    """Its time is over."""
    EXPIRED = "expired"
    """Nobody used it in time, so its GPUs went back to everybody."""
    CANCELLED = "cancelled"
    """Somebody gave it up."""


OPEN_RESERVATIONS = (ReservationState.PLANNED, ReservationState.ACTIVE)
"""States in which it keeps GPUs now or later."""


@dataclass(frozen=True)
class NewReservation:
    """What to keep, when and for whom. Memory (bytes) and cores (thousandths) for each GPU."""

    title: str
    starts_at: datetime
    ends_at: datetime
    gpus: int
    gpu_model: str | None = None
    memory_bytes: int = 0
    cpu_millicores: int = 0
    users: Sequence[str] = ()
    groups: Sequence[str] = ()


@dataclass(frozen=True)
class Reservation(NewReservation):
    """One row."""

    id: str = ""
    state: ReservationState = ReservationState.PLANNED
    created_by: str = ""
    created_at: datetime | None = None
    first_used_at: datetime | None = None
    detail: str = ""

    def is_for(self, user: str, groups: Collection[str] = ()) -> bool:
        """Whether somebody in these groups may use it."""
        return user in self.users or not set(self.groups).isdisjoint(groups)


@dataclass(frozen=True, slots=True)
class Change:
    """A reservation whose state the clock changes."""

    id: str
    to: ReservationState
    detail: str = ""


def _reservation(row: Any) -> Reservation:
    return Reservation(**{**row._mapping, "state": ReservationState(row.state)})


def insert(
    connection: Connection, new: NewReservation, created_by: str, at: datetime
) -> Reservation:
    """Write a planned reservation."""
    identifier = uuid.uuid4().hex
    connection.execute(
        reservations.insert().values(
            id=identifier,
            title=new.title,
            starts_at=new.starts_at,
            ends_at=new.ends_at,
            gpus=new.gpus,
            gpu_model=new.gpu_model,
            memory_bytes=new.memory_bytes,
            cpu_millicores=new.cpu_millicores,
            users=list(new.users),
            groups=list(new.groups),
            state=ReservationState.PLANNED.value,
            created_by=created_by,
            created_at=at,
        )
    )
    found = find(connection, identifier)
    assert found is not None
    return found


def find(connection: Connection, identifier: str) -> Reservation | None:
    """The reservation of an id."""
    row = connection.execute(
        select(reservations).where(reservations.c.id == identifier)
    ).one_or_none()
    return _reservation(row) if row else None


def open_reservations(connection: Connection) -> Sequence[Reservation]:
    """Planned and active ones, by their beginning."""
    return [
        _reservation(row)
        for row in connection.execute(
            select(reservations)
            .where(reservations.c.state.in_([state.value for state in OPEN_RESERVATIONS]))
            .order_by(reservations.c.starts_at, reservations.c.id)
        )
    ]


def ending_since(connection: Connection, since: datetime) -> Sequence[Reservation]:
    """All whose time ends at or after a time, whatever became of them, by their beginning."""
    rows = connection.execute(
        select(reservations)
        .where(reservations.c.ends_at >= since)
        .order_by(reservations.c.starts_at, reservations.c.id)
    )
    return [_reservation(row) for row in rows]


def due_changes(
    known: Sequence[Reservation], now: datetime, unused_after: timedelta
) -> Sequence[Change]:
    """What the clock changes now. ``unused_after`` is how long after its beginning it waits for
    the first of its people."""
    changes = []
    for found in known:
        if found.ends_at <= now:
            unused = found.first_used_at is None
            state = ReservationState.EXPIRED if unused else ReservationState.ENDED
            changes.append(Change(found.id, state, "Nobody used it." if unused else ""))
        elif found.state is ReservationState.PLANNED and found.starts_at <= now:
            # Also when nobody ran a pass for long: its people who wait get the one that begins
            # it, before another one may find it unused.
            changes.append(Change(found.id, ReservationState.ACTIVE))
        elif found.first_used_at is None and found.starts_at + unused_after <= now:
            minutes = round(unused_after.total_seconds() / 60)
            words = f"Nobody used it within {minutes} minutes."
            changes.append(Change(found.id, ReservationState.EXPIRED, words))
    return changes


def change(connection: Connection, identifier: str, to: ReservationState, detail: str = "") -> bool:
    """Move an open reservation to another state; False when it was open no more."""
    result = connection.execute(
        update(reservations)
        .where(
            reservations.c.id == identifier,
            reservations.c.state.in_([state.value for state in OPEN_RESERVATIONS]),
        )
        .values(state=to.value, detail=detail)
    )
    return result.rowcount == 1


def set_users(connection: Connection, identifier: str, users: Sequence[str]) -> None:
    """Keep it for other people."""
    mine = reservations.c.id == identifier
    connection.execute(update(reservations).where(mine).values(users=list(users)))


def mark_used(connection: Connection, identifiers: Collection[str], at: datetime) -> None:
    """Note that something was admitted on these for the first time."""
    connection.execute(
        update(reservations)
        .where(reservations.c.id.in_(identifiers), reservations.c.first_used_at.is_(None))
        .values(first_used_at=at)
    )
