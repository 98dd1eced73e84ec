"""When those who wait will start: at the latest, and as it is expected. Pure.

The first is what the limits promise: everybody uses up the limit and nobody overtakes. The
second plays the present plan forward through the very policy that decides, with lengths as they
really were lately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from dcloud_spawner.scheduler.earliest import earliest_guard
from dcloud_spawner.scheduler.occupancy import Occupancy, Running
from dcloud_spawner.scheduler.replay import Job, Replay
from dcloud_spawner.scheduler.reserved import covers, hold, hold_active
from dcloud_spawner.scheduler.runtimes import RunTimes
from dcloud_spawner.scheduler.snapshot import NEVER, Request, Reservation

FORECAST_LIMIT = 200
"""Places in the queue that get a time; behind them nobody could trust it."""

Quantile = Callable[[str], float]
"""How long something runs, among those like it: 0 the shortest, 1 the longest. By its id."""


def median(identifier: str) -> float:
    """Everything is as usual."""
    return 0.5


def copy_of(occupancy: Occupancy) -> Occupancy:
    """An occupancy that may be played with."""
    other = Occupancy(occupancy.pool.copy(), occupancy.placer.usual)
    other.running = list(occupancy.running)
    return other


def latest_starts(
    occupancy: Occupancy,
    queue: Sequence[Request],
    now: float,
    reservations: Sequence[Reservation] = (),
) -> dict[str, float]:
    """Start of each of the first of a queue in order, if everybody uses up the limit and nobody
    overtakes. One that no known limit makes room for (its GPUs are drained, say) has none, and
    those behind it are planned around it, as the pass itself does."""
    pool = copy_of(occupancy)
    hold_active(pool, reservations, now)
    to_come = [found for found in reservations if found.starts_at > now]
    at, latest = now, {}
    for request in queue[:FORECAST_LIMIT]:
        guard = earliest_guard(pool, request, at, to_come)
        if guard is None:
            continue
        at = guard.at
        while pool.running and pool.running[0].ends_at <= at:
            pool.end(pool.running[0])
        for found in [found for found in to_come if found.starts_at <= at]:
            to_come.remove(found)
            if covers(found, at):
                hold(pool, found, found.gpus)
        grants = pool.placer.place(request.shape)
        if grants is None:
            continue  # a reservation has fallen otherwise than its guard thought
        pool.begin(Running(request.id, at + request.limit_seconds, grants))
        latest[request.id] = at
    return latest


def expected_starts(
    occupancy: Occupancy,
    queue: Sequence[Request],
    now: float,
    times: RunTimes,
    reservations: Sequence[Reservation] = (),
    *,
    quantile: Quantile = median,
    arrivals: Iterator[Job] | None = None,
    wanted: Iterable[str] | None = None,
) -> dict[str, float]:
    """Start of each of the first of a queue in order, if work lasts as it did lately.

    ``arrivals`` is who else comes, in the order of time; ``wanted`` is whom the caller wants to
    know about, all by default. Who never gets room has none.
    """
    replay = Replay(copy_of(occupancy), now, reservations)
    for running in occupancy.running:
        ends_at = expected_end(running, now, times, quantile(running.id))
        if ends_at < NEVER:
            replay.ends_at(running, ends_at)
    first = queue[:FORECAST_LIMIT]
    for request in first:
        replay.submit(_job(request, times, quantile))
    waits = {request.id for request in first}
    waits &= set(wanted) if wanted is not None else waits
    _play(replay, waits, reservations, arrivals)
    return {identifier: at for identifier, at in replay.started.items() if identifier in waits}


def expected_end(running: Running, now: float, times: RunTimes, quantile: float = 0.5) -> float:
    """When something that runs will end, given that it has run so long."""
    if running.ends_at <= now:
        return now
    if running.ends_at == NEVER:
        return NEVER
    started_at = min(running.started_at, now)
    gpus = sum(len(grant.gpus) for grant in running.grants)
    length = times.runtime_seconds(
        gpus, running.ends_at - started_at, at=quantile, used_seconds=now - started_at
    )
    return min(running.ends_at, max(now, started_at + length))


def _job(request: Request, times: RunTimes, quantile: Quantile) -> Job:
    length = times.runtime_seconds(request.gpus, request.limit_seconds, at=quantile(request.id))
    return Job(request, length)


def _play(
    replay: Replay,
    waits: set[str],
    reservations: Sequence[Reservation],
    arrivals: Iterator[Job] | None,
) -> None:
    """Go on until all of them have started, or nothing happens any more."""
    left = set(waits)
    begins = sorted(
        {time for found in reservations for time in (found.starts_at, found.ends_at)}, reverse=True
    )
    arriving = next(arrivals, None) if arrivals else None
    plan = replay.run_pass()
    while True:
        left.difference_update(start.request.id for start in plan.starts)
        if not left:
            return
        end = replay.next_end()
        while begins and begins[-1] <= replay.now:
            begins.pop()
        edge = begins[-1] if begins else NEVER
        arrival = arriving.request.submitted_at if arriving else NEVER
        if end is not None and end <= min(edge, arrival):
            plan = replay.end_next()
            continue
        if end is None and edge == NEVER:
            return
        replay.now = max(replay.now, min(edge, arrival))
        if arriving is not None and arrival <= edge:
            replay.submit(arriving)
            arriving = next(arrivals, None) if arrivals else None
        plan = replay.run_pass()
