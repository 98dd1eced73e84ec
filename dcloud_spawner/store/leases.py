"""Leases: one open row for each accelerator that is held (invariant 1)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import Connection, select, update

from dcloud_spawner.store.schema import leases


def open_leases(connection: Connection, held: Collection[tuple[str, str]], at: datetime) -> None:
    """Lease accelerators to workloads, each pair the UUID and the workload's id; the database
    refuses one that is already leased."""
    if held:
        connection.execute(
            leases.insert(),
            [
                {"accelerator": accelerator, "workload": workload, "opened_at": at}
                for accelerator, workload in held
            ],
        )


def close_leases(connection: Connection, workloads: Collection[str], at: datetime) -> int:
    """End all open leases of some workloads; returns how many there were."""
    result = connection.execute(
        update(leases)
        .where(leases.c.workload.in_(workloads), leases.c.closed_at.is_(None))
        .values(closed_at=at)
    )
    return result.rowcount


def holders(connection: Connection) -> Mapping[str, str]:
    """Workload that holds each leased accelerator, by accelerator UUID."""
    rows = connection.execute(
        select(leases.c.accelerator, leases.c.workload).where(leases.c.closed_at.is_(None))
    )
    return {row.accelerator: row.workload for row in rows}


def held_by(connection: Connection, workload: str) -> tuple[str, ...]:
    """UUIDs that a workload holds now, in a fixed order."""
    return tuple(
        connection.scalars(
            select(leases.c.accelerator)
            .where(leases.c.workload == workload, leases.c.closed_at.is_(None))
            .order_by(leases.c.accelerator)
        )
    )
