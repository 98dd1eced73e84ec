"""The first administrator's one-time way in."""

from __future__ import annotations

from dcloud_spawner.authenticator.bootstrap import bootstrap_admin_link
from dcloud_spawner.errors import Conflict
from dcloud_spawner.settings import Settings
from dcloud_spawner.store.database import Database


def first_admin(settings: Settings) -> str:
    """Who gets the way in: the first of ``admins``, else ``admin``."""
    return next(iter(settings.admins), "admin")


def way_in(settings: Settings, name: str = "", *, again: bool = False) -> str | None:
    """Address at which an administrator sets a password, once; an older one ends.

    None when somebody got in already, unless ``again``. Raises Conflict for ``again`` when
    accounts are an identity provider's.
    """
    if settings.authenticator != "dcloud":
        if not again:
            return None
        raise Conflict(
            "Accounts come from an identity provider here.",
            hint="Make someone an administrator there (admin groups) or name them in admins.",
        )
    database = Database(settings.store_url)
    try:
        return bootstrap_admin_link(database, settings, name or first_admin(settings), again=again)
    finally:
        database.close()
