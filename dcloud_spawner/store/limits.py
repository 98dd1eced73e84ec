"""What limits are made of and measured against: overrides of one person, and what they have."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, insert, or_, select, update

from dcloud_spawner.store.ledger_schema import limit_overrides, meters, usage_hours
from dcloud_spawner.store.schema import HOLDING, State, accelerators, workloads

_rows = limit_overrides.c
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Override:
    """One limit, or the role, of one person."""

    id: int
    user: str
    limit: str
    """The name of a limit, or ``role``."""
    value: Any
    """A number, a list of names, the name of a role or tier; None: no limit."""
    ends_at: datetime | None
    reason: str
    set_by: str
    set_at: datetime
    removed_at: datetime | None


class HeldBy(NamedTuple):
    """What one server of a user holds."""

    user: str
    server_name: str
    gpus: int
    memory_bytes: int
    cpu_millicores: int
    limit_seconds: int
    state: str
    admitted_at: datetime
    notice_at: datetime | None
    id: str


class Part(NamedTuple):
    """What one server of a user holds now, as a pass reads it of everybody."""

    user: str
    server_name: str
    gpus: int
    memory_bytes: int
    cpu_millicores: int


class HourUsed(NamedTuple):
    """GPU time of one user that began in one hour."""

    hour: datetime
    gpu_microseconds: int


# ---------------------------------------------------------------------------- overrides


def _active(at: datetime) -> ColumnElement[bool]:
    return and_(_rows.removed_at.is_(None), or_(_rows.ends_at.is_(None), _rows.ends_at > at))


def _read(connection: Connection, *conditions: ColumnElement[bool]) -> list[Override]:
    query = select(limit_overrides).where(*conditions).order_by(_rows.id)
    return [Override(**row._mapping) for row in connection.execute(query)]


def active_overrides(
    connection: Connection, at: datetime, *, user: str | None = None
) -> list[Override]:
    """What counts at a time, the oldest first: of the same limit the last one counts."""
    mine = () if user is None else (_rows.user == user,)
    return _read(connection, _active(at), *mine)


def overrides_of(connection: Connection, user: str) -> list[Override]:
    """Everything that was ever set for somebody, the oldest first."""
    return _read(connection, _rows.user == user)


def add_override(
    connection: Connection,
    user: str,
    limit: str,
    value: object,
    *,
    ends_at: datetime | None,
    reason: str,
    by: str,
    at: datetime,
) -> int:
    """Write one; those before it of the same limit no longer count. Returns its id."""
    end_overrides(connection, user, limit, at)
    made = connection.execute(
        insert(limit_overrides).values(
            user=user,
            limit=limit,
            value=value,
            ends_at=ends_at,
            reason=reason,
            set_by=by,
            set_at=at,
        )
    )
    assert made.inserted_primary_key is not None
    return int(made.inserted_primary_key[0])


def end_overrides(connection: Connection, user: str, limit: str, at: datetime) -> int:
    """What was set for one limit of somebody no longer counts; returns how many there were."""
    mine = and_(_rows.user == user, _rows.limit == limit, _active(at))
    return connection.execute(update(limit_overrides).where(mine).values(removed_at=at)).rowcount


# ---------------------------------------------------------------------------- what one has


def held(connection: Connection, user: str | None = None) -> list[HeldBy]:
    """What everybody, or one user, holds; by server."""
    mine = () if user is None else (workloads.c.user == user,)
    query = (
        select(*(workloads.c[name] for name in HeldBy._fields))
        .where(workloads.c.state.in_([state.value for state in HOLDING]), *mine)
        .order_by(workloads.c.user, workloads.c.server_name)
    )
    return [HeldBy._make(row) for row in connection.execute(query)]


def parts(connection: Connection) -> list[Part]:
    """What everybody holds."""
    query = select(*(workloads.c[name] for name in Part._fields)).where(
        workloads.c.state.in_([state.value for state in HOLDING])
    )
    return [Part._make(row) for row in connection.execute(query)]


def count_queued(connection: Connection, user: str) -> int:
    """Requests of a user that wait."""
    mine = and_(workloads.c.state == State.QUEUED.value, workloads.c.user == user)
    return connection.execute(select(func.count()).where(mine)).scalar_one()


def queued_servers(connection: Connection, user: str) -> list[str]:
    """The servers for which a user waits."""
    mine = and_(workloads.c.state == State.QUEUED.value, workloads.c.user == user)
    query = select(workloads.c.server_name).where(mine).order_by(workloads.c.sequence)
    return list(connection.execute(query).scalars())


def gpu_hours(connection: Connection, user: str, since: datetime) -> list[HourUsed]:
    """GPU time of a user that was settled, by hour, the oldest first; hours of which a part is
    after ``since`` count as a whole."""
    query = (
        select(usage_hours.c.hour, func.sum(usage_hours.c.gpu_microseconds))
        .where(usage_hours.c.user == user, usage_hours.c.hour > since - HOUR)
        .group_by(usage_hours.c.hour)
        .order_by(usage_hours.c.hour)
    )
    return [HourUsed(row[0], int(row[1])) for row in connection.execute(query)]


def unsettled(connection: Connection, user: str) -> list[tuple[str, datetime]]:
    """Workloads of a user that run, each with the time from which on nothing is settled yet."""
    mine = and_(meters.c.user == user, meters.c.settled_at.is_(None))
    query = select(meters.c.workload, meters.c.watermark_at).where(
        mine, meters.c.watermark_at.is_not(None)
    )
    return [(row.workload, row.watermark_at) for row in connection.execute(query)]


def gpu_models(connection: Connection) -> frozenset[str]:
    """GPU models of the pool."""
    return frozenset(connection.execute(select(accelerators.c.model).distinct()).scalars())
