"""A process that does jobs on datasets, as `data` does, to be killed at any moment."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dcloud_spawner.datasets.addresses import networks
from dcloud_spawner.platform import Platform
from dcloud_spawner.storage.access import StorageAccess
from dcloud_spawner.storage.store import ObjectStore
from hub_services.datasets.__main__ import only_one
from hub_services.datasets.jobs import Jobs
from tests.memory_engine import MemoryEngine
from tests.platforms import settings_for


def work(url: str, folder: Path, access: StorageAccess) -> None:
    """Do jobs until the end."""
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
