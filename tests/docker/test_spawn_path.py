"""What happens to a server besides being started and stopped: given back because nobody opens it,
stopped for a higher tier, ended with a reservation; and what runs while another one waits.

Real hub, proxy, controller and containers on four simulated GPUs. JupyterLab itself where its own
word counts, else the stand-in that answers at once (``quick``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from dcloud_spawner.form.ends import end_of
from dcloud_spawner.live.pool import TOLD
from dcloud_spawner.reservations import cancel_reservation, reserve
from dcloud_spawner.store import reservations, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.reservations import NewReservation, Reservation, ReservationState
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from tests.docker.people import SMALL, People, Person, action_log, quick, signed_in, until
from tests.live import Deployment

pytestmark = pytest.mark.docker

UNUSED_SECONDS = 9.0
TEACHER = Actor("teacher")


@pytest.fixture(scope="module")
def profiles_dir(quick_profiles: Path) -> Path:
    return quick_profiles


@pytest.fixture(scope="module")
def more_settings() -> dict[str, Any]:
    return {
        "unused_minutes": UNUSED_SECONDS / 60,
        "reservation_unused_minutes": 4 / 60,
        "tier_groups": {"profs": "gold"},
        "preemptible_tiers": ["bronze"],
        "preemption_notice_seconds": 3,
        "schedule_seconds": 0.5,
        "servers_per_user": 2,
    }


def now(person: Person, workload: Workload) -> Workload:
    """The row as it is now."""
    with person.platform.database.reading() as connection:
        return workloads.get(connection, workload.id)


def asked_inside(person: Person, path: str) -> int:
    """Status of a request to the server by its owner's token, through the proxy."""
    answer = httpx.get(
        f"{person.deployment.url}/user/{person.name}/{path}",
        headers={"Authorization": f"token {person.token}"},
        timeout=10,
        trust_env=False,
    )
    return answer.status_code


# ---------------------------------------------------------------------------- never opened


def test_a_server_that_nobody_opens_is_given_back_and_not_charged_beyond_its_time(
    people: People,
) -> None:
    person = people()
    workload = person.run(SMALL)
    assert workload.ready_at is not None
    seconds = until(lambda: person.state() is None, UNUSED_SECONDS + 15, "giving it back")
    assert seconds > UNUSED_SECONDS - 3
    (ended,) = person.past()
    assert (ended.end_reason, ended.connected_at) == ("never opened", None)
    assert ended.charge_until == ended.ready_at + timedelta(seconds=UNUSED_SECONDS)
    (stop,) = [
        row for row in action_log(person.platform, ended.id) if row.action == "workload.stop"
    ]
    assert stop.detail["charge_until"] == str(ended.charge_until)
    until(lambda: not person.deployment.server(person.name), 10, "the hub's word")
    assert ended.end_reason in TOLD
    told = {"reason": ended.end_reason, "server": "", "unused_minutes": 15, "at": None}
    assert "nobody opened it within 15 minutes" in end_of(told).sentence


def test_a_browser_that_signs_in_at_a_server_is_connected_for_good(
    deployment: Deployment, residents: People
) -> None:
    with signed_in(deployment, "opener") as browser:
        person = Person(deployment, "opener", deployment.user("opener"))
        residents.made.append(person)
        workload = person.run(SMALL)
        beside = "/hub/dcloud/cpu-meanwhile/opener/"
        assert browser.post(beside).status_code == 403  # a page of somebody else's could send it
        token = {"X-XSRFToken": browser.cookies.get("_xsrf", path="/hub/") or ""}
        assert browser.post(beside, headers=token).status_code == 409  # it does not wait
        unopened = "Nobody has opened it yet"
        until(lambda: unopened in browser.get("/hub/home").text, 5, "the notice")
        page = browser.get("/user/opener/lab", follow_redirects=True)
        assert page.status_code == 200 and "/user/opener/lab" in str(page.url)
        until(lambda: now(person, workload).connected_at, 5, "the connection")
        until(lambda: unopened not in browser.get("/hub/home").text, 5, "taking it back")
    connected = [
        row
        for row in action_log(person.platform, workload.id)
        if row.action == "workload.connected"
    ]
    assert [row.detail["how"] for row in connected] == ["sign-in"]
    time.sleep(UNUSED_SECONDS + 3)
    assert person.state() is State.RUNNING
    person.end()


def test_whoever_uses_a_server_by_its_api_with_a_token_is_connected(people: People) -> None:
    person, asker = people.many(2)
    for each in (person, asker):
        each.start(SMALL)
    for each in (person, asker):
        each.wait_running()
    workload, other = person.workload(), asker.workload()
    assert workload is not None and other is not None
    assert asked_inside(person, "api/contents") == 200
    assert asked_inside(asker, "api") == 200  # which the server does not count as use
    until(lambda: now(person, workload).connected_at, UNUSED_SECONDS, "the connection")
    time.sleep(UNUSED_SECONDS + 3)
    assert person.state() is State.RUNNING


def test_a_server_that_does_not_tell_of_its_use_is_left_alone(people: People) -> None:
    person = people()
    workload = person.run(quick(0))
    time.sleep(UNUSED_SECONDS + 4)
    assert person.state() is State.RUNNING
    assert now(person, workload).connected_at is None


# ---------------------------------------------------------------------------- on CPU meanwhile


def meanwhile(person: Person, server: str = "", token: str = "") -> httpx.Response:
    """Ask for a server without GPUs beside one that waits."""
    with httpx.Client(
        base_url=f"{person.deployment.url}/hub",
        headers={"Authorization": f"token {token or person.token}"},
        timeout=30,
        trust_env=False,
    ) as hub:
        return hub.post(f"/dcloud/cpu-meanwhile/{person.name}/{server}")


def test_one_works_on_cpu_while_the_gpus_are_waited_for_and_keeps_the_place(
    people: People,
) -> None:
    holder, person, other = people.many(3)
    holder.run(quick(4))
    waiting = person.start(quick(2))
    other.start(quick(4))
    assert meanwhile(person, token=other.token).status_code == 404  # as for any server of others
    answer = meanwhile(person)
    assert answer.status_code in (201, 202), person.explained(answer)
    assert answer.json()["server"] == "cpu"
    person.wait_running("cpu")
    beside = person.workload("cpu")
    assert beside is not None
    assert (beside.gpus, beside.image, beside.keeps_place_for) == (0, waiting.image, waiting.id)
    again = meanwhile(person)
    assert (again.status_code, again.json()["server"], again.json()["state"]) == (
        200,
        "cpu",
        "ready",
    )
    event = person.progress()
    assert (event["stage"], event["place"]) == ("queue", 1)
    assert event["meanwhile"]["server"] == "cpu"
    holder.end()
    person.wait_running()
    assert person.state("cpu") is State.RUNNING  # no work is lost
    refused = meanwhile(person)
    assert refused.status_code == 409 and "does not wait" in refused.json()["message"]


def test_two_clicks_make_one_server_and_the_limit_of_servers_holds(people: People) -> None:
    from concurrent.futures import ThreadPoolExecutor

    holder, person = people.many(2)
    holder.run(quick(4))
    person.start(quick(1))
    person.start(quick(1), "one")
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda _: meanwhile(person), range(2)))
    assert {answer.json()["server"] for answer in answers} == {"cpu"}
    assert sorted(answer.status_code for answer in answers)[0] == 200
    full = meanwhile(person, "one")
    assert full.status_code == 400 and "maximum of 2 named servers" in full.json()["message"]


# ---------------------------------------------------------------------------- preemption


def test_a_lower_tier_is_told_and_stopped_when_a_higher_one_cannot_start_otherwise(
    people: People,
) -> None:
    low, lower, prof = people(), people(), people(groups=("profs",))
    low.run(quick(2))
    victim = lower.run(quick(2))
    head = prof.start(quick(2))
    assert head.tier == "gold"
    until(lambda: now(lower, victim).notice_at, 5, "the notice")
    assert lower.state() is State.RUNNING
    assert (row := low.workload()) is not None and row.notice_at is None
    prof.wait_running()
    (ended,) = lower.past()
    assert ended.end_reason == "preempted"
    again = lower.start(quick(2))
    time.sleep(2)
    assert lower.state() is State.QUEUED and prof.state() is State.RUNNING
    assert now(prof, head).notice_at is None
    assert now(lower, again).state is State.QUEUED


# ---------------------------------------------------------------------------- reservations


@pytest.fixture(autouse=True)
def no_reservation_is_left(deployment: Deployment) -> Iterator[None]:
    yield
    platform = deployment.platform
    assert platform is not None
    with platform.database.reading() as connection:
        left = reservations.open_reservations(connection)
    for each in left:
        cancel_reservation(platform, each.id, TEACHER)


def book(
    people: People, users: Sequence[str], gpus: int, *, begins: float, lasts: float
) -> Reservation:
    """Reserve GPUs from some seconds from now on."""
    platform = people.deployment.platform
    assert platform is not None
    at = datetime.now(UTC) + timedelta(seconds=begins)
    new = NewReservation("A class", at, at + timedelta(seconds=lasts), gpus, users=users)
    return reserve(platform, new, TEACHER)


def found(people: People, reservation: Reservation) -> Reservation:
    """The reservation as it is now."""
    platform = people.deployment.platform
    assert platform is not None
    with platform.database.reading() as connection:
        row = reservations.find(connection, reservation.id)
    assert row is not None
    return row


def test_a_class_has_its_gpus_an_outsider_waits_and_starts_when_it_is_over(
    people: People,
) -> None:
    ann, bob, outsider = people.many(3)
    kept = book(people, [ann.name, bob.name], 4, begins=0.5, lasts=14)
    until(lambda: found(people, kept).state is ReservationState.ACTIVE, 5, "the beginning")
    waiting = outsider.start(quick(1))
    first, second = ann.start(quick(2)), bob.start(quick(1))
    for pupil in (ann, bob):
        pupil.wait_running(seconds=10)
    assert outsider.state() is State.QUEUED  # although a GPU lies idle
    told = outsider.progress()["reasons"]
    assert told == ["What is free is kept for an advance reservation."], told
    for row in (first, second):
        assert now(ann, row).reservation == kept.id
        assert now(ann, row).notice_at == kept.ends_at
    until(lambda: ann.state() is None and bob.state() is None, 20, "the end")
    assert {ended.end_reason for ended in (*ann.past(), *bob.past())} == {"reservation"}
    assert "reservation" in TOLD
    until(lambda: now(outsider, waiting).state is State.RUNNING, 10, "the outsider's start")
    assert found(people, kept).state is ReservationState.ENDED


def test_a_reservation_that_nobody_uses_expires_and_gives_its_gpus_back(people: People) -> None:
    outsider = people()
    kept = book(people, ["nobody-comes"], 4, begins=0.3, lasts=600)
    until(lambda: found(people, kept).state is ReservationState.ACTIVE, 5, "the beginning")
    waiting = outsider.start(quick(1))
    assert outsider.state() is State.QUEUED
    until(lambda: found(people, kept).state is ReservationState.EXPIRED, 15, "giving it up")
    until(lambda: now(outsider, waiting).state is State.RUNNING, 10, "the outsider's start")
    assert "Nobody used it" in found(people, kept).detail
