"""The past, as reports read it: workloads that are over or still open, and every lease."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Select, delete, func, or_, select

from dcloud_spawner.store.former_people import was_of
from dcloud_spawner.store.ledger_schema import meters, spans, usage_hours
from dcloud_spawner.store.measures_schema import measures, session_measures
from dcloud_spawner.store.schema import State, leases, shares, workloads
from dcloud_spawner.store.workloads import Workload


@dataclass(frozen=True)
class Lease:
    """One accelerator in one hand; ``closed_at`` is None while it is held."""

    accelerator: str
    workload: str
    opened_at: datetime
    closed_at: datetime | None


def submitted_since(connection: Connection, since: datetime) -> Sequence[Workload]:
    """Every workload submitted at or after a time, ended or not, in the order of submission."""
    rows = connection.execute(
        select(workloads)
        .where(workloads.c.submitted_at >= since)
        .order_by(workloads.c.submitted_at, workloads.c.sequence)
    )
    return [Workload(**{**row._mapping, "state": State(row.state)}) for row in rows]


def first_submission(connection: Connection) -> datetime | None:
    """When the first workload ever was submitted; None when there was none."""
    found: datetime | None = connection.execute(select(func.min(workloads.c.submitted_at))).scalar()
    return found


def leases_since(connection: Connection, since: datetime) -> Sequence[Lease]:
    """Every lease that was open at a time or later, by accelerator, as they were opened."""
    rows = connection.execute(
        select(leases.c.accelerator, leases.c.workload, leases.c.opened_at, leases.c.closed_at)
        .where(or_(leases.c.closed_at.is_(None), leases.c.closed_at >= since))
        .order_by(leases.c.accelerator, leases.c.id)
    )
    return [Lease(**row._mapping) for row in rows]


def forget_people(connection: Connection, users: Collection[str]) -> int:
    """Remove the workloads of people who never were and have nothing open any more, with leases,
    meters and measures, and what counts as had by them; returns how many workloads. For simulated
    people alone: what is real stays. The action log keeps everything, and so does the ledger: its
    entries are never removed."""
    still_open = select(workloads.c.user).where(
        was_of(workloads.c.user, users), workloads.c.state != State.ENDED.value
    )
    gone = select(workloads.c.id).where(
        was_of(workloads.c.user, users), workloads.c.user.not_in(still_open)
    )
    forget_measures(connection, gone)
    for column in (spans.c.workload, meters.c.workload, leases.c.workload):
        connection.execute(delete(column.table).where(column.in_(gone)))
    for user in (usage_hours.c.user, shares.c.user):
        connection.execute(delete(user.table).where(was_of(user, users), user.not_in(still_open)))
    return connection.execute(delete(workloads).where(workloads.c.id.in_(gone))).rowcount


def forget_measures(connection: Connection, of: Collection[str] | Select[str]) -> None:
    """Remove what was measured of some workloads: their ids, or a query for them."""
    for table in (measures, session_measures):
        connection.execute(delete(table).where(table.c.workload.in_(of)))
