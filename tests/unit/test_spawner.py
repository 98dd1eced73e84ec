"""The way of one start in the spawner, where the engine or the database fails on it.

The spawner here is the mixin alone, without a hub: what the hub adds is tested in tests/docker.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dcloud_spawner.engines.base import ContainerFacts, ContainerSpec
from dcloud_spawner.errors import EngineUnreachable
from dcloud_spawner.platform import Platform
from dcloud_spawner.spawners.mixin import PlatformSpawner
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from tests.memory_engine import MemoryEngine
from tests.platforms import get, held, opened, settings_for, state

SILENT = EngineUnreachable("no answer")
PORT = 8888


class Bare(PlatformSpawner):
    """The mixin and as little of a hub's spawner as it looks at."""

    name = ""
    handler = None
    pending = None
    ready = False
    port = PORT

    def __init__(self, user: str) -> None:
        super().__init__()
        self.user = SimpleNamespace(name=user, groups=[], admin=False, spawners={"": self})
        self.log = logging.getLogger("test")
        self._log_name = user
        self.user_options = {"profile": "gpu", "gpus": 1}
        self.orm_spawner = SimpleNamespace(user_options=None)
        self.before_fetch: Callable[[], Awaitable[None]] | None = None

    def get_env(self) -> dict[str, str]:
        return {}

    async def fetch_image(self, image: str) -> None:
        if self.before_fetch is not None:
            await self.before_fetch()

    async def launch(self, spec: ContainerSpec) -> str:
        await self.platform.in_engine_thread(self.platform.engine.launch, spec)
        return f"http://10.0.0.1:{PORT}"

    async def _until_ready(self, workload: Workload, url: str) -> ContainerFacts:
        # The engine takes the first port that an image opens, which need not be the server's.
        return replace(await self._alive(workload.id), url="http://10.0.0.1:22")


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def platform(tmp_path: Path, engine: MemoryEngine) -> Iterator[Platform]:
    url = f"sqlite:///{tmp_path / 'dcloud.sqlite'}"
    settings = settings_for(url, tmp_path, concurrent_launches=1, launch_timeout_seconds=5)
    with opened(settings, engine) as platform:
        Bare.plug_in(platform)
        yield platform


def run(scenario: Callable[[], Awaitable[Any]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(limited())


@contextmanager
def locked(platform: Platform) -> Iterator[None]:
    """Another process that holds the one write transaction; from a thread of its own."""
    database = Database(platform.settings.store_url)
    inside, over = threading.Event(), threading.Event()

    def hold() -> None:
        with database.transaction():
            inside.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()
        database.close()


def test_the_address_is_the_one_that_answered_whatever_ports_the_image_opens(
    platform: Platform,
) -> None:
    async def scenario() -> None:
        spawner = Bare("alice")
        url = await spawner.start()
        assert get(platform, spawner.workload_id).url == url == f"http://10.0.0.1:{PORT}"

    run(scenario)


def test_an_engine_that_is_silent_when_the_image_is_looked_for_costs_nobody_their_gpus(
    platform: Platform,
) -> None:
    silences = [SILENT, SILENT]

    async def silent_at_first() -> None:
        if silences:
            raise silences.pop()

    async def scenario() -> None:
        spawner = Bare("alice")
        spawner.before_fetch = silent_at_first
        await spawner.start()
        assert get(platform, spawner.workload_id).state is State.RUNNING

    run(scenario)
    assert not silences


def test_an_image_that_is_fetched_for_long_takes_no_place_among_the_launches(
    platform: Platform,
) -> None:
    async def scenario() -> None:
        fetched = asyncio.Event()
        slow, quick = Bare("alice"), Bare("bob")

        async def fetch_slowly() -> None:
            await fetched.wait()

        slow.before_fetch = fetch_slowly
        slow_start = asyncio.ensure_future(slow.start())
        while not held(platform):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await quick.start()
        fetched.set()
        await slow_start

    run(scenario)


def test_a_start_cancelled_while_the_database_is_away_does_not_come_to_life_again(
    platform: Platform,
) -> None:
    platform.database.close()
    platform.database = Database(platform.settings.store_url, busy_timeout_seconds=0.2)

    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        spawner = Bare("alice")
        spawner.before_fetch = wait_for_ever
        start = asyncio.ensure_future(spawner.start())
        while not held(platform):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        with locked(platform):
            start.cancel()
            await asyncio.wait([start])
            await asyncio.sleep(1)
            workload = get(platform, spawner.workload_id)
            assert workload.state is State.ADMITTED
        await spawner.stop()
        assert state(platform, workload) is State.ENDED
        assert not held(platform)

    run(scenario)
