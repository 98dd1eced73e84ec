"""Who waits, and why."""

from __future__ import annotations

from dcloud_spawner.live.pool import PoolState
from dcloud_spawner.scheduler.admission import waiting_reasons
from dcloud_spawner.scheduler.reasons import without_ask
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload


def reasons_of(workload: Workload, state: PoolState) -> tuple[str, ...]:
    """Why it waits: what is short, and how much is ahead of it now."""
    if workload.blocked:
        return (without_ask(workload.blocked_reason),)
    place = state.place_of(workload.id)
    if place is None:
        return ()
    return waiting_reasons(" ".join(workload.reasons), place.ahead, place.gpus_ahead)


def waiting_rows(state: PoolState) -> list[tuple[int | None, Workload]]:
    """Everybody who waits with their place: the queue, then those on hold or blocked."""
    placed: list[tuple[int | None, Workload]] = [
        (found.place, found.workload) for found in state.queue
    ]
    held = [
        workload
        for workload in state.servers.values()
        if workload.state is State.QUEUED and state.place_of(workload.id) is None
    ]
    held.sort(key=lambda workload: (workload.due_at, workload.sequence))
    return placed + [(None, workload) for workload in held]
