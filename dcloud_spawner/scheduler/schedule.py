"""One scheduling pass, in six steps. Any process may run it; the database serialises them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.scheduler.commit import SCHEDULER, commit, give_notices
from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import occupancy_of
from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.picture import (
    Capacity,
    as_request,
    ends_at,
    read_hardware,
    take_snapshot,
)
from dcloud_spawner.scheduler.plan import Plan, make_plan
from dcloud_spawner.scheduler.preempt import Preemption
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
) -> Plan:
    """Run a pass and return its plan. Raises only if the database does; then nothing changed.

    ``unused_after`` is how long an advance reservation waits for the first of its people.
    """
    with _no_collections(), database.transaction() as connection:
        # 1. snapshot: nodes, accelerators, open leases, reservations, queue
        turn_reservations(connection, now, unused_after)
        snapshot = take_snapshot(connection, capacity, now, everybody=False)
        # 2. verdicts: quotas and budgets of the ledger join here; today nobody is held back
        candidates = snapshot.queue
        # 3. order
        queue = ordered(candidates)
        # 4. plan: who starts, and where
        names = PoolNames(snapshot.nodes, snapshot.accelerators.values())
        occupancy = occupancy_of(snapshot, names)
        plan = make_plan(occupancy, queue, snapshot.at, snapshot.reservations)
        # 5. commit: leases, states and reasons in this one transaction
        commit(connection, snapshot, plan, names, now)
        give_notices(connection, snapshot, plan, occupancy, preemption, now)
    # 6. after commit: notify
    notify([start.request.id for start in plan.starts])
    return plan


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
