"""What a spawner shows of the ledger: the personal part of the start page, costs, the balance."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dcloud_spawner import accounting, granting, overrides
from dcloud_spawner.ledger.rates import MICRO
from dcloud_spawner.live.pool import read_pool
from dcloud_spawner.platform import Platform
from dcloud_spawner.store.events import Actor
from tests.memory_engine import MemoryEngine
from tests.platforms import opened, settings_for, start, submit
from tests.unit.test_spawner import Bare

BOSS = Actor("boss")


class Shown(Bare):
    """A spawner whose pages are looked at."""

    hub = type("Hub", (), {"base_url": "/lab/hub/"})()


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    settings = settings_for(database_url, tmp_path, roles={"standard": {"gpus": 3}})
    with opened(settings, MemoryEngine()) as platform:
        Shown.plug_in(platform)
        yield platform


def run(scenario: Callable[[], Awaitable[Any]]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(20):
            return await scenario()

    return asyncio.run(limited())


def data(frame: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(frame.decode().split("data: ")[1])
    return found


pytestmark = pytest.mark.database


def test_the_personal_part_has_ones_own_limits_and_accounts(platform: Platform) -> None:
    lab = accounting.create_project(platform, "vision-lab", ["alice"], BOSS)
    granting.grant(platform, lab.id, 10 * MICRO, BOSS, reason="for the class")
    running = start(platform, "alice", 2, account="vision-lab")

    async def scenario() -> None:
        spawner = Shown("alice")
        spawner.pool.state = await asyncio.to_thread(read_pool, platform)
        shown = data(await spawner.mine_frame(spawner.owner()))
        own, project = shown["payers"]
        assert (own["name"], own["budget"]) == ("", "none")
        assert (project["name"], project["balance"]) == ("vision-lab", str(10 * MICRO))
        assert (project["available"], project["burn"]) == (str(8 * MICRO), str(2 * MICRO))
        fits = shown["limits"]["gpu"]["gpus"]["fits"]
        assert fits["4"]["mark"] == "your limit is 3"
        assert fits["2"]["reason"] == "2 GPUs wait: your default server uses 2 of your 3."
        assert "1" not in fits
        assert spawner.ask_url == "/lab/services/dcloud/requests"
        assert spawner.balance_view() == {"of": "Balance of vision-lab", "figure": "10.0"}
        held = spawner.holding_view()
        assert held is not None
        assert (held["an_hour"], held["cost"]) == ("2.00", "0.00")
        assert spawner.pool.state.servers[("alice", "")].id == running.id

    run(scenario)


def test_the_personal_part_is_the_same_bytes_until_something_of_it_changes(
    platform: Platform,
) -> None:
    async def scenario() -> None:
        spawner = Shown("alice")
        await spawner.pool.refresh()
        first = await spawner.mine_frame(spawner.owner())
        await asyncio.to_thread(submit, platform, "bob", 1)
        await spawner.pool.refresh()
        assert await spawner.mine_frame(spawner.owner()) is first

        await asyncio.to_thread(
            lambda: overrides.set_override(
                platform, "alice", "gpus", 4, actor=BOSS, reason="for the thesis"
            )
        )
        async with asyncio.timeout(15):
            while await spawner.mine_frame(spawner.owner()) is first:
                await spawner.pool.refresh()
                await asyncio.sleep(0.2)
        shown = data(await spawner.mine_frame(spawner.owner()))
        assert shown["limits"]["gpu"]["gpus"]["fits"] == {}

    run(scenario)


def test_a_blocked_request_is_told_with_its_code_and_without_place_or_range(
    platform: Platform,
) -> None:
    start(platform, "alice", 2)

    async def scenario() -> None:
        waits = await asyncio.to_thread(lambda: submit(platform, "alice", 2, server="second"))
        await asyncio.to_thread(platform.run_pass)
        spawner = Shown("alice")
        spawner.name, spawner.workload_id = "second", waits.id
        await spawner.pool.refresh()
        event = spawner.waiting_view()
        assert event is not None
        assert event["blocked"]["code"] == "limit:gpus"
        assert "your default server uses 2" in event["blocked"]["reason"]
        assert event["reasons"] == [event["blocked"]["reason"]]
        assert (event["place"], event["expected"], event["latest_start"]) == (None, None, None)
        assert event["message"] == "It may not start yet."

    run(scenario)
