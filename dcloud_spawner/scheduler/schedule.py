"""One scheduling pass, in six steps. Any process may run it; the database serialises them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.engines.base import Health
from dcloud_spawner.scheduler.admission import shortage
from dcloud_spawner.scheduler.free import free_now
from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import Occupancy, occupancy_of
from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.plan import Plan, Start, make_plan
from dcloud_spawner.scheduler.preempt import Preemption, choose_victims
from dcloud_spawner.scheduler.snapshot import (
    NEVER,
    Accelerator,
    Holding,
    Node,
    Placement,
    Request,
    Reservation,
    Shape,
    Snapshot,
)
from dcloud_spawner.store import events, leases, nodes, reservations, workloads
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.events import Actor, Line
from dcloud_spawner.store.reservations import Reservation as ReservationRow
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import PREEMPTED, Admission, Workload

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
    *,
    unused_after: timedelta = timedelta(minutes=15),
    preemption: Preemption = Preemption(),  # noqa: B008 (it is frozen)
) -> Plan:
    """Run a pass and return its plan. Raises only if the database does; then nothing changed.

    ``unused_after`` is how long an advance reservation waits for the first of its people.
    """
    with database.transaction() as connection:
        # 1. snapshot: nodes, accelerators, open leases, reservations, queue
        turn_reservations(connection, now, unused_after)
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
        give_notices(connection, snapshot, plan, occupancy, preemption, now)
    # 6. after commit: notify
    notify([start.request.id for start in plan.starts])
    return plan


def take_snapshot(connection: Connection, capacity: Capacity, now: datetime) -> Snapshot:
    """Read the pool as one consistent picture."""
    hardware = read_hardware(connection, capacity, now)
    queued = workloads.queued(connection)
    held: dict[str, list[str]] = {}
    for accelerator, workload in leases.holders(connection).items():
        held.setdefault(workload, []).append(accelerator)
    return replace(
        hardware,
        holdings=tuple(
            _holding(workload, tuple(held.get(workload.id, ())), now)
            for workload in workloads.holding(connection)
        ),
        queue=tuple(as_request(workload) for workload in queued),
        reservations=tuple(
            _reservation(found, queued) for found in reservations.open_reservations(connection)
        ),
    )


def read_hardware(connection: Connection, capacity: Capacity, now: datetime) -> Snapshot:
    """What there is, as if nobody held or wanted anything.

    A node that the newest inventory did not list takes no work, as a drained one: an engine
    lists every node on which it can start something.
    """
    rows = nodes.all_nodes(connection)
    newest = max((row.seen_at for row in rows), default=now)
    closed = {row.name for row in rows if row.drained or row.seen_at < newest}
    return Snapshot(
        at=now.timestamp(),
        nodes={row.name: _node(row, capacity, closed=row.name in closed) for row in rows},
        accelerators={
            row.uuid: Accelerator(
                row.uuid,
                row.node,
                row.index,
                row.model,
                offered=row.health is Health.OK and not row.drained and row.node not in closed,
                link_domain=row.link_domain,
            )
            for row in nodes.all_accelerators(connection)
        },
        holdings=(),
        queue=(),
    )


def turn_reservations(connection: Connection, now: datetime, unused_after: timedelta) -> None:
    """Begin, end and expire advance reservations as the clock says."""
    known = reservations.open_reservations(connection)
    for change in reservations.due_changes(known, now, unused_after):
        reservations.change(connection, change.id, change.to, change.detail)
        detail = {"detail": change.detail} if change.detail else {}
        action = f"reservation.{change.to.value}"
        events.note(connection, SCHEDULER, action, change.id, at=now, detail=detail)


def _reservation(found: ReservationRow, queued: Sequence[Workload]) -> Reservation:
    """A reservation as the policies see it. Who is in its groups is known once they wait: their
    groups were looked up when they asked."""
    members = {workload.user for workload in queued if workload.reservation == found.id}
    return Reservation(
        found.id,
        found.starts_at.timestamp(),
        found.ends_at.timestamp(),
        found.gpus,
        found.gpu_model,
        found.memory_bytes,
        found.cpu_millicores,
        frozenset(members.union(found.users)),
    )


def _node(row: nodes.NodeRow, capacity: Capacity, *, closed: bool) -> Node:
    return Node(
        row.name,
        int(row.cpu_millicores * capacity.cpu_overcommit),
        max(0, row.memory_bytes - capacity.reserve_memory_bytes),
        drained=closed,
        labels=frozenset(f"{key}={value}" for key, value in row.labels.items()),
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
    """When a workload ends at the latest: at its limit, or earlier where it was told so.

    The one place that says so, for the plan, the pages and whoever stops it. A limit counts from
    admission, for then its place is taken: a plan that is made at that moment stays true however
    long the launch takes. Before that there is no end.
    """
    if workload.state is State.STOPPING:
        return now
    if workload.admitted_at is None:
        return None
    end = workload.admitted_at + timedelta(seconds=workload.limit_seconds)
    return end if workload.notice_at is None else min(end, workload.notice_at)


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
    begun = [(start, names.placement(start.grants[0])) for start in plan.starts]
    _admit(connection, snapshot, begun, now)
    started = [
        Holding(
            start.request.id,
            start.request.user,
            placement.node,
            placement.accelerators,
            start.request.memory_bytes,
            start.request.cpu_millicores,
        )
        for start, placement in begun
    ]
    free = free_now(replace(snapshot, holdings=(*snapshot.holdings, *started)))
    short: dict[Shape, str] = {}
    before = {workload.id: workload for workload in workloads.queued(connection)}
    for request in plan.kept:
        if request.shape not in short:
            short[request.shape] = shortage(request, free, snapshot)
        reasons = [short[request.shape]] if short[request.shape] else []
        if reasons != list(before[request.id].reasons):
            workloads.set_values(connection, request.id, reasons=reasons)


def give_notices(
    connection: Connection,
    snapshot: Snapshot,
    plan: Plan,
    occupancy: Occupancy,
    rule: Preemption,
    now: datetime,
) -> None:
    """Tell work of a preemptible tier when it will be stopped for the head of the queue, and
    take back what proves not to be needed. ``occupancy`` is as the plan left it."""
    before = workloads.noticed(connection, PREEMPTED)
    chosen: frozenset[str] = frozenset()
    if plan.kept:
        head, reservations = plan.kept[0], snapshot.reservations
        chosen = choose_victims(rule, occupancy, head, snapshot.at, reservations, before)
    if chosen == before:
        return
    lines = []
    at = now + timedelta(seconds=rule.notice_seconds)
    for identifier in sorted(chosen - before):
        detail = f"A request of the tier {plan.kept[0].tier} needs its place."
        workloads.set_values(
            connection, identifier, notice_at=at, notice_reason=PREEMPTED, notice_detail=detail
        )
        told: dict[str, object] = {"at": at.isoformat(), "for": plan.kept[0].id}
        lines.append(Line(SCHEDULER, "workload.notice", identifier, detail=told))
    for identifier in sorted(before - chosen):
        workloads.set_values(
            connection, identifier, notice_at=None, notice_reason="", notice_detail=""
        )
        lines.append(Line(SCHEDULER, "workload.notice_withdrawn", identifier))
    events.note_all(connection, lines, at=now)


def _admit(
    connection: Connection,
    snapshot: Snapshot,
    begun: Sequence[tuple[Start, Placement]],
    now: datetime,
) -> None:
    if not begun:
        return
    ends = {found.id: found.ends_at for found in snapshot.reservations}
    admissions, lines, held = [], [], []
    for start, placement in begun:
        request = start.request
        notice_at = None
        if start.reservation and ends[start.reservation] < snapshot.at + request.limit_seconds:
            notice_at = datetime.fromtimestamp(ends[start.reservation], UTC)
        admissions.append(
            Admission(request.id, placement.node, start.reservation or None, notice_at)
        )
        held += [(uuid, request.id) for uuid in placement.accelerators]
        detail: dict[str, object] = {
            "node": placement.node,
            "accelerators": list(placement.accelerators),
        }
        if start.reservation:
            detail["reservation"] = start.reservation
        lines.append(Line(SCHEDULER, "workload.admit", request.id, detail=detail))
    workloads.admit(connection, admissions, now)
    leases.open_leases(connection, held, now)
    events.note_all(connection, lines, at=now)
    used = {start.reservation for start, _ in begun if start.reservation}
    if used:
        reservations.mark_used(connection, used, now)
