"""The first administrator's way in, for the command line."""

from __future__ import annotations

from dcloud_spawner.authenticator.accounts import Accounts
from dcloud_spawner.authenticator.links import hub_url
from dcloud_spawner.platform import utc_now
from dcloud_spawner.settings import Settings
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.events import Actor


def bootstrap_admin_link(
    database: Database, settings: Settings, name: str = "admin", *, again: bool = False
) -> str | None:
    """A one-time link at which ``name`` sets a password and becomes administrator.

    None when somebody has got in already, unless ``again``. Each call ends the link of the
    call before. Print it to the terminal of who runs the deployment and nowhere else: whoever
    opens it first is administrator. Raises InvalidChoice for a name no account can have.
    """
    accounts = Accounts(database, settings, utc_now)
    link = accounts.make_admin_link(name, Actor("command line"), again=again)
    return None if link is None else link.url(hub_url(settings))
