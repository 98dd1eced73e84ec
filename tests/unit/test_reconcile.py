"""What runs against what is written, in both directions, and the races between the two looks.

The engine is in memory and simulates failures only (memory_engine.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dcloud_spawner import lifecycle
from dcloud_spawner.engines.base import ContainerFacts, Phase
from dcloud_spawner.errors import EngineError, EngineUnreachable
from dcloud_spawner.live.pool import TOLD
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import workloads
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from hub_services.controller.limits import end_overdue
from hub_services.controller.reconcile import Report, reconcile
from tests.memory_engine import MemoryEngine
from tests.platforms import (
    ALICE,
    actions,
    check,
    get,
    held,
    launch,
    opened,
    settings_for,
    start,
    state,
    submit,
)

SILENT = EngineUnreachable("no answer")
NOTHING = Report()


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def platform(database_url: str, tmp_path: Path, engine: MemoryEngine) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), engine) as platform:
        yield platform
        with platform.database.reading() as connection:
            check(connection)


def stray(workload_id: str, *devices: str) -> ContainerFacts:
    """A container of ours that nobody has written down."""
    return ContainerFacts(
        f"ref-{workload_id}", f"dcloud-{workload_id}", workload_id, "alice", "notebook",
        devices, Phase.ALIVE, devices,
    )  # fmt: skip


def ended_ids(report: Report) -> list[str]:
    return [found.id for found in report.ended]


# ---------------------------------------------------------------------------- nothing to do


def test_where_rows_and_containers_agree_nothing_happens(
    platform: Platform, engine: MemoryEngine
) -> None:
    running = start(platform, "ann", 2)
    submit(platform, "bob", 4)
    platform.run_pass()
    starting = submit(platform, "cem", 1, hours=24)
    platform.run_pass()
    assert state(platform, starting) is State.QUEUED  # behind the head, which needs all four
    assert reconcile(platform) == NOTHING
    assert state(platform, running) is State.RUNNING
    assert "stop" not in engine.calls


def test_a_start_under_way_has_no_container_yet_and_is_left_alone(platform: Platform) -> None:
    admitted, starting = submit(platform, "ann"), submit(platform, "bob")
    platform.run_pass()
    lifecycle.begin_start(platform, starting.id)
    assert reconcile(platform) == NOTHING
    assert state(platform, admitted) is State.ADMITTED
    assert state(platform, starting) is State.STARTING


# ---------------------------------------------------------------------------- what differs


def test_a_container_of_nobody_is_ended_and_written_down(
    platform: Platform, engine: MemoryEngine
) -> None:
    engine.containers["gone"] = stray("gone", "GPU-local-0")
    assert reconcile(platform).orphans == ["gone"]
    assert engine.containers == {}
    assert actions(platform, "gone") == ["container.orphan"]
    assert reconcile(platform) == NOTHING


def test_a_container_of_an_ended_workload_is_ended(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform)
    facts = engine.containers[workload.id]
    lifecycle.stop(platform, workload.id, "stopped", ALICE)
    engine.containers[workload.id] = facts
    assert reconcile(platform).orphans == [workload.id]
    assert engine.containers == {}


def test_a_container_that_names_no_workload_is_left_to_a_person(
    platform: Platform, engine: MemoryEngine
) -> None:
    engine.containers["x"] = stray("")
    assert reconcile(platform) == NOTHING
    assert "stop" not in engine.calls


def test_a_server_whose_container_is_gone_is_lost_and_its_gpus_are_free(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload, waiting = start(platform, "ann", 4), submit(platform, "bob", 4)
    engine.containers.clear()
    assert ended_ids(reconcile(platform)) == [workload.id]
    ended = get(platform, workload.id)
    assert (ended.state, ended.end_reason) == (State.ENDED, "lost")
    assert state(platform, waiting) is State.ADMITTED


@pytest.mark.parametrize(("oom", "reason"), [(False, "exited"), (True, "out of memory")])
def test_a_server_that_ended_by_itself_is_released_with_its_exit_code(
    platform: Platform, engine: MemoryEngine, oom: bool, reason: str
) -> None:
    workload = start(platform)
    engine.ends_by_itself(workload.id, 137, oom=oom)
    finished_at = engine.containers[workload.id].finished_at
    assert ended_ids(reconcile(platform)) == [workload.id]
    ended = get(platform, workload.id)
    assert (ended.end_reason, ended.exit_code, ended.oom_killed) == (reason, 137, oom)
    assert ended.engine_finished_at == finished_at
    assert engine.containers == {}


@pytest.mark.parametrize("where", ["accelerators", "devices"])
def test_a_container_with_a_gpu_that_is_not_its_own_is_ended(
    platform: Platform, engine: MemoryEngine, where: str
) -> None:
    workload = start(platform, gpus=1)
    (mine,) = held(platform, workload)
    other = next(uuid for uuid in ("GPU-local-0", "GPU-local-1") if uuid != mine)
    facts = engine.containers[workload.id]
    engine.containers[workload.id] = replace(facts, **{where: (mine, other)})
    report = reconcile(platform)
    assert report.mismatched == [workload.id]
    assert ended_ids(report) == [workload.id]
    assert get(platform, workload.id).end_reason == "mismatch"
    assert engine.containers == {}


def test_a_container_with_fewer_gpus_than_leased_harms_nobody(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform, gpus=2)
    facts = engine.containers[workload.id]
    engine.containers[workload.id] = replace(facts, devices=facts.devices[:1])
    assert reconcile(platform) == NOTHING


# ---------------------------------------------------------------------------- a stop that stuck


def test_a_stop_that_the_engine_did_not_confirm_is_tried_again_until_it_does(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform)
    engine.fail(EngineError("device busy"), "stop")
    with pytest.raises(EngineError):
        lifecycle.stop(platform, workload.id, "stopped", ALICE)
    for _ in range(3):
        report = reconcile(platform)
        assert (report.pending, report.ended) == ([workload.id], [])
        assert held(platform, workload)
    engine.mend()
    assert ended_ids(reconcile(platform)) == [workload.id]
    assert get(platform, workload.id).end_reason == "stopped"


def test_a_stop_whose_process_died_before_the_engine_was_asked_is_finished(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform)
    lifecycle.begin_stop(platform, workload.id, "stopped", ALICE)
    assert ended_ids(reconcile(platform)) == [workload.id]
    assert engine.containers == {}


def test_a_stop_during_somebody_elses_launch_waits_for_it(platform: Platform) -> None:
    workload = submit(platform)
    platform.run_pass()
    lifecycle.begin_start(platform, workload.id)
    lifecycle.begin_launch(platform, workload.id)
    lifecycle.begin_stop(platform, workload.id, "stopped", ALICE)
    assert reconcile(platform).pending == [workload.id]
    assert held(platform, workload)
    with platform.database.transaction() as connection:
        workloads.set_values(connection, workload.id, launch_until=utc_now())
    assert ended_ids(reconcile(platform)) == [workload.id]


# ---------------------------------------------------------------------------- a silent engine


def test_an_engine_that_does_not_answer_frees_nothing(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform)
    engine.containers.clear()
    engine.fail(SILENT, "observe")
    with pytest.raises(EngineUnreachable):
        reconcile(platform)
    assert state(platform, workload) is State.RUNNING
    assert held(platform, workload)


def test_an_engine_that_falls_silent_in_the_middle_ends_the_comparison(
    platform: Platform, engine: MemoryEngine
) -> None:
    first, second = start(platform, "ann"), start(platform, "bob")
    engine.containers.clear()
    engine.fail(SILENT, "stop", "ping")
    with pytest.raises(EngineUnreachable):
        reconcile(platform)
    assert engine.calls.count("stop") == 1
    assert state(platform, first) is State.STOPPING
    assert state(platform, second) is State.RUNNING
    assert len(held(platform)) == 2
    engine.mend()
    assert ended_ids(reconcile(platform)) == [first.id, second.id]
    assert held(platform) == set()


def test_one_container_that_hangs_does_not_hold_up_those_behind_it(
    platform: Platform, engine: MemoryEngine
) -> None:
    stuck, other = start(platform, "ann"), start(platform, "bob")
    engine.ends_by_itself(stuck.id)
    engine.ends_by_itself(other.id)

    def hang(workload_id: str) -> None:
        if workload_id == stuck.id:
            raise SILENT

    engine.before["stop"] = hang
    report = reconcile(platform)
    assert report.pending == [stuck.id]
    assert ended_ids(report) == [other.id]
    assert state(platform, stuck) is State.STOPPING


def test_an_orphan_that_the_engine_keeps_is_tried_again(
    platform: Platform, engine: MemoryEngine
) -> None:
    engine.containers["gone"] = stray("gone")
    engine.fail(EngineError("busy"), "stop")
    report = reconcile(platform)
    assert (report.orphans, report.pending) == ([], ["gone"])
    assert actions(platform, "gone") == []
    engine.mend()
    assert reconcile(platform).orphans == ["gone"]


# ---------------------------------------------------------------------------- races


def while_observing(engine: MemoryEngine, happens: Callable[[], object]) -> None:
    """Let something happen after the containers were looked at and before the answer is used."""
    look = MemoryEngine.observe

    def observe(workload_id: str | None = None) -> tuple[ContainerFacts, ...]:
        answer = look(engine, workload_id)
        engine.observe = look.__get__(engine)  # type: ignore[method-assign]
        happens()
        return answer

    engine.observe = observe  # type: ignore[method-assign]


def before_observing(engine: MemoryEngine, happens: Callable[[], object]) -> None:
    """Let something happen after the rows were read and before the engine is asked."""

    def once(*_: object) -> None:
        del engine.before["observe"]
        happens()

    engine.before["observe"] = once


def test_a_server_that_is_stopped_during_the_look_is_no_orphan(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform)
    while_observing(engine, lambda: lifecycle.stop(platform, workload.id, "stopped", ALICE))
    assert reconcile(platform) == NOTHING
    assert "container.orphan" not in actions(platform, workload.id)


def test_a_server_that_ends_before_the_look_and_is_written_down_by_others_is_not_ended_twice(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform)
    before_observing(engine, lambda: lifecycle.stop(platform, workload.id, "stopped", ALICE))
    assert reconcile(platform) == NOTHING
    assert get(platform, workload.id).end_reason == "stopped"


def test_a_server_that_starts_before_the_look_is_no_orphan(
    platform: Platform, engine: MemoryEngine
) -> None:
    started: list[Workload] = []
    before_observing(engine, lambda: started.append(start(platform)))
    assert reconcile(platform) == NOTHING
    assert state(platform, started[0]) is State.RUNNING


def test_a_server_that_gets_ready_during_the_look_is_not_lost(
    platform: Platform, engine: MemoryEngine
) -> None:
    """Not in the engine's answer, RUNNING when the rows are read again: it began in between."""
    started: list[Workload] = []
    while_observing(engine, lambda: started.append(start(platform)))
    assert reconcile(platform) == NOTHING
    assert state(platform, started[0]) is State.RUNNING


def test_a_server_that_was_replaced_during_the_look_is_left_alone(
    platform: Platform, engine: MemoryEngine
) -> None:
    old = start(platform)
    fresh: list[Workload] = []

    def replace_it() -> None:
        lifecycle.stop(platform, old.id, "stopped", ALICE)
        fresh.append(start(platform))

    while_observing(engine, replace_it)
    assert reconcile(platform) == NOTHING
    assert state(platform, fresh[0]) is State.RUNNING


def test_gpus_that_change_hands_during_the_look_are_no_mismatch(
    platform: Platform, engine: MemoryEngine
) -> None:
    old, waiting = start(platform, "ann", 4), submit(platform, "bob", 4)

    def change_hands() -> None:
        lifecycle.stop(platform, old.id, "stopped", ALICE)
        launch(platform, waiting.id)

    while_observing(engine, change_hands)
    assert reconcile(platform) == NOTHING
    assert reconcile(platform) == NOTHING
    assert state(platform, waiting) is State.STARTING


# ---------------------------------------------------------------------------- limits


def age(platform: Platform, workload: Workload, **ago: float) -> None:
    with platform.database.transaction() as connection:
        workloads.set_values(connection, workload.id, admitted_at=utc_now() - timedelta(**ago))


def test_a_server_past_its_limit_is_ended_and_one_within_is_not(platform: Platform) -> None:
    late, within = start(platform, "ann", hours=2), start(platform, "bob", hours=2)
    age(platform, late, hours=2, seconds=1)
    age(platform, within, hours=1, minutes=59)
    assert [found.id for found in end_overdue(platform)] == [late.id]
    assert get(platform, late.id).end_reason == "time limit"
    assert state(platform, within) is State.RUNNING


def test_a_limit_does_not_run_while_a_request_waits(platform: Platform) -> None:
    start(platform, "ann", 4)
    workload = submit(platform, hours=1)
    with platform.database.transaction() as connection:
        workloads.set_values(connection, workload.id, submitted_at=utc_now() - timedelta(days=1))
    assert list(end_overdue(platform)) == []
    assert state(platform, workload) is State.QUEUED


def test_a_launch_that_takes_longer_than_its_limit_ends_for_the_plan_counts_on_its_place(
    platform: Platform,
) -> None:
    workload = submit(platform, hours=1)
    platform.run_pass()
    lifecycle.begin_start(platform, workload.id)
    age(platform, workload, hours=2)
    assert [found.id for found in end_overdue(platform)] == [workload.id]
    assert get(platform, workload.id).end_reason == "time limit"


@pytest.mark.parametrize("reason", ["preempted", "reservation"])
def test_what_was_told_that_it_will_be_stopped_is_stopped_then_and_told_why(
    platform: Platform, reason: str
) -> None:
    told, other = start(platform, "ann", hours=2), start(platform, "bob", hours=2)
    with platform.database.transaction() as connection:
        for workload, seconds in ((told, -1), (other, 60)):
            at = utc_now() + timedelta(seconds=seconds)
            workloads.set_values(connection, workload.id, notice_at=at, notice_reason=reason)
    assert [found.id for found in end_overdue(platform)] == [told.id]
    assert get(platform, told.id).end_reason == reason
    assert reason in TOLD
    assert state(platform, other) is State.RUNNING


def test_a_limit_that_the_engine_does_not_enforce_yet_is_left_to_the_reconciler(
    platform: Platform, engine: MemoryEngine
) -> None:
    stuck, other = start(platform, "ann", hours=1), start(platform, "bob", hours=1)
    for workload in (stuck, other):
        age(platform, workload, hours=2)

    def refuse(workload_id: str) -> None:
        if workload_id == stuck.id:
            raise EngineError("busy")

    engine.before["stop"] = refuse
    assert [found.id for found in end_overdue(platform)] == [other.id]
    assert state(platform, stuck) is State.STOPPING
    assert list(end_overdue(platform)) == []
    engine.mend()
    assert ended_ids(reconcile(platform)) == [stuck.id]
