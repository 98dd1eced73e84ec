"""One scheduling pass, in six steps. Any process may run it; the database serialises them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection

from dcloud_spawner.scheduler.commit import SCHEDULER, commit, give_notices
from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import Occupancy, occupancy_of
from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.picture import (
    Capacity,
    as_request,
    candidates,
    ends_at,
    read_hardware,
    read_pool,
    request_of,
    take_snapshot,
)
from dcloud_spawner.scheduler.plan import Plan, make_plan
from dcloud_spawner.scheduler.preempt import Preemption
from dcloud_spawner.scheduler.snapshot import Snapshot
from dcloud_spawner.scheduler.verdicts import GateMaker, Verdicts, gates_of, look_again, write
from dcloud_spawner.store import events, reservations
from dcloud_spawner.store.database import Database

__all__ = ["GIB", "Capacity", "as_request", "ends_at", "read_hardware", "schedule", "take_snapshot"]

GIB = 2**30


def schedule(
    database: Database,
    capacity: Capacity,
    now: datetime,
    notify: Callable[[Sequence[str]], None] = lambda admitted: None,
    *,
    unused_after: timedelta = timedelta(minutes=15),
    preemption: Preemption = Preemption(),  # noqa: B008 (it is frozen)
    gates: Sequence[GateMaker] = (),
    set_aside: Callable[[Connection, Sequence[str], datetime], None] = lambda *admitted: None,
) -> Plan:
    """Run a pass and return its plan. Raises only if the database does; then nothing changed.

    ``unused_after`` is how long an advance reservation waits for the first of its people;
    ``gates`` are what a start has to pass besides fitting; ``set_aside`` holds what those who
    start will cost.
    """
    with _no_collections(), database.transaction() as connection:
        # 1. snapshot: nodes, accelerators, open leases, reservations, queue
        turn_reservations(connection, now, unused_after)
        pool = read_pool(connection, capacity, now)
        names = PoolNames(pool.nodes, pool.accelerators.values())
        # 2. verdicts: limits and budgets; whom they block waits out of the queue, with a reason
        if gates:
            look_again(connection, gates_of(gates, connection, now))
        # 3. order, 4. plan: who starts, and where
        snapshot, occupancy, plan = _decide(connection, pool, names, gates, now)
        # 5. commit: leases, states and reasons in this one transaction
        commit(connection, snapshot, plan, names, now)
        set_aside(connection, [start.request.id for start in plan.starts], now)
        give_notices(connection, snapshot, plan, occupancy, preemption, now)
    # 6. after commit: notify
    notify([start.request.id for start in plan.starts])
    return plan


class _Decision(NamedTuple):
    snapshot: Snapshot
    occupancy: Occupancy
    plan: Plan


FIRST_SPARE = 16


def _decide(
    connection: Connection,
    pool: Snapshot,
    names: PoolNames,
    makers: Sequence[GateMaker],
    now: datetime,
) -> _Decision:
    """The plan, and on the way who is blocked.

    Of each class as many are read as could start, and one more: too few when some of them may
    not. Then the walk begins again with more of them and new gates, so that the plan is always
    that of the whole queue. Nobody is marked before.
    """
    spare = 0
    while True:
        rows = candidates(connection, pool, spare)
        snapshot = replace(pool, queue=tuple(request_of(row) for row in rows))
        door = Verdicts(gates_of(makers, connection, now), rows) if makers else None
        occupancy = occupancy_of(snapshot, names)
        queue = ordered(snapshot.queue)
        plan = make_plan(occupancy, queue, snapshot.at, snapshot.reservations, door)
        if door is None or door.most_of_a_class <= spare:
            break
        spare = max(FIRST_SPARE, 4 * door.most_of_a_class)
    if door is not None:
        head = plan.kept[0].id if plan.kept else ""
        write(connection, door, [start.request for start in plan.starts], head)
    return _Decision(snapshot, occupancy, plan)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Let Python's cycle collector rest: a pass makes many thousands of small values, none of them
    in a cycle, and looking through them again and again took a fifth of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def turn_reservations(connection: Connection, now: datetime, unused_after: timedelta) -> None:
    """Begin, end and expire advance reservations as the clock says."""
    known = reservations.open_reservations(connection)
    for change in reservations.due_changes(known, now, unused_after):
        reservations.change(connection, change.id, change.to, change.detail)
        detail = {"detail": change.detail} if change.detail else {}
        action = f"reservation.{change.to.value}"
        events.note(connection, SCHEDULER, action, change.id, at=now, detail=detail)
