"""Grants: what is given to an account once, or again and again."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, select, update

from dcloud_spawner.store.ledger_schema import grants


class Every(StrEnum):
    """How often."""

    ONCE = "once"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True)
class Grant:
    """One grant. Amounts in micro-credits, each period anew."""

    id: str
    account: str
    microcredits: int
    every: Every
    carry_over: bool
    starts_at: datetime
    ends_at: datetime | None
    next_at: datetime | None
    """When the next part is due; None when none is."""
    given: int
    created_by: str
    created_at: datetime
    reason: str
    cancelled_at: datetime | None


def insert(
    connection: Connection,
    *,
    account: str,
    microcredits: int,
    every: Every,
    carry_over: bool,
    starts_at: datetime,
    ends_at: datetime | None,
    created_by: str,
    reason: str,
    at: datetime,
    identifier: str | None = None,
) -> Grant:
    """A new grant; its first part is due at its beginning. Without an identifier it gets one."""
    identifier = identifier or uuid.uuid4().hex
    connection.execute(
        grants.insert().values(
            id=identifier,
            account=account,
            microcredits=microcredits,
            every=every.value,
            carry_over=carry_over,
            starts_at=starts_at,
            ends_at=ends_at,
            next_at=starts_at,
            given=0,
            created_by=created_by,
            created_at=at,
            reason=reason,
        )
    )
    return get(connection, identifier)


def find(connection: Connection, identifier: str) -> Grant | None:
    """The grant of an id."""
    row = connection.execute(select(grants).where(grants.c.id == identifier)).one_or_none()
    return _grant(row) if row else None


def get(connection: Connection, identifier: str) -> Grant:
    """The grant of an id, which must exist."""
    return _grant(connection.execute(select(grants).where(grants.c.id == identifier)).one())


def due(connection: Connection, now: datetime) -> list[Grant]:
    """Grants of which a part is due, by the time that it was."""
    rows = connection.execute(
        select(grants).where(grants.c.next_at <= now).order_by(grants.c.next_at, grants.c.id)
    )
    return [_grant(row) for row in rows]


def of_account(connection: Connection, account: str) -> list[Grant]:
    """Grants of an account, the newest first."""
    rows = connection.execute(
        select(grants)
        .where(grants.c.account == account)
        .order_by(grants.c.created_at.desc(), grants.c.id)
    )
    return [_grant(row) for row in rows]


def set_values(connection: Connection, identifier: str, **values: object) -> None:
    """Set columns."""
    connection.execute(update(grants).where(grants.c.id == identifier).values(**values))


def _grant(row: Any) -> Grant:
    return Grant(**{**row._mapping, "every": Every(row.every)})
