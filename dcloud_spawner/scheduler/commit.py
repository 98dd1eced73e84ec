"""Writing a plan: leases, states, log and reasons, in as few statements as there are kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.scheduler.admission import shortage
from dcloud_spawner.scheduler.free import free_now
from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import Occupancy
from dcloud_spawner.scheduler.picture import request_of
from dcloud_spawner.scheduler.plan import Plan, Start
from dcloud_spawner.scheduler.preempt import Preemption, choose_victims
from dcloud_spawner.scheduler.reasons import BOOKED, KEPT
from dcloud_spawner.scheduler.snapshot import Holding, Placement, Shape, Snapshot
from dcloud_spawner.store import events, leases, meters, queue, reservations, workloads
from dcloud_spawner.store.events import Actor, Line
from dcloud_spawner.store.queue import LAST_TIER, Admission
from dcloud_spawner.store.workloads import PREEMPTED

SCHEDULER = Actor("scheduler")

LAST = "Its account has too few credits left, so it waits behind everybody."
"""Said where the budget is soft."""

EXPLAINED = 500
"""Places from the head for which a pass writes what is short. Whoever stands behind them is told
how many are ahead: to say a changed number of free GPUs to all would cost more than the pass."""


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
    _explain(connection, replace(snapshot, holdings=(*snapshot.holdings, *started)), plan)


def _explain(connection: Connection, snapshot: Snapshot, plan: Plan) -> None:
    """Say what is short, to those to whom it has not been said yet."""
    head = plan.kept[0].id if plan.kept else ""
    free = free_now(snapshot)
    away = {uuid: found for uuid, found in snapshot.accelerators.items() if not found.offered}
    snapshot = replace(snapshot, accelerators=away)  # all that the words need of thousands
    short: dict[Shape, list[str]] = {}
    changed = []
    for row, said in queue.first_in_line(connection, EXPLAINED):
        request = request_of(row)
        if request.shape not in short:
            text = shortage(request, free, snapshot)
            short[request.shape] = [text] if text else []
        reasons = short[request.shape]
        if not reasons and row.id == head and snapshot.reservations:
            begun = any(found.starts_at <= snapshot.at for found in snapshot.reservations)
            reasons = [KEPT if begun else BOOKED]
        if row.last:
            reasons = [*reasons, LAST]
        if said != reasons:
            changed.append((row.id, reasons))
    queue.explain(connection, changed)


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
    queue.admit(connection, admissions, now)
    leases.open_leases(connection, held, now)
    meters.open_admitted(connection)
    events.note_all(connection, lines, at=now)
    used = {start.reservation for start, _ in begun if start.reservation}
    if used:
        reservations.mark_used(connection, used, now)


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
    last = {running.id for running in occupancy.running if running.tier == LAST_TIER}
    for identifier in sorted(chosen - before):
        detail = f"A request of the tier {plan.kept[0].tier} needs its place."
        if identifier in last:
            detail = "Its account has no credits left, and somebody else needs its place."
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
