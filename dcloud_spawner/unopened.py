"""Servers that nobody opens are given back: what is known of it, and the end of such a server.

Known for certain is that somebody was there: a browser signed in at the server, or the server
itself said that it was used. That nobody was there is known only from the server's own word,
and only a word that comes after the time is over counts; a server that says nothing is left
alone, for a missing figure is no verdict (invariant 7). All functions block.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from dcloud_spawner import lifecycle
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import events, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload

NEVER_OPENED = "never opened"
"""``end_reason`` of a server that was given back."""

ACTOR = Actor("unopened")


def opens_until(platform: Platform, workload: Workload) -> datetime | None:
    """Until when somebody has to open a running server; None when somebody has, or it does not
    run (yet)."""
    if workload.state is not State.RUNNING or workload.ready_at is None or workload.connected_at:
        return None
    return workload.ready_at + timedelta(minutes=platform.settings.unused_minutes)


def note_connected(platform: Platform, identifier: str, how: str, at: datetime) -> bool:
    """Write down, once, that somebody was connected to a running server."""
    with platform.database.transaction() as connection:
        if not workloads.mark_connected(connection, identifier, at):
            return False
        detail = {"how": how}
        events.note(
            connection, ACTOR, "workload.connected", identifier, at=utc_now(), detail=detail
        )
    return True


def give_back(platform: Platform, identifier: str) -> bool:
    """End a running server that nobody has opened in time; False when somebody has, or its time
    is not over. Raises EngineError as ``lifecycle.finish_stop``.

    What is charged ends when the time was over, however long the stop takes: ``charge_until`` of
    the row, and in the detail of its line in the action log.
    """
    now = utc_now()
    with platform.database.transaction() as connection:
        workload = workloads.get(connection, identifier)
        until = opens_until(platform, workload)
        if until is None or until > now:
            return False
        workloads.set_values(connection, identifier, charge_until=until)
        lifecycle.write_stop(
            connection, identifier, NEVER_OPENED, ACTOR, now, more={"charge_until": str(until)}
        )
    return lifecycle.finish_stop(platform, identifier)
