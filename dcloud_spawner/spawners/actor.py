"""Who is asking the hub for something, for the action log.

The hub tells a spawner who starts a server (its handler), but not who stops one. So our
request handlers note the person in a context variable, which the hub's tasks inherit.
"""

from __future__ import annotations

from contextvars import ContextVar

from jupyterhub.apihandlers.users import UserAPIHandler, UserServerAPIHandler
from tornado.web import RequestHandler

from dcloud_spawner.lifecycle import Actor

_actor: ContextVar[Actor | None] = ContextVar("dcloud_actor", default=None)


def actor_of(handler: RequestHandler) -> Actor | None:
    """The user or service behind a request, and its address."""
    person = getattr(handler, "current_user", None)
    if person is None:
        return None
    return Actor(str(person.name), str(handler.request.remote_ip or ""))


def current_actor(handler: RequestHandler | None, default: str) -> Actor:
    """Who is behind what is being done now; ``default`` when nobody asked for it."""
    known = actor_of(handler) if handler is not None else None
    return known or _actor.get() or Actor(default)


class _Noted:
    """Notes who asks before a request that stops or deletes something."""

    async def delete(self, *args: str, **kwargs: str) -> None:
        """Handle DELETE as the hub does, with the actor noted."""
        token = _actor.set(actor_of(self))  # type: ignore[arg-type]
        try:
            await super().delete(*args, **kwargs)  # type: ignore[misc]
        finally:
            _actor.reset(token)


class NotedServerHandler(_Noted, UserServerAPIHandler):
    """The hub's server API."""


class NotedUserHandler(_Noted, UserAPIHandler):
    """The hub's user API: deleting a user stops their servers."""


def noting_handlers() -> list[tuple[str, type]]:
    """To stand before the hub's own handlers of the same addresses."""
    return [
        (r"/api/users/([^/]+)/server", NotedServerHandler),
        (r"/api/users/([^/]+)/servers/([^/]*)", NotedServerHandler),
        (r"/api/users/([^/]+)", NotedUserHandler),
    ]
