"""What each user had of the pool lately, one row a user, decayed to the time it was written.

The arithmetic of the decay is in :mod:`dcloud_spawner.scheduler.fairness`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, select, update

from dcloud_spawner.store.schema import HOLDING, OPEN, shares, workloads


@dataclass(frozen=True, slots=True)
class ShareRow:
    """One row: amounts times seconds, as they count at the time ``at``."""

    user: str
    weight: float
    """Of the user's role, as it was when they last asked for something."""
    gpu_seconds: float
    cpu_core_seconds: float
    memory_gib_seconds: float
    at: datetime


@dataclass(frozen=True, slots=True)
class HeldNow:
    """What one workload of a user holds and how long it asked for it."""

    gpus: int
    cpu_millicores: int
    memory_bytes: int
    limit_seconds: int
    admitted_at: datetime


def find(connection: Connection, user: str) -> ShareRow | None:
    """The row of a user."""
    return find_all(connection, (user,)).get(user)


def find_all(connection: Connection, users: Collection[str]) -> dict[str, ShareRow]:
    """The rows of some users who have one, by name."""
    rows = connection.execute(select(shares).where(shares.c.user.in_(users))).all()
    return {row.user: ShareRow(**row._mapping) for row in rows}


def write_all(connection: Connection, rows: Collection[ShareRow]) -> None:
    """Write the rows of some users, new or not."""
    known = find_all(connection, [row.user for row in rows])
    changed = [
        {**asdict(row), "of_user": row.user} for row in rows if known.get(row.user, row) != row
    ]
    if changed:
        mine = update(shares).where(shares.c.user == bindparam("of_user"))
        connection.execute(mine.values({name: bindparam(name) for name in _AMOUNTS}), changed)
    new = [asdict(row) for row in rows if row.user not in known]
    if new:
        connection.execute(shares.insert(), new)


_AMOUNTS = ("weight", "gpu_seconds", "cpu_core_seconds", "memory_gib_seconds", "at")


def weights_of_active(connection: Connection, since: datetime) -> Mapping[str, float]:
    """Weight of each user who waits or holds something, or gave something back since a time."""
    open_users = select(workloads.c.user).where(
        workloads.c.state.in_([state.value for state in OPEN])
    )
    rows = connection.execute(
        select(shares.c.user, shares.c.weight).where(
            shares.c.user.in_(open_users) | ((shares.c.at >= since) & _used)
        )
    )
    return {row.user: row.weight for row in rows}


_used = (shares.c.gpu_seconds > 0) | (shares.c.cpu_core_seconds > 0)


def held_now(connection: Connection, user: str) -> list[HeldNow]:
    """What a user's workloads hold at this moment."""
    columns = (
        workloads.c.gpus,
        workloads.c.cpu_millicores,
        workloads.c.memory_bytes,
        workloads.c.limit_seconds,
        workloads.c.admitted_at,
    )
    rows = connection.execute(
        select(*columns).where(
            workloads.c.user == user,
            workloads.c.state.in_([state.value for state in HOLDING]),
        )
    )
    return [HeldNow(**row._mapping) for row in rows]
