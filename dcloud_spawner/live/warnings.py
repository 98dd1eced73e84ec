"""Budgets that are near their end, for everybody whom it concerns. Read with the pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.budget_funds import Funds, read_funds
from dcloud_spawner.budgets import Level
from dcloud_spawner.store import budgets
from dcloud_spawner.store.accounts import PROJECT, USER, Budget, Role

WARNINGS_AGAIN = timedelta(seconds=3)
"""After which budgets are looked at again."""


BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class BudgetWarning:
    """One account whose credits are few, or soon used up."""

    account: str
    """Its id."""
    project: str
    """Its name; empty for somebody's own account."""
    title: str
    budget: Budget
    level: Level
    left_microcredits: int
    granted_microcredits: int
    """Of which so much is left."""
    ends_at: datetime | None
    """When nothing is left at the present pace."""
    runs: bool
    """Whether something runs on it that uses credits."""


@dataclass(frozen=True)
class Warnings:
    """One reading."""

    at: datetime = BEFORE_ALL
    by_user: Mapping[str, tuple[BudgetWarning, ...]] = field(default_factory=dict)
    """For a page of a user: of their own account, of projects that they own, and of those that
    pay for something that they run or wait for."""
    by_account: Mapping[str, BudgetWarning] = field(default_factory=dict)


def read_warnings(connection: Connection, now: datetime) -> Warnings:
    """Read what threatens whom. Blocks."""
    warned = [(found, warning) for found in read_funds(connection, now) if (warning := _of(found))]
    projects = [found.account.id for found, _ in warned if found.account.kind == PROJECT]
    members = budgets.people_of(connection, projects) if projects else {}
    using = budgets.users_of(connection, projects) if projects else {}
    by_user: dict[str, list[BudgetWarning]] = {}
    for found, warning in warned:
        for user in _concerned(found, members, using):
            by_user.setdefault(user, []).append(warning)
    return Warnings(
        at=now,
        by_user={user: tuple(told) for user, told in by_user.items()},
        by_account={warning.account: warning for _, warning in warned},
    )


def _concerned(
    found: Funds, members: Mapping[str, Mapping[str, str]], using: Mapping[str, set[str]]
) -> Sequence[str]:
    account = found.account
    if account.kind == USER:
        return (account.name,)
    roles = members.get(account.id, {})
    owners = {user for user, role in roles.items() if role == Role.OWNER.value}
    return sorted(owners | using.get(account.id, set()))


def _of(found: Funds) -> BudgetWarning | None:
    runway, account = found.runway, found.account
    if runway.level is None:
        return None
    return BudgetWarning(
        account=account.id,
        project=account.name if account.kind == PROJECT else "",
        title=account.shown_name,
        budget=account.budget,
        level=runway.level,
        left_microcredits=max(0, runway.left_microcredits),
        granted_microcredits=runway.granted_microcredits,
        ends_at=runway.ends_at,
        runs=any(session.costs for session in found.sessions),
    )


def nearest_first(warnings: Sequence[BudgetWarning]) -> Iterator[BudgetWarning]:
    """What needs attention first."""
    order = list(Level)
    yield from sorted(warnings, key=lambda found: (-order.index(found.level), found.title))
