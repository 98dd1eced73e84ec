"""Who is asking the hub for something, for the action log.

The hub tells a spawner who starts a server (its handler), but not who stops one. So our
request handlers (``handlers.py``) note the person in a context variable, which the hub's tasks
inherit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from jupyterhub.handlers import BaseHandler

from dcloud_spawner.authenticator.source import address_of
from dcloud_spawner.store.events import Actor

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
def noted(handler: BaseHandler) -> Iterator[None]:
    """While it lasts, whatever the hub ends is ended by the person behind this request."""
    token = _actor.set(actor_of(handler))
    try:
        yield
    finally:
        _actor.reset(token)
