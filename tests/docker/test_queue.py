"""Waiting, starting and ending on four simulated GPUs: real hub, controller and containers.

"Starts within a second" is measured in the action log: from the row that says that the engine
confirmed the end and the GPUs are free (``workload.release``) to the row with which the next
one begins to start its container (``workload.start``). The server's own boot is not in it.

The server inside is a stand-in that answers at once (``quick_profiles``).
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from dcloud_spawner.engines.base import Phase
from dcloud_spawner.live.pool import read_pool
from dcloud_spawner.store import events, workloads
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from tests.docker.people import People, Person, action_log, held, quick, until
from tests.live import Deployment
from tests.simgpu.simgpu import Simulation

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def profiles_dir(quick_profiles: Path) -> Path:
    return quick_profiles


def when(person: Person, workload: Workload, action: str) -> datetime:
    """Time of a row of the action log."""
    found = [row.at for row in action_log(person.platform, workload.id) if row.action == action]
    assert len(found) == 1, (action, found)
    return found[0]


def order_of(people: Sequence[Person], action: str) -> list[str]:
    """Names of the users of some workloads in the order in which something was logged of them."""
    mine = {workload.id: person.name for person in people if (workload := person.workload())}
    log = action_log(people[0].platform)
    return [mine[row.target] for row in log if row.action == action and row.target in mine]


def places(people: Sequence[Person]) -> list[int | None]:
    """Place of each one in the queue."""
    state = read_pool(people[0].platform)
    return [
        found.place if workload and (found := state.place_of(workload.id)) else None
        for workload in (person.workload() for person in people)
    ]


def nothing_left(person: Person, workload: Workload) -> None:
    """Fails when a container, a lease or a server is left of an ended workload."""
    platform = person.platform
    assert platform.engine.observe(workload.id) == ()
    assert workload.id not in held(platform).values()
    until(lambda: not person.deployment.server(person.name, workload.server_name), 10, "the end")
    with platform.database.reading() as connection:
        assert workloads.get(connection, workload.id).state is State.ENDED


@pytest.fixture
def holder(people: People) -> Person:
    """A running server with all four GPUs."""
    person = people()
    person.run(quick(4))
    return person


# ---------------------------------------------------------------------------- waiting


def test_a_third_waits_with_a_reason_and_starts_within_a_second_of_the_release(
    people: People,
) -> None:
    ann, bob, cyd = people.many(3)
    with ThreadPoolExecutor(2) as threads:
        first, _ = threads.map(lambda person: person.run(quick(2)), (ann, bob))
    third = cyd.start(quick(1))
    until(lambda: places([cyd]) == [1], 5)
    event = cyd.progress()
    assert (event["stage"], event["place"], event["queue_length"]) == ("queue", 1, 1)
    assert event["message"] == "Place 1 of 1 in the queue."
    assert event["reasons"] == ["You asked for 1 GPU and none is free."]
    until(lambda: cyd.progress()["latest_start"], 20)  # reckoned beside the queue, soon after
    ann.end()
    cyd.wait_running()
    seconds = (
        when(cyd, third, "workload.start") - when(ann, first, "workload.release")
    ).total_seconds()
    assert 0 <= seconds < 1, seconds
    used = [set(person.container().devices) for person in (bob, cyd)]
    assert len(used[0]) == 2 and len(used[1]) == 1 and not used[0] & used[1]


@pytest.mark.sqlite_suffices
def test_first_come_is_first_served(people: People, holder: Person) -> None:
    waiting = people.many(5)
    for person in waiting:
        person.start(quick(1))
    until(lambda: places(waiting) == [1, 2, 3, 4, 5], 5)
    holder.end()
    until(lambda: len(order_of(waiting, "workload.start")) == 4, 20)
    assert order_of(waiting, "workload.admit") == [person.name for person in waiting[:4]]
    assert places(waiting[4:]) == [1]
    assert waiting[4].state() is State.QUEUED


@pytest.mark.sqlite_suffices
def test_a_small_request_does_not_overtake_a_big_one_for_good(people: People) -> None:
    holders = people.many(2)
    for person in holders:
        person.start(quick(2, hours=2))
    big, small = people.many(2)
    big.start(quick(4, hours=1))
    until(lambda: places([big]) == [1], 5)
    small.start(quick(1, hours=20))  # longer than the reservation of the big one is away
    until(lambda: places([big, small]) == [1, 2], 5)
    holders[0].end()
    time.sleep(1)
    assert (big.state(), small.state()) == (State.QUEUED, State.QUEUED)
    assert "Starting now would delay a request ahead of you." in small.progress()["reasons"]
    holders[1].end()
    until(lambda: big.state() is not State.QUEUED, 10)
    assert small.state() is State.QUEUED


@pytest.mark.sqlite_suffices
def test_leaving_the_queue_leaves_nothing(people: People, holder: Person) -> None:
    first, second, third = waiting = people.many(3)
    asked = [person.start(quick(1)) for person in waiting]
    until(lambda: places(waiting) == [1, 2, 3], 5)
    with first.deployment.api(first.token) as api:  # which only they themselves may do
        assert api.delete(f"/users/{second.name}/server").status_code in (403, 404)
    assert places(waiting) == [1, 2, 3]
    assert second.stop().status_code == 204
    assert second.state() is None
    nothing_left(second, asked[1])
    (row,) = second.past()
    assert (row.end_reason, row.admitted_at, row.starting_at) == ("cancelled", None, None)
    actions = [event.action for event in action_log(second.platform, row.id)]
    assert actions == ["workload.submit", "workload.cancel"]
    cancelled = action_log(second.platform, row.id)[-1]
    assert (cancelled.actor, cancelled.source) == (second.name, "127.0.0.1")
    until(lambda: places([first, third]) == [1, 2], 5)
    second.start(quick(1))  # and may come back, behind the others
    until(lambda: places(waiting) == [1, 3, 2], 5)


@pytest.mark.sqlite_suffices
def test_asking_twice_keeps_the_one_place(people: People, holder: Person) -> None:
    first, second = people.many(2)
    asked = first.start(quick(1))
    second.start(quick(1))
    again = first.post(quick(2))
    assert again.status_code in (202, 400)
    until(lambda: places([first, second]) == [1, 2], 5)
    workload = first.workload()
    assert workload is not None and (workload.id, workload.gpus) == (asked.id, 1)


def test_asking_many_times_at_once_makes_one_request(people: People, holder: Person) -> None:
    person = people()
    with ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(person.post, quick(1)) for _ in range(6)]
        codes = [answer.result().status_code for answer in answers]
    assert set(codes) <= {202, 400, 409} and 202 in codes, codes
    until(lambda: places([person]) == [1], 5)
    submitted = [row for row in action_log(person.platform) if row.action == "workload.submit"]
    assert [row.detail["user"] for row in submitted].count(person.name) == 1


@pytest.mark.sqlite_suffices
def test_removing_a_named_server_that_waits_leaves_the_queue(
    people: People, holder: Person
) -> None:
    person = people()
    workload = person.start(quick(1), "second")
    until(lambda: person.state("second") is State.QUEUED, 5)
    with person.deployment.api(person.token) as api:
        path = f"/users/{person.name}/servers/second"
        assert api.request("DELETE", path, json={"remove": True}).status_code in (202, 204)
        nothing_left(person, workload)
        until(lambda: "second" not in api.get(f"/users/{person.name}").json()["servers"], 10)
    person.run(quick(0), "second")  # and may come again


@pytest.mark.sqlite_suffices
def test_who_waits_does_not_stand_in_the_way_of_others(people: People, holder: Person) -> None:
    waiting = people.many(12)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda person: person.start(quick(1)), waiting))
    other = people()
    other.run(quick(0))
    assert other.answers()
    assert [person.state() for person in waiting] == [State.QUEUED] * 12
    until(lambda: sorted(place or 0 for place in places(waiting)) == list(range(1, 13)), 5)


# ---------------------------------------------------------------------------- cancelling a start


@pytest.mark.sqlite_suffices
def test_a_start_can_be_cancelled_at_any_moment(people: People) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    answers: list[int] = []

    def start_and_cancel(person: Person, delays: list[float]) -> None:
        for delay in delays:
            with ThreadPoolExecutor(1) as asking:
                asked = asking.submit(person.post, quick(1))
                time.sleep(delay)
                answers.append(person.stop().status_code)
                answers.append(asked.result().status_code)
            person.end()  # a cancel that came before the start has ended nothing

    team = people.many(3)
    with ThreadPoolExecutor(3) as threads:
        delays = [[chance.uniform(0, 1.2) for _ in range(8)] for _ in team]
        list(threads.map(start_and_cancel, team, delays))
    assert set(answers) <= {201, 202, 204, 409}, (seed, answers)
    rows = [row for person in team for row in person.past()]
    reached = {
        "never" if row.starting_at is None else "starting" if row.ready_at is None else "ready"
        for row in rows
    }
    assert "starting" in reached, f"no delay hit a container start; seed {seed}"
    for person in team:
        for row in person.past():
            nothing_left(person, row)
    platform = people.deployment.platform
    assert platform is not None
    assert held(platform) == {}
    assert platform.engine.observe() == ()
    until(lambda: not _routes(people.deployment), 5, "the end of their routes")


def _routes(deployment: Deployment) -> list[str]:
    """Users' routes that the proxy has."""
    answer = httpx.get(
        f"http://127.0.0.1:{deployment.settings.proxy_api_port}/api/routes",
        headers={"Authorization": f"token {deployment.proxy_token}"},
        trust_env=False,
    )
    return [route for route in answer.json() if route.startswith("/user/")]


# ---------------------------------------------------------------------------- kill -9


def test_a_killed_hub_keeps_the_queue_and_everyone_starts_in_turn(
    people: People, holder: Person
) -> None:
    deployment = people.deployment
    waiting = people.many(5)
    asked = [person.start(quick(2)) for person in waiting]
    until(lambda: places(waiting) == [1, 2, 3, 4, 5], 5)
    deployment.kill("hub")
    # The proxy and the server know each other; only questions to the hub have to wait.
    reached = httpx.get(f"{deployment.url}/user/{holder.name}/api", trust_env=False)
    assert (reached.status_code, reached.text) == (200, "up")
    deployment.start("hub")
    deployment.wait_for_hub()
    assert holder.answers()
    assert places(waiting) == [1, 2, 3, 4, 5]
    holder.end()
    for index in range(5):
        until(lambda index=index: waiting[index].state() is State.RUNNING, 60, f"start {index}")
        if index == 2:
            deployment.restart("hub")  # with servers running and two still waiting
        if index > 0:
            deployment.wait_ready(waiting[index - 1].name)
            waiting[index - 1].end()
    rows = [waiting[4].workload(), *(row for person in waiting for row in person.past())]
    assert {row.id for row in rows if row} == {workload.id for workload in asked}
    log = action_log(holder.platform)
    ids = [workload.id for workload in asked]
    admitted = [row.target for row in log if row.action == "workload.admit" and row.target in ids]
    assert admitted == ids
    with holder.platform.database.reading() as connection:
        assert list(events.verify(connection)) == []


@pytest.mark.sqlite_suffices
def test_a_killed_controller_stops_nobody(people: People, holder: Person) -> None:
    deployment = people.deployment
    waiting = people()
    waiting.start(quick(1))
    until(lambda: places([waiting]) == [1], 5)
    deployment.kill("controller")
    try:
        holder.end()
        waiting.wait_running()
        waiting.shell("kill 1")
        until(lambda: waiting.state() is None, 20, "the hub's own look")
    finally:
        deployment.start("controller")
    other = people()
    other.run(quick(4))
    other.shell("kill 1")
    until(lambda: other.state() is None, 20)


# ---------------------------------------------------------------------------- ends


@pytest.mark.sqlite_suffices
def test_a_server_stops_at_its_time_limit_and_the_next_one_starts(
    people: People, holder: Person
) -> None:
    waiting = people()
    asked = waiting.start(quick(1))
    workload = holder.workload()
    assert workload is not None
    with holder.platform.database.transaction() as connection:
        workloads.set_values(connection, workload.id, limit_seconds=1)
    until(lambda: holder.state() is None, 20, "the end at the limit")
    (ended,) = holder.past()
    assert (ended.end_reason, ended.oom_killed) == ("time limit", False)
    waiting.wait_running()
    gap = when(waiting, asked, "workload.start") - when(holder, workload, "workload.release")
    assert gap.total_seconds() < 1
    nothing_left(holder, workload)


@pytest.mark.parametrize("death", ["kill 1", "kill -9 -1"])
@pytest.mark.sqlite_suffices
def test_a_server_that_dies_is_noticed_and_the_next_one_starts(
    people: People, holder: Person, death: str
) -> None:
    waiting = people()
    waiting.start(quick(1))
    workload = holder.workload()
    assert workload is not None
    holder.shell(death)
    until(lambda: holder.state() is None, 20, "the end of the dead server")
    (ended,) = holder.past()
    assert ended.end_reason == "exited"
    assert ended.exit_code is not None and ended.engine_finished_at is not None
    nothing_left(holder, workload)
    waiting.wait_running()


@pytest.mark.sqlite_suffices
def test_a_container_removed_behind_our_back_is_noticed(people: People) -> None:
    person = people()
    workload = person.run(quick(1))
    subprocess.run(["docker", "rm", "-f", person.container().ref], check=True, capture_output=True)
    until(lambda: person.state() is None, 20)
    nothing_left(person, workload)
    person.run(quick(1))


# ---------------------------------------------------------------------------- several servers


@pytest.mark.sqlite_suffices
def test_one_user_has_several_servers(people: People) -> None:
    person = people()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda server: person.run(quick(1), server), ("", "second")))
    assert person.answers() and person.answers("second")
    both = [person.container(server) for server in ("", "second")]
    assert not set(both[0].devices) & set(both[1].devices)
    person.shell("echo shared > ~/file")
    assert person.shell("cat ~/file", "second") == "shared\n"
    person.end("second")
    assert person.answers()
    assert person.container().phase is Phase.ALIVE
    assert len(held(person.platform)) == 1


# ---------------------------------------------------------------------------- limits of a launch


@pytest.mark.sqlite_suffices
def test_launches_are_limited_in_number_and_time_and_waiting_is_not(
    profiles_dir: Path,
    simulation: Simulation,
    tmp_path: Path,
    database_url: str,
    hub_database_url: str,
) -> None:
    with Deployment(
        tmp_path,
        engine="docker",
        profiles_dir=profiles_dir,
        launch_timeout_seconds=3,
        concurrent_launches=2,
        simulated_gpus=True,
        gpu_passing="runtime",
        gpu_runtime=simulation.runtime_name,
        nvml_library=str(simulation.library),
        database_url=database_url,
        hub_database_url=hub_database_url,
    ) as deployment:
        people = People(deployment)
        team = people.many(4)
        with ThreadPoolExecutor(4) as threads:
            asked = list(threads.map(lambda person: person.start({"profile": "silent"}), team))
        patient = people()
        patient.start(quick(4))
        until(lambda: places([patient]) == [1], 5)
        until(lambda: not any(person.state() for person in team), 40, "the end of the silent ones")
        begun = sorted(
            when(person, workload, "workload.start")
            for person, workload in zip(team, asked, strict=True)
        )
        # Never more than two in their three seconds: the third began when one was over.
        assert (begun[2] - begun[0]).total_seconds() >= 3
        assert (begun[3] - begun[1]).total_seconds() >= 3
        ended = [row for person in team for row in person.past()]
        assert {row.end_reason for row in ended} == {"failed"}
        assert {row.end_detail for row in ended} == {"It did not answer within 3 seconds."}
        for person, workload in zip(team, asked, strict=True):
            nothing_left(person, workload)
        # It waited longer than a launch may take, and then had its own full time.
        until(lambda: patient.state() is not State.QUEUED, 5)
        workload = patient.workload()
        assert workload is not None and workload.admitted_at is not None
        assert (workload.admitted_at - workload.submitted_at).total_seconds() > 3
        people.end_everything()
