"""What the forecast reads of the past, and what it writes for those who wait."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, or_, select, update

from dcloud_spawner.store.schema import State, workloads


@dataclass(frozen=True, slots=True)
class Length:
    """How long something that has ended held its place, and what it had asked for."""

    gpus: int
    limit_seconds: int
    ran_seconds: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """What somebody asked for lately."""

    at: datetime
    gpus: int
    gpu_model: str | None
    memory_bytes: int
    cpu_millicores: int
    limit_seconds: int
    tier: str


@dataclass(frozen=True, slots=True)
class Kept:
    """The first forecast for somebody, and what came of it."""

    forecast_seconds: float
    at: datetime
    """When it was made."""
    shown_from: datetime
    shown_to: datetime
    admitted_at: datetime | None
    """None for who still waits."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What somebody who waits is told now."""

    id: str
    expected_from: datetime | None
    expected_to: datetime | None
    latest_start_at: datetime | None
    forecast_seconds: float | None = None
    """The wait from now on before any correction; None when nothing is expected."""


def last_lengths(connection: Connection, count: int) -> Sequence[Length]:
    """Lengths of the last that ended, counted as limits are: from admission on."""
    table = workloads.c
    rows = connection.execute(
        select(
            table.gpus,
            table.limit_seconds,
            table.admitted_at,
            table.ended_at,
        )
        .where(table.ended_at.is_not(None), table.admitted_at.is_not(None))
        .order_by(table.ended_at.desc())
        .limit(count)
    )
    return [
        Length(
            row.gpus,
            row.limit_seconds,
            max(0.0, (row.ended_at - row.admitted_at).total_seconds()),
        )
        for row in rows
    ]


def arrivals_since(connection: Connection, since: datetime, count: int) -> Sequence[Arrival]:
    """The last requests since a time, newest first."""
    table = workloads.c
    rows = connection.execute(
        select(
            table.submitted_at.label("at"),
            table.gpus,
            table.gpu_model,
            table.memory_bytes,
            table.cpu_millicores,
            table.limit_seconds,
            table.tier,
        )
        .where(table.submitted_at >= since)
        .order_by(table.sequence.desc())
        .limit(count)
    )
    return [Arrival(**row._mapping) for row in rows]


def anything_before(connection: Connection, at: datetime) -> bool:
    """Whether anybody asked for anything before a time."""
    return (
        connection.execute(
            select(workloads.c.id).where(workloads.c.submitted_at < at).limit(1)
        ).first()
        is not None
    )


def last_kept(connection: Connection, count: int) -> Sequence[Kept]:
    """The last forecasts whose outcome is known, oldest first, and those for who still waits."""
    table = workloads.c
    columns = select(
        table.first_forecast_seconds,
        table.first_expected_at,
        table.first_expected_from,
        table.first_expected_to,
        table.admitted_at,
    ).where(table.first_forecast_seconds.is_not(None))
    started = connection.execute(
        columns.where(table.admitted_at.is_not(None))
        .order_by(table.admitted_at.desc())
        .limit(count)
    ).all()
    waiting = connection.execute(
        columns.where(table.state == State.QUEUED.value).limit(count)
    ).all()
    return [Kept(*row) for row in [*reversed(started), *waiting]]


def shown(connection: Connection, identifiers: Collection[str]) -> dict[str, Shown]:
    """What those who wait are told: some of them, and whoever is told anything."""
    table = workloads.c
    rows = connection.execute(
        select(table.id, table.expected_from, table.expected_to, table.latest_start_at).where(
            table.state == State.QUEUED.value,
            or_(
                table.id.in_(identifiers),
                table.expected_from.is_not(None),
                table.latest_start_at.is_not(None),
            ),
        )
    )
    return {row.id: Shown(**row._mapping) for row in rows}


def show(connection: Connection, told: Sequence[Shown], at: datetime) -> None:
    """Write what those are told who still wait. The first range of each is kept for the record."""
    if not told:
        return
    waiting = and_(
        workloads.c.id == bindparam("workload"),
        workloads.c.state == State.QUEUED.value,
        workloads.c.blocked == "",
    )
    names = ("expected_from", "expected_to", "latest_start_at")
    connection.execute(
        update(workloads).where(waiting).values({name: bindparam(f"new_{name}") for name in names}),
        [_values(found, names) for found in told],
    )
    first = [found for found in told if found.expected_from is not None]
    if first:
        connection.execute(
            update(workloads)
            .where(waiting, workloads.c.first_expected_at.is_(None))
            .values(
                first_expected_from=bindparam("new_expected_from"),
                first_expected_to=bindparam("new_expected_to"),
                first_forecast_seconds=bindparam("new_forecast_seconds"),
                first_expected_at=at,
            ),
            [
                _values(found, ("expected_from", "expected_to", "forecast_seconds"))
                for found in first
            ],
        )


def _values(found: Shown, names: Sequence[str]) -> dict[str, Any]:
    return {"workload": found.id, **{f"new_{name}": getattr(found, name) for name in names}}
