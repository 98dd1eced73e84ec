"""A pass on a real database: what it reads, what it commits, and that it commits all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.event import listen
from sqlalchemy.exc import IntegrityError

from dcloud_spawner import lifecycle
from dcloud_spawner.engines.base import Health
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.scheduler import schedule as schedule_module
from dcloud_spawner.scheduler.picture import read_pool
from dcloud_spawner.scheduler.schedule import (
    Capacity,
    as_request,
    ends_at,
    schedule,
    take_snapshot,
)
from dcloud_spawner.scheduler.snapshot import Snapshot
from dcloud_spawner.store import workloads
from dcloud_spawner.store.schema import State
from tests.memory_engine import GIB, MemoryEngine, node
from tests.platforms import ALICE, check, get, held, opened, settings_for, start, state, submit


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def platform(database_url: str, tmp_path: Path, engine: MemoryEngine) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), engine) as platform:
        yield platform
        with platform.database.reading() as connection:
            check(connection)


def picture(platform: Platform) -> Snapshot:
    with platform.database.reading() as connection:
        return take_snapshot(connection, platform.capacity, utc_now())


def sick(engine: MemoryEngine, platform: Platform, *numbers: int, health: Health) -> None:
    """Let some GPUs of the machine have this health from now on."""
    (facts,) = engine.nodes
    changed = tuple(
        type(found)(**{**vars(found), "health": health if found.index in numbers else Health.OK})
        for found in facts.accelerators
    )
    engine.nodes = (type(facts)(**{**vars(facts), "accelerators": changed}),)
    platform.refresh_inventory()


# ---------------------------------------------------------------------------- the picture


def test_the_picture_has_what_the_platform_keeps_for_itself_taken_off(
    database_url: str, tmp_path: Path, engine: MemoryEngine
) -> None:
    settings = settings_for(database_url, tmp_path).model_copy(
        update={"reserve_memory_gib": 2.5, "cpu_overcommit": 1.5}
    )
    with opened(settings, engine) as platform:
        (found,) = picture(platform).nodes.values()
    assert found.memory_bytes == 64 * GIB - 5 * GIB // 2
    assert found.cpu_millicores == 24_000


def test_a_machine_smaller_than_its_reserve_offers_nothing_and_not_less(
    database_url: str, tmp_path: Path
) -> None:
    settings = settings_for(database_url, tmp_path).model_copy(update={"reserve_memory_gib": 100})
    with opened(settings, MemoryEngine(node(gib=64))) as platform:
        assert picture(platform).nodes["local"].memory_bytes == 0


def test_the_picture_has_every_holding_with_its_accelerators(platform: Platform) -> None:
    running, waiting = start(platform, "ann", 3), submit(platform, "bob", 4)
    found = picture(platform)
    (holding,) = found.holdings
    assert (holding.id, set(holding.accelerators)) == (running.id, held(platform, running))
    assert [request.id for request in found.queue] == [waiting.id]
    request, expected = found.queue[0], as_request(waiting)
    assert (request.shape, request.due_at) == (expected.shape, expected.due_at)


@pytest.mark.parametrize("health", [Health.UNHEALTHY, Health.LOST])
def test_a_gpu_that_is_not_well_is_not_offered_and_comes_back_when_it_is(
    platform: Platform, engine: MemoryEngine, health: Health
) -> None:
    sick(engine, platform, 0, 1, health=health)
    workload = submit(platform, gpus=3)
    platform.run_pass()
    assert get(platform, workload.id).reasons == [
        "You asked for 3 GPUs and 2 are free. 2 GPUs cannot be offered (fault or drained)."
    ]
    sick(engine, platform, health=Health.OK)
    platform.run_pass()
    assert state(platform, workload) is State.ADMITTED


def test_gpus_the_driver_no_longer_lists_are_lost_and_not_offered(
    platform: Platform, engine: MemoryEngine
) -> None:
    engine.nodes = (node(gpus=2),)
    changes = platform.refresh_inventory()
    assert {change.uuid: change.after for change in changes} == {
        "GPU-local-2": Health.LOST,
        "GPU-local-3": Health.LOST,
    }
    workload = submit(platform, gpus=4)  # not refused: they may come back
    platform.run_pass()
    assert state(platform, workload) is State.QUEUED
    assert platform.refresh_inventory() == []


def test_a_driver_that_does_not_answer_offers_nothing(
    platform: Platform, engine: MemoryEngine
) -> None:
    (facts,) = engine.nodes
    engine.nodes = (
        type(facts)(**{**vars(facts), "accelerators": (), "accelerators_known": False}),
    )
    platform.refresh_inventory()
    one, none = submit(platform, "ann", 1), submit(platform, "bob", 0)
    platform.run_pass()
    assert state(platform, one) is State.QUEUED
    assert state(platform, none) is State.ADMITTED


def test_who_holds_a_gpu_that_gets_lost_keeps_it_and_nobody_else_gets_it(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform, "ann", 4)
    sick(engine, platform, 0, health=Health.LOST)
    assert len(held(platform, workload)) == 4
    lifecycle.stop(platform, workload.id, "stopped", ALICE)
    again = submit(platform, "bob", 4)
    platform.run_pass()
    assert state(platform, again) is State.QUEUED
    three = submit(platform, "cem", 3)
    platform.run_pass()
    assert state(platform, three) is State.ADMITTED


def test_a_drained_node_takes_nothing_new_and_keeps_what_runs(platform: Platform) -> None:
    running = start(platform, "ann", 1)
    with platform.database.transaction() as connection:
        connection.execute(text("UPDATE nodes SET drained = true"))
    waiting = submit(platform, "bob", 0)
    platform.run_pass()
    assert state(platform, running) is State.RUNNING
    assert get(platform, waiting.id).reasons == [
        "No node is taking work: all are drained or none is known yet."
    ]


def test_a_node_that_the_inventory_no_longer_has_takes_nothing_new(
    platform: Platform, engine: MemoryEngine
) -> None:
    """Unknown is not free: an engine lists every node that it can start something on."""
    engine.nodes = (node(name="local"), node(gpus=8, name="other"))
    platform.refresh_inventory()
    engine.nodes = (node(name="local"),)
    platform.refresh_inventory()
    workload = submit(platform, gpus=0)
    five = submit(platform, "bob", gpus=5)
    platform.run_pass()
    assert get(platform, workload.id).node == "local"
    assert state(platform, five) is State.QUEUED
    engine.nodes = (node(name="local"), node(gpus=8, name="other"))
    platform.refresh_inventory()
    platform.run_pass()
    assert get(platform, five.id).node == "other"


# ---------------------------------------------------------------------------- ends


def test_a_clock_that_was_set_back_closes_no_node_for_one_that_is_gone(
    platform: Platform, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.nodes = (*engine.nodes, node(name="second"))
    platform.refresh_inventory()
    back = utc_now() - timedelta(hours=1)
    monkeypatch.setattr("dcloud_spawner.platform.utc_now", lambda: back)
    engine.nodes = engine.nodes[1:]
    platform.refresh_inventory()
    found = picture(platform)
    assert {name: row.drained for name, row in found.nodes.items()} == {
        "local": True,
        "second": False,
    }


def test_a_limit_counts_from_admission_however_long_the_launch_takes(platform: Platform) -> None:
    workload = submit(platform, hours=2)
    now = utc_now()
    assert ends_at(workload, now) is None
    platform.run_pass()
    admitted = get(platform, workload.id)
    assert admitted.admitted_at is not None
    assert ends_at(admitted, now) == admitted.admitted_at + timedelta(hours=2)
    running = start(platform, "bob", hours=2)
    assert running.admitted_at is not None
    assert ends_at(running, now) == running.admitted_at + timedelta(hours=2)


def test_what_is_being_stopped_counts_as_ending_now_and_as_held(platform: Platform) -> None:
    workload = start(platform, gpus=4)
    lifecycle.begin_stop(platform, workload.id, "stopped", ALICE)
    waiting = submit(platform, "bob", 1)
    now = utc_now()
    assert schedule(platform.database, platform.capacity, now).head_at == now.timestamp()
    assert state(platform, waiting) is State.QUEUED
    lifecycle.finish_stop(platform, workload.id)


# ---------------------------------------------------------------------------- the commit


def test_a_pass_says_what_is_short_to_those_who_wait(platform: Platform) -> None:
    running = start(platform, "ann", 4, hours=1)
    first, second = submit(platform, "bob", 2), submit(platform, "cem", 4)
    plan = platform.run_pass()
    assert running.admitted_at is not None
    assert plan.head_at == (running.admitted_at + timedelta(hours=1)).timestamp()
    assert get(platform, first.id).reasons == ["You asked for 2 GPUs and none is free."]
    assert get(platform, second.id).reasons == ["You asked for 4 GPUs and none is free."]


def test_a_start_clears_what_was_written_while_it_waited(platform: Platform) -> None:
    running, waiting = start(platform, "ann", 4), submit(platform, "bob", 4)
    platform.run_pass()
    lifecycle.stop(platform, running.id, "stopped", ALICE)
    found = get(platform, waiting.id)
    assert found.state is State.ADMITTED
    assert (found.reasons, found.latest_start_at) == ([], None)


def test_a_pass_that_changes_nothing_writes_nothing(platform: Platform) -> None:
    start(platform, "ann", 4)
    submit(platform, "bob", 4)
    platform.run_pass()
    written: list[str] = []

    def note(*arguments: object) -> None:
        statement = str(arguments[2])
        if statement.split()[0] in ("UPDATE", "INSERT", "DELETE"):
            written.append(statement)

    listen(platform.database.engine, "before_cursor_execute", note)
    platform.run_pass()
    assert written == []


def test_a_pass_that_fails_halfway_leaves_nothing_behind(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = submit(platform, "ann", 1), submit(platform, "bob", 1)

    def power_cut(*arguments: object, **more: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(schedule_module.events, "note_all", power_cut)
    told: list[object] = []
    platform.on_admitted.append(told.append)
    with pytest.raises(RuntimeError):
        platform.run_pass()
    monkeypatch.undo()
    assert state(platform, first) is state(platform, second) is State.QUEUED
    assert held(platform) == set()
    assert told == []


def test_a_plan_made_on_a_wrong_picture_is_refused_by_the_database_as_a_whole(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 1 does not rest on the planner: here it believes that everything is free."""
    start(platform, "ann", 4)
    waiting = submit(platform, "bob", 4)
    right = read_pool

    def forgetful(*arguments: object, **more: object) -> Snapshot:
        found = right(*arguments, **more)  # type: ignore[arg-type]
        return Snapshot(found.at, found.nodes, found.accelerators, (), found.queue)

    monkeypatch.setattr(schedule_module, "read_pool", forgetful)
    with pytest.raises(IntegrityError):
        platform.run_pass()
    monkeypatch.undo()
    assert state(platform, waiting) is State.QUEUED


def test_passes_at_the_same_time_admit_each_request_once(platform: Platform) -> None:
    waiting = [submit(platform, f"user{number}", 1) for number in range(6)]
    told: list[str] = []
    platform.on_admitted.append(told.extend)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: platform.run_pass(), range(8)))
    assert sorted(told) == sorted(found.id for found in waiting[:4])
    assert len(held(platform)) == 4


def test_the_queue_keeps_its_order_over_many_passes(platform: Platform) -> None:
    """First come, first served: with equal requests nobody ever overtakes."""
    waiting = [submit(platform, f"user{number}", 2) for number in range(8)]
    order: list[str] = []
    platform.on_admitted.append(order.extend)
    platform.run_pass()
    for workload in waiting:
        lifecycle.stop(platform, workload.id, "stopped", ALICE)
    assert order == [found.id for found in waiting]


def test_the_capacity_is_a_value_of_the_deployment(platform: Platform) -> None:
    workload = submit(platform, gpus=0, gib=60)
    small = Capacity(reserve_memory_bytes=10 * GIB, cpu_overcommit=1)
    schedule(platform.database, small, utc_now())
    assert state(platform, workload) is State.QUEUED
    platform.run_pass()
    assert state(platform, workload) is State.ADMITTED


def test_memory_and_cores_run_out_without_any_gpu(platform: Platform) -> None:
    sixteen = [submit(platform, f"user{number}", 0, gib=4, cores=1) for number in range(17)]
    platform.run_pass()
    found = [state(platform, workload) for workload in sixteen]
    assert found == [State.ADMITTED] * 16 + [State.QUEUED]
    assert get(platform, sixteen[16].id).reasons == [
        "You asked for 4 GiB of memory and 0 GiB are free. You asked for 1 core and none is free."
    ]


def test_states_are_read_for_many_at_once(platform: Platform) -> None:
    running, waiting = start(platform, "ann", 4), submit(platform, "bob", 1)
    with platform.database.reading() as connection:
        found = workloads.states_of(connection, (running.id, waiting.id, "unknown"))
        assert found == {running.id: State.RUNNING, waiting.id: State.QUEUED}
        assert workloads.count_queued(connection) == 1
        assert workloads.last_choice(connection, "bob") == dict(waiting.choice)
        assert workloads.last_choice(connection, "nobody") is None
