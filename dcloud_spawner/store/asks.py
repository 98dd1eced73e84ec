"""Requests for more: credits, a higher limit or a role, and what became of them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select, update

from dcloud_spawner.store.ledger_schema import asks
from dcloud_spawner.store.usage import Scope

Value = int | float | str | tuple[str, ...]
"""Micro-credits, the value of a limit (a number or names), or the name of a role."""


class What(StrEnum):
    """What somebody asks for."""

    CREDITS = "credits"
    LIMIT = "limit"
    ROLE = "role"


class AskState(StrEnum):
    """The life of a request for more."""

    OPEN = "open"
    """Nobody has answered it."""
    GRANTED = "granted"
    """Given, perhaps in part."""
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"
    """Taken back by who asked."""


@dataclass(frozen=True)
class NewAsk:
    """What to ask for, why and until when."""

    what: What
    value: Value
    reason: str
    until: datetime | None
    account: str | None = None
    """Id of the account that gets the credits; None for a limit or a role."""
    limit: str = ""
    """Name of the limit; empty for credits and a role."""


@dataclass(frozen=True)
class Ask(NewAsk):
    """One row."""

    id: str = ""
    user: str = ""
    asked_at: datetime | None = None
    state: AskState = AskState.OPEN
    given: Value | None = None
    given_until: datetime | None = None
    """None: without an end, once it is granted."""
    answer: str = ""
    answered_by: str = ""
    answered_at: datetime | None = None

    @property
    def in_part(self) -> bool:
        """Whether something else was given than was asked for."""
        other = (self.given, self.given_until) != (self.value, self.until)
        return self.state is AskState.GRANTED and other


def insert(connection: Connection, new: NewAsk, user: str, at: datetime) -> Ask:
    """Write an open request."""
    identifier = uuid.uuid4().hex
    connection.execute(
        asks.insert().values(
            id=identifier,
            user=user,
            what=new.what.value,
            account=new.account,
            limit=new.limit,
            value=_stored(new.value),
            reason=new.reason,
            until=new.until,
            asked_at=at,
            state=AskState.OPEN.value,
        )
    )
    return _known(connection, identifier)


def answer(
    connection: Connection,
    identifier: str,
    to: AskState,
    *,
    by: str,
    words: str,
    at: datetime,
    given: Value | None = None,
    given_until: datetime | None = None,
) -> Ask | None:
    """Close an open request; None when it was open no more."""
    values: dict[str, Any] = {"state": to.value, "answer": words, "answered_by": by}
    if to is AskState.GRANTED:
        values |= {"given": _stored(given), "given_until": given_until}
    changed = connection.execute(
        update(asks)
        .where(asks.c.id == identifier, asks.c.state == AskState.OPEN.value)
        .values(**values, answered_at=at)
    )
    return _known(connection, identifier) if changed.rowcount == 1 else None


def rename(connection: Connection, user: str, to: str) -> None:
    """What somebody asked for was asked by another name."""
    connection.execute(update(asks).where(asks.c.user == user).values(user=to))


def find(connection: Connection, identifier: str) -> Ask | None:
    """One request, if there is such."""
    row = connection.execute(select(asks).where(asks.c.id == identifier)).one_or_none()
    return None if row is None else _ask(row)


def open_asks(connection: Connection, *, user: str | None = None) -> Sequence[Ask]:
    """All that nobody has answered, the oldest first; of one user or of everybody."""
    query = select(asks).where(asks.c.state == AskState.OPEN.value)
    if user is not None:
        query = query.where(asks.c.user == user)
    return [_ask(row) for row in connection.execute(query.order_by(asks.c.asked_at, asks.c.id))]


def count_open(connection: Connection) -> int:
    """How many nobody has answered."""
    query = select(func.count()).where(asks.c.state == AskState.OPEN.value)
    return int(connection.execute(query).scalar_one())


def page(
    connection: Connection,
    *,
    scope: Scope | None = None,
    user: str | None = None,
    state: AskState | None = None,
    before: str | None = None,
    limit: int = 100,
) -> Sequence[Ask]:
    """The newest first, of one user or of everybody, in one state or in any, as far as they are
    in a ``scope``: of its user, or for one of its accounts; ``before`` is the id of the last one
    of the part before. An id that is not there gives nothing."""
    query = select(asks).order_by(asks.c.asked_at.desc(), asks.c.id.desc()).limit(limit)
    if scope is not None and not scope.everything:
        query = query.where(
            or_(asks.c.user == (scope.user or ""), asks.c.account.in_(scope.accounts))
        )
    if user is not None:
        query = query.where(asks.c.user == user)
    if state is not None:
        query = query.where(asks.c.state == state.value)
    if before is not None:
        last = find(connection, before)
        if last is None:
            return []
        earlier = and_(asks.c.asked_at == last.asked_at, asks.c.id < last.id)
        query = query.where(or_(asks.c.asked_at < last.asked_at, earlier))
    return [_ask(row) for row in connection.execute(query)]


def _known(connection: Connection, identifier: str) -> Ask:
    return _ask(connection.execute(select(asks).where(asks.c.id == identifier)).one())


def _stored(value: Value | None) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _value(stored: Any) -> Any:
    return tuple(stored) if isinstance(stored, list) else stored


def _ask(row: Any) -> Ask:
    values = dict(row._mapping)
    values["what"], values["state"] = What(values["what"]), AskState(values["state"])
    values["value"], values["given"] = _value(values["value"]), _value(values["given"])
    return Ask(**values)
