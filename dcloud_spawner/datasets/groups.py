"""Shares with groups of the hub end with the group: one that is made again under the name is
another one."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection

from dcloud_spawner.datasets.revoking import REVOKER, revoke_lost
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import dataset_shares, events
from dcloud_spawner.store.events import Actor

LOOK_SECONDS = 600.0
"""Between two looks at the hub's groups."""

GRACE_LOOKS = 144
"""In so many answers of the hub in a row, a day of them, the group must be missing. A hub that is
away or restored from a backup ends nothing."""


def end_shares(connection: Connection, group: str, actor: Actor) -> int:
    """Nothing is shared with a group any more, and what that let somebody mount is taken away;
    returns how many datasets were."""
    found = dataset_shares.remove_with(connection, dataset_shares.GROUP, group)
    now = utc_now()
    for identifier in found:
        detail: dict[str, object] = {"with": f"{dataset_shares.GROUP}:{group}", "why": "gone"}
        events.note(connection, actor, "dataset.unshare", identifier, at=now, detail=detail)
        revoke_lost(connection, identifier)
    return len(found)


def look(platform: Platform, present: Collection[str], *, count: bool = True) -> int:
    """What the hub said are all its groups; ends the shares of those that it had once and has not
    had for the whole grace. Returns how many shares ended. Blocks.

    ``count``: whether this look comes a whole pause after the last one.
    """
    with platform.database.reading() as connection:
        known = dataset_shares.groups(connection)
    if not known:
        return 0
    with platform.database.transaction() as connection:
        dataset_shares.look_for_groups(connection, present, count=count)
        gone = dataset_shares.missing_groups(connection, GRACE_LOOKS)
        return sum(end_shares(connection, group, REVOKER) for group in gone)
