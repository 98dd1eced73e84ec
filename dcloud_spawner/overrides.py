"""An administrator's hand on the limits of one person.

Whether somebody may do this is the caller's to decide. Each act is one transaction with its line
in the action log, and a pass after it: who was blocked may be blocked no more. All functions block.
"""

from __future__ import annotations

from datetime import datetime

from dcloud_spawner import limits
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.queueing import checked_reason
from dcloud_spawner.store.events import Actor


def set_override(
    platform: Platform,
    user: str,
    name: str,
    value: object,
    reason: str,
    actor: Actor,
    *,
    ends_at: datetime | None = None,
) -> None:
    """Set one limit, or the ``role``, of one person; ``value`` None is no limit. Raises
    InvalidChoice with the field that is wrong."""
    reason = checked_reason(reason)
    with platform.database.transaction() as connection:
        limits.override(
            connection,
            platform.settings,
            user,
            name,
            value,
            actor=actor,
            reason=reason,
            ends_at=ends_at,
            at=utc_now(),
        )
    platform.run_pass()


def remove_override(platform: Platform, user: str, name: str, actor: Actor) -> None:
    """Let the limit of their roles count again. Raises NotFound when nothing was set."""
    with platform.database.transaction() as connection:
        limits.end_override(connection, user, name, actor=actor, at=utc_now())
    platform.run_pass()
