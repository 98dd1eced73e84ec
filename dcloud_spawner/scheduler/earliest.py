"""The earliest time at which a request that does not fit now will, at the latest."""

from __future__ import annotations

from collections.abc import Sequence

from dcloud_spawner.scheduler.guard import Guard
from dcloud_spawner.scheduler.occupancy import Occupancy
from dcloud_spawner.scheduler.reserved import pool_at
from dcloud_spawner.scheduler.snapshot import NEVER, WHOLE, Request, Reservation


def earliest_guard(
    occupancy: Occupancy,
    request: Request,
    now: float,
    reservations: Sequence[Reservation] = (),
) -> Guard | None:
    """The guard of a request at the earliest time that the limits of what runs allow, or None
    when no known limit makes room. What is past its limit counts as ending now, never as free."""
    to_come = [found for found in reservations if found.ends_at > now]
    if request.shape.milli == WHOLE:
        first = _earliest(occupancy, request, now)
        if first is None:
            return None
    else:
        first = now
    if request.shape.milli == WHOLE and not to_come:
        return _guard(occupancy, to_come, request, first, now)
    times = {max(running.ends_at, now) for running in occupancy.running}
    times |= {found.ends_at for found in to_come} | {first}
    for at in sorted(time for time in times if first <= time < NEVER):
        if _clear(occupancy, to_come, request, at, now):
            return _guard(occupancy, to_come, request, at, now)
    return None


def _guard(
    occupancy: Occupancy,
    reservations: Sequence[Reservation],
    request: Request,
    at: float,
    now: float,
) -> Guard:
    part = request.shape._replace(parts=1)
    pool = pool_at(occupancy, reservations, at, now)
    return Guard(at, pool, part, request.parts, one_on_each_node=True)


def _clear(
    occupancy: Occupancy,
    reservations: Sequence[Reservation],
    request: Request,
    at: float,
    now: float,
) -> bool:
    """Whether the request fits from a time on, beside every reservation that begins meanwhile."""
    meanwhile = [
        found.starts_at
        for found in reservations
        if at < found.starts_at < at + request.limit_seconds
    ]
    return all(
        _guard(occupancy, reservations, request, time, now).holds for time in (at, *meanwhile)
    )


def _earliest(occupancy: Occupancy, request: Request, now: float) -> float | None:
    """The earliest time for whole GPUs or none, from what runs alone. The inner loop of a pass,
    so it counts in plain integers instead of asking arrays one by one."""
    shape, pool = request.shape, occupancy.pool
    layout = pool.layout
    allowed = layout.allowed(shape).tolist()
    full, memory, cpu = pool.full.tolist(), pool.memory.tolist(), pool.cpu.tolist()
    siblings, groups = layout.siblings, layout.groups
    fitting = {groups[row].node for row in pool.fits(shape._replace(parts=1)).nonzero()[0]}
    if len(fitting) >= shape.parts:
        return now
    gpus, asked_memory, asked_cpu = shape.gpus, shape.memory_bytes, shape.cpu_millicores
    for running in occupancy.running:
        if running.ends_at == NEVER:
            break
        for grant in running.grants:
            if grant.milli == WHOLE:
                full[grant.row] += len(grant.gpus)
            rows = siblings[grant.row]
            for row in rows:
                memory[row] += grant.memory_bytes
                cpu[row] += grant.cpu_millicores
                if (
                    full[row] >= gpus
                    and allowed[row]
                    and memory[row] >= asked_memory
                    and cpu[row] >= asked_cpu
                ):
                    fitting.add(groups[row].node)
        if len(fitting) >= shape.parts:
            return max(running.ends_at, now)
    return None
