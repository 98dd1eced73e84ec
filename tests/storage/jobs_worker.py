"""A process that does jobs on datasets, as `data` does, to be killed at any moment."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from dcloud_spawner.datasets.addresses import networks
from dcloud_spawner.platform import Platform
from dcloud_spawner.storage.access import StorageAccess
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store.dataset_files import File
from hub_services.datasets import publishing
from hub_services.datasets import work as under_way
from hub_services.datasets.__main__ import only_one
from hub_services.datasets.jobs import Jobs
from hub_services.datasets.work import Work
from tests.memory_engine import MemoryEngine
from tests.platforms import settings_for


def work(url: str, folder: Path, access: StorageAccess, pause_seconds: float = 0) -> None:
    """Do jobs until the end; with a pause at each file that is read back, so that there is time
    to be killed, and writing how far it is more often."""
    count = publishing._sum

    def slowly(work: Work, file: File) -> tuple[str, str]:
        time.sleep(pause_seconds)
        return count(work, file)

    if pause_seconds:
        publishing._sum = slowly
        publishing.WRITE_SECONDS = pause_seconds
        under_way.PROGRESS_SECONDS = pause_seconds / 2
    settings = settings_for(url, folder, import_networks=networks(["127.0.0.0/8"]))
    with only_one(settings):
        platform = Platform(settings, engine=MemoryEngine())
        platform.__dict__["storage"] = ObjectStore(access)
        jobs = Jobs(platform)

        async def run() -> None:
            while True:
                await jobs.turn()
                await asyncio.sleep(0.02)

        asyncio.run(run())
