"""The jobs of the process `data`, in a thread of the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dcloud_spawner.platform import Platform
from hub_services.datasets.jobs import Jobs


@contextmanager
def jobs_beside(platform: Platform) -> Iterator[None]:
    """They are done as they come."""
    stop = threading.Event()

    async def turns() -> None:
        jobs = Jobs(platform)
        try:
            while not stop.is_set():
                await jobs.turn()
                await asyncio.sleep(0.1)
        finally:
            jobs.close()

    thread = threading.Thread(target=asyncio.run, args=(turns(),))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
