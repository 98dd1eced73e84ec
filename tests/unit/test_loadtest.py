"""The parts of a load test that need no hub: who asks for what, what is counted, what is caught."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from dcloud_spawner import deleted_users, lifecycle
from dcloud_spawner.engines.base import ContainerFacts, Phase
from dcloud_spawner.errors import Conflict
from dcloud_spawner.ledger_verify import verify
from dcloud_spawner.profiles import Profile
from dcloud_spawner.store import shares, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.history import Lease, forget_people, leases_since
from dcloud_spawner.store.schema import State
from hub_services.charts import Bar, Line, bar_chart, line_chart
from hub_services.loadtest.bounds import Bounds, decide, refuse_among_others
from hub_services.loadtest.figures import figures, pulse, spread
from hub_services.loadtest.journal import Call, Doing, Journal, PoolSample
from hub_services.loadtest.names import (
    Run,
    folder,
    forget_run,
    is_simulated,
    note_run,
    noted_runs,
)
from hub_services.loadtest.report import write
from hub_services.loadtest.run import Outcome, Wanted
from hub_services.loadtest.script import Pool, Wish, draw, offers
from hub_services.loadtest.view import line, picture
from hub_services.loadtest.watch import in_two_containers, overlapping
from tests.memory_engine import MemoryEngine
from tests.platforms import opened, settings_for, start, submit
from tests.unit.test_planning import row

NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)
GPUS = Pool(gpus=4, gpus_on_a_node=4, memory_gib_of_a_node=16, cpus_of_a_node=8)


def profile(name: str, **more: Any) -> Profile:
    values: dict[str, Any] = {
        "name": name,
        "title": name,
        "image": "image",
        "memory_gib": {"choices": [1, 4], "default": 4},
        "cpus": {"choices": [0.5, 1, 2], "default": 2},
        **more,
    }
    return Profile.model_validate(values)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


# ---------------------------------------------------------------------------- who asks for what


def test_people_ask_only_for_what_could_start() -> None:
    many = profile("many", gpus={"choices": [2, 4, 3], "default": 2})
    large = profile("large", memory_gib={"choices": [64], "default": 64})
    found = offers([profile("cpu"), many, large], GPUS)
    # Eight cores leave one each for four servers with a GPU and one without.
    assert found == [
        Wish("cpu", 0, 1, 1),
        Wish("many", 2, 1, 1),
        Wish("many", 3, 1, 1),
        Wish("many", 4, 1, 1),
    ]
    assert offers([many], Pool(1, 1, 16, 8)) == []


def test_the_same_seed_makes_the_same_people() -> None:
    wishes = offers([profile("p", gpus={"choices": [0, 1, 2], "default": 1})], GPUS)
    people = draw(7, 50, 60, wishes, 4)
    assert people == draw(7, 50, 60, wishes, 4) != draw(8, 50, 60, wishes, 4)
    first = [script[0] for script in people]
    assert all(0 <= turn.think_seconds <= 30 and turn.work_seconds >= 2 for turn in first)
    turns = [turn for script in people for turn in script]
    impatient = [turn.patience_seconds for turn in turns if turn.patience_seconds is not None]
    assert 0.1 < len(impatient) / len(turns) < 0.2
    assert {turn.wish.gpus for turn in turns} == {0, 1, 2}
    assert first[0].wish.body().keys() == {"profile", "gpus", "memory_gib", "cpus", "hours"}


# ---------------------------------------------------------------------------- names and bounds


def test_only_noted_names_are_simulated_people(tmp_path: Path) -> None:
    run = note_run(tmp_path, 12, NOW)
    assert len(run.names) == 12 and all(is_simulated(name) for name in run.names)
    assert noted_runs(tmp_path) == [run]
    for name in ("loadtest-ann", "loadtest-abcdef-01", "xloadtest-abcdef-001", "ann"):
        assert not is_simulated(name)
    (folder(tmp_path) / f"run-{run.id}.json").write_text("{")  # killed while it wrote
    assert noted_runs(tmp_path) == [Run(run.id, 1000)]
    forget_run(tmp_path, run)
    assert noted_runs(tmp_path) == []


def test_a_machine_without_memory_or_images_is_refused(database_url: str, tmp_path: Path) -> None:
    with opened(settings_for(database_url, tmp_path), MemoryEngine()) as platform:
        bounds = decide(platform, (), cores=2, available_bytes=20 * 2**30)
        assert (bounds.gpus, bounds.cpu_places) == (4, 2)
        with pytest.raises(Conflict, match=r"only 0\.5 GiB"):
            decide(platform, (), cores=2, available_bytes=3 * 2**29)
        with pytest.raises(Conflict, match="no profile nothing"):
            decide(platform, ("nothing",), cores=2, available_bytes=20 * 2**30)


def test_other_peoples_servers_are_in_the_way_and_simulated_ones_are_not(
    database_url: str, tmp_path: Path
) -> None:
    with opened(settings_for(database_url, tmp_path), MemoryEngine()) as platform:
        submit(platform, "loadtest-0a1b2c-003")
        refuse_among_others(platform)
        submit(platform, "ann")
        with pytest.raises(Conflict, match="1 servers of other people run or wait here: ann"):
            refuse_among_others(platform)


# ---------------------------------------------------------------------------- what is caught


def lease(gpu: str, workload: str, opened_at: float, closed_at: float | None) -> Lease:
    return Lease(gpu, workload, at(opened_at), None if closed_at is None else at(closed_at))


def test_a_gpu_in_two_hands_is_caught_by_the_engines_times() -> None:
    turns = [lease("g", "a", 0, 10), lease("g", "b", 10.2, 30), lease("h", "c", 0, None)]
    fine = {"a": (at(1), at(9.9)), "b": (at(11), None)}
    assert overlapping(turns, fine) == []
    both = {"a": (at(1), at(11.5)), "b": (at(11), None)}
    assert overlapping(turns, both) == ["g went to b while a held it."]


def test_without_the_engines_times_rows_may_differ_by_a_moment_only() -> None:
    assert overlapping([lease("g", "a", 0, 10), lease("g", "b", 9.9, 30)], {}) == []
    assert overlapping([lease("g", "a", 0, 10), lease("g", "b", 3, 30)], {})
    assert overlapping([lease("g", "a", 0, None), lease("g", "b", 3, 30)], {})


def test_two_living_containers_with_one_gpu_are_caught() -> None:
    def container(name: str, phase: Phase, *gpus: str) -> ContainerFacts:
        return ContainerFacts(name, name, name, "ann", "notebook", gpus, phase, devices=gpus)

    living = [container("a", Phase.ALIVE, "g", "h"), container("b", Phase.ENDED, "g")]
    assert in_two_containers(living) == []
    said = in_two_containers([*living, container("c", Phase.ALIVE, "h")])
    assert said == ["h is in 2 containers at once."]


# ---------------------------------------------------------------------------- what is counted


def test_percentiles_are_values_that_happened() -> None:
    found = spread(range(1, 101))
    assert found is not None
    assert (found.n, found.median, found.p90, found.p99, found.largest) == (100, 50, 90, 99, 100)
    assert spread([]) is None


def test_the_pulse_is_cut_into_equal_parts() -> None:
    calls = [Call(second + 0.5, "probe", 0.01 * (1 + second), 200) for second in range(8)]
    found = pulse(calls, 8)
    assert [window.n for window in found] == [1] * 8 and found[0].at == 0.5
    assert len(pulse([Call(s / 10, "probe", 0.01, 200) for s in range(4000)], 400)) == 40


def outcome(tmp_path: Path) -> Outcome:
    journal = Journal()
    journal.asked, journal.served = 3, 1
    journal.calls = [Call(1, "probe", 0.02, 200), Call(2, "ask", 1.0, 202), Call(3, "ask", 2, 503)]
    journal.pool = [PoolSample(0, 0, 0, 0, 0, 0, 4), PoolSample(1, 2, 0, 1, 0, 2, 4)]
    journal.note("a", Doing.WAITING)
    journal.fail("a", "start", "It said <script>alert(1)</script> & went")
    rows = [
        row(1, 1, waited=0.5, held=1, ready_at=NOW - timedelta(minutes=29)),
        row(2, 1, waited=0, held=None, admitted_at=None, state=State.QUEUED, gpus=2),
    ]
    wanted = Wanted(3, 60, 1, Actor("admin"))
    bounds = Bounds((), 2, 4, ("Engine memory.",))
    run = note_run(tmp_path, 3, NOW)
    return Outcome(wanted, bounds, run, NOW, journal, at(30), rows=rows)


def test_figures_count_what_still_waits_beside_the_waits(tmp_path: Path) -> None:
    found = figures(outcome(tmp_path))
    assert (found.asked, found.still_waiting, found.gpu_share_used) == (3, 1, 0.25)
    one, two = found.sizes
    assert one.wait is not None and one.wait.median == 1800
    assert one.start is not None and one.start.median == 60
    assert (two.gpus, two.admitted, two.still_waiting, two.wait) == (2, 0, 1, None)
    assert found.errors == {"ask": 1} and found.answers["ask"].n == 2
    assert found.failures[0][2] == 1


def test_the_report_is_one_file_that_says_nothing_unescaped(tmp_path: Path) -> None:
    page = write(figures(outcome(tmp_path)), tmp_path / "report")
    text = page.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "src=" not in text and "href=" not in text and "No GPU was in two hands" in text
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    assert told["sizes"][0]["wait"]["median"] == 1800 and told["began_at"] == NOW.isoformat()


def test_charts_are_well_formed_and_differ_without_colour() -> None:
    curves = [Line("p50 <", [(0, 1), (10, 5)]), Line("p99", [(0, 2), (10, 5)]), Line("none", [])]
    chart = ElementTree.fromstring(line_chart("How & when", curves, x_name="s", y_name="ms"))
    paths = list(chart.iter("path"))
    assert len({path.get("stroke-dasharray") for path in paths}) == len(paths) == 2
    labels = [text for text in chart.iter("text") if text.text in ("p50 <", "p99")]
    heights = [float(text.get("y") or 0) for text in labels]
    assert abs(heights[0] - heights[1]) >= 14  # one does not hide the other
    bars = ElementTree.fromstring(bar_chart("Waits", [("all", [Bar("median", 0, "0 s")])]))
    assert [text.text for text in bars.iter("text")] == ["all", "median", "0 s"]
    assert line_chart("Nothing", [], x_name="", y_name="") == ""


def test_people_who_never_were_leave_the_history_and_nobody_else_does(
    database_url: str, tmp_path: Path
) -> None:
    with opened(settings_for(database_url, tmp_path), MemoryEngine()) as platform:
        run = Run("0a1b2c", 3)
        for user in (run.names[0], "ann"):
            running = start(platform, user)
            lifecycle.stop(platform, running.id, "test", Actor("test"))
        deleted_users.let_go(platform, run.names[0], Actor("test"))
        with platform.database.reading() as connection:
            former, ann = workloads.in_states(connection, tuple(State))
        assert is_simulated(former.user) and not is_simulated(ann.user)
        still = start(platform, run.names[1])
        with platform.database.transaction() as connection:
            assert forget_people(connection, run.names) == 1
        with platform.database.reading() as connection:
            rows = workloads.in_states(connection, tuple(State))
            assert [each.user for each in rows] == ["ann", run.names[1]]
            left = {each.workload for each in leases_since(connection, NOW - timedelta(days=999))}
            assert left == {each.id for each in rows} and still.id in left
            assert list(verify(connection)) == []
            users = ("ann", run.names[0], former.user, run.names[1])
            had = [shares.find(connection, user) is not None for user in users]
            assert had == [True, False, False, True]


def test_the_live_view_shows_people_pool_and_failures(tmp_path: Path) -> None:
    seen = outcome(tmp_path)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(picture(seen))
    text = console.export_text()
    assert "waiting" in text and "2 of 4, 2 in the queue" in text and "1 failures" in text
    assert "1 wait" in line(seen) and "2 of 4 GPUs" in line(seen)
