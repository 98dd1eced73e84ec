"""Whose home is whose: claimed at the first start, kept when its user is deleted, handed over or
purged by an administrator.

Engine calls stand between the transactions, never inside one (invariant 11).
"""

from __future__ import annotations

from sqlalchemy import Connection

from dcloud_spawner.datasets import own_spaces
from dcloud_spawner.errors import Conflict, EngineError, EngineUnreachable
from dcloud_spawner.lifecycle import refuse_kept_home
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.spec import home_volume
from dcloud_spawner.storage.errors import StorageAway
from dcloud_spawner.store import events, homes, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.homes import Home


def claim_home(platform: Platform, user: str, actor: Actor) -> str:
    """Name of the user's home volume, noted in the database.

    Raises Conflict when it was left by a deleted user of the same name.
    """
    volume = home_volume(platform.settings.deployment, user)
    now = utc_now()
    with platform.database.reading() as connection:
        known = homes.of_user(connection, user)
    if known is None:
        with platform.database.transaction() as connection:
            known = homes.of_user(connection, user)
            if known is None:
                homes.insert(connection, volume, user, now)
                events.note(
                    connection, actor, "home.create", user, at=now, detail={"volume": volume}
                )
    refuse_kept_home(known)
    return known.volume if known is not None else volume


def orphan_home(connection: Connection, user: str, actor: Actor) -> None:
    """Keep the home of a user who is being deleted, closed to a new user of that name."""
    now = utc_now()
    if homes.mark_user_deleted(connection, user, now):
        events.note(connection, actor, "home.keep", user, at=now)


def adopt_home(platform: Platform, user: str, actor: Actor) -> bool:
    """Hand the home of a deleted user to the present user of that name."""
    now = utc_now()
    with platform.database.transaction() as connection:
        home = homes.of_user(connection, user)
        if home is None or home.user_deleted_at is None:
            return False
        homes.mark_user_deleted(connection, user, None)
        events.note(connection, actor, "home.adopt", user, at=now)
    return True


def purge_home(platform: Platform, user: str, actor: Actor) -> bool:
    """Delete a home for good, and its user's own space in storage. Raises Conflict while a server
    of the user is open, EngineError or StorageAway when it cannot be deleted: what was refused is
    as before, and what the engine may yet do (no answer) leaves the home closed until somebody
    purges it again."""
    home = _close_home(platform, user, actor)
    if home is None:
        return False
    try:
        own_spaces.purge(platform, home.volume)
        platform.engine.purge_home(home.volume)
    except EngineUnreachable:
        raise
    except (EngineError, StorageAway):
        with platform.database.transaction() as connection:
            homes.mark_user_deleted(connection, user, home.user_deleted_at)
            _log_purge(connection, home, actor, "failed")
        raise
    with platform.database.transaction() as connection:
        homes.remove(connection, user)
        _log_purge(connection, home, actor, "ok")
    return True


def _close_home(platform: Platform, user: str, actor: Actor) -> Home | None:
    """Let nobody start on a home that is about to go; returns it as it was."""
    with platform.database.transaction() as connection:
        home = homes.of_user(connection, user)
        if home is None:
            return None
        mine = [found for found in workloads.open_workloads(connection) if found.user == user]
        if mine:
            servers = ", ".join(found.server for found in mine)
            raise Conflict(
                f"{servers} still runs or waits.", hint=f"`dcloud stop {mine[0].server}` first."
            )
        homes.mark_user_deleted(connection, user, home.user_deleted_at or utc_now())
        _log_purge(connection, home, actor, "begun")
    return home


def _log_purge(connection: Connection, home: Home, actor: Actor, result: str) -> None:
    events.note(
        connection,
        actor,
        "home.purge",
        home.user,
        at=utc_now(),
        result=result,
        detail={"volume": home.volume},
    )
