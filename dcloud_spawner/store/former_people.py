"""What somebody ran, under another name when they are gone: who takes theirs next finds nothing."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, delete, func, or_, select, update

from dcloud_spawner.store.ledger_schema import meters, usage_hours, usage_totals
from dcloud_spawner.store.schema import State, shares, workloads

SUFFIX = " (deleted, ________)"
"""Behind a former name, as a pattern of SQL."""


def rename(connection: Connection, user: str, to: str) -> bool:
    """Everything that ``user`` ran and used was run and used by ``to``; whether there was anything.
    A workload that has not ended keeps its user until then: the hub knows it by that name."""
    ended = workloads.c.state == State.ENDED.value
    statements = (
        update(workloads).where(workloads.c.user == user, ended).values(user=to),
        update(meters).where(meters.c.user == user).values(user=to),
        update(usage_hours).where(usage_hours.c.user == user).values(user=to),
        update(shares).where(shares.c.user == user).values(user=to),
    )
    found = sum(connection.execute(statement).rowcount for statement in statements)
    # The database has moved the sums to the new name; of the old one nothing but zeros is left.
    connection.execute(delete(usage_totals).where(usage_totals.c.user == user))
    return found > 0


def take_over(connection: Connection, workload: str) -> None:
    """A session whose user was deleted while it ran has ended: it gets the name of its meter."""
    name = connection.execute(select(meters.c.user).where(meters.c.workload == workload)).scalar()
    if name is not None:
        theirs = workloads.c.id == workload, workloads.c.user != name
        connection.execute(update(workloads).where(*theirs).values(user=name))


def was_of(column: ColumnElement[str], users: Collection[str]) -> ColumnElement[bool]:
    """Whether a name is that of one of some users, present or former."""
    before = func.substr(column, 1, func.length(column) - len(SUFFIX))
    return or_(column.in_(users), column.like(f"%{SUFFIX}") & before.in_(users))
