"""What each session is charged by, how far it is charged, and use by the hour."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, exists, func, insert, select, update

from dcloud_spawner.ledger.cost import Quantity, Span
from dcloud_spawner.store.ledger_schema import entries, meters, spans, usage_hours
from dcloud_spawner.store.schema import State, workloads


@dataclass(frozen=True)
class Meter:
    """One session's. Amounts in micro-credits, quantities in microseconds of one."""

    workload: str
    account: str
    user: str
    held_microcredits: int
    began_at: datetime | None
    watermark_at: datetime | None
    charged_microcredits: int
    gpu_microseconds: int
    cpu_microseconds: int
    memory_gib_microseconds: int
    free_microseconds: int
    settled_at: datetime | None


@dataclass(frozen=True)
class HourlyUse:
    """What is added to one row of use by the hour."""

    account: str
    user: str
    gpu_model: str
    """Empty where there is no GPU."""
    hour: datetime
    quantity: Quantity
    microcredits: int
    """What was charged, positive."""


def open_admitted(connection: Connection) -> None:
    """New meters, with nothing charged, for all that was admitted and has an account that pays."""
    paid = select(workloads.c.id, workloads.c.account, workloads.c.user).where(
        workloads.c.state == State.ADMITTED.value,
        workloads.c.account.is_not(None),
        ~exists().where(meters.c.workload == workloads.c.id),
    )
    connection.execute(insert(meters).from_select(["workload", "account", "user"], paid))


def find(connection: Connection, workload: str) -> Meter | None:
    """The meter of a session; None before its admission, and for what is older than the ledger."""
    row = connection.execute(select(meters).where(meters.c.workload == workload)).one_or_none()
    return Meter(**row._mapping) if row else None


def find_all(connection: Connection, identifiers: Collection[str]) -> dict[str, Meter]:
    """Meters of some sessions, by workload."""
    rows = connection.execute(select(meters).where(meters.c.workload.in_(identifiers)))
    return {row.workload: Meter(**row._mapping) for row in rows}


def open_meters(connection: Connection) -> list[Meter]:
    """Meters of everything that is admitted and not settled for good."""
    rows = connection.execute(select(meters).where(meters.c.settled_at.is_(None)))
    return [Meter(**row._mapping) for row in rows]


def set_values(connection: Connection, workload: str, **values: object) -> None:
    """Set columns."""
    connection.execute(update(meters).where(meters.c.workload == workload).values(**values))


def latest_watermark(connection: Connection) -> datetime | None:
    """The newest time up to which anything was ever charged, given back since or not. Looks at
    every entry: for what happens rarely."""
    found: datetime | None = connection.execute(select(func.max(entries.c.until_at))).scalar()
    return found


def spans_of(connection: Connection, workload: str) -> list[Span]:
    """What a session held, in the order of time."""
    rows = connection.execute(
        select(spans).where(spans.c.workload == workload).order_by(spans.c.begins_at, spans.c.id)
    )
    return [
        Span(
            row.begins_at,
            row.gpu_models,
            row.cpu_millicores,
            row.memory_bytes,
            row.free_reason,
        )
        for row in rows
    ]


def add_span(connection: Connection, workload: str, span: Span) -> None:
    """From ``span.begins_at`` on a session holds this."""
    connection.execute(
        spans.insert().values(
            workload=workload,
            begins_at=span.begins_at,
            gpu_models=dict(span.gpu_models),
            cpu_millicores=span.cpu_millicores,
            memory_bytes=span.memory_bytes,
            free_reason=span.free_reason,
        )
    )


_KEY = ("account", "user", "gpu_model", "hour")
_ADDED = ("gpu_microseconds", "cpu_microseconds", "memory_gib_microseconds", "microcredits")


def add_use(connection: Connection, used: Sequence[HourlyUse]) -> None:
    """Add to use by the hour."""
    for each in used:
        values = {
            "gpu_microseconds": each.quantity.gpu_microseconds,
            "cpu_microseconds": each.quantity.cpu_microseconds,
            "memory_gib_microseconds": each.quantity.memory_gib_microseconds,
            "microcredits": each.microcredits,
        }
        key = {name: getattr(each, name) for name in _KEY}
        mine = [usage_hours.c[name] == bindparam(f"of_{name}") for name in _KEY]
        changed = connection.execute(
            update(usage_hours)
            .where(*mine)
            .values({name: usage_hours.c[name] + bindparam(f"add_{name}") for name in _ADDED}),
            {
                **{f"of_{name}": value for name, value in key.items()},
                **{f"add_{name}": value for name, value in values.items()},
            },
        )
        if changed.rowcount == 0:
            connection.execute(usage_hours.insert(), {**key, **values})
