"""500 waiting pages open while the queue moves: what the hub pays for them, and how it answers.

A real hub behind the real proxy, with the real queue and pages; the engine is in memory. Each
page holds one stream of server-sent events. Every two seconds somebody joins the queue ahead of
all of them or leaves it, so that the place of every page changes. Meanwhile people open the
start page and their waiting page. The peer is the same hub in the same run before the pages were
opened, but for the delay of events, whose peer is the 2 s that are promised.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from bench.result import Result
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import workloads
from dcloud_spawner.store.database import Database
from tests.browser.staged import QueueHub
from tests.browser.story import A100

PAGES = int(os.environ.get("DCLOUD_BENCH_PAGES", "500"))
SECONDS = float(os.environ.get("DCLOUD_BENCH_SECONDS", "30"))
READERS = 8
"""People who open pages, one after the other."""

WISH = {"profile": "pytorch", "gpus": 4, "gpu_model": A100, "memory_gib": 16, "cpus": 4, "hours": 4}
SMALL = {**WISH, "hours": 1}
"""Due earlier than all the others."""

PROMISED_SECONDS = 2.0


@dataclass
class Streams:
    """The open streams, and when each of them heard something first since ``heard`` was empty."""

    hub: QueueHub
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    heard: dict[int, float] = field(default_factory=dict)
    events: int = 0

    def open(self, number: int) -> None:
        """One more."""
        self.tasks.append(asyncio.create_task(self._follow(number)))

    async def _follow(self, number: int) -> None:
        address = urlsplit(self.hub.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(
            f"GET /hub/api/users/w{number}/server/progress HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Authorization: token {self.hub.token}\r\n\r\n".encode()
        )
        try:
            while line := await reader.readline():
                if line.startswith(b"data:"):
                    self.heard.setdefault(number, time.perf_counter())
                    self.events += 1
        finally:
            writer.close()

    async def close(self) -> None:
        """All of them."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def _sign_in(hub: QueueHub, name: str) -> httpx.AsyncClient:
    client = httpx.AsyncClient(
        base_url=hub.url, timeout=60, trust_env=False, follow_redirects=False
    )
    page = await client.get("/hub/login")
    token = page.cookies["_xsrf"] if "_xsrf" in page.cookies else client.cookies["_xsrf"]
    answer = await client.post(
        "/hub/login", data={"username": name, "password": hub.password, "_xsrf": token}
    )
    assert answer.status_code == 302, answer.text[:500]
    return client


async def _open_pages(clients: list[httpx.AsyncClient], until: float, count: int) -> list[float]:
    """Open pages in turn until the time is over and so many were; the seconds of each."""
    seconds: list[float] = []
    while time.perf_counter() < until or len(seconds) < count:
        for number, client in enumerate(clients):
            for path in ("/hub/spawn", f"/hub/spawn-pending/w{number}"):
                begun = time.perf_counter()
                answer = await client.get(path)
                seconds.append(time.perf_counter() - begun)
                assert answer.status_code in (200, 302), (path, answer.status_code)
                await asyncio.sleep(0.05)
    return seconds


async def _post(hub: QueueHub, user: str, choice: dict[str, object]) -> None:
    await asyncio.to_thread(hub.ask, user, choice)


async def _fill(hub: QueueHub, numbers: range) -> None:
    """Let these users wait, several at a time."""
    headers = {"Authorization": f"token {hub.token}"}
    async with httpx.AsyncClient(
        base_url=f"{hub.url}/hub/api", headers=headers, timeout=120, trust_env=False
    ) as api:
        names = [f"w{number}" for number in numbers]
        (await api.post("/users", json={"usernames": names})).raise_for_status()
        turn = asyncio.Semaphore(8)

        async def ask(name: str) -> None:
            async with turn:
                (await api.post(f"/users/{name}/server", json=WISH)).raise_for_status()

        await asyncio.gather(*(ask(name) for name in names))


def _until_all_wait(hub: QueueHub) -> None:
    """Whoever asked is in the queue only once their transaction is through."""
    database = Database(Settings(state=hub.folder / "state").store_url)
    queued = 0
    while queued < PAGES:
        time.sleep(0.2)
        with database.reading() as connection:
            queued = workloads.count_queued(connection)
    database.close()


async def _move(hub: QueueHub, streams: Streams, until: float) -> list[float]:
    """Join ahead of all and leave again; for each the seconds until a page heard of it."""
    delays: list[float] = []
    turn = 0
    while time.perf_counter() < until:
        streams.heard.clear()
        begun = time.perf_counter()
        if turn % 2 == 0:
            await _post(hub, "mover", SMALL)
        else:
            await asyncio.to_thread(hub.leave, "mover")
        turn += 1
        done = time.perf_counter()
        await asyncio.sleep(max(0.0, begun + PROMISED_SECONDS - done))
        # From when it was asked for, so the request itself is in it; unheard counts as late.
        delays += [heard - begun for heard in streams.heard.values()]
        delays += [2 * PROMISED_SECONDS] * (len(streams.tasks) - len(streams.heard))
    return delays


@dataclass(frozen=True)
class Cost:
    """What the hub used while something was done."""

    seconds: list[float]
    cpu_percent: float
    memory_mib: float


async def _measured(process: psutil.Process, work: Callable[[], Awaitable[list[float]]]) -> Cost:
    before, begun = process.cpu_times(), time.perf_counter()
    seconds = await work()
    after, ended = process.cpu_times(), time.perf_counter()
    used = after.user + after.system - before.user - before.system
    return Cost(seconds, 100 * used / (ended - begun), process.memory_info().rss / 2**20)


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


async def _run(hub: QueueHub) -> dict[str, Result]:
    process = psutil.Process(hub.pid("hub"))
    await _post(hub, "holder", WISH)
    await _fill(hub, range(READERS))
    clients = [await _sign_in(hub, f"w{number}") for number in range(READERS)]
    await _open_pages(clients, 0, 2 * READERS)  # the first of each is drawn slowly
    alone = await _measured(process, lambda: _open_pages(clients, time.perf_counter() + 5, 50))
    await _fill(hub, range(READERS, PAGES))
    await asyncio.to_thread(_until_all_wait, hub)
    streams = Streams(hub)
    for number in range(PAGES):
        streams.open(number)
        await asyncio.sleep(0.005)
    while len(streams.heard) < PAGES:  # noqa: ASYNC110 - once a run
        await asyncio.sleep(0.1)
    until = time.perf_counter() + SECONDS
    moving = asyncio.create_task(_move(hub, streams, until))
    crowd = await _measured(process, lambda: _open_pages(clients, until, 50))
    delays = await moving
    open_ones = sum(not task.done() for task in streams.tasks)
    assert open_ones == PAGES, f"{PAGES - open_ones} streams ended"
    await streams.close()
    for client in clients:
        await client.aclose()
    print(f"{streams.events} events to {PAGES} pages")
    peer = "the same hub without these pages"
    return {
        "waiting_pages_latency_p95": Result(
            round(_p95(crowd.seconds), 4),
            "s",
            peer,
            round(_p95(alone.seconds), 4),
            len(crowd.seconds),
        ),
        "waiting_pages_hub_cpu": Result(
            round(crowd.cpu_percent, 1), "% of a core", peer, round(alone.cpu_percent, 1), PAGES
        ),
        "waiting_pages_hub_memory": Result(
            round(crowd.memory_mib, 1), "MiB", peer, round(alone.memory_mib, 1), PAGES
        ),
        "waiting_pages_event_delay_p95": Result(
            round(_p95(delays), 4), "s", "the promised time", PROMISED_SECONDS, len(delays)
        ),
    }


def measure() -> dict[str, Result]:
    """One hub with one node of 4 GPUs."""
    with (
        tempfile.TemporaryDirectory(prefix="dcloud-bench-", ignore_cleanup_errors=True) as folder,
        QueueHub(Path(folder), {"gpu-01": [4, A100, 80]}) as hub,
    ):
        return asyncio.run(_run(hub))
