"""Limits: what somebody may have at most, what of it is used, and what was set for them alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from dcloud_spawner import limits, overrides
from dcloud_spawner.errors import NotFound
from dcloud_spawner.limits import Limit
from dcloud_spawner.platform import utc_now
from dcloud_spawner.store import limits as store
from dcloud_spawner.store.limits import Override
from hub_services.web.api.access import read
from hub_services.web.api.limits_models import (
    LimitsView,
    LimitView,
    OverrideBody,
    OverrideView,
    UsedByView,
)
from hub_services.web.api.operation import Call, Nothing
from hub_services.web.api.wire_types import is_name


async def my_limits(call: Call[Nothing, Nothing]) -> LimitsView:
    """One's own limits: from which role each comes, and what servers have of it."""
    if not call.viewer.person:
        raise NotFound("A service has no limits.", hint="GET limits/{user} shows a person's.")
    return await _limits_of(call, call.viewer.name)


async def get_limits(call: Call[Nothing, Nothing]) -> LimitsView:
    """Somebody's limits, for themselves and administrators."""
    user = call.path["user"]
    if not call.viewer.may_see(user) or not is_name(user):
        raise NotFound("You see limits of nobody of that name.")
    return await _limits_of(call, user)


async def set_limit(call: Call[Nothing, OverrideBody]) -> LimitsView:
    """Set one limit, or the role, of one person, until a time or for good. It counts at once."""
    body = call.body
    value = list(body.value) if isinstance(body.value, tuple) else body.value
    await _act(call, overrides.set_override, value, body.reason, call.actor, ends_at=body.ends_at)
    return await _limits_of(call, call.path["user"])


async def remove_limit(call: Call[Nothing, Nothing]) -> LimitsView:
    """Let a limit of one person's roles count again."""
    await _act(call, overrides.remove_override, call.actor)
    return await _limits_of(call, call.path["user"])


async def _act(
    call: Call[Nothing, Any], act: Callable[..., None], *arguments: object, **named: object
) -> None:
    platform = call.service.platform
    user, limit = call.path["user"], call.path["limit"]
    if not is_name(user):
        raise NotFound("There is nobody of that name.", field="user")
    await platform.in_database_thread(act, platform, user, limit, *arguments, **named)


async def _limits_of(call: Call[Any, Any], user: str) -> LimitsView:
    settings, viewer = call.service.platform.settings, call.viewer
    now = utc_now()
    # Of oneself the hub has just said the groups; of others what it said when they last asked.
    said = viewer.owns(user) and (viewer.groups or viewer.administrator)
    groups = viewer.groups if said else None

    def reading(connection: Connection) -> LimitsView:
        known: dict[str, Any] = {}
        if groups is not None:
            known = {"groups": groups, "administrator": viewer.administrator}
        found = limits.limits_of(connection, settings, user, now, **known)
        standing = limits.standing(connection, settings, user, now, **known)
        return LimitsView(
            user=user,
            roles=standing.roles,
            items=tuple(_limit_view(each) for each in found),
            overrides=tuple(
                _override_view(each) for each in reversed(store.overrides_of(connection, user))
            ),
        )

    return await read(call, reading)


def _limit_view(limit: Limit) -> LimitView:
    return LimitView(
        name=limit.name,
        title=limit.title,
        value=limit.value,
        used=limit.used,
        left=limit.left,
        used_by=tuple(UsedByView(server=name, amount=amount) for name, amount in limit.by),
        source=limit.source,
        ends_at=limit.ends_at,
        reason=limit.reason,
    )


def _override_view(override: Override) -> OverrideView:
    value = override.value
    return OverrideView(
        limit=override.limit,
        value=tuple(value) if isinstance(value, list) else value,
        reason=override.reason,
        set_by=override.set_by,
        set_at=override.set_at,
        ends_at=override.ends_at,
        removed_at=override.removed_at,
    )
