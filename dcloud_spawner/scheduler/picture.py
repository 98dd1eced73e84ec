"""The store's rows as the one consistent picture that the policies decide on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection

from dcloud_spawner.scheduler.snapshot import (
    Accelerator,
    Holding,
    Node,
    Request,
    Reservation,
    Snapshot,
)
from dcloud_spawner.store import leases, nodes, queue, reservations
from dcloud_spawner.store.nodes import Unit
from dcloud_spawner.store.queue import LAST_LATER, LAST_TIER, Held, Waiting
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload


@dataclass(frozen=True)
class Capacity:
    """How much of a node servers may use."""

    reserve_memory_bytes: int
    cpu_overcommit: float


def take_snapshot(
    connection: Connection, capacity: Capacity, now: datetime, *, everybody: bool = True
) -> Snapshot:
    """Read the pool.

    Without ``everybody`` the queue has only who could start now, and the head of it: a plan made
    of it starts the same as one made of the whole queue (see ``store.queue``).
    """
    picture = read_pool(connection, capacity, now)
    rows = queue.waiting(connection) if everybody else candidates(connection, picture)
    return replace(picture, queue=tuple(request_of(row) for row in rows))


def read_pool(connection: Connection, capacity: Capacity, now: datetime) -> Snapshot:
    """What there is, what is held and what is reserved; nobody waits."""
    hardware = read_hardware(connection, capacity, now)
    held: dict[str, list[str]] = {}
    for accelerator, workload in leases.holders(connection).items():
        held.setdefault(workload, []).append(accelerator)
    holdings = tuple(
        _holding(row, tuple(held.get(row.id, ())), now.timestamp())
        for row in queue.holding(connection)
    )
    return replace(hardware, holdings=holdings, reservations=_booked(connection))


def candidates(connection: Connection, picture: Snapshot, spare: int = 0) -> Sequence[Waiting]:
    """Who could start now and the head of the queue, also if of each class the first ``spare``
    may not."""
    taken = {uuid for holding in picture.holdings for uuid in holding.accelerators}
    free = sum(found.offered and uuid not in taken for uuid, found in picture.accelerators.items())
    memory, millicores = _left(picture)
    rows = queue.candidates(connection, free, memory, millicores, spare=spare)
    if not picture.reservations:
        return rows
    users = {user for found in picture.reservations for user in found.users}
    people = queue.of_people(connection, users, {found.id for found in picture.reservations})
    return list({row.id: row for row in (*rows, *people)}.values())


def _left(picture: Snapshot) -> tuple[int, int]:
    """Memory and cores that the nodes have left in all. A node on which more is held than it has
    (it lost memory, or its settings changed) has none left, and takes nothing from the others."""
    memory = {node.name: node.memory_bytes for node in picture.nodes.values() if not node.drained}
    millicores = {name: picture.nodes[name].cpu_millicores for name in memory}
    for held in picture.holdings:
        if held.node in memory:
            memory[held.node] -= held.memory_bytes
            millicores[held.node] -= held.cpu_millicores
    return (
        sum(max(0, left) for left in memory.values()),
        sum(max(0, left) for left in millicores.values()),
    )


def read_hardware(connection: Connection, capacity: Capacity, now: datetime) -> Snapshot:
    """What there is, as if nobody held or wanted anything.

    A node that the newest inventory did not list takes no work, as a drained one: an engine
    lists every node on which it can start something.
    """
    rows = nodes.all_nodes(connection)
    newest = max((row.seen_at for row in rows), default=now)
    closed = frozenset(row.name for row in rows if row.drained or row.seen_at < newest)
    return Snapshot(
        at=now.timestamp(),
        nodes={row.name: _node(row, capacity, closed=row.name in closed) for row in rows},
        accelerators=_accelerators(nodes.all_units(connection), closed),
        holdings=(),
        queue=(),
    )


class _Known(NamedTuple):
    units: list[Unit]
    closed: frozenset[str]
    accelerators: Mapping[str, Accelerator]


_known = _Known([], frozenset(), {})
"""The last answer of :func:`_accelerators`: hardware changes rarely, and a pool of thousands takes
longer to build than to compare."""


def _accelerators(units: list[Unit], closed: frozenset[str]) -> Mapping[str, Accelerator]:
    global _known
    known = _known
    if (units, closed) != (known.units, known.closed):
        made = {
            unit.uuid: Accelerator(
                unit.uuid,
                unit.node,
                unit.number,
                unit.model,
                offered=bool(unit.well) and unit.node not in closed,
                link_domain=unit.link_domain,
            )
            for unit in units
        }
        _known = known = _Known(units, closed, made)
    return known.accelerators


def _booked(connection: Connection) -> tuple[Reservation, ...]:
    """Advance reservations as the policies see them. Who is in their groups is known once they
    wait: their groups were looked up when they asked."""
    booked = reservations.open_reservations(connection)
    members = queue.members(connection) if booked else {}
    return tuple(
        Reservation(
            found.id,
            found.starts_at.timestamp(),
            found.ends_at.timestamp(),
            found.gpus,
            found.gpu_model,
            found.memory_bytes,
            found.cpu_millicores,
            frozenset(members.get(found.id, set()).union(found.users)),
        )
        for found in booked
    )


def _node(row: nodes.NodeRow, capacity: Capacity, *, closed: bool) -> Node:
    return Node(
        row.name,
        int(row.cpu_millicores * capacity.cpu_overcommit),
        max(0, row.memory_bytes - capacity.reserve_memory_bytes),
        drained=closed,
        labels=frozenset(f"{key}={value}" for key, value in row.labels.items()),
    )


def request_of(row: Waiting) -> Request:
    """A row of the queue as the policies see it."""
    return Request(
        row.id,
        row.sequence,
        row.user,
        row.gpus,
        row.gpu_model,
        row.memory_bytes,
        row.cpu_millicores,
        row.limit_seconds,
        row.due_at - row.slack_seconds - row.fair_seconds - row.last * LAST_LATER.total_seconds(),
        row.due_at,
        LAST_TIER if row.last else row.tier,
        held=row.held,
        moved_at=row.moved_at,
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
        LAST_TIER if waits_last(workload) else workload.tier,
        held=workload.held_at is not None or bool(workload.blocked),
        moved_at=workload.moved_at.timestamp() if workload.moved_at else None,
    )


def waits_last(workload: Workload) -> bool:
    """Whether it waits behind everybody, because its account cannot pay for it."""
    return workload.due_at - workload.submitted_at >= LAST_LATER


def ends_at(workload: Workload, now: datetime) -> datetime | None:
    """When a workload ends at the latest: at its limit, earlier where it was told so, or when the
    credits of its account are used up.

    The one place that says so, for the plan, the pages and whoever stops it. A limit counts from
    admission, for then its place is taken: a plan that is made at that moment stays true however
    long the launch takes. Before that there is no end.
    """
    if workload.state is State.STOPPING:
        return now
    if workload.admitted_at is None:
        return None
    end = workload.admitted_at + timedelta(seconds=workload.limit_seconds)
    told = (workload.notice_at, workload.budget_ends_at)
    return min((end, *(at for at in told if at is not None)))


def _holding(row: Held, accelerators: tuple[str, ...], now: float) -> Holding:
    """As :func:`ends_at` has it."""
    end = now if row.stopping else row.admitted_at + row.limit_seconds
    if not row.stopping:
        end = min((end, *(at for at in (row.notice_at, row.budget_ends_at) if at is not None)))
    return Holding(
        row.id,
        row.user,
        row.node,
        accelerators,
        row.memory_bytes,
        row.cpu_millicores,
        end,
        row.tier,
        row.reservation or "",
        row.admitted_at,
    )
