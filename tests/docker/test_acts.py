"""What people change through the hub's own API is in the action log: who, what, from where."""

from __future__ import annotations

import httpx
import pytest

from dcloud_spawner.store import events
from dcloud_spawner.store.events import Event
from tests.docker.people import until
from tests.live import Deployment

pytestmark = [pytest.mark.docker, pytest.mark.sqlite_suffices]


def lines(deployment: Deployment) -> list[Event]:
    """The hub's acts so far, in order."""
    assert deployment.platform is not None
    with deployment.platform.database.reading() as connection:
        return [row for row in events.read(connection) if row.action.startswith("hub.")]


def test_users_groups_and_tokens_leave_a_line_each(deployment: Deployment) -> None:
    before = len(lines(deployment))
    with deployment.api() as api:
        assert api.post("/users/actor").is_success
        assert api.post("/users/actor/tokens", json={"note": "mine"}).is_success
        assert api.post("/groups/acting").is_success
        assert api.post("/groups/acting/users", json={"users": ["actor"]}).is_success
        assert api.request("DELETE", "/groups/acting/users", json={"users": ["actor"]}).is_success
        assert api.delete("/users/actor").is_success
    until(lambda: len(lines(deployment)) >= before + 6, 5)
    found = lines(deployment)[before:]
    assert [(line.action, line.target) for line in found] == [
        ("hub.post", "users/actor"),
        ("hub.post", "users/actor/tokens"),
        ("hub.post", "groups/acting"),
        ("hub.post", "groups/acting/users"),
        ("hub.delete", "groups/acting/users"),
        ("hub.delete", "users/actor"),
    ]
    assert {(line.actor, line.source) for line in found} == {("tester", "127.0.0.1")}
    assert [dict(line.detail) for line in found[1:5]] == [
        {"note": "mine"},
        {},
        {"users": ["actor"]},
        {"users": ["actor"]},
    ]


def test_a_refused_request_changes_nothing_and_leaves_no_line(deployment: Deployment) -> None:
    token = deployment.user("nobody-special")
    # Lines are written after the answer: the ones of making this user may still be on their way.
    until(lambda: lines(deployment)[-1].target == "users/nobody-special/tokens", 5)
    before = len(lines(deployment))
    with deployment.api(token) as api:
        assert api.patch("/users/nobody-special", json={"admin": True}).status_code == 403
        assert api.post("/groups/trusted-by-me").status_code == 403
        assert api.post("/users/nobody-special/tokens", json={"note": "after"}).is_success
    until(lambda: len(lines(deployment)) > before, 5)
    assert [line.target for line in lines(deployment)[before:]] == ["users/nobody-special/tokens"]


def test_a_password_in_a_request_for_a_token_is_not_written_down(deployment: Deployment) -> None:
    before = len(lines(deployment))
    secret = "plum orbit lantern"
    with deployment.api() as api:
        api.post("/users/careless")
        body = {"note": "n", "auth": {"username": "careless", "password": secret}}
        assert api.post("/users/careless/tokens", json=body).is_success
    until(lambda: len(lines(deployment)) >= before + 2, 5)
    assert not any(secret in str(line) for line in lines(deployment))


def test_a_start_is_told_with_its_workload_and_not_twice(deployment: Deployment) -> None:
    token = deployment.user("starter")
    answer = httpx.post(
        f"{deployment.url}/hub/api/users/starter/server",
        headers={"Authorization": f"token {token}"},
        json={"profile": "no-such"},
        trust_env=False,
    )
    assert answer.status_code == 400
    with deployment.api(token) as api:
        asked = api.post("/users/starter/server", json={"profile": "cpu", "memory_gib": 0.5})
        assert asked.status_code in (201, 202)
        deployment.wait_ready("starter")
        assert api.delete("/users/starter/server").is_success
    assert not [line for line in lines(deployment) if "/server" in line.target]
