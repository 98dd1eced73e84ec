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
from hub_services.controller.hub import HubClient, HubUnavailable

log = logging.getLogger(__name__)

ACTOR = Actor("controller")


def _unfinished(platform: Platform) -> list[Workload]:
    with platform.database.reading() as connection:
        found = workloads.in_states(connection, (State.QUEUED, State.ADMITTED, State.STARTING))
    return [workload for workload in found if workload.kind == NOTEBOOK]


async def resume(platform: Platform, hub: HubClient) -> bool:
    """Ask the hub to take up what it does not know to be starting; True when all is taken up.

    A start that the hub refuses for good (its user or profile is gone) is ended with the
    hub's own reason. Raises HubUnavailable when the hub does not answer.
    """
    waiting = await platform.in_database_thread(_unfinished, platform)
    if not waiting:
        return True
    active = await hub.active_servers()
    complete = True
    for workload in waiting:
        if active.get((workload.user, workload.server_name)):
            continue
        try:
            response = await hub.start_server(workload)
        except HubUnavailable as error:
            # One that cannot start yet must not hold up those behind it.
            log.info("%s goes on waiting: %s", workload.server, error)
            complete = False
            continue
        if response.status_code in (HTTPStatus.CREATED, HTTPStatus.ACCEPTED):
            log.info("Took up %s again.", workload.server)
        elif HTTPStatus.BAD_REQUEST <= response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            await _end_refused(platform, workload, response.text)
    return complete


async def _end_refused(platform: Platform, workload: Workload, answer: str) -> None:
    log.warning("The hub refuses %s for good: %s", workload.server, answer[:300])
    try:
        await platform.in_engine_thread(
            lifecycle.stop, platform, workload.id, "refused", ACTOR, answer[:2000]
        )
    except EngineError as error:
        log.error("Cannot end %s yet: %s", workload.server, error)
