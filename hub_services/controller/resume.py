"""After a hub restart: every start that was waiting or under way goes on by itself.

And the opposite: a server that runs although the hub no longer knows it is nobody's, for nobody
can reach or stop it. It is ended when the hub has not known it for half a minute.
"""

from __future__ import annotations

import logging
import time
from http import HTTPStatus

from dcloud_spawner import lifecycle
from dcloud_spawner.errors import EngineError
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import NOTEBOOK, Workload
from hub_services.controller.hub import HubClient, HubUnavailable

log = logging.getLogger(__name__)

ACTOR = Actor("controller")

FORGOTTEN_SECONDS = 25.0
"""Less than the period of the looks, so that the second one ends it."""

UNFINISHED = (State.QUEUED, State.ADMITTED, State.STARTING)


class Resumer:
    """Compares the hub's servers with the rows; remembers since when it does not know one."""

    def __init__(self, platform: Platform, hub: HubClient) -> None:
        self._platform = platform
        self._hub = hub
        self._unknown_since: dict[str, float] = {}

    def _notebooks(self) -> list[Workload]:
        with self._platform.database.reading() as connection:
            found = workloads.in_states(connection, (*UNFINISHED, State.RUNNING))
        return [workload for workload in found if workload.kind == NOTEBOOK]

    async def turn(self) -> bool:
        """Look once; True when every unfinished start is under way in the hub.

        Raises HubUnavailable when the hub does not answer.
        """
        rows = await self._platform.in_database_thread(self._notebooks)
        if not rows:
            return True
        active = await self._hub.active_servers()
        lost = [row for row in rows if not active.get((row.user, row.server_name))]
        complete = True
        for workload in lost:
            if workload.state in UNFINISHED and not await self._take_up(workload):
                complete = False
        await self._end_forgotten([row for row in lost if row.state is State.RUNNING])
        return complete

    async def _take_up(self, workload: Workload) -> bool:
        try:
            response = await self._hub.start_server(workload)
        except HubUnavailable as error:
            # One that cannot start yet must not hold up those behind it.
            log.info("%s goes on waiting: %s", workload.server, error)
            return False
        if response.status_code in (HTTPStatus.CREATED, HTTPStatus.ACCEPTED):
            log.info("Took up %s again.", workload.server)
            return True
        if response.status_code == HTTPStatus.NOT_FOUND:
            await self._end(workload, "user deleted", response.text)
            return True
        # Only a user who is gone ends a wait. Whatever else the hub says (it is just checking,
        # stopping or starting this server) may be otherwise next time.
        log.info("%s is not taken up: %s", workload.server, response.text[:300])
        return response.status_code == HTTPStatus.CONFLICT

    async def _end_forgotten(self, running: list[Workload]) -> None:
        now = time.monotonic()
        self._unknown_since = {
            workload.id: self._unknown_since.get(workload.id, now) for workload in running
        }
        for workload in running:
            if now - self._unknown_since[workload.id] >= FORGOTTEN_SECONDS:
                await self._end(workload, "forgotten", "The hub does not know this server.")

    async def _end(self, workload: Workload, reason: str, detail: str) -> None:
        log.warning("Ending %s, %s: %s", workload.server, reason, detail[:300])
        try:
            await self._platform.in_engine_thread(
                lifecycle.stop, self._platform, workload.id, reason, ACTOR, detail[:2000]
            )
        except EngineError as error:
            log.error("Cannot end %s yet: %s", workload.server, error)
