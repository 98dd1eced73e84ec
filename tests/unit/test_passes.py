"""Passes that many share: everybody gets one that began after they asked, and no more are made."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcloud_spawner import lifecycle
from dcloud_spawner import platform as platform_module
from dcloud_spawner.passes import Passes
from dcloud_spawner.platform import Platform
from dcloud_spawner.scheduler.plan import Plan
from dcloud_spawner.scheduler.schedule import schedule
from dcloud_spawner.store import events
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from tests.memory_engine import MemoryEngine, node
from tests.platforms import choice, get, held, opened, settings_for

GUARD_SECONDS = 60
NOTHING = Plan((), (), None, None, frozenset())


class Slow:
    """Passes that wait until they are let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.go_on = threading.Semaphore(0)
        self.has_begun = threading.Semaphore(0)
        self.fails: Exception | None = None

    def __call__(self) -> Plan:
        self.begun += 1
        self.has_begun.release()
        assert self.go_on.acquire(timeout=GUARD_SECONDS)
        if self.fails is not None:
            raise self.fails
        return NOTHING


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def passes(slow: Slow) -> Iterator[Passes]:
    found = Passes(slow)
    yield found
    slow.go_on.release(100)
    found.close()


def test_all_who_ask_while_a_pass_runs_share_one_that_begins_after_it(
    passes: Passes, slow: Slow
) -> None:
    first = passes.ask()
    assert slow.has_begun.acquire(timeout=GUARD_SECONDS)
    others = [passes.ask() for _ in range(50)]
    assert not first.done() and first not in others
    slow.go_on.release()
    first.result(GUARD_SECONDS)
    assert slow.has_begun.acquire(timeout=GUARD_SECONDS)
    late = passes.ask()
    assert not any(other.done() for other in others)
    slow.go_on.release()
    assert [other.result(GUARD_SECONDS) for other in others] == [NOTHING] * 50
    assert not late.done()
    slow.go_on.release()
    late.result(GUARD_SECONDS)
    assert slow.begun == 3


def test_what_a_pass_raised_is_raised_for_who_shared_it_and_for_nobody_else(
    passes: Passes, slow: Slow
) -> None:
    slow.fails = RuntimeError("the database is away")
    failed = [passes.ask()]
    assert slow.has_begun.acquire(timeout=GUARD_SECONDS)
    slow.go_on.release()
    for each in failed:
        with pytest.raises(RuntimeError, match="away"):
            each.result(GUARD_SECONDS)
    slow.fails = None
    slow.go_on.release()
    assert passes.ask().result(GUARD_SECONDS) == NOTHING


def test_who_no_longer_waits_takes_the_pass_from_nobody(passes: Passes, slow: Slow) -> None:
    async def ask() -> Plan:
        passes.ask()
        assert await asyncio.to_thread(slow.has_begun.acquire, True, GUARD_SECONDS)
        two = [asyncio.ensure_future(asyncio.wrap_future(passes.ask())) for _ in range(2)]
        await asyncio.sleep(0)
        two[0].cancel()
        slow.go_on.release(2)
        with pytest.raises(asyncio.CancelledError):
            await two[0]
        async with asyncio.timeout(GUARD_SECONDS):
            return await two[1]

    assert asyncio.run(ask()) == NOTHING
    assert slow.begun == 2


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), MemoryEngine(node())) as found:
        yield found


def test_many_who_submit_at_once_need_few_passes_and_no_gpu_is_given_twice(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 24
    made: list[Plan] = []

    def counted(*given: object, **named: object) -> Plan:
        made.append(schedule(*given, **named))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(platform_module, "schedule", counted)

    async def start(number: int) -> str:
        user = f"user-{number}"
        found = await platform.in_database_thread(
            lifecycle.submit, platform, user, "", choice(), "image", Actor(user)
        )
        await platform.pass_soon()
        assert get(platform, found.id).reasons or get(platform, found.id).state is State.ADMITTED
        return found.id

    async def start_all() -> list[str]:
        with platform.database.transaction():  # so that all of them are on their way at once
            tasks = [asyncio.ensure_future(start(number)) for number in range(count)]
            waits = [asyncio.ensure_future(platform.pass_soon()) for _ in range(count)]
            await asyncio.sleep(0.2)
        await asyncio.gather(*waits)
        return await asyncio.gather(*tasks)

    ids = asyncio.run(start_all())
    assert len(held(platform)) == 4
    states = [get(platform, identifier).state for identifier in ids]
    assert (states.count(State.ADMITTED), states.count(State.QUEUED)) == (4, count - 4)
    started = [start.request.id for plan in made for start in plan.starts]
    assert len(started) == len(set(started)) == 4
    assert len(made) < 2 * count
    with platform.database.reading() as connection:
        assert list(events.verify(connection)) == []
