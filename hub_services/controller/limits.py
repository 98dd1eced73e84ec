"""Ends what is past its time: the limit that its owner chose, or the time that it was told of."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

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

TIME_LIMIT = "time limit"

ENDING = (State.ADMITTED, State.STARTING, State.RUNNING)
"""A launch that takes longer than the limit ends too: the plan counts on its place."""


def end_overdue(platform: Platform) -> Sequence[Workload]:
    """Stop everything past its end; returns what has ended. Blocks."""
    now = utc_now()
    with platform.database.reading() as connection:
        held = workloads.in_states(connection, ENDING)
    ended = []
    for workload in held:
        end = ends_at(workload, now)
        if end is None or end > now:
            continue
        reason = _reason(workload, end)
        log.info("%s is at its end: %s.", workload.server, reason)
        try:
            lifecycle.stop(platform, workload.id, reason, ACTOR, workload.notice_detail)
        except EngineError as error:
            # It is STOPPING now: the reconciler goes on.
            log.error("Cannot stop %s yet: %s", workload.server, error)
            continue
        ended.append(workload)
    return ended


def _reason(workload: Workload, end: datetime) -> str:
    return workload.notice_reason if workload.notice_at == end else TIME_LIMIT
