"""After a hub restart: every start that was waiting or under way goes on by itself."""

from __future__ import annotations

import logging
from http import HTTPStatus

from dcloud_spawner import lifecycle
from dcloud_spawner.errors import EngineError
from dcloud_spawner.lifecycle import Actor
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import workloads
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import NOTEBOOK, Workload
from hub_services.controller.hub import HubClient

log = logging.getLogger(__name__)

ACTOR = Actor("controller")


def _unfinished(platform: Platform) -> list[Workload]:
    with platform.database.reading() as connection:
        found = workloads.in_states(connection, (State.QUEUED, State.ADMITTED, State.STARTING))
    return [workload for workload in found if workload.kind == NOTEBOOK]


async def resume(platform: Platform, hub: HubClient) -> list[str]:
    """Ask the hub to take up what it does not know to be starting; returns those servers.

    A start that the hub refuses for good (its user or profile is gone) is ended with the
    hub's own reason. Raises HubUnavailable when the hub does not answer.
    """
    waiting = await platform.in_database_thread(_unfinished, platform)
    if not waiting:
        return []
    active = await hub.active_servers()
    resumed = []
    for workload in waiting:
        if active.get((workload.user, workload.server_name)):
            continue
        response = await hub.start_server(workload)
        if response.status_code in (HTTPStatus.CREATED, HTTPStatus.ACCEPTED):
            log.info("Took up %s again.", workload.server)
            resumed.append(workload.server)
        elif HTTPStatus.BAD_REQUEST <= response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            await _end_refused(platform, workload, response.text)
    return resumed


async def _end_refused(platform: Platform, workload: Workload, answer: str) -> None:
    log.warning("The hub refuses %s for good: %s", workload.server, answer[:300])
    try:
        await platform.in_engine_thread(
            lifecycle.stop, platform, workload.id, "refused", ACTOR, answer[:2000]
        )
    except EngineError as error:
        log.error("Cannot end %s yet: %s", workload.server, error)
