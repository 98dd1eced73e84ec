"""What people change through the hub's own API, in the action log.

Users, groups, administrators' rights, tokens and shares are the hub's, in a database of its
own, so the line follows the change instead of sharing its transaction. Starts and stops are
told by ``lifecycle``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import unquote

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.log import log_request
from tornado.web import RequestHandler

from dcloud_spawner.datasets.groups import end_shares
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.spawners.actor import actor_of
from dcloud_spawner.spawners.memberships import Memberships, memberships
from dcloud_spawner.spawners.memberships import write as write_memberships
from dcloud_spawner.store import events
from dcloud_spawner.store.events import Actor

log = logging.getLogger(__name__)

_CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_NO_ACTS = re.compile(r"(oauth2|authorizations)/|users/[^/]+/activity$")
"""Signing in at one's own server, and signs of life."""
_WITH_WORKLOADS = re.compile(r"users/[^/]+/servers?(/[^/]*)?$")
"""A server's start and stop are told with its workload."""
_SHOWN = ("usernames", "users", "groups", "admin", "name", "roles", "scopes", "note", "user")
"""Fields of a request that say what was changed. None of them can hold a secret; a request for
a token may hold a password in others."""
_LONGEST = 1000

_running: set[asyncio.Future[None]] = set()


def noting_acts(platform: Platform) -> Callable[[RequestHandler], None]:
    """The hub's ``log_function``, which also writes acts down."""

    in_order = asyncio.Lock()

    async def write(
        changed: Memberships, actor: Actor, action: str, target: str, detail: dict[str, object]
    ) -> None:
        async with in_order:
            await platform.in_database_thread(
                _append, platform, changed, actor, action, target, detail
            )

    def note(handler: RequestHandler) -> None:
        log_request(handler)
        if isinstance(handler, APIHandler) and _is_act(handler):
            actor = actor_of(handler) or Actor("visitor")
            try:
                changed = memberships(handler, _path(handler))
            except Exception:
                log.exception("Nobody knows whose groups were changed: they tell with a request.")
                changed = Memberships()
            task = asyncio.ensure_future(write(changed, actor, *_act(handler)))
            _running.add(task)
            task.add_done_callback(_done)

    return note


def _is_act(handler: APIHandler) -> bool:
    method = handler.request.method
    if method not in _CHANGES or handler.get_status() >= HTTPStatus.BAD_REQUEST:
        return False
    path = _path(handler)
    if method in {"POST", "DELETE"} and _WITH_WORKLOADS.match(path):
        return False
    return not _NO_ACTS.match(path)


def _path(handler: APIHandler) -> str:
    return str(handler.request.path).partition("/hub/api/")[2]


def _act(handler: APIHandler) -> tuple[str, str, dict[str, object]]:
    """Action, target and detail of a request: ``hub.post``, ``groups/trusted/users``, who."""
    action = f"hub.{str(handler.request.method).lower()}"
    return action, unquote(_path(handler)), _shown(handler.request.body)


def _shown(body: bytes) -> dict[str, object]:
    try:
        given = json.loads(body or b"{}")
    except ValueError:
        return {}
    if not isinstance(given, dict):
        return {}
    chosen = {name: given[name] for name in _SHOWN if name in given}
    return chosen if len(json.dumps(chosen)) <= _LONGEST else {"fields": sorted(chosen)}


def _append(
    platform: Platform,
    changed: Memberships,
    actor: Actor,
    action: str,
    target: str,
    detail: dict[str, object],
) -> None:
    with platform.database.transaction() as connection:
        write_memberships(connection, changed)
        if changed.gone:
            end_shares(connection, changed.gone, actor)
        events.note(connection, actor, action[:64], target, at=utc_now(), detail=detail)


def _done(task: asyncio.Future[None]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("An act is missing in the action log: %s", error)
