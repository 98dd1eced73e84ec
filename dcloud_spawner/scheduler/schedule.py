"""One scheduling pass, in six steps. Any process may run it; the database serialises them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.engines.base import Health
from dcloud_spawner.scheduler.admission import shortage
from dcloud_spawner.scheduler.free import free_now
from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import occupancy_of
from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.plan import Plan, make_plan
from dcloud_spawner.scheduler.snapshot import (
    NEVER,
    Accelerator,
    Holding,
    Node,
    Request,
    Shape,
    Snapshot,
)
from dcloud_spawner.store import events, leases, nodes, workloads
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload

GIB = 2**30

SCHEDULER = Actor("scheduler")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Capacity:
    """How much of a node servers may use."""

    reserve_memory_bytes: int
    cpu_overcommit: float


def schedule(
    database: Database,
    capacity: Capacity,
    now: datetime,
    notify: Callable[[Sequence[str]], None] = lambda admitted: None,
) -> Plan:
    """Run a pass and return its plan. Raises only if the database does; then nothing changed."""
    with database.transaction() as connection:
        # 1. snapshot: nodes, accelerators, open leases, queue
        snapshot = take_snapshot(connection, capacity, now)
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
    # 6. after commit: notify
    notify([start.request.id for start in plan.starts])
    return plan


def take_snapshot(connection: Connection, capacity: Capacity, now: datetime) -> Snapshot:
    """Read the pool as one consistent picture.

    A node that the newest inventory did not list takes no work, as a drained one: an engine
    lists every node on which it can start something.
    """
    rows = nodes.all_nodes(connection)
    newest = max((row.seen_at for row in rows), default=now)
    closed = {row.name for row in rows if row.drained or row.seen_at < newest}
    holders = leases.holders(connection)
    held: dict[str, list[str]] = {}
    for accelerator, workload in holders.items():
        held.setdefault(workload, []).append(accelerator)
    return Snapshot(
        at=now.timestamp(),
        nodes={row.name: _node(row, capacity, closed=row.name in closed) for row in rows},
        accelerators={
            row.uuid: Accelerator(
                row.uuid,
                row.node,
                row.index,
                row.model,
                offered=row.health is Health.OK and row.node not in closed,
            )
            for row in nodes.all_accelerators(connection)
        },
        holdings=tuple(
            _holding(workload, tuple(held.get(workload.id, ())), now)
            for workload in workloads.holding(connection)
        ),
        queue=tuple(as_request(workload) for workload in workloads.queued(connection)),
    )


def _node(row: nodes.NodeRow, capacity: Capacity, *, closed: bool) -> Node:
    return Node(
        row.name,
        int(row.cpu_millicores * capacity.cpu_overcommit),
        max(0, row.memory_bytes - capacity.reserve_memory_bytes),
        drained=closed,
    )


def as_request(workload: Workload) -> Request:
    """A workload as the policy modules see it."""
    return Request(
        workload.id,
        workload.sequence,
        workload.user,
        workload.gpus,
        workload.gpu_model,
        workload.memory_bytes,
        workload.cpu_millicores,
        workload.limit_seconds,
        workload.submitted_at.timestamp(),
        workload.due_at.timestamp(),
        workload.tier,
        held=workload.held_at is not None,
        moved_at=workload.moved_at.timestamp() if workload.moved_at else None,
    )


def ends_at(workload: Workload, now: datetime) -> datetime | None:
    """The latest time at which a workload's own limit ends it; counts from readiness."""
    if workload.state is State.STOPPING:
        return now
    since = workload.ready_at or workload.starting_at or workload.admitted_at
    return since + timedelta(seconds=workload.limit_seconds) if since else None


def _holding(workload: Workload, accelerators: tuple[str, ...], now: datetime) -> Holding:
    assert workload.node is not None, f"{workload.id} holds resources of no node"
    end = ends_at(workload, now)
    return Holding(
        workload.id,
        workload.user,
        workload.node,
        accelerators,
        workload.memory_bytes,
        workload.cpu_millicores,
        end.timestamp() if end else NEVER,
        workload.tier,
        workload.reservation or "",
        workload.admitted_at.timestamp() if workload.admitted_at else 0.0,
    )


def commit(
    connection: Connection, snapshot: Snapshot, plan: Plan, names: PoolNames, now: datetime
) -> None:
    """Write a plan: leases and states of those who start, reasons of those who wait."""
    started: list[Holding] = []
    for start in plan.starts:
        placement = names.placement(start.grants[0])
        moved = workloads.transition(
            connection,
            start.request.id,
            State.ADMITTED,
            come_from=(State.QUEUED,),
            node=placement.node,
            admitted_at=now,
            reasons=[],
            latest_start_at=None,
        )
        assert moved, "the queue cannot change inside a serialised transaction"
        leases.open_leases(connection, start.request.id, placement.accelerators, now)
        events.note(
            connection,
            SCHEDULER,
            "workload.admit",
            start.request.id,
            at=now,
            detail={"node": placement.node, "accelerators": list(placement.accelerators)},
        )
        started.append(
            Holding(
                start.request.id,
                start.request.user,
                placement.node,
                placement.accelerators,
                start.request.memory_bytes,
                start.request.cpu_millicores,
            )
        )
    free = free_now(replace(snapshot, holdings=(*snapshot.holdings, *started)))
    short: dict[Shape, str] = {}
    before = {workload.id: workload for workload in workloads.queued(connection)}
    for request in plan.kept:
        if request.shape not in short:
            short[request.shape] = shortage(request, free, snapshot)
        reasons = [short[request.shape]] if short[request.shape] else []
        if reasons != list(before[request.id].reasons):
            workloads.set_values(connection, request.id, reasons=reasons)
