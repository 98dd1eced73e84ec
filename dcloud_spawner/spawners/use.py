"""What the hub hears of the use of a server: sign-ins at it, and its own word.

Two requests to the hub say it, and both are seen as they are answered:

- ``POST oauth2/token``: a browser has just signed in at the server. Whoever opens one does, each
  time it was started, for the server's own cookie ends with it.
- ``POST users/:user/activity``: the server says when it was last used. JupyterLab counts every
  request to its API that was signed in, by cookie or by token, and all traffic of kernels and
  terminals; the time of its own start when there was none.

The hub's ``last_activity`` of a server says less: the hub sets it when it begins to wait for the
server, and the proxy sets it when it learns its address.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from jupyterhub.apihandlers.base import APIHandler
from tornado.web import RequestHandler

from dcloud_spawner.errors import EngineError
from dcloud_spawner.platform import utc_now
from dcloud_spawner.store.schema import State
from dcloud_spawner.unopened import give_back, note_connected, opens_until

if TYPE_CHECKING:
    from dcloud_spawner.spawners.mixin import PlatformSpawner

log = logging.getLogger(__name__)

SETTLE = timedelta(seconds=30)
"""After readiness, for the proxy to learn the address, which it counts as activity."""

_ACTIVITY = re.compile(r"/api/users/([^/]+)/activity$")
_TOKEN = re.compile(r"/api/oauth2/token$")

_running: set[asyncio.Future[None]] = set()


def noticing_use(
    spawner_class: type[PlatformSpawner], then: Callable[[RequestHandler], None]
) -> Callable[[RequestHandler], None]:
    """The hub's ``log_function``, which also notices the use of servers."""

    def note(handler: RequestHandler) -> None:
        then(handler)
        if (
            handler.request.method == "POST"
            and handler.get_status() < HTTPStatus.BAD_REQUEST
            and isinstance(handler, APIHandler)
        ):
            _notice(spawner_class, handler)

    return note


def _notice(spawner_class: type[PlatformSpawner], handler: APIHandler) -> None:
    path, body = str(handler.request.path), handler.request.body
    if _TOKEN.search(path):
        client = parse_qs(body.decode(errors="replace")).get("client_id", [""])[0]
        for living in list(spawner_class.living):
            if client and living.oauth_client_id == client and _is_current(living):
                _soon(_connected(living, "sign-in", utc_now()))
    elif found := _ACTIVITY.search(path):
        user = handler.find_user(unquote(found[1]))
        if user is None:
            return
        for name, used_at in _told(body).items():
            spawner = user.spawners.get(name)
            if spawner is not None and spawner.ready:
                _soon(_heard(spawner, used_at, handler.proxy))


def _is_current(spawner: PlatformSpawner) -> bool:
    return spawner.user.spawners.get(spawner.name) is spawner


def _told(body: bytes) -> Mapping[str, datetime]:
    """Last use by server; empty for a body that says nothing of a server."""
    try:
        servers = json.loads(body)["servers"]
        found = {
            name: datetime.fromisoformat(about["last_activity"].replace("Z", "+00:00"))
            for name, about in servers.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    return {name: at if at.tzinfo else at.replace(tzinfo=UTC) for name, at in found.items()}


async def _connected(spawner: PlatformSpawner, how: str, at: datetime) -> None:
    workload = await spawner._workload()
    if workload is not None and workload.state in (State.STARTING, State.RUNNING):
        platform = spawner.platform
        await platform.in_database_thread(note_connected, platform, workload.id, how, at)


async def _heard(spawner: PlatformSpawner, used_at: datetime, proxy: Any) -> None:
    """A server has said when it was last used."""
    workload, platform = await spawner._workload(), spawner.platform
    if workload is None or (until := opens_until(platform, workload)) is None:
        return
    ready_at = workload.ready_at
    assert ready_at is not None, "it runs"
    if used_at > ready_at:
        await _connected(spawner, "activity", used_at)
        return
    spawner.tells_use = True
    if utc_now() < until:
        return
    passed = await _passed_at(spawner, proxy)
    if passed is None or passed > ready_at + SETTLE:
        # Somebody got an answer of it, but for nothing that it counts. That is no verdict.
        log.info("%s may have been used, at %s; it is left alone.", spawner._log_name, passed)
        return
    log.info("%s was not opened until %s; it is given back.", spawner._log_name, until)
    try:
        await platform.in_engine_thread(give_back, platform, workload.id)
    except EngineError as error:
        log.error("Cannot stop %s yet: %s", workload.server, error)


async def _passed_at(spawner: PlatformSpawner, proxy: Any) -> datetime | None:
    """When the proxy last passed on a good answer of a server; None when it does not say."""
    routes = await proxy.get_all_routes()
    said = routes.get(spawner.proxy_spec, {}).get("data", {}).get("last_activity")
    return datetime.fromisoformat(said.replace("Z", "+00:00")) if said else None


def _soon(work: Any) -> None:
    task = asyncio.ensure_future(work)
    _running.add(task)
    task.add_done_callback(_done)


def _done(task: asyncio.Future[None]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("Cannot note the use of a server: %s", error)
