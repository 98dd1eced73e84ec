"""kill -9 of the hub while twenty wait: the same order, and all start in turn. What people have
arranged survives too: a hold, a move to the head, a drained GPU, an advance reservation.

Real hub, controller, Docker and containers; simulated GPUs and a server that answers at once.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from dcloud_spawner import drains, queueing
from dcloud_spawner.live.pool import read_pool
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.reservations import reserve
from dcloud_spawner.store import nodes, reservations
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.reservations import NewReservation, ReservationState
from dcloud_spawner.store.schema import State
from tests.docker.conftest import (  # noqa: F401 (fixtures)
    deployment,
    more_settings,
    people,
    quick_profiles,
    simulation,
    tag,
)
from tests.docker.people import People, Person, action_log, held, quick, until
from tests.patience import patient

pytestmark = [pytest.mark.docker, pytest.mark.sqlite_suffices, pytest.mark.timeout(600)]

ADMIN = Actor("admin")
WAITING = 20


@pytest.fixture(scope="module")
def profiles_dir(quick_profiles: Path) -> Path:  # noqa: F811
    return quick_profiles


def order(platform: Platform) -> list[str]:
    """Users in the order of the queue."""
    return [place.workload.user for place in read_pool(platform).queue]


def admitted(platform: Platform, team: list[Person]) -> list[str]:
    """Users of a team in the order of their admission."""
    names = {person.name for person in team}
    rows = action_log(platform)
    asked = {
        row.target: row.detail["user"]
        for row in rows
        if row.action == "workload.submit" and row.detail["user"] in names
    }
    return [
        str(asked[row.target])
        for row in rows
        if row.action == "workload.admit" and row.target in asked
    ]


def serve_in_turn(team: list[Person], seconds: float) -> None:
    """Let everybody who runs end, so that the next ones start, until nobody waits."""
    deadline = time.monotonic() + patient(seconds)
    left = list(team)
    with ThreadPoolExecutor(4) as threads:
        while left:
            assert time.monotonic() < deadline, [person.state() for person in left]
            running = [person for person in left if person.state() is State.RUNNING]
            list(threads.map(lambda person: person.end(), running))
            left = [person for person in left if person not in running]
            time.sleep(0.1)


def test_a_killed_hub_changes_neither_the_order_nor_what_was_arranged(
    people: People,  # noqa: F811
) -> None:
    live = people.deployment
    platform = live.platform
    assert platform is not None
    holder, *team = people.many(WAITING + 1)
    holder.run(quick(4))
    asked = [person.start(quick(1, hours=1)) for person in team]

    on_hold, moved = team[5], team[9]
    queueing.hold(platform, asked[5].id, "later", ADMIN)
    queueing.move_to_head(platform, asked[9].id, "first", ADMIN)
    drained = sorted(held(platform))[0]
    drains.drain_accelerator(platform, drained, "its fan", ADMIN)
    at = utc_now() + timedelta(days=2)
    booked = reserve(
        platform, NewReservation("Class", at, at + timedelta(hours=2), 2, users=["ann"]), ADMIN
    )

    expected = [moved.name, *(each.name for each in team if each not in (on_hold, moved))]
    assert order(platform) == expected
    live.restart("hub")
    assert order(platform) == expected
    until(
        lambda: all(live.server(each.name).get("pending") == "spawn" for each in team),
        60,
        "taking everybody up again",
    )
    assert order(platform) == expected
    with platform.database.reading() as connection:
        kept = reservations.find(connection, booked.id)
        gpu = nodes.find_accelerator(connection, drained)
    assert kept == booked and kept.state is ReservationState.PLANNED
    assert gpu is not None and (gpu.drained, gpu.drained_reason) == (True, "its fan")

    holder.end()
    serve_in_turn([each for each in team if each is not on_hold], 200)
    assert admitted(platform, team) == expected
    assert on_hold.state() is State.QUEUED  # although everything is free
    leased = {
        uuid
        for row in action_log(platform)
        if row.action == "workload.admit" and row.target in {each.id for each in asked}
        for uuid in row.detail["accelerators"]  # type: ignore[union-attr]
    }
    assert drained not in leased and len(leased) == 3
    drains.undrain_accelerator(platform, drained, ADMIN)
    queueing.release_hold(platform, asked[5].id, ADMIN)
    serve_in_turn([on_hold], 30)
