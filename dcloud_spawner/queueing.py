"""When a request is due, and an administrator's hand in the queue.

Whether somebody may do this is the caller's to decide. Each act is one transaction with its
line in the action log, and a pass after it. All functions block.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.errors import Conflict, InvalidChoice, NotFound
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.roles import best_tier
from dcloud_spawner.scheduler import fairness
from dcloud_spawner.scheduler.fairness import Amount
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import events, nodes, shares, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.shares import ShareRow
from dcloud_spawner.store.workloads import NewWorkload, Workload

GIB = 2**30

BRONZE = "bronze"
"""The tier of whoever is in no group that has another."""

LONGEST_REASON = 500
"""Characters of an administrator's reason."""


# ---------------------------------------------------------------------------- due


def tier_of(settings: Settings, groups: Collection[str]) -> str:
    """The best tier of somebody's groups: the one with the smallest factor."""
    tiers = [settings.tier_groups[group] for group in groups if group in settings.tier_groups]
    return min(tiers, key=lambda tier: (settings.tiers[tier], tier), default=BRONZE)


def weight_of(settings: Settings, groups: Collection[str]) -> float:
    """The largest weight of somebody's groups; 1 when none has one."""
    known = settings.group_weights
    return max((known[group] for group in groups if group in known), default=1.0)


def with_due(
    connection: Connection,
    platform: Platform,
    new: NewWorkload,
    groups: Collection[str],
    now: datetime,
    tier_of_roles: str | None,
) -> NewWorkload:
    """Decide once when a request is due, by the better tier of one's groups and roles; also notes
    its user's weight. Whole seconds, so that a time that is read back is the time that was
    written, and its parts add up to it."""
    policy, settings = platform.policy, platform.settings
    tiers = [tier_of(settings, groups), *([tier_of_roles] if tier_of_roles else [])]
    tier = best_tier(tiers, settings.tiers) or BRONZE
    row = _note_weight(connection, new.user, weight_of(platform.settings, groups), now)
    share, fair = shares_of(connection, platform, row, now)
    return replace(
        new,
        tier=tier,
        slack_seconds=round(policy.slack_seconds(new.gpus, new.limit_seconds, tier)),
        fair_seconds=round(policy.fair_seconds(share, fair)),
    )


def shares_of(
    connection: Connection, platform: Platform, row: ShareRow, now: datetime
) -> tuple[float, float]:
    """The part of the pool that the user of a row had lately, and the part that would be fair.

    What they hold now counts with the whole time they asked for, so that nobody gets a second
    turn at once. Active is whoever waits, holds something, or gave something back within one
    half-life; somebody who is alone has a fair share of 1.
    """
    half_life, user = platform.half_life_seconds, row.user
    had = fairness.faded(_amount(row), (now - row.at).total_seconds(), half_life)
    for held in shares.held_now(connection, user):
        had += _rate(held.gpus, held.cpu_millicores, held.memory_bytes) * held.limit_seconds
    weights = dict(shares.weights_of_active(connection, now - timedelta(seconds=half_life)))
    weights.setdefault(user, row.weight)
    if len(weights) == 1:
        return 0.0, 1.0
    total = _total(connection, platform)
    return (
        fairness.dominant_share(had, total, half_life),
        fairness.fair_share(user, weights),
    )


def count_use(
    connection: Connection, released: Sequence[Workload], now: datetime, half_life_seconds: float
) -> None:
    """Add what workloads held, from admission until now, to the rows of their users: the formula
    is in ``scheduler.fairness``. Limits that were changed meanwhile count as they were at the
    end."""
    rows = shares.find_all(connection, {workload.user for workload in released})
    for workload in released:
        if workload.admitted_at is None:
            continue
        row = rows.get(workload.user) or ShareRow(workload.user, 1.0, 0.0, 0.0, 0.0, now)
        at = max(now, row.at)
        age = (at - row.at).total_seconds()
        had = fairness.faded(_amount(row), age, half_life_seconds) + fairness.held(
            _rate(workload.gpus, workload.cpu_millicores, workload.memory_bytes),
            workload.admitted_at.timestamp(),
            now.timestamp(),
            at.timestamp(),
            half_life_seconds,
        )
        rows[workload.user] = ShareRow(
            workload.user, row.weight, had.gpus, had.cpu_cores, had.memory_gib, at
        )
    shares.write_all(connection, rows.values())


def _note_weight(connection: Connection, user: str, weight: float, now: datetime) -> ShareRow:
    """The row of a user, with this weight."""
    row = shares.find(connection, user)
    if row is not None and row.weight == weight:
        return row
    noted = replace(row, weight=weight) if row else ShareRow(user, weight, 0.0, 0.0, 0.0, now)
    shares.write_all(connection, [noted])
    return noted


def _amount(row: ShareRow) -> Amount:
    return Amount(row.gpu_seconds, row.cpu_core_seconds, row.memory_gib_seconds)


def _rate(gpus: int, cpu_millicores: int, memory_bytes: int) -> Amount:
    return Amount(gpus, cpu_millicores / 1000, memory_bytes / GIB)


def _total(connection: Connection, platform: Platform) -> Amount:
    """All that exists, whether it may be used now or not: what is fair must not jump with it."""
    rows = nodes.all_nodes(connection)
    capacity = platform.capacity
    return Amount(
        nodes.count_accelerators(connection),
        sum(row.cpu_millicores for row in rows) * capacity.cpu_overcommit / 1000,
        sum(max(0, row.memory_bytes - capacity.reserve_memory_bytes) for row in rows) / GIB,
    )


# ---------------------------------------------------------------------------- hold and move


def hold(platform: Platform, identifier: str, reason: str, actor: Actor) -> Workload:
    """Keep a waiting request from starting; it keeps its due time. Raises NotFound, Conflict
    when it does not wait or is on hold, InvalidChoice for a reason that is none."""
    reason, now = checked_reason(reason), utc_now()
    with platform.database.transaction() as connection:
        workload = _waiting(connection, identifier)
        if workload.held_at is not None:
            raise Conflict(f"It is on hold already, by {workload.held_by}.")
        workloads.change_queued(
            connection, identifier, held_at=now, held_by=actor.name, held_reason=reason
        )
        detail = {"user": workload.user, "reason": reason}
        events.note(connection, actor, "workload.hold", identifier, at=now, detail=detail)
        held = workloads.get(connection, identifier)
    platform.run_pass()  # whoever was behind it may start now
    return held


def release_hold(platform: Platform, identifier: str, actor: Actor) -> Workload:
    """Let a request that is on hold wait as before, at the place of its due time."""
    now = utc_now()
    with platform.database.transaction() as connection:
        workload = _waiting(connection, identifier)
        if workload.held_at is None:
            raise Conflict("It is not on hold.")
        workloads.change_queued(connection, identifier, held_at=None, held_by="", held_reason="")
        detail = {"user": workload.user}
        events.note(connection, actor, "workload.unhold", identifier, at=now, detail=detail)
    platform.run_pass()
    return _now(platform, identifier)


def move_to_head(platform: Platform, identifier: str, reason: str, actor: Actor) -> Workload:
    """Put a waiting request before everybody else; whoever is moved last stands first."""
    reason, now = checked_reason(reason), utc_now()
    with platform.database.transaction() as connection:
        workload = _waiting(connection, identifier)
        if workload.held_at is not None:
            raise Conflict("It is on hold.", hint="Release it first.")
        last = workloads.last_move(connection)
        # A clock that was set back must not put it behind whoever was moved before.
        at = now if last is None else max(now, last + timedelta(microseconds=1))
        workloads.change_queued(
            connection, identifier, moved_at=at, moved_by=actor.name, moved_reason=reason
        )
        detail = {"user": workload.user, "reason": reason}
        events.note(connection, actor, "workload.move", identifier, at=now, detail=detail)
    platform.run_pass()
    return _now(platform, identifier)


def checked_reason(reason: str) -> str:
    """A reason that says something; raises InvalidChoice."""
    text = reason.strip()
    if not text:
        raise InvalidChoice("A reason is missing.", hint="Say why, for the log.", field="reason")
    if len(text) > LONGEST_REASON:
        raise InvalidChoice(
            f"The reason has {len(text)} characters.",
            hint=f"At most {LONGEST_REASON}.",
            field="reason",
        )
    return text


def _waiting(connection: Connection, identifier: str) -> Workload:
    workload = workloads.find(connection, identifier)
    if workload is None:
        raise NotFound("There is no such request.")
    if workload.state is not State.QUEUED:
        raise Conflict(f"It no longer waits: it is {workload.state.value}.", code="not_waiting")
    return workload


def _now(platform: Platform, identifier: str) -> Workload:
    with platform.database.reading() as connection:
        return workloads.get(connection, identifier)
