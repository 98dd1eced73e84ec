"""Who starts now, and when the others can at the latest: EASY backfilling.

The queue is placed from its head. The first request that does not fit gets a reservation at
the earliest time that the running work's own limits allow. A later one starts now only if it
ends before that time or the reserved request still fits at that time beside it.
Source of the method: Lifka, "The ANL/IBM SP scheduling system", JSSPP 1995.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from dcloud_spawner.scheduler.admission import shortage, waiting_reasons
from dcloud_spawner.scheduler.placement import FreeNode, empty_pool, place, placements
from dcloud_spawner.scheduler.snapshot import Holding, Placement, Request, Snapshot

FORECAST_LIMIT = 200
"""Places in the queue that get a latest start; behind them nobody could trust it."""


@dataclass(frozen=True, slots=True)
class Start:
    """A request that starts now, and where."""

    request: Request
    placement: Placement


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits: its place (1 is the head), why, and its latest start."""

    request: Request
    place: int
    reasons: tuple[str, ...]
    latest_start_at: datetime | None
    """When it starts at the latest if nobody overtakes it; None when no limit tells."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The outcome of one pass."""

    starts: tuple[Start, ...]
    waiting: tuple[Waiting, ...]


@dataclass(slots=True)
class _Reservation:
    at: datetime
    request: Request
    pool: dict[str, FreeNode]
    """What is free at that time for the reserved request and whoever still runs beside it."""

    def leaves_room(self, request: Request, placement: Placement) -> bool:
        """Whether the reserved request could start in time if another one still ran there."""
        node = self.pool[placement.node].copy()
        node.take(request, placement.accelerators)
        return place({**self.pool, node.name: node}, self.request) is not None


def make_plan(snapshot: Snapshot, queue: Sequence[Request]) -> Plan:
    """Decide for a queue that is already in order. Pure: same input, same plan."""
    free = free_now(snapshot)
    running = list(snapshot.holdings)
    starts: list[Start] = []
    kept: list[Request] = []
    reservation: _Reservation | None = None
    # Within a pass the free only shrinks: a shape that did not fit once never does.
    hopeless: set[tuple[object, ...]] = set()
    for request in queue:
        placement = (
            None
            if request.shape in hopeless
            else place(free, request)
            if reservation is None
            else _backfill(free, reservation, request, snapshot.at)
        )
        if placement is None:
            kept.append(request)
            if request.shape not in hopeless and place(free, request) is None:
                hopeless.add(request.shape)
            if reservation is None:
                reservation = _reserve(snapshot, free, running, request)
            continue
        free[placement.node].take(request, placement.accelerators)
        running.append(_as_holding(request, placement, snapshot.at))
        starts.append(Start(request, placement))
    latest = _latest_starts(snapshot, free, running, kept[:FORECAST_LIMIT])
    waiting = []
    gpus_ahead = 0
    shortages: dict[tuple[object, ...], str] = {}
    for index, request in enumerate(kept):
        if request.shape not in shortages:
            shortages[request.shape] = shortage(request, free, snapshot)
        reasons = waiting_reasons(shortages[request.shape], index, gpus_ahead)
        waiting.append(Waiting(request, index + 1, reasons, latest.get(request.id)))
        gpus_ahead += request.gpus
    return Plan(tuple(starts), tuple(waiting))


def free_now(snapshot: Snapshot) -> dict[str, FreeNode]:
    """What every node that takes work has free at the time of the snapshot."""
    free = empty_pool(snapshot.nodes, snapshot.accelerators)
    for holding in snapshot.holdings:
        node = free.get(holding.node)
        if node is not None:
            node.cpu_millicores -= holding.cpu_millicores
            node.memory_bytes -= holding.memory_bytes
            for uuid in holding.accelerators:
                node.accelerators.pop(uuid, None)
    return free


def _as_holding(request: Request, placement: Placement, at: datetime) -> Holding:
    return Holding(
        request.id,
        request.user,
        placement.node,
        placement.accelerators,
        request.memory_bytes,
        request.cpu_millicores,
        at + timedelta(seconds=request.limit_seconds),
    )


def _release(free: Mapping[str, FreeNode], holding: Holding, snapshot: Snapshot) -> None:
    node = free.get(holding.node)
    if node is None:
        return
    node.cpu_millicores += holding.cpu_millicores
    node.memory_bytes += holding.memory_bytes
    for uuid in holding.accelerators:
        accelerator = snapshot.accelerators.get(uuid)
        if accelerator is not None and accelerator.offered:
            node.accelerators[uuid] = accelerator


def _ends(running: Iterable[Holding], now: datetime) -> list[tuple[datetime, Holding]]:
    """Holdings with a known limit, by their end. One past its limit is about to be stopped, but
    holds on until the engine confirms: it counts as ending now, never as already free."""
    return sorted(
        ((max(held.ends_at, now), held) for held in running if held.ends_at is not None),
        key=lambda pair: (pair[0], pair[1].id),
    )


def _copy(free: Mapping[str, FreeNode]) -> dict[str, FreeNode]:
    return {name: node.copy() for name, node in free.items()}


def _reserve(
    snapshot: Snapshot, free: Mapping[str, FreeNode], running: Iterable[Holding], request: Request
) -> _Reservation | None:
    future = _copy(free)
    for at, ending in groupby(_ends(running, snapshot.at), key=lambda pair: pair[0]):
        for _, held in ending:
            _release(future, held, snapshot)
        if place(future, request) is not None:
            return _Reservation(at, request, future)
    return None


def _backfill(
    free: Mapping[str, FreeNode], reservation: _Reservation, request: Request, now: datetime
) -> Placement | None:
    """Where a later request starts now without delaying the reserved one, or None."""
    if now + timedelta(seconds=request.limit_seconds) <= reservation.at:
        return place(free, request)
    for placement in placements(free, request):
        if reservation.leaves_room(request, placement):
            reservation.pool[placement.node].take(request, placement.accelerators)
            return placement
    return None


def _latest_starts(
    snapshot: Snapshot,
    free: Mapping[str, FreeNode],
    running: Iterable[Holding],
    queue: Iterable[Request],
) -> dict[str, datetime]:
    """Start of each waiting request if everyone uses up the whole limit and nobody overtakes.

    One that no known limit makes room for (its GPUs are drained, say) has none, and those
    behind it are planned around it, as the pass itself does.
    """
    pool, at_last = _copy(free), _copy(free)
    ends = _ends(running, snapshot.at)
    for _, held in ends:
        _release(at_last, held, snapshot)
    now = snapshot.at
    latest: dict[str, datetime] = {}
    for request in queue:
        if place(at_last, request) is None:
            continue
        placement = place(pool, request)
        while placement is None and ends:
            now, held = ends.pop(0)
            _release(pool, held, snapshot)
            placement = place(pool, request)
        assert placement is not None, "everything has ended, so it is as free as at_last"
        pool[placement.node].take(request, placement.accelerators)
        latest[request.id] = now
        end = (now + timedelta(seconds=request.limit_seconds), _as_holding(request, placement, now))
        ends.append(end)
        ends.sort(key=lambda pair: (pair[0], pair[1].id))
    return latest
