"""Ends what is past its time: the limit that its owner chose, the time that it was told of, or the
end of its account's credits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial

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


STOPS_AT_ONCE = 8
"""Servers that share an end, of a budget, each have a grace of their own: one after the other the
last of them would run, and be charged, for minutes beyond it."""


def end_overdue(platform: Platform) -> Sequence[Workload]:
    """Stop everything past its end; returns what has ended. Blocks."""
    now = utc_now()
    with platform.database.reading() as connection:
        held = workloads.in_states(connection, ENDING)
    over = [found for found in held if (end := ends_at(found, now)) is not None and end <= now]
    # A notice may be withdrawn because another server has ended: those go one by one.
    own = [found for found in over if found.notice_at is None or found.notice_at > now]
    with ThreadPoolExecutor(STOPS_AT_ONCE, "stop") as threads:
        ended = list(threads.map(partial(_try_to_end, platform), own))
    ended += [_try_to_end(platform, found) for found in over if found not in own]
    return [found for found in ended if found is not None]


def _try_to_end(platform: Platform, workload: Workload) -> Workload | None:
    try:
        return workload if _end(platform, workload) else None
    except EngineError as error:
        # It is STOPPING now: the reconciler goes on.
        log.error("Cannot stop %s yet: %s", workload.server, error)
        return None


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
