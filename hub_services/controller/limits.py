"""Ends servers at the time limit that their owner chose."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dcloud_spawner import lifecycle
from dcloud_spawner.errors import EngineError
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.scheduler.schedule import ends_at
from dcloud_spawner.store import workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload

log = logging.getLogger(__name__)

ACTOR = Actor("limit")


def end_overdue(platform: Platform) -> Sequence[Workload]:
    """Stop every running server past its limit; returns those that have ended. Blocks."""
    now = utc_now()
    with platform.database.reading() as connection:
        running = workloads.in_states(connection, (State.RUNNING,))
    overdue = [workload for workload in running if (end := ends_at(workload, now)) and end <= now]
    ended = []
    for workload in overdue:
        log.info("%s reached its limit of %d s.", workload.server, workload.limit_seconds)
        try:
            lifecycle.stop(platform, workload.id, "time limit", ACTOR)
        except EngineError as error:
            # It is STOPPING now: the reconciler goes on.
            log.error("Cannot stop %s yet: %s", workload.server, error)
            continue
        ended.append(workload)
    return ended
