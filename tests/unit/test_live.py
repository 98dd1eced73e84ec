"""The live reading of the pool: places, kinds of room, freshness, and the stream of events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from dcloud_spawner import queueing
from dcloud_spawner.live.outlook import Wish
from dcloud_spawner.live.pool import read_pool
from dcloud_spawner.live.stream import EventStream, Frames, frame
from dcloud_spawner.live.watch import PoolWatch
from dcloud_spawner.platform import Platform
from dcloud_spawner.scheduler.free import free_now, openings
from dcloud_spawner.scheduler.snapshot import Snapshot
from dcloud_spawner.spawners.progress import cpu_starts_now
from tests.memory_engine import MemoryEngine
from tests.platforms import ALICE, opened, settings_for, submit
from tests.values import GIB, pools


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    url = f"sqlite:///{tmp_path / 'dcloud.sqlite'}"
    with opened(settings_for(url, tmp_path), MemoryEngine()) as platform:
        yield platform


def wish(gpus: int, *, hours: float = 1) -> Wish:
    return Wish(gpus, None, GIB, 1000, hours * 3600)


# ---------------------------------------------------------------------------- the reading


def test_places_are_ranks_and_count_what_is_ahead(platform: Platform) -> None:
    submit(platform, "alice", 4)
    platform.run_pass()
    waiting = [submit(platform, user, gpus) for user, gpus in (("bob", 3), ("carol", 4))]
    platform.run_pass()
    state = read_pool(platform)
    first, second = (state.place_of(workload.id) for workload in waiting)
    assert first is not None and second is not None
    assert (first.place, first.ahead, first.gpus_ahead) == (1, 0, 0)
    assert (second.place, second.ahead, second.gpus_ahead) == (2, 1, 3)
    assert [place.workload.user for place in state.queue] == ["bob", "carol"]


def test_a_server_without_gpus_is_offered_meanwhile_only_where_it_would_start(
    platform: Platform,
) -> None:
    profile = platform.profiles.current()["gpu"]
    submit(platform, "alice", 4, cores=2)
    platform.run_pass()
    waiting = submit(platform, "carol", 4)
    assert cpu_starts_now(waiting, profile, read_pool(platform))
    for number in range(7):
        submit(platform, f"user-{number}", 0, cores=2)
    platform.run_pass()
    assert not cpu_starts_now(waiting, profile, read_pool(platform))
    assert not cpu_starts_now(waiting, None, read_pool(platform))


def test_a_request_on_hold_has_no_place(platform: Platform) -> None:
    submit(platform, "alice", 4)
    platform.run_pass()
    held, other = submit(platform, "bob", 1), submit(platform, "carol", 1)
    queueing.hold(platform, held.id, "maintenance", ALICE)
    state = read_pool(platform)
    assert state.place_of(held.id) is None
    place = state.place_of(other.id)
    assert place is not None and (place.place, place.ahead) == (1, 0)


def test_what_starts_now_delays_nobody_who_waits(platform: Platform) -> None:
    submit(platform, "alice", 2, hours=2)
    platform.run_pass()
    assert read_pool(platform).chances.starts_now(wish(2, hours=4))
    big = submit(platform, "bob", 4, hours=2)
    platform.run_pass()
    chances = read_pool(platform).chances
    assert chances.starts_now(wish(2, hours=1))
    assert not chances.starts_now(wish(2, hours=4))
    assert not chances.starts_now(wish(3, hours=1))
    assert chances.starts_now(wish(2, hours=4), instead_of=big.id)


@settings(max_examples=100)
@given(pool=pools(), gpus=st.integers(0, 4), gib=st.integers(0, 9), cores=st.integers(0, 9))
def test_a_wish_fits_on_a_node_exactly_when_it_fits_into_an_opening(
    pool: Snapshot, gpus: int, gib: int, cores: int
) -> None:
    free = tuple(free_now(pool).values())
    for model in (None, "A100", "H100"):
        asked = Wish(gpus, model, gib * GIB, cores * 1000, 3600)
        assert any(node.holds(asked) for node in free) == any(
            node.holds(asked) for node in openings(free)
        )


# ---------------------------------------------------------------------------- freshness


async def test_what_this_process_commits_is_read_at_once(platform: Platform) -> None:
    watch = PoolWatch(platform)
    watch.keep_fresh()
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    change = loop.run_in_executor(None, submit, platform, "bob", 1)
    while not watch.state.queue:
        await watch.changed(1)
    assert loop.time() - begun < 0.5
    await change


async def test_what_another_process_commits_is_read_within_a_second(
    platform: Platform, tmp_path: Path
) -> None:
    watch = PoolWatch(platform)
    watch.keep_fresh()
    other = Platform(platform.settings, engine=platform.engine)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, submit, other, "bob", 1)
    committed = loop.time()
    while not watch.state.queue:
        assert await watch.changed(2)
    assert loop.time() - committed < 1.5
    other.close()


async def test_a_fresh_reading_is_never_older_than_the_question(platform: Platform) -> None:
    watch = PoolWatch(platform)
    for number in range(5):
        await asyncio.to_thread(submit, platform, f"user{number}", 1)
        states = await asyncio.gather(*(watch.fresh() for _ in range(5)))
        assert all(len(state.queue) == number + 1 for state in states)


async def test_everybody_who_waits_for_news_is_told(platform: Platform) -> None:
    watch = PoolWatch(platform)
    waiting = [asyncio.ensure_future(watch.changed(5)) for _ in range(23)]
    await asyncio.sleep(0)
    await watch.refresh()
    assert await asyncio.gather(*waiting) == [True] * 23


# ---------------------------------------------------------------------------- the stream


class Told(EventStream):
    async def get(self) -> None:
        self.application.settings["open"] += 1
        try:
            await self.follow(self.compose, self.changed)
        finally:
            self.application.settings["open"] -= 1

    async def compose(self) -> Frames:
        shown: dict[str, int] = self.application.settings["shown"]
        return {name: frame(name, value) for name, value in shown.items()}

    async def changed(self, seconds: float) -> None:
        await asyncio.sleep(0.01)


async def test_a_stream_sends_only_what_changed_and_ends_with_its_reader() -> None:
    shown = {"form": 1, "server": 1}
    application = web.Application([("/", Told)], shown=shown, open=0)
    sockets = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(application)
    server.add_sockets(sockets)
    reader, writer = await asyncio.open_connection(*sockets[0].getsockname()[:2])
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    async def events(count: int) -> list[tuple[str, object]]:
        found: list[tuple[str, object]] = []
        name = ""
        while len(found) < count:
            line = (await asyncio.wait_for(reader.readline(), 5)).decode().strip()
            if line.startswith("event: "):
                name = line[7:]
            if line.startswith("data: "):
                found.append((name, json.loads(line[6:])))
        return found

    assert await events(2) == [("form", 1), ("server", 1)]
    shown["server"] = 2
    assert await events(1) == [("server", 2)]
    shown["form"] = 3
    assert await events(1) == [("form", 3)]
    assert application.settings["open"] == 1
    writer.close()
    for _ in range(100):
        if application.settings["open"] == 0:
            break
        await asyncio.sleep(0.01)
    assert application.settings["open"] == 0
    server.stop()
