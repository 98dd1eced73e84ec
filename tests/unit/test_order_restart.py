"""The order over a restart: rows that are read back by another process stand as they stood."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dcloud_spawner import queueing
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.schedule import take_snapshot
from dcloud_spawner.scheduler.snapshot import Request
from dcloud_spawner.store.events import Actor
from tests.memory_engine import MemoryEngine, node
from tests.platforms import opened, settings_for, start, submit

BOSS = Actor("boss")


def waiting(platform: Platform) -> list[Request]:
    """The queue as a pass sees it."""
    with platform.database.reading() as connection:
        return ordered(take_snapshot(connection, platform.capacity, utc_now()).queue)


@pytest.mark.parametrize("seed", range(3))
def test_a_restart_changes_no_place_whoever_was_held_or_moved(
    database_url: str, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    settings = settings_for(database_url, tmp_path, tier_groups={"staff": "gold"})
    with opened(settings, MemoryEngine(node(gpus=4))) as platform:
        start(platform, "first", 4)
        names = [
            submit(
                platform,
                f"user{number:02}",
                rng.choice((1, 2, 4)),
                hours=rng.choice((1, 2, 4, 8)),
                groups=rng.choice(((), ("staff",))),
            ).id
            for number in range(16)
        ]
        rng.shuffle(names)
        for name in names[:3]:
            queueing.hold(platform, name, "for a test", BOSS)
        queueing.release_hold(platform, names[0], BOSS)
        for name in names[3:6]:
            queueing.move_to_head(platform, name, "for a test", BOSS)
        before = waiting(platform)
    with opened(settings, MemoryEngine(node(gpus=4))) as platform:
        platform.run_pass()
        after = waiting(platform)
    told = [(found.id, found.due_at, found.moved_at, found.sequence) for found in before]
    assert [(found.id, found.due_at, found.moved_at, found.sequence) for found in after] == told
    assert [found.id for found in after[:3]] == list(reversed(names[3:6]))
    assert {found.id for found in after} == set(names) - set(names[1:3])
    rest = after[3:]
    assert rest == sorted(rest, key=lambda found: (found.due_at, found.sequence))
