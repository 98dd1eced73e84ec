"""What-if on histories small enough to be worked out by hand."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dcloud_spawner.errors import Conflict, InvalidChoice
from dcloud_spawner.platform import Platform
from dcloud_spawner.scheduler.order import Policy
from dcloud_spawner.scheduler.snapshot import Accelerator, Node
from dcloud_spawner.store import workloads
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import NewWorkload, Workload
from hub_services.planning import worker
from hub_services.planning.constants import changed, names
from hub_services.planning.hardware import Change, Hardware, apply, full_name, typed_pool
from hub_services.planning.history import history_of, read_history
from hub_services.planning.question import Question, worlds
from hub_services.planning.trace import read_trace, rounded_up
from hub_services.planning.whatif import Comparison, History, Rules, Work, World, compare, parts_of
from hub_services.planning.words import change, duration, rows
from hub_services.web import planner
from hub_services.web.planner import Planner, Replay, Stage
from tests.memory_engine import MemoryEngine
from tests.platforms import opened, settings_for

ROOT = Path(__file__).parents[2]
HOUR = 3600.0
EASY = Policy(slack_cap_seconds=0, fair_cap_seconds=0)
NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)


def work(name: str, at: float, length: float, gpus: int = 1, **more: Any) -> Work:
    values: dict[str, Any] = {
        "gpu_model": None,
        "memory_bytes": 0,
        "cpu_millicores": 0,
        "limit_seconds": length,
        **more,
    }
    return Work(name, "ann", gpus, runtime_seconds=length, submitted_at=at, **values)


def lab(*counts: int, model: str = "NVIDIA A100") -> Hardware:
    """Nodes with so many GPUs each."""
    nodes = tuple(Node(f"n{number}", 64_000, 2**40) for number in range(len(counts)))
    return Hardware(
        nodes,
        tuple(
            Accelerator(f"{node.name}/{index}", node.name, index, model)
            for node, count in zip(nodes, counts, strict=True)
            for index in range(count)
        ),
    )


def answer(works: Sequence[Work], today: World, other: World) -> Comparison:
    return compare(History(tuple(works), 1.0), today, other)


def world(hardware: Hardware, policy: Policy = EASY) -> World:
    return World("", hardware, Rules(policy, policy.fair_cap_seconds))


# ---------------------------------------------------------------------------- the replay


def test_a_second_gpu_halves_a_queue_of_three() -> None:
    works = [work("a", 0, 100), work("b", 0, 100), work("c", 0, 100), work("d", 200, 100)]
    found = answer(works, world(lab(1)), world(lab(2)))
    # One GPU: starts at 0, 100, 200, 300. Two: 0, 0, 100, 200.
    assert found.today.wait.mean == (0 + 100 + 200 + 100) / 4
    assert found.changed.wait.mean == (0 + 0 + 100 + 0) / 4
    assert (found.today.wait.largest, found.changed.wait.largest) == (200, 100)
    assert (found.today.wait.median, found.changed.wait.median) == (100, 0)
    assert found.today.jct.mean == 200 and found.changed.jct.mean == 125
    # From 0 to 200, when the last one came, 200 of 200 and 300 of 400 GPU-seconds were in use.
    assert (found.today.utilisation, found.changed.utilisation) == (1.0, 0.75)
    assert (found.today.at_once, found.changed.at_once) == (0.25, 0.75)
    assert (found.today.gpus, found.changed.gpus, found.requests) == (1, 2, 4)


def test_due_times_let_short_work_pass_long_work_and_easy_does_not() -> None:
    works = [
        work("first", 0, HOUR),
        work("long", 60, 8 * HOUR),
        work("short", 120, HOUR),
    ]
    found = answer(works, world(lab(1)), world(lab(1), Policy()))
    # First come: long at 1 h, short at 9 h. Due: short at 1 h, long at 2 h.
    assert found.today.wait.largest == 9 * HOUR - 120
    assert found.changed.wait.largest == 2 * HOUR - 60


def test_the_fair_part_of_the_past_counts_as_much_as_its_cap() -> None:
    rules = Rules(Policy(fair_cap_seconds=12 * HOUR), 24 * HOUR)
    had_much = work("a", 0, HOUR, fair_seconds=24 * HOUR)
    assert rules.due_at(had_much) == HOUR / 6 + 12 * HOUR
    assert Rules(EASY, 24 * HOUR).due_at(had_much) == 0
    assert Rules(Policy(), 0).due_at(had_much) == HOUR / 6


def test_nothing_changes_when_nothing_is_changed() -> None:
    works = [work(str(n), n * 37.0, 500 + 91 * (n % 7), gpus=1 + n % 3) for n in range(60)]
    found = answer(works, world(lab(3, 3)), world(lab(3, 3)))
    assert found.today == found.changed


def test_what_began_before_the_period_fills_the_pool_and_is_not_counted() -> None:
    works = [work("before", 0, 1000, counted=False), work("in", 100, 50)]
    found = answer(works, world(lab(1)), world(lab(2)))
    assert found.requests == 1
    assert (found.today.wait.mean, found.changed.wait.mean) == (900, 0)


def test_what_one_side_could_never_hold_is_left_out_on_both() -> None:
    works = [work("one", 0, 100), work("three", 0, 100, gpus=3, gpu_model="NVIDIA A100")]
    found = compare(History(tuple(works), 1.0), world(lab(4)), world(lab(2)))
    assert (found.today.never, found.changed.never, found.requests) == (0, 1, 1)
    assert found.today.wait.largest == 0  # it would have been 0 for both
    assert ("could never start", "0", "1") in [(r.name, r.today, r.changed) for r in rows(found)]


def test_work_larger_than_a_node_spreads_evenly() -> None:
    assert [parts_of(gpus, 8) for gpus in (1, 8, 16, 24, 12, 17)] == [1, 1, 2, 3, 2, 17]
    found = answer([work("a", 0, 10, gpus=16)], world(lab(8, 8)), world(lab(8, 8, 8)))
    assert found.today.never == 0


def test_progress_goes_from_nothing_to_all() -> None:
    told: list[float] = []
    works = tuple(work(str(n), n, 5) for n in range(30))
    compare(History(works, 1.0), world(lab(1)), world(lab(2)), told.append)
    assert told == sorted(told) and told[0] == 0 and told[-1] == 1 and 0.5 in told


# ---------------------------------------------------------------------------- hardware and rules


def test_gpus_are_added_where_such_are_and_named_by_a_part_of_their_name() -> None:
    mixed = Hardware(
        lab(2, 1).nodes,
        (*lab(2, 1).accelerators, Accelerator("x", "n1", 9, "RTX A5000")),
    )
    more, said = apply(mixed, Change(gpus=2, model="a100"))
    assert more.count_by_node("NVIDIA A100") == {"n0": 3, "n1": 2}
    assert "n0 has 3 instead of 2" in said[0]
    assert full_name(mixed, "H200") == "H200"
    with pytest.raises(InvalidChoice, match="could be NVIDIA A100 or RTX A5000"):
        full_name(mixed, "A")


def test_nodes_are_added_like_the_one_that_has_most_and_taken_away_by_name() -> None:
    more, said = apply(lab(4, 2), Change(nodes=1))
    assert sorted(more.count_by_node().values()) == [2, 4, 4] and "4 GPUs of n0" in said[0]
    bare, _ = apply(lab(4, 2), Change(nodes=1, gpus=3))
    assert sorted(bare.count_by_node().values()) == [2, 3, 4]
    fewer, _ = apply(lab(4, 2), Change(nodes=-1))
    assert [node.name for node in fewer.nodes] == ["n0"] and len(fewer.accelerators) == 4
    with pytest.raises(InvalidChoice, match="one must be left"):
        apply(lab(4), Change(nodes=-1))


def test_gpus_are_taken_from_the_fullest_node_and_never_more_than_there_are() -> None:
    fewer, _ = apply(lab(4, 2), Change(gpus=-3))
    assert sorted(fewer.count_by_node().values()) == [1, 2]
    with pytest.raises(InvalidChoice, match="there are 6 NVIDIA A100, not 7"):
        apply(lab(4, 2), Change(gpus=-7))


def test_a_pool_is_typed_as_nodes_by_gpus() -> None:
    pool = typed_pool("72x8:A100")
    assert len(pool.nodes) == 72 and pool.models() == {"A100": 576}
    for wrong in ("8", "0x8", "1x", "99999x99999", "a x b", "1x1:"):
        with pytest.raises(InvalidChoice, match="no pool"):
            typed_pool(wrong)


def test_constants_are_named_and_checked() -> None:
    policy = changed(Policy(), "slack_cap_hours=30, tier_gold=0.1,slack_gpus=4,slack_bend_hours=9")
    assert (policy.slack_cap_seconds, policy.slack_gpus) == (30 * HOUR, 4)
    assert policy.slack_bend_seconds == 9 * HOUR
    assert policy.tiers["gold"] == 0.1 and names(policy)["fair_cap_hours"] == 24
    assert changed(Policy(), "", "easy") == EASY
    for wrong, said in (
        ("slack=3", "'slack' is not one"),
        ("slack_gpus=0", "above 0"),
        ("slack_cap_hours=nan", "cannot be 'nan'"),
        ("tier_lead=1", "'tier_lead' is not one"),
        ("slack_cap_hours", "cannot be ''"),
    ):
        with pytest.raises(InvalidChoice) as refused:
            changed(Policy(), wrong)
        assert said in refused.value.text
    with pytest.raises(InvalidChoice, match="no policy 'fifo'"):
        changed(Policy(), "", "fifo")


def test_a_question_is_a_command_line_again() -> None:
    asked = Question(gpus=2, model="RTX A5000", constants="slack_gpus=4", days=7)
    assert (
        asked.command
        == "dcloud plan --gpus +2 --model 'RTX A5000' --constants slack_gpus=4 --days 7"
    )
    assert asked.words == "+2 RTX A5000, slack_gpus=4"
    with pytest.raises(InvalidChoice, match="Nothing would be different"):
        worlds(Question(), lab(1), Policy())


# ---------------------------------------------------------------------------- the lab's history


def row(number: int, hours_ago: float, waited: float, held: float | None, **more: Any) -> Workload:
    """A workload of the past; times in hours. ``held`` None: it has not ended."""
    submitted = NOW - timedelta(hours=hours_ago)
    admitted = submitted + timedelta(hours=waited)
    blank = dict.fromkeys(Workload.__dataclass_fields__)
    values: dict[str, Any] = {
        **blank,
        "id": str(number),
        "sequence": number,
        "user": "ann",
        "gpus": 1,
        "memory_bytes": 2**30,
        "cpu_millicores": 1000,
        "limit_seconds": 4 * 3600,
        "state": State.RUNNING if held is None else State.ENDED,
        "submitted_at": submitted,
        "admitted_at": admitted,
        "ended_at": None if held is None else admitted + timedelta(hours=held),
        "fair_seconds": 60,
        "tier": "bronze",
        **more,
    }
    return Workload(**values)


def test_the_history_is_what_really_happened() -> None:
    found = history_of(
        [
            row(1, hours_ago=60, waited=1, held=1),  # before the period
            row(2, hours_ago=20, waited=2, held=3),
            row(3, hours_ago=10, waited=0, held=0, admitted_at=None),  # left the queue
            row(4, hours_ago=9, waited=0, held=1, user="loadtest-0a1b2c-003"),
            row(5, hours_ago=8, waited=0, held=1, keeps_place_for="6"),
            row(6, hours_ago=3, waited=0, held=None),
            row(7, hours_ago=1, waited=0, held=None, admitted_at=None, state=State.QUEUED),
        ],
        NOW - timedelta(hours=24),
        NOW,
    )
    assert [(each.id, each.counted) for each in found.works] == [
        ("1", False),
        ("2", True),
        ("6", True),
        ("7", True),
    ]
    two, six, seven = found.works[1:]
    assert (two.runtime_seconds, two.waited_seconds) == (3 * HOUR, 2 * HOUR)
    assert six.runtime_seconds >= 3 * HOUR and 0 < seven.runtime_seconds <= 4 * HOUR
    assert seven.waited_seconds is None and two.fair_seconds == 60
    assert [note.split()[0] for note in found.notes] == ["1", "2", "1"]
    assert "left the queue" in found.notes[0] and "load tests" in found.notes[2]
    assert round(found.days * 24) == 20


def test_too_little_history_is_refused_and_says_how_much_there_is(
    database_url: str, tmp_path: Path
) -> None:
    with opened(settings_for(database_url, tmp_path), MemoryEngine()) as platform:
        with pytest.raises(Conflict, match=r"0 requests .*there never was one"):
            read_history(platform, 30, NOW)
        with platform.database.transaction() as connection:
            insert(connection, 3)
        with pytest.raises(Conflict, match=r"3 requests .*first ever was on 2026-05-2"):
            read_history(platform, 30, NOW)
        with platform.database.transaction() as connection:
            insert(connection, 17)
        assert read_history(platform, 30, NOW).counted == 20


def insert(connection: Any, count: int, now: datetime = NOW) -> None:
    """Work of an hour, one after the other, that nobody had to wait for."""
    for _ in range(count):
        number = len(workloads.in_states(connection, tuple(State)))
        at = now - timedelta(hours=number + 1)
        new = NewWorkload(
            "notebook", f"user{number}", "", "gpu", {}, "image", 1, None, 2**30, 500, 7200
        )
        made = workloads.insert(connection, new, at)
        workloads.set_values(
            connection,
            made.id,
            state=State.ENDED.value,
            admitted_at=at,
            ended_at=at + timedelta(hours=1),
        )


# ---------------------------------------------------------------------------- traces


def trace(
    count: int, header: str = "submission_time,duration,num_gpu", more: str = ""
) -> list[str]:
    return [header, *(f"{n * 100},{60 + n},{1 + n % 4}{more}" for n in range(count))]


def test_a_trace_is_read_by_the_names_of_its_columns() -> None:
    found = read_trace(trace(30, "Duration,GPUs,submit_time,limit,model,cpus", ",600,A100,2"))
    assert found.counted == 30 and not found.notes
    first = found.works[0]
    assert (first.submitted_at, first.runtime_seconds, first.gpus) == (1, 0, 60)
    assert (first.limit_seconds, first.gpu_model, first.cpu_millicores) == (600, "A100", 2000)


def test_limits_that_a_trace_lacks_are_drawn_and_said() -> None:
    found = read_trace(trace(200))
    assert "were drawn" in found.notes[0]
    assert all(each.limit_seconds >= each.runtime_seconds for each in found.works)
    assert {each.limit_seconds for each in found.works} <= {1800.0, 3600.0}
    assert [rounded_up(hours * HOUR) / HOUR for hours in (0.1, 3, 24, 25, 50)] == [
        0.5,
        4,
        24,
        48,
        96,
    ]


def test_a_file_that_is_no_trace_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidChoice, match="no column duration"):
        read_trace(["submit_time,gpus", "1,2"])
    with pytest.raises(InvalidChoice, match="line 3: duration cannot be 'soon'"):
        read_trace(["submission_time,duration,num_gpu", "1,2,3", "4,soon,1"])
    with pytest.raises(InvalidChoice, match="there are 2 requests"):
        read_trace(trace(2))
    with pytest.raises(InvalidChoice, match="there are 10 requests"):
        read_trace(trace(100), days=900 / 86400)


# ---------------------------------------------------------------------------- words, command line


def test_lengths_and_changes_are_words() -> None:
    assert [duration(value) for value in (0, 59, 61, 3700, 90000)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h 2 min",
        "1 d 1 h",
    ]
    assert change(100, 50) == "-50%" and change(0, 120) == "+2 min" and change(10, 40) == "4 times"
    assert change(0.2, 0.4) == "same"


def dcloud(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "DCLOUD_STATE": str(state),
        "DCLOUD_CONFIG": os.devnull,
        "DCLOUD_ENGINE": "sandbox",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "160",
    }
    return subprocess.run(
        [sys.executable, "-m", "hub_services.cli.main", "plan", *arguments],
        cwd=state,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_command_compares_a_trace_on_two_pools(database_url: str, tmp_path: Path) -> None:
    with opened(settings_for(database_url, tmp_path), MemoryEngine()):
        pass
    (tmp_path / "lab.csv").write_text("\n".join(trace(80)))
    state = tmp_path / "empty"
    state.mkdir()
    asked = ("--trace", "lab.csv", "--pool", "1x4:A100", "--gpus", "+2")
    refused = dcloud(state, *asked)
    assert refused.returncode == 1 and "has never run" in refused.stderr
    (state / "dcloud.sqlite").touch()
    (state / "lab.csv").write_text("\n".join(trace(80)))
    done = dcloud(state, *asked)
    assert done.returncode == 0, done.stderr
    assert "80 requests" in done.stdout and "GPU time in use" in done.stdout
    assert "node-00000 has 6 instead of 4" in done.stdout
    told = json.loads(dcloud(state, *asked, "--json").stdout)
    assert (told["today"]["gpus"], told["changed"]["gpus"]) == (4, 6)
    assert told["changed"]["wait"]["mean"] <= told["today"]["wait"]["mean"]
    again = json.loads(dcloud(state, *asked, "--json").stdout)
    assert again == told
    little = dcloud(state, "--pool", "1x4", "--gpus", "+2")
    assert little.returncode == 1 and "0 requests" in little.stderr
    assert "Traceback" not in done.stderr + little.stderr + refused.stderr


def test_the_command_replays_the_labs_own_history(tmp_path: Path) -> None:
    with opened(settings_for("", tmp_path), MemoryEngine()) as platform:
        with platform.database.transaction() as connection:
            insert(connection, 30, datetime.now(UTC))
        state = platform.settings.state
    done = dcloud(state, "--gpus", "+2", "--nodes", "+1", "--days", "3", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["requests"], told["today"]["gpus"], told["changed"]["gpus"]) == (30, 4, 6)
    assert (told["today"]["nodes"], told["changed"]["nodes"]) == (1, 2)
    assert told["really"]["mean"] == told["changed"]["wait"]["mean"] == 0
    shown = dcloud(state, "--gpus", "-3", "--model", "a100")
    assert shown.returncode == 0 and "as it was" in shown.stdout, shown.stderr
    wrong = dcloud(state, "--constants", "slack=1")
    assert wrong.returncode == 1 and "'slack' is not one" in wrong.stderr


def test_half_a_day_of_a_trace_is_its_first_half_day() -> None:
    whole = read_trace(trace(100))
    part = read_trace(trace(100), days=5000 / 86400)
    assert part.works == whole.works[:51] and replace(part, notes=()).days * 86400 == 5000


async def finished(planner: Planner, platform: Platform, question: Question) -> Replay:
    replay = await planner.ask(platform, question)
    await asyncio.wait_for(planner.settled(), 60)
    return replay


async def test_a_replay_in_its_own_process_answers_or_says_why_not(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(settings_for(database_url, tmp_path), MemoryEngine()) as platform:
        with platform.database.transaction() as connection:
            insert(connection, 25, datetime.now(UTC))
        asked, service = Question(gpus=1, days=9), Planner()
        done = await finished(service, platform, asked)
        assert done.stage is Stage.DONE and done.progress == 1 and service.find(done.id) is done
        assert done.answer is not None and done.answer.changed.gpus == 5
        monkeypatch.setattr(planner, "LONGEST_SECONDS", 0.01)
        late = await finished(service, platform, asked)
        assert late.stage is Stage.FAILED and "longer than" in late.problem
        monkeypatch.setattr(worker, "encode", lambda *question: b"no question")
        monkeypatch.setattr(planner, "LONGEST_SECONDS", 60)
        broken = await finished(service, platform, asked)
        assert broken.stage is Stage.FAILED and "without an answer" in broken.problem


async def test_only_a_few_replays_wait(database_url: str, tmp_path: Path) -> None:
    with opened(settings_for(database_url, tmp_path), MemoryEngine()) as platform:
        with platform.database.transaction() as connection:
            insert(connection, 25, datetime.now(UTC))
        service, asked = Planner(), Question(gpus=1, days=9)
        waiting = [await service.ask(platform, asked) for _ in range(4)]
        with pytest.raises(Conflict, match="Enough replays wait"):
            await service.ask(platform, asked)
        await asyncio.wait_for(service.settled(), 120)
        assert {replay.stage for replay in waiting} == {Stage.DONE}
