"""Ends what only the store still knows."""

from __future__ import annotations

import logging

from dcloud_spawner import lifecycle
from dcloud_spawner.errors import EngineError
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.workloads import Workload

log = logging.getLogger(__name__)


async def end_forgotten(platform: Platform, user: str, server_name: str, actor: Actor) -> bool:
    """End the workload of a server that this hub is not starting (yet): one that waited when
    the last hub died. Without this, leaving the queue in that moment would be undone.

    False when the engine has to confirm the end yet.
    """

    def find() -> Workload | None:
        with platform.database.reading() as connection:
            return workloads.find_open(connection, user, server_name)

    workload = await platform.in_database_thread(find)
    if workload is None:
        return True
    try:
        await platform.in_engine_thread(lifecycle.stop, platform, workload.id, "cancelled", actor)
    except EngineError as error:
        log.warning("%s ends later: %s", workload.server, error)
        return False
    return True
