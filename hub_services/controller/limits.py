"""Ends what is past its time: the limit that its owner chose, the time that it was told of, or the
end of its account's credits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from dcloud_spawner import lifecycle
from dcloud_spawner.budget_funds import is_used_up
from dcloud_spawner.budget_gate import CODE as BUDGET
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

NO_CREDITS = "Its account had no credits left."

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
        try:
            if _end(platform, workload):
                ended.append(workload)
        except EngineError as error:
            # It is STOPPING now: the reconciler goes on.
            log.error("Cannot stop %s yet: %s", workload.server, error)
    return ended


def _end(platform: Platform, workload: Workload) -> bool:
    """End one that was past its end when it was looked at; False when it no longer is. Those
    before it may have taken long to stop, and a notice may be withdrawn meanwhile: by a pass, or
    because its reservation was given up."""
    with platform.database.transaction() as connection:
        now, found = utc_now(), workloads.get(connection, workload.id)
        end = ends_at(found, now)
        if found.state not in ENDING or end is None or end > now:
            return False
        reason = _reason(found, end)
        if reason == BUDGET and not is_used_up(connection, found.account, now):
            return False  # credits have come since; the end is about to move away
        detail = NO_CREDITS if reason == BUDGET else found.notice_detail
        lifecycle.write_stop(connection, found.id, reason, ACTOR, now, detail)
    log.info("%s is at its end: %s.", workload.server, reason)
    lifecycle.finish_stop(platform, workload.id)
    return True


def _reason(workload: Workload, end: datetime) -> str:
    if workload.notice_at == end:
        return workload.notice_reason
    return BUDGET if workload.budget_ends_at == end else TIME_LIMIT
