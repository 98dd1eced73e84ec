"""What pages show of everybody's accounts, read at once."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, func, select

from dcloud_spawner.store.ledger_schema import account_members, spans


def projects_of_users(connection: Connection) -> dict[str, tuple[str, ...]]:
    """Ids of the projects that everybody is in, by user."""
    found: dict[str, list[str]] = {}
    for row in connection.execute(select(account_members.c.user, account_members.c.account)):
        found.setdefault(row.user, []).append(row.account)
    return {user: tuple(accounts) for user, accounts in found.items()}


def free_now(connection: Connection, workloads: Collection[str]) -> frozenset[str]:
    """Those sessions whose present span costs nothing."""
    last = (
        select(func.max(spans.c.id).label("id"))
        .where(spans.c.workload.in_(workloads))
        .group_by(spans.c.workload)
        .subquery()
    )
    rows = connection.execute(
        select(spans.c.workload).where(spans.c.id.in_(select(last.c.id)), spans.c.free_reason != "")
    )
    return frozenset(row.workload for row in rows)
