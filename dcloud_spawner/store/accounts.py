"""Accounts, who is in them, and what they have left."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, case, delete, func, select, update

from dcloud_spawner.store.ledger_schema import account_members, accounts, meters

USER = "user"
PROJECT = "project"


class Budget(StrEnum):
    """What happens when an account has nothing left."""

    NONE = "none"
    """Nothing: use is only counted."""
    SOFT = "soft"
    """Its servers go on last in line, until somebody else needs the GPUs."""
    HARD = "hard"
    """Its servers are stopped, with their homes safe, and no new one starts."""


class Role(StrEnum):
    """What somebody is in an account. A person owns their own."""

    OWNER = "owner"
    MEMBER = "member"


@dataclass(frozen=True)
class Account:
    """One account. ``name`` is the user's, or the project's."""

    id: str
    kind: str
    name: str
    title: str
    balance_microcredits: int
    budget: Budget
    created_at: datetime
    closed_at: datetime | None

    @property
    def shown_name(self) -> str:
        """As people write it."""
        return self.title or self.name


@dataclass(frozen=True)
class Member:
    """Somebody in a project."""

    account: str
    user: str
    role: Role
    added_at: datetime


def find(connection: Connection, identifier: str) -> Account | None:
    """The account of an id."""
    row = connection.execute(select(accounts).where(accounts.c.id == identifier)).one_or_none()
    return _account(row) if row else None


def get(connection: Connection, identifier: str) -> Account:
    """The account of an id, which must exist."""
    return _account(connection.execute(select(accounts).where(accounts.c.id == identifier)).one())


def by_name(connection: Connection, kind: str, name: str) -> Account | None:
    """The account of a user or project."""
    row = connection.execute(
        select(accounts).where(accounts.c.kind == kind, accounts.c.name == name)
    ).one_or_none()
    return _account(row) if row else None


def personal(connection: Connection, user: str) -> Account | None:
    """The user's own account; None until they first asked for something."""
    return by_name(connection, USER, user)


def project(connection: Connection, name: str) -> Account | None:
    """The project of a name."""
    return by_name(connection, PROJECT, name)


def all_accounts(connection: Connection, kind: str | None = None) -> list[Account]:
    """Every account, projects and users by name."""
    query = select(accounts).order_by(accounts.c.kind, accounts.c.name)
    if kind is not None:
        query = query.where(accounts.c.kind == kind)
    return [_account(row) for row in connection.execute(query)]


def get_all(connection: Connection, identifiers: Collection[str]) -> dict[str, Account]:
    """Some accounts by id."""
    rows = connection.execute(select(accounts).where(accounts.c.id.in_(identifiers)))
    return {row.id: _account(row) for row in rows}


def of_user(connection: Connection, user: str) -> list[tuple[Account, Role]]:
    """A user's own account, if there is one, and the projects they are in, with their role."""
    own = personal(connection, user)
    mine = [(own, Role.OWNER)] if own is not None else []
    rows = connection.execute(
        select(accounts, account_members.c.role)
        .join(account_members, account_members.c.account == accounts.c.id)
        .where(account_members.c.user == user)
        .order_by(accounts.c.name)
    )
    return mine + [(_account(row), Role(row.role)) for row in rows]


def insert(
    connection: Connection,
    kind: str,
    name: str,
    budget: Budget,
    at: datetime,
    title: str = "",
) -> Account:
    """A new account without anything on it."""
    identifier = uuid.uuid4().hex
    connection.execute(
        accounts.insert().values(
            id=identifier,
            kind=kind,
            name=name,
            title=title,
            balance_microcredits=0,
            budget=budget.value,
            created_at=at,
        )
    )
    return get(connection, identifier)


def change(connection: Connection, identifier: str, **values: object) -> None:
    """Set columns; the balance is changed by ``entries.post`` alone."""
    assert "balance_microcredits" not in values
    connection.execute(update(accounts).where(accounts.c.id == identifier).values(**values))


def members(connection: Connection, account: str) -> list[Member]:
    """Who is in a project, owners first."""
    rows = connection.execute(
        select(account_members)
        .where(account_members.c.account == account)
        .order_by(account_members.c.role.desc(), account_members.c.user)
    )
    return [Member(row.account, row.user, Role(row.role), row.added_at) for row in rows]


def member_counts(connection: Connection) -> dict[str, int]:
    """How many people are in each project, by account."""
    column = account_members.c.account
    rows = connection.execute(select(column, func.count().label("people")).group_by(column))
    return {row.account: row.people for row in rows}


def role_in(connection: Connection, account: Account, user: str) -> Role | None:
    """What a user is in an account; None when they are not in it."""
    if account.kind == USER:
        return Role.OWNER if account.name == user else None
    found = connection.execute(
        select(account_members.c.role).where(
            account_members.c.account == account.id, account_members.c.user == user
        )
    ).scalar()
    return Role(found) if found else None


def set_member(
    connection: Connection, account: str, user: str, role: Role | None, at: datetime
) -> None:
    """Make somebody a member or owner; None takes them out."""
    known = select(account_members.c.added_at).where(
        account_members.c.account == account, account_members.c.user == user
    )
    added_at = connection.execute(known).scalar()
    connection.execute(
        delete(account_members).where(
            account_members.c.account == account, account_members.c.user == user
        )
    )
    if role is not None:
        connection.execute(
            account_members.insert().values(
                account=account, user=user, role=role.value, added_at=added_at or at
            )
        )


_still_held = case(
    (
        meters.c.held_microcredits > meters.c.charged_microcredits,
        meters.c.held_microcredits - meters.c.charged_microcredits,
    ),
    else_=0,
)


def held_microcredits(connection: Connection, identifiers: Collection[str]) -> Mapping[str, int]:
    """What admissions have set aside of some accounts and is not charged yet, by account."""
    rows = connection.execute(
        select(meters.c.account, func.sum(_still_held).label("held"))
        .where(meters.c.account.in_(identifiers), meters.c.settled_at.is_(None))
        .group_by(meters.c.account)
    )
    return {row.account: int(row.held) for row in rows}


def available_microcredits(connection: Connection, account: Account) -> int:
    """What an account has for something new: its balance without what is set aside."""
    held = held_microcredits(connection, (account.id,))
    return account.balance_microcredits - held.get(account.id, 0)


def _account(row: Any) -> Account:
    return Account(
        id=row.id,
        kind=row.kind,
        name=row.name,
        title=row.title,
        balance_microcredits=row.balance_microcredits,
        budget=Budget(row.budget),
        created_at=row.created_at,
        closed_at=row.closed_at,
    )


def names_of(connection: Connection, identifiers: Collection[str]) -> Mapping[str, str]:
    """Shown names of some accounts."""
    return {key: found.shown_name for key, found in get_all(connection, identifiers).items()}
