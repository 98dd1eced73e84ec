"""The life of a workload, step by step, and every way in which a step can go wrong.

The engine here is in memory and simulates failures only (memory_engine.py); at the end the same
way is gone with real sandboxes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from dcloud_spawner import lifecycle, resizing, user_homes
from dcloud_spawner.engines.base import ContainerFacts, Engine, Phase
from dcloud_spawner.errors import (
    Conflict,
    EngineError,
    EngineUnreachable,
    InvalidChoice,
    LaunchFailed,
)
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import events, homes, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from tests.memory_engine import GIB, MemoryEngine, node
from tests.platforms import (
    ALICE,
    actions,
    check,
    choice,
    get,
    held,
    home,
    launch,
    opened,
    place,
    settings_for,
    start,
    state,
    submit,
)

SILENT = EngineUnreachable("no answer")
REFUSES = EngineError("no")


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def platform(database_url: str, tmp_path: Path, engine: MemoryEngine) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), engine) as platform:
        yield platform
        with platform.database.reading() as connection:
            check(connection)  # after every test: leases, states and the log agree


def stop(platform: Platform, workload: Workload) -> None:
    lifecycle.stop(platform, workload.id, "stopped", ALICE)


# ---------------------------------------------------------------------------- the way


def test_a_server_goes_its_whole_way_and_leaves_one_line_for_each_step(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform, gpus=2)
    assert workload.state is State.RUNNING
    assert workload.url == "http://10.0.0.1:8888"
    assert len(held(platform, workload)) == 2
    stop(platform, workload)
    ended = get(platform, workload.id)
    assert ended.state is State.ENDED
    assert (ended.end_reason, ended.exit_code, ended.oom_killed) == ("stopped", 0, False)
    assert ended.engine_started_at is not None and ended.engine_finished_at is not None
    assert held(platform) == set()
    assert engine.containers == {}
    assert actions(platform, workload.id) == [
        "workload.submit",
        "workload.admit",
        "workload.start",
        "workload.ready",
        "workload.stop",
        "workload.release",
    ]


def test_the_log_says_who_asked_and_from_where(platform: Platform) -> None:
    workload = start(platform)
    stop(platform, workload)
    with platform.database.reading() as connection:
        log = {found.action: found for found in events.read(connection, target=workload.id)}
    assert (log["workload.stop"].actor, log["workload.stop"].source) == ("alice", "10.0.0.7")
    assert log["workload.stop"].detail == {"reason": "stopped"}
    assert log["workload.submit"].detail["choice"] == dict(workload.choice)


def test_a_request_for_a_taken_gpu_waits_and_starts_with_the_release(platform: Platform) -> None:
    first, second = start(platform, "ann", 2), start(platform, "bob", 2)
    third = submit(platform, "cem", 2)
    platform.run_pass()
    waiting = get(platform, third.id)
    assert (waiting.state, place(platform, waiting)) == (State.QUEUED, 1)
    assert waiting.reasons == ["You asked for 2 GPUs and none is free."]
    stop(platform, first)  # runs a pass itself
    assert state(platform, third) is State.ADMITTED
    assert held(platform, third).isdisjoint(held(platform, second))


def test_whoever_waits_is_told_of_the_admission_after_the_commit(platform: Platform) -> None:
    told: list[tuple[str, State]] = []
    platform.on_admitted.append(
        lambda found: told.extend((each, get(platform, each).state) for each in found)
    )
    workload = submit(platform)
    platform.run_pass()
    platform.run_pass()
    assert told == [(workload.id, State.ADMITTED)]


# ---------------------------------------------------------------------------- submit


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        (choice(5), "gpus"),
        (choice(1, gpu_model="H100"), "gpu_model"),
        (choice(0, gib=65), "memory_gib"),
        (choice(0, cores=17), "cpus"),
    ],
)
def test_what_no_node_could_hold_is_refused_and_nothing_is_written(
    platform: Platform, wish: lifecycle.Choice, field: str
) -> None:
    with pytest.raises(InvalidChoice) as refused:
        lifecycle.submit(platform, "alice", "", wish, "image", ALICE)
    assert refused.value.field == field
    with platform.database.reading() as connection:
        assert workloads.open_workloads(connection) == []
        assert [e for e in events.read(connection) if e.action.startswith("workload")] == []


def test_a_pool_that_nobody_knows_yet_refuses_nothing(
    database_url: str, tmp_path: Path, engine: MemoryEngine
) -> None:
    platform = Platform(settings_for(database_url, tmp_path), engine=engine)
    workload = submit(platform, gpus=4)
    platform.run_pass()
    assert state(platform, workload) is State.QUEUED
    platform.refresh_inventory()
    platform.run_pass()
    assert state(platform, workload) is State.ADMITTED
    platform.close()


@pytest.mark.parametrize("until", ["queued", "admitted", "starting", "running", "stopping"])
def test_a_server_that_is_open_cannot_be_submitted_again(platform: Platform, until: str) -> None:
    workload = bring(platform, until)
    with pytest.raises(Conflict):
        submit(platform)
    assert submit(platform, server="other").id != workload.id
    assert submit(platform, user="bob").id != workload.id


def bring(platform: Platform, until: str) -> Workload:
    """A workload in a state."""
    workload = submit(platform)
    if until == "queued":
        return get(platform, workload.id)
    platform.run_pass()
    if until in ("starting", "running", "stopping"):
        facts = launch(platform, workload.id)
        if until in ("running", "stopping"):
            lifecycle.mark_ready(platform, workload.id, facts)
    if until in ("stopping", "ended"):
        lifecycle.begin_stop(platform, workload.id, "stopped", ALICE)
    if until == "ended":
        lifecycle.finish_stop(platform, workload.id)
    return get(platform, workload.id)


def test_an_ended_server_may_be_submitted_again_at_the_end_of_the_queue(
    platform: Platform,
) -> None:
    first = start(platform)
    stop(platform, first)
    assert submit(platform).sequence > first.sequence


# ---------------------------------------------------------------------------- every step


STEPS = ["begin_start", "begin_launch", "mark_ready", "begin_stop", "confirm_gone"]
STATES = ["queued", "admitted", "starting", "running", "stopping", "ended"]
MOVES = {
    ("admitted", "begin_start"): "starting",
    ("starting", "begin_start"): "starting",
    ("starting", "begin_launch"): "starting",
    ("starting", "mark_ready"): "running",
    ("queued", "begin_stop"): "ended",
    ("admitted", "begin_stop"): "stopping",
    ("starting", "begin_stop"): "stopping",
    ("running", "begin_stop"): "stopping",
    ("stopping", "confirm_gone"): "ended",
}


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("step", STEPS)
def test_a_step_moves_only_from_the_states_it_may_come_from(
    platform: Platform, before: str, step: str
) -> None:
    workload = bring(platform, before)
    log = actions(platform, workload.id)
    facts = ContainerFacts("r", "n", workload.id, "alice", "notebook", (), Phase.ALIVE)
    done: object
    if step == "begin_start":
        done = lifecycle.begin_start(platform, workload.id)
    elif step == "begin_launch":
        done = lifecycle.begin_launch(platform, workload.id)
    elif step == "mark_ready":
        done = lifecycle.mark_ready(platform, workload.id, facts)
    elif step == "confirm_gone":
        done = lifecycle.confirm_gone(platform, workload.id, None)
    else:
        found = lifecycle.begin_stop(platform, workload.id, "again", ALICE)
        assert found is state(platform, workload)
        done = (before, step) in MOVES
    moved = (before, step) in MOVES
    assert bool(done) == moved
    assert state(platform, workload).value == MOVES.get((before, step), before)
    one_more_line = moved and step != "begin_launch"
    assert len(actions(platform, workload.id)) == len(log) + one_more_line


@pytest.mark.parametrize(("before", "step"), [key for key in MOVES if key[1] != "begin_launch"])
def test_a_step_whose_line_in_the_log_cannot_be_written_does_not_happen(
    platform: Platform, before: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = bring(platform, before)
    holds = held(platform)

    def full_disk(*arguments: object, **values: object) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(events, "note_all", full_disk)
    facts = ContainerFacts("r", "n", workload.id, "alice", "notebook", (), Phase.ALIVE)
    arguments = {"mark_ready": (facts,), "begin_stop": ("x", ALICE), "confirm_gone": (None,)}
    with pytest.raises(OSError, match="disk full"):
        getattr(lifecycle, step)(platform, workload.id, *arguments.get(step, ()))
    monkeypatch.undo()
    assert get(platform, workload.id) == workload
    assert held(platform) == holds


def test_a_submission_or_admission_without_its_line_does_not_happen(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = submit(platform)

    def full_disk(*arguments: object, **values: object) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(events, "note_all", full_disk)
    with pytest.raises(OSError, match="disk full"):
        submit(platform, "bob")
    with pytest.raises(OSError, match="disk full"):
        platform.run_pass()
    monkeypatch.undo()
    with platform.database.reading() as connection:
        assert [found.id for found in workloads.open_workloads(connection)] == [workload.id]
    assert state(platform, workload) is State.QUEUED
    assert held(platform) == set()


def test_a_start_that_is_begun_again_keeps_its_accelerators(platform: Platform) -> None:
    workload = bring(platform, "admitted")
    first = lifecycle.begin_start(platform, workload.id)
    again = lifecycle.begin_start(platform, workload.id)
    assert first is not None and again is not None
    assert first[1] == again[1] == tuple(held(platform, workload))


# ---------------------------------------------------------------------------- stop


def test_stopping_a_queued_request_ends_it_at_once_without_the_engine(
    platform: Platform, engine: MemoryEngine
) -> None:
    engine.fail(SILENT, "stop", "observe")
    start(platform, "bob", 4)
    workload = submit(platform)
    platform.run_pass()
    assert place(platform, workload) == 1
    stop(platform, workload)
    assert state(platform, workload) is State.ENDED
    assert place(platform, workload) is None
    assert actions(platform, workload.id) == ["workload.submit", "workload.cancel"]


def test_leaving_the_queue_lets_those_behind_move_up(platform: Platform) -> None:
    start(platform, "ann", 2)
    head, second = submit(platform, "bob", 4), submit(platform, "cem", 2, hours=8)
    platform.run_pass()
    assert place(platform, second) == 2
    stop(platform, head)
    assert state(platform, second) is State.ADMITTED


def test_what_has_just_been_admitted_cannot_be_taken_out_of_the_queue(platform: Platform) -> None:
    one, two = submit(platform, "ann"), submit(platform, "bob")
    lifecycle.cancel(platform, two.id, "cancelled", ALICE, "why")
    ended = get(platform, two.id)
    assert (ended.state, ended.end_reason, ended.end_detail) == (State.ENDED, "cancelled", "why")
    platform.run_pass()
    with pytest.raises(Conflict) as refused:
        lifecycle.cancel(platform, one.id, "cancelled", ALICE)
    assert refused.value.code == "not_waiting"
    assert state(platform, one) is State.ADMITTED


def test_stopping_twice_changes_nothing_more(platform: Platform) -> None:
    workload = start(platform)
    stop(platform, workload)
    before = get(platform, workload.id)
    lifecycle.stop(platform, workload.id, "again", Actor("bob"))
    assert get(platform, workload.id) == before
    assert actions(platform, workload.id).count("workload.stop") == 1


@pytest.mark.parametrize("error", [SILENT, REFUSES])
def test_an_engine_that_does_not_confirm_frees_nothing(
    platform: Platform, engine: MemoryEngine, error: EngineError
) -> None:
    workload, waiting = start(platform, "ann", 4), submit(platform, "bob", 1)
    engine.fail(error, "stop")
    with pytest.raises(type(error)):
        stop(platform, workload)
    platform.run_pass()
    assert state(platform, workload) is State.STOPPING
    assert len(held(platform, workload)) == 4
    assert state(platform, waiting) is State.QUEUED
    engine.mend()
    assert lifecycle.finish_stop(platform, workload.id)
    assert state(platform, workload) is State.ENDED
    assert state(platform, waiting) is State.ADMITTED


def test_finishing_a_stop_does_nothing_to_what_is_not_stopping(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform)
    assert not lifecycle.finish_stop(platform, workload.id)
    assert "stop" not in engine.calls
    assert not lifecycle.confirm_gone(platform, workload.id, None)
    assert held(platform, workload)


def test_two_who_finish_the_same_stop_release_once(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload, waiting = start(platform, "ann", 4), submit(platform, "bob", 4)
    lifecycle.begin_stop(platform, workload.id, "stopped", ALICE)
    barrier = threading.Barrier(2)
    engine.before["stop"] = lambda *_: barrier.wait(10)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: lifecycle.finish_stop(platform, workload.id), range(2)))
    assert sorted(done) == [False, True]
    assert actions(platform, workload.id).count("workload.release") == 1
    assert state(platform, waiting) is State.ADMITTED


def test_when_it_ended_outlives_whoever_learned_it(
    platform: Platform, engine: MemoryEngine
) -> None:
    """Charges are made from this time, and the engine forgets it with the container."""
    workload = start(platform)
    lifecycle.begin_stop(platform, workload.id, "stopped", ALICE)
    ended: list[ContainerFacts] = []

    def dies_after_the_removal(facts: ContainerFacts) -> None:
        ended.append(facts)
        lifecycle.note_end(platform, workload.id, facts)

    engine.stop(workload.id, 0, dies_after_the_removal)
    assert state(platform, workload) is State.STOPPING
    assert lifecycle.finish_stop(platform, workload.id)  # the engine knows of no container now
    row = get(platform, workload.id)
    assert (row.engine_finished_at, row.exit_code) == (ended[0].finished_at, 0)
    assert row.engine_started_at == workload.engine_started_at


def test_a_container_whose_end_cannot_be_written_down_is_not_removed(
    platform: Platform, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = start(platform)
    with monkeypatch.context() as patch:
        patch.setattr(workloads, "set_values", cannot_write)
        with pytest.raises(OSError, match="no space"):
            stop(platform, workload)
    assert engine.containers[workload.id].phase is Phase.ENDED
    assert state(platform, workload) is State.STOPPING
    stop_time = engine.containers[workload.id].finished_at
    assert lifecycle.finish_stop(platform, workload.id)
    assert get(platform, workload.id).engine_finished_at == stop_time


def cannot_write(*_: object, **__: object) -> None:
    raise OSError("no space left")


def test_nothing_learned_later_changes_when_it_ended(platform: Platform) -> None:
    workload = start(platform)
    lifecycle.begin_stop(platform, workload.id, "stopped", ALICE)
    facts = ContainerFacts("r", "n", workload.id, "alice", "notebook", (), Phase.ENDED)
    first, second = utc_now(), utc_now() + timedelta(seconds=5)
    lifecycle.note_end(platform, workload.id, replace(facts, finished_at=first, exit_code=3))
    lifecycle.note_end(platform, workload.id, facts)
    later = replace(facts, started_at=second, finished_at=second, oom_killed=True)
    lifecycle.confirm_gone(platform, workload.id, later)
    row = get(platform, workload.id)
    assert (row.engine_finished_at, row.exit_code, row.oom_killed) == (first, 3, False)
    assert row.engine_started_at == workload.engine_started_at
    lifecycle.note_end(platform, workload.id, replace(later, started_at=first))
    assert get(platform, workload.id) == row


def test_two_who_stop_the_same_server_are_both_told_that_it_is_over(platform: Platform) -> None:
    workload = start(platform)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: stop(platform, workload), range(4)))
    assert state(platform, workload) is State.ENDED
    assert actions(platform, workload.id).count("workload.stop") == 1


def test_what_a_dying_program_wrote_never_keeps_its_gpus(platform: Platform) -> None:
    """A database takes neither NUL nor half a character; the log of a container has both."""
    workload = start(platform)
    detail = "Last lines: \x00\udcff\ud83d\U0001f600"
    lifecycle.stop(platform, workload.id, "failed", ALICE, detail)
    ended = get(platform, workload.id)
    assert ended.state is State.ENDED
    assert ended.end_detail.startswith("Last lines: ")
    assert ended.end_detail.endswith("\U0001f600")


def test_a_reason_or_detail_of_any_length_is_taken(platform: Platform) -> None:
    workload = start(platform)
    lifecycle.stop(platform, workload.id, "r" * 500, ALICE, "d" * 100_000)
    assert state(platform, workload) is State.ENDED


# ---------------------------------------------------------------------------- a launch under way


def test_a_stop_during_a_launch_releases_nothing_before_the_launch_is_over(
    platform: Platform, engine: MemoryEngine
) -> None:
    """The engine has no container yet and says so; a moment later it has one."""
    workload, waiting = submit(platform, "ann", 4), submit(platform, "bob", 4)
    platform.run_pass()
    in_launch, stopped = threading.Event(), threading.Event()

    def launch_slowly(*_: object) -> None:
        in_launch.set()
        assert stopped.wait(10)

    engine.before["launch"] = launch_slowly
    with ThreadPoolExecutor(1) as pool:
        launched = pool.submit(launch, platform, workload.id)
        assert in_launch.wait(10)
        with pytest.raises(EngineError, match="just being launched"):
            stop(platform, workload)
        assert state(platform, workload) is State.STOPPING
        assert len(held(platform, workload)) == 4
        stopped.set()
        facts = launched.result()
    assert not lifecycle.mark_ready(platform, workload.id, facts)
    assert state(platform, waiting) is State.QUEUED
    stop(platform, workload)  # the one who launched gives up
    assert engine.containers == {}
    assert state(platform, workload) is State.ENDED
    assert state(platform, waiting) is State.ADMITTED


def test_a_launch_that_ends_while_it_is_being_stopped_is_stopped_again(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = bring(platform, "admitted")
    lifecycle.begin_start(platform, workload.id)
    lifecycle.begin_launch(platform, workload.id)
    spec_facts = ContainerFacts("r", "n", workload.id, "alice", "notebook", (), Phase.ALIVE)

    def appears_just_after_the_stop(*_: object) -> None:
        engine.before["stop"] = lambda *_: None
        lifecycle.end_launch(platform, workload.id)
        engine.containers["late"] = replace(spec_facts, workload_id="late")

    engine.before["stop"] = appears_just_after_the_stop
    stop(platform, workload)
    assert engine.calls.count("stop") == 2
    assert state(platform, workload) is State.ENDED


def test_nothing_is_launched_for_a_workload_that_is_to_stop(platform: Platform) -> None:
    workload = bring(platform, "admitted")
    lifecycle.begin_start(platform, workload.id)
    lifecycle.begin_stop(platform, workload.id, "stopped", ALICE)
    assert not lifecycle.begin_launch(platform, workload.id)
    lifecycle.finish_stop(platform, workload.id)


def test_a_launch_whose_process_died_holds_on_until_the_engine_has_had_its_time(
    platform: Platform, database_url: str
) -> None:
    workload = bring(platform, "admitted")
    lifecycle.begin_start(platform, workload.id)
    lifecycle.begin_launch(platform, workload.id)  # and then kill -9
    with pytest.raises(EngineError):
        stop(platform, workload)
    until = get(platform, workload.id).launch_until
    assert until is not None
    call = timedelta(seconds=platform.settings.engine_timeout_seconds)
    assert call < until - utc_now() <= 2 * call
    with platform.database.transaction() as connection:
        workloads.set_values(connection, workload.id, launch_until=utc_now())
    assert lifecycle.finish_stop(platform, workload.id)
    assert state(platform, workload) is State.ENDED


def test_a_launch_under_way_renews_its_mark_even_while_it_is_being_stopped(
    platform: Platform,
) -> None:
    workload = bring(platform, "admitted")
    lifecycle.begin_start(platform, workload.id)
    lifecycle.begin_launch(platform, workload.id)
    with platform.database.transaction() as connection:
        workloads.set_values(connection, workload.id, launch_until=utc_now())
    lifecycle.begin_stop(platform, workload.id, "stopped", ALICE)
    lifecycle.renew_launch(platform, workload.id)
    with pytest.raises(EngineError):
        lifecycle.finish_stop(platform, workload.id)
    lifecycle.end_launch(platform, workload.id)
    lifecycle.renew_launch(platform, workload.id)  # which came too late
    assert lifecycle.finish_stop(platform, workload.id)


def test_two_resizes_at_once_are_one_after_the_other(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform, gib=2)
    refused = []

    def meanwhile(workload_id: str) -> None:
        with pytest.raises(Conflict, match="just being resized"):
            resizing.change_limits(platform, workload_id, 8 * GIB, 1000, ALICE)
        refused.append(workload_id)

    engine.before["update_limits"] = meanwhile
    assert resizing.change_limits(platform, workload.id, 4 * GIB, 1000, ALICE)
    engine.mend()
    assert refused == [workload.id]
    row = resizing.change_limits(platform, workload.id, GIB, 1000, ALICE)  # now it may
    assert (row.memory_bytes, row.resize_until) == (GIB, None)


def test_a_resize_that_the_engine_left_open_keeps_others_away_until_its_time_is_over(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform, gib=2)
    engine.fail(EngineUnreachable("no answer"), "update_limits")
    with pytest.raises(EngineUnreachable):
        resizing.change_limits(platform, workload.id, 4 * GIB, 1000, ALICE)
    engine.mend()
    with pytest.raises(Conflict, match="just being resized"):
        resizing.change_limits(platform, workload.id, GIB, 1000, ALICE)
    assert get(platform, workload.id).memory_bytes == 4 * GIB
    with platform.database.transaction() as connection:
        workloads.set_values(connection, workload.id, resize_until=utc_now())
    assert resizing.change_limits(platform, workload.id, GIB, 1000, ALICE).memory_bytes == GIB


def test_a_launch_that_the_engine_refused_is_over_and_can_be_stopped_at_once(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = bring(platform, "admitted")
    engine.fail(LaunchFailed("no such image"), "launch")
    with pytest.raises(LaunchFailed):
        launch(platform, workload.id)
    lifecycle.end_launch(platform, workload.id)
    stop(platform, workload)
    assert state(platform, workload) is State.ENDED


# ---------------------------------------------------------------------------- limits


def test_limits_change_while_a_server_runs(platform: Platform, engine: MemoryEngine) -> None:
    workload = start(platform, gib=1, cores=1)
    resized = resizing.change_limits(platform, workload.id, 2 * GIB, 3000, ALICE)
    assert (resized.memory_bytes, resized.cpu_millicores) == (2 * GIB, 3000)
    assert engine.limits[workload.id] == (2 * GIB, 3000)
    with platform.database.reading() as connection:
        last = events.read(connection, target=workload.id)[-1]
    assert last.action == "workload.resize"
    assert last.detail == {
        "memory_bytes": [GIB, 2 * GIB],
        "cpu_millicores": [1000, 3000],
    }


@pytest.mark.parametrize("until", ["queued", "admitted", "starting", "stopping", "ended"])
def test_only_a_running_server_can_be_resized(
    platform: Platform, engine: MemoryEngine, until: str
) -> None:
    workload = bring(platform, until)
    with pytest.raises(Conflict):
        resizing.change_limits(platform, workload.id, 2 * GIB, 1000, ALICE)
    assert "update_limits" not in engine.calls


def test_a_server_cannot_grow_into_what_others_hold(
    platform: Platform, engine: MemoryEngine
) -> None:
    start(platform, "bob", gib=60)
    workload = start(platform, gib=1)
    with pytest.raises(Conflict, match="not that much left") as refused:
        resizing.change_limits(platform, workload.id, 5 * GIB, 1000, ALICE)
    assert "At most 4 GiB and 15 cores" in refused.value.hint
    assert resizing.change_limits(platform, workload.id, 4 * GIB, 15_000, ALICE)


def test_less_is_possible_even_where_the_node_is_overcommitted(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload, _ = start(platform, gib=30), start(platform, "bob", gib=30)
    engine.nodes = (node(gib=32),)  # a reserve was raised, or memory taken out
    platform.refresh_inventory()
    resized = resizing.change_limits(platform, workload.id, 20 * GIB, 500, ALICE)
    assert resized.memory_bytes == 20 * GIB
    assert resizing.change_limits(platform, workload.id, 20 * GIB, 1500, ALICE)  # cores are left
    with pytest.raises(Conflict):
        resizing.change_limits(platform, workload.id, 21 * GIB, 500, ALICE)


def test_a_server_on_a_drained_node_can_shrink_but_not_grow(platform: Platform) -> None:
    workload = start(platform, gib=2)
    with platform.database.transaction() as connection:
        connection.execute(text("UPDATE nodes SET drained = true"))
    assert resizing.change_limits(platform, workload.id, GIB, 1000, ALICE)
    with pytest.raises(Conflict, match="takes no more work"):
        resizing.change_limits(platform, workload.id, 2 * GIB, 1000, ALICE)


@pytest.mark.parametrize("memory_bytes", [GIB, 4 * GIB])
def test_a_crash_in_the_middle_of_a_resize_leaves_the_larger_written(
    platform: Platform, engine: MemoryEngine, memory_bytes: int
) -> None:
    workload = start(platform, gib=2)
    engine.fail(SILENT, "update_limits")  # it may have been done: nobody knows
    with pytest.raises(EngineUnreachable):
        resizing.change_limits(platform, workload.id, memory_bytes, 1000, ALICE)
    assert get(platform, workload.id).memory_bytes == max(memory_bytes, 2 * GIB)


def test_limits_that_the_engine_refuses_stay_as_they_were(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform, gib=2)
    engine.fail(REFUSES, "update_limits")
    with pytest.raises(EngineError):
        resizing.change_limits(platform, workload.id, 4 * GIB, 1000, ALICE)
    assert get(platform, workload.id).memory_bytes == 2 * GIB


@pytest.mark.parametrize(("memory_bytes", "cores"), [(0, 1000), (-1, 1000), (GIB, 0), (GIB, -5)])
def test_limits_of_nothing_are_refused(platform: Platform, memory_bytes: int, cores: int) -> None:
    workload = start(platform)
    with pytest.raises(InvalidChoice):
        resizing.change_limits(platform, workload.id, memory_bytes, cores, ALICE)


def test_what_a_server_gives_back_goes_to_who_waits(platform: Platform) -> None:
    workload = start(platform, gib=60)
    waiting = submit(platform, "bob", gib=8)
    platform.run_pass()
    assert state(platform, waiting) is State.QUEUED
    resizing.change_limits(platform, workload.id, 50 * GIB, 1000, ALICE)
    assert state(platform, waiting) is State.ADMITTED


# ---------------------------------------------------------------------------- homes


def test_a_home_is_claimed_once_and_named_the_same_ever_after(platform: Platform) -> None:
    first, again = home(platform), home(platform)
    assert first == again
    assert actions(platform, "alice") == ["home.create"]
    assert home(platform, "ALICE") != first


def test_two_who_claim_the_same_home_make_one(platform: Platform) -> None:
    with ThreadPoolExecutor(4) as pool:
        claimed = pool.map(
            lambda _: user_homes.claim_home(platform, "alice", ALICE), range(4), timeout=30
        )
        assert len(set(claimed)) == 1
    assert actions(platform, "alice") == ["home.create"]


def delete_user(platform: Platform, user: str = "alice") -> None:
    with platform.database.transaction() as connection:
        user_homes.orphan_home(connection, user, Actor("admin"))


def test_the_home_of_a_deleted_user_is_closed_to_whoever_takes_the_name(
    platform: Platform,
) -> None:
    home(platform)
    delete_user(platform)
    with pytest.raises(Conflict) as refused:
        user_homes.claim_home(platform, "alice", ALICE)
    assert refused.value.code == "home_of_deleted_user"
    with pytest.raises(Conflict):
        submit(platform)
    assert submit(platform, "bob")


def test_an_adopted_home_is_open_again(platform: Platform) -> None:
    volume = home(platform).source
    delete_user(platform)
    assert user_homes.adopt_home(platform, "alice", Actor("admin"))
    assert not user_homes.adopt_home(platform, "alice", Actor("admin"))
    assert home(platform).source == volume
    assert actions(platform, "alice") == ["home.create", "home.keep", "home.adopt"]


def test_deleting_a_user_without_a_home_writes_nothing(platform: Platform) -> None:
    delete_user(platform)
    assert not user_homes.adopt_home(platform, "alice", ALICE)
    assert not user_homes.purge_home(platform, "alice", ALICE)
    assert actions(platform, "alice") == []


def test_a_purged_home_is_gone_and_the_name_is_free(
    platform: Platform, engine: MemoryEngine
) -> None:
    home(platform)
    delete_user(platform)
    assert user_homes.purge_home(platform, "alice", Actor("admin"))
    assert engine.volumes == set()
    assert actions(platform, "alice")[-1] == "home.purge"
    home(platform)
    assert engine.volumes


@pytest.mark.parametrize("until", ["queued", "admitted", "starting", "running", "stopping"])
def test_a_home_in_use_is_not_purged(platform: Platform, engine: MemoryEngine, until: str) -> None:
    home(platform)
    bring(platform, until)
    with pytest.raises(Conflict):
        user_homes.purge_home(platform, "alice", ALICE)
    assert engine.volumes


def test_nobody_starts_on_a_home_while_it_is_being_deleted(
    platform: Platform, engine: MemoryEngine
) -> None:
    home(platform)
    refused: list[Exception] = []

    def start_meanwhile(*_: object) -> None:
        try:
            submit(platform)
        except Conflict as error:
            refused.append(error)

    engine.before["purge_home"] = start_meanwhile
    assert user_homes.purge_home(platform, "alice", ALICE)
    assert len(refused) == 1
    assert submit(platform)


@pytest.mark.parametrize("deleted", [False, True])
def test_a_home_that_the_engine_refuses_to_delete_is_as_it_was(
    platform: Platform, engine: MemoryEngine, deleted: bool
) -> None:
    home(platform)
    if deleted:
        delete_user(platform)
    with platform.database.reading() as connection:
        before = homes.of_user(connection, "alice")
    engine.fail(REFUSES, "purge_home")
    with pytest.raises(EngineError):
        user_homes.purge_home(platform, "alice", ALICE)
    with platform.database.reading() as connection:
        assert homes.of_user(connection, "alice") == before
    engine.mend()
    assert user_homes.purge_home(platform, "alice", ALICE)


def test_a_home_that_a_silent_engine_may_yet_delete_is_closed_until_somebody_decides(
    platform: Platform, engine: MemoryEngine
) -> None:
    home(platform)
    engine.fail(SILENT, "purge_home")
    with pytest.raises(EngineUnreachable):
        user_homes.purge_home(platform, "alice", ALICE)
    engine.mend()
    with pytest.raises(Conflict):
        submit(platform)
    assert user_homes.adopt_home(platform, "alice", ALICE)
    assert submit(platform)


# ---------------------------------------------------------------------------- invariant 11


class NoTransactionOpen(MemoryEngine):
    """Asks at each call whether any process could write now: true only if nobody, our own
    caller included, has a write transaction open."""

    database_of: Platform | None = None
    asked = 0

    def _enter(self, method: str, *arguments: object) -> None:
        if self.database_of is not None:
            can_write_now(self.database_of)
            self.asked += 1
        super()._enter(method, *arguments)


def can_write_now(platform: Platform) -> None:
    from dcloud_spawner.store.database import ADVISORY_LOCK, Database

    other = Database(
        platform.database.url.render_as_string(hide_password=False), busy_timeout_seconds=0
    )
    try:
        if other.is_sqlite:
            with other.transaction():
                pass
        else:
            with other.engine.connect() as connection, connection.begin():
                query = text(f"SELECT pg_try_advisory_xact_lock({ADVISORY_LOCK})")
                assert connection.execute(query).scalar(), "a write transaction is open"
    finally:
        other.close()


def test_that_check_finds_an_open_transaction(platform: Platform) -> None:
    can_write_now(platform)
    with platform.database.transaction(), pytest.raises(Exception, match=r"locked|is open"):
        can_write_now(platform)


def test_no_engine_call_is_made_inside_a_write_transaction(
    database_url: str, tmp_path: Path
) -> None:
    from hub_services.controller.homes import measure_homes
    from hub_services.controller.limits import end_overdue
    from hub_services.controller.reconcile import reconcile

    engine = NoTransactionOpen()
    with opened(settings_for(database_url, tmp_path), engine) as platform:
        engine.database_of = platform
        platform.refresh_inventory()
        home(platform)
        workload = start(platform)
        resizing.change_limits(platform, workload.id, 2 * GIB, 1000, ALICE)
        reconcile(platform)
        engine.ends_by_itself(workload.id)
        engine.containers["orphan"] = replace(engine.containers[workload.id], workload_id="orphan")
        reconcile(platform)
        late = start(platform, hours=0)
        assert end_overdue(platform) == [late]
        stop(platform, start(platform))
        measure_homes(platform)
        user_homes.purge_home(platform, "alice", ALICE)
        assert engine.asked == len(engine.calls) - 1  # all but the first inventory
        assert {"stop", "observe", "launch", "inventory", "update_limits"} <= set(engine.calls)
        assert {"homes", "purge_home", "ensure_home"} <= set(engine.calls)


# ---------------------------------------------------------------------------- a real engine


@pytest.mark.sandbox
@pytest.mark.timeout(120)
def test_the_same_way_with_real_sandboxes(
    sandbox_parts: None, database_url: str, tmp_path: Path
) -> None:
    from dcloud_spawner.engines.sandbox import SandboxEngine

    settings = settings_for(
        database_url, tmp_path, deployment="lifecycle", engine="sandbox", engine_timeout_seconds=30
    )
    engine = SandboxEngine(settings)
    with opened(settings, engine) as platform:
        try:
            _the_way_in_a_sandbox(platform, engine)
        finally:
            for found in engine.observe():
                engine.stop(found.workload_id, 0)
        with platform.database.reading() as connection:
            check(connection)


def _the_way_in_a_sandbox(platform: Platform, engine: Engine) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    workload = submit(platform, gpus=0, gib=0.25, cores=0.5)
    platform.run_pass()
    facts = launch(
        platform, workload.id, mounts=(home(platform),), command=("sleep", "600"), port=0
    )
    assert facts.phase is Phase.ALIVE
    assert lifecycle.mark_ready(platform, workload.id, facts)
    stop(platform, workload)
    assert engine.observe() == ()
    ended = get(platform, workload.id)
    assert ended.state is State.ENDED
    assert ended.engine_started_at is not None and ended.engine_finished_at is not None
    assert before < ended.engine_started_at <= ended.engine_finished_at
