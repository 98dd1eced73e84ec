"""Limits on the real hub and engine: refused with words, or blocked until one's own server ends."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from dcloud_spawner import overrides
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from tests.docker.people import People, Person, quick, until
from tests.live import Deployment

pytestmark = pytest.mark.docker

CALLS = 40


@pytest.fixture(scope="module")
def more_settings() -> dict[str, Any]:
    """The limits that there are by default."""
    return {"roles": {}, "api_calls_per_minute": CALLS, "starts_per_minute": 3}


@pytest.fixture(scope="module")
def profiles_dir(quick_profiles: Path) -> Path:
    return quick_profiles


@pytest.mark.sqlite_suffices
def test_more_than_the_limit_is_refused_at_once_and_says_what_to_do(people: People) -> None:
    person = people()
    answer = person.post(quick(3))
    assert answer.status_code == 403
    assert "Your limit is 2 GPUs, and you asked for 3." in answer.json()["message"]
    assert "ask for more: Usage → Ask for more." in answer.json()["message"]
    assert person.workload() is None and person.past() == []


@pytest.mark.sqlite_suffices
def test_what_fits_beside_nothing_waits_blocked_and_starts_when_a_server_ends(
    people: People,
) -> None:
    ann, bob = people.many(2)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda server: ann.run(quick(1), server), ("one", "two")))
    third = ann.start(quick(1), "three")
    until(lambda: ann.workload("three") is not None, 5)
    assert third.blocked == "limit:gpus"
    told = ann.progress("three")
    assert told["blocked"]["code"] == "limit:gpus"
    assert told["blocked"]["reason"].startswith(
        "Your limit is 2 GPUs, and “one” uses 1 and “two” uses 1."
    )
    assert told["place"] is None
    bob.run(quick(2))  # nobody waits behind it, although it came first
    assert ann.state("three") is State.QUEUED
    ann.end("one")
    ann.wait_running("three")
    devices = [set(ann.container(server).devices) for server in ("two", "three")]
    assert len(devices[0] | devices[1]) == 2


@pytest.mark.sqlite_suffices
def test_groups_of_the_hub_are_roles(people: People) -> None:
    person = people(groups=("premium",))
    person.run(quick(4))
    assert len(set(person.container().devices)) == 4


@pytest.mark.sqlite_suffices
def test_a_group_that_somebody_joins_counts_for_what_waits(
    people: People, deployment: Deployment
) -> None:
    person = people()
    person.run(quick(2), "a")
    assert person.start(quick(2), "b").blocked == "limit:gpus"
    with deployment.api() as api:
        api.post("/groups/premium")
        joined = {"users": [person.name]}
        assert api.post("/groups/premium/users", json=joined).is_success
    until(lambda: person.state("b") is State.RUNNING, 20)


@pytest.mark.sqlite_suffices
def test_limits_of_a_deleted_user_are_not_those_of_the_next_one_of_that_name(
    people: People, deployment: Deployment
) -> None:
    person = people()
    overrides.set_override(person.platform, person.name, "gpus", 4, "for a test", Actor("admin"))
    with deployment.api() as api:
        assert api.delete(f"/users/{person.name}").is_success
    again = people(person.name)
    assert again.post(quick(3)).status_code == 403


def test_of_starts_at_the_same_moment_only_what_fits_the_limit_runs(people: People) -> None:
    person = people()
    servers = ("a", "b", "c")
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda server: person.post(quick(1), server), servers))
    assert {answer.status_code for answer in answers} <= {201, 202}
    until(lambda: sum(person.state(server) is State.RUNNING for server in servers) == 2, 30)
    waiting = [
        found
        for server in servers
        if (found := person.workload(server)) and found.state is State.QUEUED
    ]
    assert [found.blocked for found in waiting] == ["limit:gpus"]


@pytest.mark.sqlite_suffices
def test_starts_and_calls_that_are_too_many_are_told_when_to_try_again(
    people: People, deployment: Deployment
) -> None:
    person = people()
    for _ in range(3):
        assert person.post(quick(3)).status_code == 403
    often = person.post(quick(3))
    assert often.status_code == 429
    assert "More than 3 starts within a minute. Try again in" in often.json()["message"]
    assert (_calls(person, deployment, CALLS + 5)) == 5
    assert people().post(quick(3)).status_code == 403  # counted for each person alone


def _calls(person: Person, deployment: Deployment, count: int) -> int:
    """Calls of the API; returns how many were refused."""
    token = {"Authorization": f"token {person.token}"}
    refused = 0
    with httpx.Client(headers=token, trust_env=False, timeout=30) as client:
        for _ in range(count):
            answer = client.get(f"{deployment.url}/services/dcloud/api/v1/availability")
            if answer.status_code != 429:
                assert answer.status_code == 200, answer.text
                continue
            refused += 1
            assert answer.json()["error"]["code"] == "too_often"
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
    return refused
