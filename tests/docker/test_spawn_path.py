"""What happens to a server besides being started and stopped: given back because nobody opens it,
stopped for a higher tier, ended with a reservation; and what runs while another one waits.

Real hub, proxy, controller and containers on four simulated GPUs. JupyterLab itself where its own
word counts, else the stand-in that answers at once (``quick``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from dcloud_spawner.form.ends import end_of
from dcloud_spawner.reservations import cancel_reservation, reserve
from dcloud_spawner.store import reservations, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.reservations import NewReservation, Reservation, ReservationState
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from tests.docker.people import SMALL, People, Person, action_log, quick, signed_in, until
from tests.hub.sign_in import Visitor
from tests.live import Deployment

pytestmark = [pytest.mark.docker, pytest.mark.sqlite_suffices]

UNUSED_SECONDS = 18.0
NOTICE_SECONDS = 8
TEACHER = Actor("teacher")


@pytest.fixture(scope="module")
def profiles_dir(quick_profiles: Path) -> Path:
    return quick_profiles


@pytest.fixture(scope="module")
def more_settings() -> dict[str, Any]:
    return {
        "unused_minutes": UNUSED_SECONDS / 60,
        "reservation_unused_minutes": 15 / 60,
        "tier_groups": {"profs": "gold"},
        "preemptible_tiers": ["bronze"],
        "preemption_notice_seconds": NOTICE_SECONDS,
        "schedule_seconds": 0.5,
        "servers_per_user": 2,
    }


def now(person: Person, workload: Workload) -> Workload:
    """The row as it is now."""
    with person.platform.database.reading() as connection:
        return workloads.get(connection, workload.id)


def connected_at(person: Person, workload: Workload) -> datetime | None:
    """When somebody was first connected to it."""
    return now(person, workload).connected_at


def asked_inside(person: Person, path: str) -> int:
    """Status of a request to the server by its owner's token, through the proxy."""
    answer = httpx.get(
        f"{person.deployment.url}/user/{person.name}/{path}",
        headers={"Authorization": f"token {person.token}"},
        timeout=10,
        trust_env=False,
    )
    return answer.status_code


@pytest.fixture(scope="module")
def opener(deployment: Deployment, residents: People) -> Iterator[tuple[Person, Visitor]]:
    """Somebody with a browser, signed in at the hub."""
    with signed_in(deployment, "opener") as browser:
        person = Person(deployment, "opener", deployment.user("opener"))
        residents.made.append(person)
        yield person, browser


# ---------------------------------------------------------------------------- never opened


@pytest.mark.timeout(300)
def test_only_a_server_that_nobody_opened_is_given_back_and_not_charged_beyond_its_time(
    people: People, opener: tuple[Person, Visitor]
) -> None:
    visitor, browser = opener
    never, asker, silent = people.many(3)
    team = [(visitor, SMALL), (asker, SMALL), (never, SMALL), (silent, quick(0))]
    rows = [person.start(choice) for person, choice in team]
    home = "/hub/home"

    def signs_in() -> None:
        """A browser that signs in at the server."""
        visitor.wait_running()
        until(lambda: "Nobody has opened it yet" in browser.get(home).text, 15, "the notice")
        page = browser.get("/user/opener/lab", follow_redirects=True)
        assert page.status_code == 200 and "/user/opener/lab" in str(page.url)

    def asks(person: Person, path: str) -> None:
        """A program with a token."""
        person.wait_running()
        assert asked_inside(person, path) == 200

    with ThreadPoolExecutor() as threads:  # each as soon as it can be: the time runs from there
        doing = [threads.submit(signs_in), threads.submit(asks, asker, "api/contents")]
        doing.append(threads.submit(asks, never, "api"))  # which the server does not count as use
        for each in doing:
            each.result()
    silent.wait_running()
    for person, row, how in ((visitor, rows[0], "sign-in"), (asker, rows[1], "activity")):
        until(partial(connected_at, person, row), 15, f"the {how}")
        log = action_log(person.platform, row.id)
        assert [each.detail["how"] for each in log if each.action == "workload.connected"] == [how]
    until(lambda: "Nobody has opened it yet" not in browser.get(home).text, 15, "its end")

    until(lambda: never.state() is None, UNUSED_SECONDS + 40, "giving it back")
    (ended,) = never.past()
    assert (ended.end_reason, ended.connected_at) == ("never opened", None)
    assert ended.ready_at is not None and ended.stopping_at is not None
    assert ended.charge_until == ended.ready_at + timedelta(seconds=UNUSED_SECONDS)
    assert ended.stopping_at >= ended.charge_until
    (stop,) = [row for row in action_log(never.platform, ended.id) if row.action == "workload.stop"]
    assert stop.detail["charge_until"] == str(ended.charge_until)
    until(lambda: not never.deployment.server(never.name), 15, "the hub's word")
    told = {"reason": ended.end_reason, "server": "", "unused_minutes": 15, "at": None}
    assert "nobody opened it within 15 minutes" in end_of(told).sentence

    time.sleep(5)
    left = [visitor, asker, silent]  # the last one says nothing of its use, which is no verdict
    assert [person.state() for person in left] == [State.RUNNING] * 3
    visitor.end()


def test_the_route_of_a_server_beside_is_not_for_other_peoples_pages(
    opener: tuple[Person, Visitor],
) -> None:
    _, browser = opener
    beside = "/hub/dcloud/cpu-meanwhile/opener/"
    assert browser.post(beside).status_code == 403  # without the token of our own pages
    token = {"X-XSRFToken": browser.cookies.get("_xsrf", path="/hub/") or ""}
    assert browser.post(beside, headers=token).status_code == 409  # it does not wait


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
    people: People, opener: tuple[Person, Visitor]
) -> None:
    (lower, browser), low, prof = opener, people(), people(groups=("profs",))
    low.run(quick(2))
    victim = lower.run(quick(2))
    head = prof.start(quick(2))
    assert head.tier == "gold"
    until(lambda: now(lower, victim).notice_at, 15, "the notice")
    until(lambda: "Stops early, at" in browser.get("/hub/home").text, NOTICE_SECONDS, "the page")
    assert (row := low.workload()) is not None and row.notice_at is None
    until(lambda: lower.state() is None, 40, "the stop")
    assert now(lower, victim).end_reason == "preempted"
    until(lambda: "a request of a higher tier" in browser.get("/hub/home").text, 15, "why")
    prof.wait_running()
    again = lower.start(quick(2))
    time.sleep(2)
    assert prof.state() is State.RUNNING and low.state() is State.RUNNING
    assert now(lower, again).state is State.QUEUED
    assert now(prof, head).notice_at is None
    lower.end()


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
    kept = book(people, [ann.name, bob.name], 4, begins=1, lasts=25)
    until(lambda: found(people, kept).state is ReservationState.ACTIVE, 5, "the beginning")
    waiting = outsider.start(quick(1))
    first, second = ann.start(quick(2)), bob.start(quick(1))
    for pupil in (ann, bob):
        pupil.wait_running(seconds=20)
    assert outsider.state() is State.QUEUED  # although a GPU lies idle
    told = outsider.progress()["reasons"]
    assert told == ["What is free is kept for an advance reservation."], told
    for row in (first, second):
        assert now(ann, row).reservation == kept.id
        assert now(ann, row).notice_at == kept.ends_at
    until(lambda: ann.state() is None and bob.state() is None, 45, "the end")
    assert {ended.end_reason for ended in (*ann.past(), *bob.past())} == {"reservation"}
    until(lambda: now(outsider, waiting).state is State.RUNNING, 30, "the outsider's start")
    assert found(people, kept).state is ReservationState.ENDED


def test_a_reservation_that_nobody_uses_expires_and_gives_its_gpus_back(people: People) -> None:
    outsider = people()
    kept = book(people, ["nobody-comes"], 4, begins=0.3, lasts=600)
    until(lambda: found(people, kept).state is ReservationState.ACTIVE, 5, "the beginning")
    waiting = outsider.start(quick(1))
    assert outsider.state() is State.QUEUED
    until(lambda: found(people, kept).state is ReservationState.EXPIRED, 40, "giving it up")
    until(lambda: now(outsider, waiting).state is State.RUNNING, 30, "the outsider's start")
    assert "Nobody used it" in found(people, kept).detail
