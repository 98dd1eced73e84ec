"""Who is asking the hub for something, for the action log.

The hub tells a spawner who starts a server (its handler), but not who stops one. So our
request handlers note the person in a context variable, which the hub's tasks inherit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http import HTTPStatus

from jupyterhub.apihandlers.users import UserAPIHandler, UserServerAPIHandler
from jupyterhub.app import JupyterHub
from jupyterhub.auth import Authenticator
from jupyterhub.handlers import BaseHandler
from tornado.web import HTTPError

from dcloud_spawner.authenticator.source import address_of
from dcloud_spawner.lifecycle import Actor
from dcloud_spawner.spawners.forgotten import end_forgotten

_actor: ContextVar[Actor | None] = ContextVar("dcloud_actor", default=None)


def actor_of(handler: BaseHandler) -> Actor | None:
    """The user or service behind a request, and its address."""
    person = getattr(handler, "current_user", None)
    if person is None:
        return None
    return Actor(str(person.name), address_of(handler))


def current_actor(handler: BaseHandler | None, default: str) -> Actor:
    """Who is behind what is being done now; ``default`` when nobody asked for it."""
    known = actor_of(handler) if handler is not None else None
    return known or _actor.get() or Actor(default)


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


class _Noted:
    """Notes who asks before a request that stops or deletes something."""

    async def delete(self, *args: str, **kwargs: str) -> None:
        """Handle DELETE as the hub does, with the actor noted."""
        token = _actor.set(actor_of(self))
        try:
            await super().delete(*args, **kwargs)  # type: ignore[misc]
        finally:
            _actor.reset(token)


class NotedServerHandler(_Noted, UserServerAPIHandler):
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
            with _collisions_are_conflicts():
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


class NotedUserHandler(_Noted, UserAPIHandler):
    """The hub's user API: deleting a user stops their servers."""


_HANDLERS = [
    (r"/api/users/([^/]+)/server", NotedServerHandler),
    (r"/api/users/([^/]+)/servers/([^/]*)", NotedServerHandler),
    (r"/api/users/([^/]+)", NotedUserHandler),
]


def noting(authenticator: type[Authenticator]) -> type[Authenticator]:
    """The same authenticator class, bringing our handlers: an authenticator's own come before
    the hub's, so these answer at the hub's addresses."""

    def get_handlers(self: Authenticator, app: JupyterHub) -> list[tuple[str, type]]:
        return [*_HANDLERS, *authenticator.get_handlers(self, app)]

    return type(authenticator.__name__, (authenticator,), {"get_handlers": get_handlers})
