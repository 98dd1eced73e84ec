"""The administrator's page of accounts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from jupyterhub import orm
from jupyterhub.user import User
from sqlalchemy import select
from tornado import web
from tornado.httputil import url_concat

from dcloud_spawner.authenticator.handlers import Page
from dcloud_spawner.authenticator.passwords import normalise_name
from dcloud_spawner.authenticator.people import people, sign_ups
from dcloud_spawner.errors import InvalidChoice, UserError
from dcloud_spawner.store.events import Actor

NOTICES = {
    "approve": "{name} may sign in now.",
    "decline": "The sign-up of {name} is thrown away. The name is free again.",
    "lock": "{name} is locked and signed out everywhere. Their servers keep running.",
    "unlock": "{name} may sign in again.",
}


class ApprovalsHandler(Page):
    """What an administrator does with accounts."""

    template = "approvals.html"

    async def prepare(self) -> None:
        """Administrators only, signed in by cookie; a token with fewer scopes gets nowhere."""
        await super().prepare()
        if self.current_user is None:
            if self.request.method in {"GET", "HEAD"}:
                self.redirect(url_concat(self.get_login_url(), {"next": self.request.uri}))
                return
            raise web.HTTPError(403, "Sign in first.")
        if not (isinstance(self.current_user, User) and self.current_user.admin):
            raise web.HTTPError(403, "Only administrators see sign-ups.")

    async def get(self) -> None:
        """Sign-ups that wait, and everybody who has an account."""
        notice = NOTICES.get(self.get_query_argument("done", ""), "")
        name = normalise_name(self.get_query_argument("name", ""))[:63]
        await self.show_list(notice=notice.format(name=name) if notice and name else "")

    async def post(self) -> None:
        """Do one thing with one account."""
        action, name = self.field("action"), normalise_name(self.field("name"))
        try:
            do = _ACTIONS.get(action)
            if do is None:
                raise InvalidChoice(
                    f"Unknown action {action[:32]!r}.", hint=f"One of {', '.join(_ACTIONS)}."
                )
            await do(self, name, Actor(self.current_user.name, self.ours.address(self)))
        except UserError as error:
            await self.show_list(error=error)
            return
        if not self._finished:
            query = {"done": action, "name": name}
            self.redirect(url_concat(self.hub.base_url + "approvals", query), status=303)

    async def show_list(self, *, error: UserError | None = None, **values: object) -> None:
        """The page."""
        logins, locked_out, homes = await self.ours.platform.in_database_thread(
            self.ours.accounts.overview
        )
        hub_users = self.hub_users()
        await self.show(
            error,
            sign_ups=sign_ups(logins, hub_users, homes, self.ours.dcloud.admins),
            people=people(logins, hub_users, locked_out),
            **values,
        )

    def hub_users(self) -> dict[str, bool]:
        """Every user the hub knows, and whether they are administrator."""
        rows = self.db.execute(select(orm.User.name, orm.User.admin))
        return {row.name: bool(row.admin) for row in rows}

    async def approve(self, name: str, by: Actor) -> None:
        """Let a sign-up in, if it is still the one that was looked at."""
        seen = self.field("seen")
        try:
            at = datetime.fromisoformat(seen) if seen else None
        except ValueError:
            raise InvalidChoice("seen: not a time.", field="seen") from None
        await self.ours.platform.in_database_thread(self.ours.accounts.approve, name, by, seen=at)

    async def decline(self, name: str, by: Actor) -> None:
        """Throw a sign-up away."""
        await self.ours.platform.in_database_thread(self.ours.accounts.decline, name, by)

    async def lock(self, name: str, by: Actor) -> None:
        """Take an approval back."""
        await self.ours.lock(name, by, self.find_user(name))

    async def unlock(self, name: str, by: Actor) -> None:
        """Give an approval back, or end a lock-out."""
        await self.ours.platform.in_database_thread(self.ours.accounts.unlock, name, by)

    async def link(self, name: str, by: Actor) -> None:
        """Make a one-time link and show it, this once."""
        link = await self.ours.platform.in_database_thread(
            self.ours.accounts.make_link, name, by, known_to_hub=self.find_user(name) is not None
        )
        url = self.ours.link_url(self, link)
        await self.show_list(link=url, link_name=name, link_expires_at=link.expires_at)


_ACTIONS: dict[str, Callable[[ApprovalsHandler, str, Actor], Awaitable[None]]] = {
    "approve": ApprovalsHandler.approve,
    "decline": ApprovalsHandler.decline,
    "lock": ApprovalsHandler.lock,
    "unlock": ApprovalsHandler.unlock,
    "link": ApprovalsHandler.link,
}
