"""A server starts once its datasets are there; how far they are shows on the waiting page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dcloud_spawner.engines.base import Mount
from dcloud_spawner.errors import Conflict, NotAllowed
from dcloud_spawner.mounts.places import mount_of
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import dataset_mounts
from dcloud_spawner.store.dataset_mounts import MountState, WorkloadDataset
from dcloud_spawner.store.workloads import Workload

POLL_SECONDS = 0.5


def mounts_of(platform: Platform, workload: Workload) -> tuple[Mount, ...]:
    """What a container has besides its home: nothing for who asked for no datasets."""
    asked = bool(workload.choice.get("datasets"))
    return (mount_of(platform.settings, workload.id),) if asked else ()


async def until_mounted(platform: Platform, identifier: str) -> None:
    """Wait until the process ``data`` has mounted all that a workload asked for, however long it
    takes: it holds its GPUs, is not charged, and takes no place among the launches. Raises
    Conflict with the reason when one can never be mounted, NotAllowed when it was revoked."""

    def look() -> Sequence[WorkloadDataset]:
        with platform.database.reading() as connection:
            return dataset_mounts.of_workload(connection, identifier)

    while True:
        found = await platform.in_reading_thread(look)
        for one in found:
            if one.state is MountState.FAILED:
                raise Conflict(
                    f"The dataset {one.name} cannot be mounted. {one.message}",
                    hint="Start without it, or tell its owner.",
                    code="dataset_failed",
                )
            if one.state is MountState.REVOKED:
                raise NotAllowed(
                    f"The dataset {one.name} is not shared with you any more.",
                    hint="Start without it, or ask its owner.",
                    code="dataset_revoked",
                )
        if all(one.state is MountState.READY for one in found):
            return
        await asyncio.sleep(POLL_SECONDS)
