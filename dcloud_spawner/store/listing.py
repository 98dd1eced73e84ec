"""Lists of workloads as pages and the API show them, one part at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from dcloud_spawner.store.schema import State, workloads
from dcloud_spawner.store.workloads import Workload


@dataclass(frozen=True)
class Record:
    """How often the range that was first shown to somebody who waited was right."""

    count: int
    inside: int


def find(connection: Connection, identifier: str) -> Workload | None:
    """One workload; None when there is none of that id."""
    row = connection.execute(select(workloads).where(workloads.c.id == identifier)).one_or_none()
    return Workload(**{**row._mapping, "state": State(row.state)}) if row else None


def page(
    connection: Connection,
    *,
    user: str | None = None,
    state: State | None = None,
    before: int | None = None,
    limit: int = 100,
) -> Sequence[Workload]:
    """Workloads, the newest first, that were submitted before a sequence number."""
    query = select(workloads).order_by(workloads.c.sequence.desc()).limit(limit)
    if user is not None:
        query = query.where(workloads.c.user == user)
    if state is not None:
        query = query.where(workloads.c.state == state.value)
    if before is not None:
        query = query.where(workloads.c.sequence < before)
    return [
        Workload(**{**row._mapping, "state": State(row.state)}) for row in connection.execute(query)
    ]


def record(connection: Connection, last: int = 50) -> Record:
    """Of the last admissions that a range was shown for: how many were inside it."""
    latest = (
        select(
            workloads.c.admitted_at,
            workloads.c.first_expected_from,
            workloads.c.first_expected_to,
        )
        .where(
            workloads.c.admitted_at.is_not(None),
            workloads.c.first_expected_from.is_not(None),
            workloads.c.first_expected_to.is_not(None),
        )
        .order_by(workloads.c.admitted_at.desc())
        .limit(last)
        .subquery()
    )
    inside = latest.c.admitted_at.between(latest.c.first_expected_from, latest.c.first_expected_to)
    row = connection.execute(
        select(func.count(), func.count().filter(inside)).select_from(latest)
    ).one()
    return Record(int(row[0]), int(row[1]))
