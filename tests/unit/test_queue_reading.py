"""A pass reads only a part of the queue: the plan is the one that the whole queue would give."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from dcloud_spawner import lifecycle, queueing, reservations
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.scheduler.commit import EXPLAINED
from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import occupancy_of
from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.picture import as_request, request_of, take_snapshot
from dcloud_spawner.scheduler.plan import Plan, make_plan
from dcloud_spawner.scheduler.snapshot import Snapshot
from dcloud_spawner.store import nodes, queue, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.reservations import NewReservation
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.schema import nodes as node_rows
from tests.memory_engine import MemoryEngine, node
from tests.platforms import ALICE, choice, get, opened, settings_for, start, submit

ADMIN = Actor("admin")


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    machines = [node(gpus=4, name=f"n{number}") for number in range(3)]
    with opened(settings_for(database_url, tmp_path), MemoryEngine(*machines)) as found:
        yield found


def pictures(platform: Platform) -> tuple[Snapshot, Snapshot]:
    """The whole queue, and what a pass reads of it."""
    now = utc_now()
    with platform.database.reading() as connection:
        return (
            take_snapshot(connection, platform.capacity, now),
            take_snapshot(connection, platform.capacity, now, everybody=False),
        )


def planned(picture: Snapshot) -> Plan:
    names = PoolNames(picture.nodes, picture.accelerators.values())
    occupancy = occupancy_of(picture, names)
    return make_plan(occupancy, ordered(picture.queue), picture.at, picture.reservations)


def outcome(plan: Plan) -> tuple[object, ...]:
    starts = [(start.request.id, start.grants, start.reservation) for start in plan.starts]
    return starts, plan.kept[0].id if plan.kept else None, plan.head_at


def crowd(platform: Platform, chooser: random.Random, count: int) -> None:
    """Requests of few kinds, some held, some moved, all in the queue without a pass between."""
    users = [f"user{number}" for number in range(8)]
    for number in range(count):
        user = chooser.choice(users)
        wish = choice(
            chooser.choice((0, 1, 1, 2, 4)),
            gib=chooser.choice((1, 16, 40)),
            cores=chooser.choice((1, 8)),
            hours=chooser.choice((0.5, 1, 2, 24)),
        )
        found = lifecycle.submit(platform, user, f"s{number}", wish, "image", Actor(user))
        with platform.database.transaction() as connection:
            if chooser.random() < 0.1:
                workloads.change_queued(connection, found.id, held_at=utc_now())
            if chooser.random() < 0.1:
                workloads.change_queued(connection, found.id, moved_at=utc_now())


@pytest.mark.parametrize("seed", range(12))
def test_the_plan_is_the_one_of_the_whole_queue(platform: Platform, seed: int) -> None:
    chooser = random.Random(seed)
    now = utc_now()
    if seed % 3 == 0:
        begins = now + timedelta(hours=chooser.choice((0, 1)))
        kept = NewReservation(
            "class", begins, begins + timedelta(hours=2), 3, users=("user1", "user2")
        )
        reservations.reserve(platform, kept, ADMIN)
    crowd(platform, chooser, 40)
    for _ in range(4):
        whole, part = pictures(platform)
        assert outcome(planned(part)) == outcome(planned(whole))
        assert {request.id for request in part.queue} <= {request.id for request in whole.queue}
        platform.run_pass()
        with platform.database.reading() as connection:
            running = workloads.in_states(connection, (State.ADMITTED,))
        for workload in chooser.sample(running, min(2, len(running))):
            lifecycle.stop(platform, workload.id, "stopped", ALICE)


def test_a_full_pool_is_asked_for_one_request_of_each_class(platform: Platform) -> None:
    for number in range(3):
        start(platform, f"full{number}", 4)
    for number in range(30):
        submit(platform, f"user{number}", 1 + number % 2)
    whole, part = pictures(platform)
    assert len(whole.queue) == 30
    assert sorted(request.gpus for request in part.queue) == [1, 2]


def test_a_row_read_for_a_pass_says_what_the_workload_says(platform: Platform) -> None:
    for number in range(3):
        start(platform, f"full{number}", 4)
    waiting = submit(platform, "ann", 4, hours=3)
    queueing.move_to_head(platform, waiting.id, "why", ADMIN)
    with platform.database.reading() as connection:
        (row,) = queue.waiting(connection)
        assert queue.candidates(connection, 0, 0, 0) == [row]
    read, known = request_of(row), as_request(get(platform, waiting.id))
    for name in ("id", "sequence", "user", "shape", "limit_seconds", "tier", "held", "moved_at"):
        assert getattr(read, name) == getattr(known, name)
    assert read.due_at == known.due_at
    assert read.submitted_at == pytest.approx(known.submitted_at, abs=1e-3)


def test_a_node_that_shrank_takes_nothing_from_what_the_others_have(platform: Platform) -> None:
    full = start(platform, "big", 4, gib=60, cores=16).node
    for number in range(9):
        submit(platform, f"user{number}", 0, gib=1, cores=4)
    assert full is not None
    with platform.database.transaction() as connection:
        nodes.record(connection, node(gpus=4, name=full, gib=1, cores=1), utc_now())
        seen = connection.execute(update(node_rows).values(seen_at=utc_now()))
    assert seen.rowcount == 3
    whole, part = pictures(platform)
    assert len(planned(whole).starts) == 8
    assert outcome(planned(part)) == outcome(planned(whole))


def test_what_is_short_is_said_to_the_first_in_line(platform: Platform) -> None:
    assert EXPLAINED >= 100
    for number in range(3):
        start(platform, f"full{number}", 4)
    waiting = submit(platform, "ann", 2)
    platform.run_pass()
    assert get(platform, waiting.id).reasons == ["You asked for 2 GPUs and none is free."]


def test_an_admission_of_what_does_not_wait_fails_as_a_whole(platform: Platform) -> None:
    one, two = submit(platform, "ann"), submit(platform, "bob")
    lifecycle.begin_stop(platform, two.id, "cancelled", ALICE)
    with pytest.raises(AssertionError), platform.database.transaction() as connection:
        admissions = [queue.Admission(found.id, "n0") for found in (one, two)]
        queue.admit(connection, admissions, utc_now())
    assert get(platform, one.id).admitted_at is None


def test_times_keep_their_microseconds(platform: Platform) -> None:
    waiting = submit(platform, "ann", 4)
    at = datetime.fromisoformat("2026-03-01T12:00:00.000001+00:00")
    with platform.database.transaction() as connection:
        workloads.change_queued(connection, waiting.id, due_at=at)
        (row,) = queue.waiting(connection)
    assert row.due_at == at.timestamp()
    assert row.due_at != at.replace(microsecond=0).timestamp()
