"""What of accounts and their use a caller may see and do, decided anew for each request.

Everybody sees what is their own; members of a project its balance and their own part; owners all
of it; administrators everything. What somebody may not see is not there for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection

from dcloud_spawner import accounting
from dcloud_spawner.errors import NotAllowed, NotFound
from dcloud_spawner.platform import utc_now
from dcloud_spawner.store import accounts, usage
from dcloud_spawner.store.accounts import Account, Role
from dcloud_spawner.store.usage import Scope, Session
from hub_services.web.api.operation import Call
from hub_services.web.viewer import Viewer

T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """An account that the caller may see, and what they are in it."""

    account: Account
    role: Role | None
    """None: an administrator who is not in it."""
    administrator: bool

    @property
    def full(self) -> bool:
        """Whether all of it may be seen, not only one's own part."""
        return self.administrator or self.role is Role.OWNER


def scope_of(connection: Connection, viewer: Viewer) -> Scope:
    """All use that the caller may see. A service has none of its own."""
    if viewer.administrator:
        return Scope(everything=True)
    if not viewer.person:
        return Scope()
    found = accounts.of_user(connection, viewer.name)
    owned = tuple(account.id for account, role in found if role is Role.OWNER)
    return Scope(user=viewer.name, accounts=owned)


def see_account(connection: Connection, viewer: Viewer, identifier: str) -> Seen:
    """An account; NotFound for others', so that ids cannot be tried."""
    account = accounts.find(connection, identifier)
    role = accounts.role_in(connection, account, viewer.name) if account and viewer.person else None
    if account is None or (role is None and not viewer.administrator):
        raise NotFound("You have no account of that id.", hint="GET accounts lists them.")
    return Seen(account, role, viewer.administrator)


def manage_account(connection: Connection, viewer: Viewer, identifier: str) -> Seen:
    """An account of which the caller may decide: its owners and administrators."""
    seen = see_account(connection, viewer, identifier)
    if not seen.full:
        raise NotAllowed("Only owners of the project may do this.", hint="Ask one of them.")
    return seen


def own_account(connection: Connection, viewer: Viewer) -> Seen:
    """The caller's own."""
    found = accounts.personal(connection, viewer.name) if viewer.person else None
    if found is None:
        raise NotFound(
            "You have no account of your own.",
            hint="Say which account; GET accounts lists those that you may see.",
        )
    return Seen(found, Role.OWNER, viewer.administrator)


def find_session(connection: Connection, viewer: Viewer, workload: str) -> Session:
    """A session that the caller may see: who ran it, who owns what paid for it. NotFound for
    others', so that ids cannot be tried."""
    found = usage.find_session(connection, workload)
    if found is not None and (
        viewer.may_see(found.meter.user)
        or found.meter.account in scope_of(connection, viewer).accounts
    ):
        return found
    raise NotFound("You have no session of that id.", hint="GET usage/sessions lists them.")


async def read(call: Call[Any, Any], function: Callable[[Connection], T]) -> T:
    """Read from the database off the loop, all from one moment."""
    platform = call.service.platform

    def reading() -> T:
        with platform.database.reading() as connection:
            return function(connection)

    return await platform.in_reading_thread(reading)


async def have_own_account(call: Call[Any, Any]) -> None:
    """See to it that the caller has an account: the first look at it makes it, with what the
    settings give to everybody. A service has none."""
    platform, viewer = call.service.platform, call.viewer
    if not viewer.person:
        return
    known = await read(call, lambda connection: accounts.personal(connection, viewer.name))
    if known is not None:
        return

    def make() -> None:
        with platform.database.transaction() as connection:
            accounting.ensure_personal(connection, platform.settings, viewer.name, utc_now())

    await platform.in_database_thread(make)
