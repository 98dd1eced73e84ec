"""The hub's API of users and servers, with what the platform adds to it: who asked is noted,
two requests at once are told so, and a user who goes takes everything along that runs or waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from jupyterhub.apihandlers.users import UserAPIHandler, UserServerAPIHandler
from jupyterhub.app import JupyterHub
from jupyterhub.auth import Authenticator
from jupyterhub.scopes import needs_scope
from jupyterhub.user import User
from tornado.web import HTTPError

from dcloud_spawner.spawners.actor import actor_of, noted
from dcloud_spawner.spawners.forgotten import end_forgotten
from dcloud_spawner.spawners.meanwhile import CpuMeanwhileHandler
from dcloud_spawner.spawners.notices import NoticesHandler
from dcloud_spawner.store.events import Actor

SETTLE_SECONDS = 5.0
"""How long a cancelled start may take to be given up by the hub."""


@contextmanager
def _collisions_are_conflicts() -> Iterator[None]:
    """Two requests for one server at the same moment: the hub answers 500 to the second one."""
    try:
        yield
    except asyncio.CancelledError as error:
        raise HTTPError(409, "This start was cancelled by another request.") from error
    except RuntimeError as error:
        if " pending " not in str(error):
            raise
        raise HTTPError(409, f"Another request is at work: {error}. Try again.") from error


class ServerHandler(UserServerAPIHandler):
    """The hub's server API, which also ends what only the store still knows."""

    async def post(self, *args: str, **kwargs: str) -> None:
        """Start a server."""
        with _collisions_are_conflicts():
            await super().post(*args, **kwargs)

    async def delete(self, *args: str, **kwargs: str) -> None:
        """Stop a server or leave the queue; takes the user's and the server's name."""
        user_name, server_name = (*args, "")[:2]
        user = self.find_user(user_name)
        spawner = user.spawners.get(server_name) if user is not None else None
        starting = spawner if spawner is not None and spawner.pending == "spawn" else None
        if starting is not None:
            starting.ended_by = actor_of(self)
        try:
            with noted(self), _collisions_are_conflicts():
                await super().delete(*args, **kwargs)
        except HTTPError as error:
            if starting is not None and error.status_code != HTTPStatus.CONFLICT:
                starting.ended_by = None  # they may not
            raise
        user = self.find_user(user_name)
        spawner = user.spawners.get(server_name) if user is not None else None
        if user is not None and (spawner is None or not spawner.active):
            actor = actor_of(self) or Actor("hub")
            if not await end_forgotten(user.spawner_class.platform, user.name, server_name, actor):
                self.set_status(HTTPStatus.ACCEPTED)


class UserHandler(UserAPIHandler):
    """The hub's user API, where names keep to the rules and are for good."""

    @needs_scope("admin:users")  # type: ignore[untyped-decorator]
    async def post(self, user_name: str) -> None:
        """Create a user; the hub checks a name only when it comes in a list."""
        name = self.authenticator.normalize_username(user_name)
        if name != user_name or not self.authenticator.validate_username(name):
            raise HTTPError(HTTPStatus.BAD_REQUEST, f"Invalid username: {user_name[:64]!r}")
        await super().post(user_name)

    @needs_scope("admin:users")  # type: ignore[untyped-decorator]
    async def patch(self, user_name: str) -> None:
        """Change a user but for the name: home, password and history go by it, and whoever
        came under the old name would find them."""
        given = self.get_json_body()
        if isinstance(given, dict) and given.get("name", user_name) != user_name:
            raise HTTPError(
                HTTPStatus.BAD_REQUEST, "name: a user cannot be renamed. Make a new one instead."
            )
        await super().patch(user_name)

    @needs_scope("delete:users")  # type: ignore[untyped-decorator]
    async def delete(self, user_name: str) -> None:
        """Delete a user with all that runs or waits: the hub itself ends only the default
        server, and fails when that one waits."""
        with noted(self), _collisions_are_conflicts():
            user = self.find_user(user_name)
            if user is not None and user.name != self.current_user.name:
                # Who waits goes first: it would start on what the others give back.
                spawners = sorted(
                    user.spawners.items(), key=lambda item: item[1].pending != "spawn"
                )
                for server_name, _ in spawners:
                    await self._end(user, server_name)
            await super().delete(user_name)

    async def _end(self, user: User, server_name: str) -> None:
        spawner = user.spawners[server_name]
        start, stop = spawner._spawn_future, getattr(spawner, "_stop_future", None)
        if spawner.pending == "spawn" and start is not None:
            spawner.ended_by = actor_of(self)
            start.cancel()
            await asyncio.wait([start], timeout=SETTLE_SECONDS)
        elif stop is not None:
            await asyncio.wait([stop], timeout=SETTLE_SECONDS)
        if spawner.active and user.spawners.get(server_name) is spawner:
            await self.stop_single_user(user, server_name)
        if spawner.active:
            raise HTTPError(
                HTTPStatus.CONFLICT, f"{spawner._log_name} is still being stopped. Try again."
            )


_HANDLERS = [
    (r"/api/users/([^/]+)/server", ServerHandler),
    (r"/api/users/([^/]+)/servers/([^/]*)", ServerHandler),
    (r"/api/users/([^/]+)", UserHandler),
    (r"/dcloud/cpu-meanwhile/([^/]+)/?([^/]*)", CpuMeanwhileHandler),
    (r"/dcloud/notices", NoticesHandler),
]


def with_handlers(authenticator: type[Authenticator]) -> type[Authenticator]:
    """The same authenticator class, bringing our handlers: an authenticator's own come before
    the hub's, so these answer at the hub's addresses."""

    def get_handlers(self: Authenticator, app: JupyterHub) -> list[tuple[str, type]]:
        return [*_HANDLERS, *authenticator.get_handlers(self, app)]

    return type(authenticator.__name__, (authenticator,), {"get_handlers": get_handlers})
