"""The web service in a whole deployment: real hub, controller, containers and its own process."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from dcloud_spawner.authenticator.bootstrap import bootstrap_admin_link
from dcloud_spawner.store.schema import State
from tests.docker.people import People, Person, action_log, quick, until
from tests.hub.sign_in import Visitor
from tests.live import Deployment

pytestmark = [pytest.mark.docker, pytest.mark.sqlite_suffices]

REASON = {"reason": "for the class"}


@pytest.fixture(scope="module")
def profiles_dir(quick_profiles: Path) -> Path:
    return quick_profiles


def api(person: Person) -> httpx.Client:
    """The API with a person's own token."""
    return httpx.Client(
        base_url=f"{person.deployment.url}/services/dcloud/api/v1",
        headers={"Authorization": f"token {person.token}"},
        timeout=30,
        trust_env=False,
    )


@pytest.fixture(scope="module")
def boss(deployment: Deployment) -> Person:
    """The first administrator."""
    assert deployment.platform is not None
    with Visitor(deployment.url, "127.0.0.1") as visitor:
        link = bootstrap_admin_link(deployment.platform.database, deployment.settings)
        assert link is not None
        visitor.use_link(link)
        visitor.sign_in("admin")
        # The way of a browser: to the hub, which knows them, and back.
        page = visitor.get("/services/dcloud/gpus", follow_redirects=True)
        assert "Every node and GPU" in page.text, page.text[:2000]
    return Person(deployment, "admin", deployment.user("admin"))


def test_who_leaves_by_the_api_waits_no_more_at_the_hub(people: People) -> None:
    ann, bob, cyd = people.many(3)
    ann.run(quick(4))
    waiting, behind = bob.start(quick(1)), cyd.start(quick(1, hours=2))
    with api(bob) as own:
        until(lambda: len(own.get("/queue").json()["items"]) == 2, 10)
        answer = own.post(f"/workloads/{waiting.id}/cancel")
    assert answer.status_code == 200, answer.text
    until(lambda: not bob.deployment.server(bob.name), 10, "the end of the wait")
    assert bob.state() is None
    line = action_log(bob.platform, waiting.id)[-1]
    assert (line.action, line.actor) == ("workload.cancel", bob.name)
    ann.end()
    cyd.wait_running()
    assert cyd.workload().id == behind.id  # type: ignore[union-attr]


def test_a_hold_and_a_release_decide_who_starts(people: People, boss: Person) -> None:
    ann, bob, cyd = people.many(3)
    ann.run(quick(4))
    first, _ = bob.start(quick(4, hours=1)), cyd.start(quick(4, hours=8))
    with api(boss) as act:
        held = act.post(f"/workloads/{first.id}/hold", json=REASON)
        assert held.status_code == 200, held.text
        ann.end()
        cyd.wait_running()
        assert bob.state() is State.QUEUED
        cyd.end()
        assert act.post(f"/workloads/{first.id}/release").status_code == 200
    bob.wait_running()
    assert [row.actor for row in action_log(bob.platform, first.id) if "hold" in row.action] == [
        boss.name,
        boss.name,
    ]


def test_a_drained_gpu_goes_to_nobody_and_its_holder_goes_on(people: People, boss: Person) -> None:
    ann, bob = people.many(2)
    ann.run(quick(1))
    mine = ann.container().devices[0]
    with api(boss) as act:
        assert act.post(f"/accelerators/{mine}/drain", json=REASON).status_code == 200
        assert ann.answers()
        ann.end()
        bob.run(quick(3))
        assert mine not in bob.container().devices
        assert act.get("/availability").json()["models"][0]["free"] == 0
        assert act.post(f"/accelerators/{mine}/undrain").json()["drained"] is False
        assert act.get("/availability").json()["models"][0]["free"] == 1


def test_a_killed_web_service_comes_back_and_knows_everybody(
    people: People, deployment: Deployment
) -> None:
    ann = people()
    with api(ann) as own:
        assert own.get("/availability").status_code == 200
        deployment.restart("web")
        until(lambda: own.get("/availability").status_code == 200, 30, "the web service")
        assert own.get("/queue").json()["items"] == []
