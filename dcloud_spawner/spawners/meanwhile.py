"""Work on CPU while the GPUs are waited for: a second server of the same environment, now.

``POST {hub}/dcloud/cpu-meanwhile/:user/:server`` starts it, or says which one there is. The
request keeps its place, and the second server is not ended when its turn has come: nobody's work
is lost by that.

It has the image and the home of what waits, as long a limit, no GPU, and the least memory and
cores that the profile offers, also when the profile offers no choice without a GPU: whoever may
have its image with GPUs may have it with less.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from http import HTTPStatus
from weakref import WeakValueDictionary

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.user import User
from jupyterhub.utils import url_escape_path, url_path_join
from tornado.web import HTTPError

from dcloud_spawner.datasets.wishes import kept_wishes
from dcloud_spawner.options import Choice
from dcloud_spawner.platform import Platform
from dcloud_spawner.profiles import Profile
from dcloud_spawner.spawners.row import Beside
from dcloud_spawner.store import workloads
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload

LONGEST_NAME = 30
"""Characters of a server's name, by the hub's rule."""

_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


def choice_beside(waiting: Workload, profile: Profile) -> Choice:
    """What runs beside a request that waits."""
    return Choice(
        profile=waiting.profile,
        gpus=0,
        gpu_model=None,
        memory_gib=min(profile.memory_gib.choices),
        cpus=min(profile.cpus.choices),
        hours=max(1, waiting.limit_seconds // 3600),
        image=waiting.choice.get("image"),
        account=waiting.choice.get("account"),
        datasets=kept_wishes(waiting.choice["datasets"]) if "datasets" in waiting.choice else None,
    )


class CpuMeanwhileHandler(APIHandler):
    """See the module. Answers 201 (it runs), 202 (it starts), or 200 (there is one already), each
    with ``{"server", "url", "state"}``; 409 when nothing waits there, 400 at the limit of servers.
    """

    @needs_scope("start:servers")  # type: ignore[untyped-decorator]
    async def post(self, user_name: str, server_name: str = "") -> None:
        """Start a server without GPUs beside the one that waits."""
        user = self.find_user(user_name)
        if user is None:
            raise HTTPError(HTTPStatus.NOT_FOUND)
        lock = _locks.setdefault(user.name, asyncio.Lock())
        async with lock:
            waiting = await self._waiting(user, server_name)
            name = await self._present(user, waiting)
            status = HTTPStatus.OK
            if name is None:
                name = _free_name(user, server_name)
                await self._start(user, name, waiting)
                ready = user.spawners[name].ready
                status = HTTPStatus.CREATED if ready else HTTPStatus.ACCEPTED
        self._answer(user, name, status)

    async def _waiting(self, user: User, server_name: str) -> Workload:
        platform: Platform = user.spawner_class.platform

        def find() -> Workload | None:
            with platform.database.reading() as connection:
                return workloads.find_open(connection, user.name, server_name)

        found = await platform.in_database_thread(find)
        if found is None or found.state is not State.QUEUED:
            raise HTTPError(HTTPStatus.CONFLICT, "This server does not wait in the queue.")
        if found.gpus == 0:
            raise HTTPError(HTTPStatus.CONFLICT, "This server waits without asking for a GPU.")
        return found

    async def _present(self, user: User, waiting: Workload) -> str | None:
        """The name of the server that there is already for this request."""
        for name, spawner in user.spawners.items():
            if (
                spawner.pending == "spawn"
                and spawner.beside
                and spawner.beside.waiting == waiting.id
            ):
                return str(name)
        platform: Platform = user.spawner_class.platform

        def find() -> Workload | None:
            with platform.database.reading() as connection:
                return workloads.beside(connection, waiting.id)

        found = await platform.in_database_thread(find)
        return found.server_name if found is not None else None

    async def _start(self, user: User, name: str, waiting: Workload) -> None:
        profile = user.spawner_class.platform.profiles.current().get(waiting.profile)
        if profile is None:
            raise HTTPError(HTTPStatus.CONFLICT, "Its profile is offered no more.")
        await self._check_named_server_request(user, name, name)
        choice = choice_beside(waiting, profile)
        spawner = user.get_or_create_spawner(name, name, replace_failed=True)
        if spawner.active:  # its owner has just started something there
            raise HTTPError(HTTPStatus.CONFLICT, f"{spawner._log_name} is being started already.")
        spawner.beside = Beside(waiting.id, choice)
        try:
            await self.spawn_single_user(user, name, name, options=choice.as_dict())
        finally:
            if spawner.pending != "spawn":
                # The hub may refuse before the start begins (too many servers, one is just being
                # stopped); what its owner starts there next is what they choose.
                spawner.beside = None

    def _answer(self, user: User, name: str, status: HTTPStatus) -> None:
        spawner = user.spawners.get(name)
        ready = spawner is not None and spawner.ready
        pending = url_path_join(
            self.hub.base_url, "spawn-pending", user.escaped_name, url_escape_path(name)
        )
        url = user.server_url(name) if ready else pending
        self.set_status(status)
        state = "ready" if ready else "pending"
        self.finish(json.dumps({"server": name, "url": url, "state": state}))


def _free_name(user: User, waiting: str) -> str:
    """``cpu``, or ``NAME-cpu`` beside a named server; with a number where that one is active."""

    def names() -> Iterator[str]:
        base = f"{waiting[: LONGEST_NAME - 6].rstrip('-')}-cpu" if waiting else "cpu"
        yield base
        for number in range(2, 10):
            yield f"{base}-{number}"

    for name in names():
        if name not in user.spawners or not user.spawners[name].active:
            return name
    raise HTTPError(HTTPStatus.CONFLICT, "You have too many servers without GPUs already.")
