"""The first administrator's one-time way in."""

from __future__ import annotations

from dcloud_spawner.authenticator.accounts import Accounts
from dcloud_spawner.authenticator.links import OneTimeLink
from dcloud_spawner.authenticator.who import Who
from dcloud_spawner.errors import Conflict
from dcloud_spawner.platform import utc_now
from dcloud_spawner.settings import Settings
from dcloud_spawner.store.database import Database
from hub_services.cli.servers import cli_actor


def way_in(settings: Settings, name: str = "", *, again: bool = False) -> OneTimeLink | None:
    """A link at which an administrator sets a password; an older one ends.

    None when somebody got in already, unless ``again``. ``name`` is by default the first of
    ``admins``, else ``admin``. Raises Conflict when accounts are an identity provider's.
    """
    if settings.authenticator != "dcloud":
        if not again:
            return None
        raise Conflict(
            "Accounts come from an identity provider here.",
            hint="Make someone an administrator there (admin groups) or name them in admins.",
        )
    who = cli_actor()
    database = Database(settings.store_url)
    try:
        return Accounts(database, settings, utc_now).make_admin_link(
            name or next(iter(settings.admins), "admin"), Who(who.name, who.source), again=again
        )
    finally:
        database.close()
