"""The API of the web service, behind a real hub and proxy."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from dcloud_spawner import queueing
from dcloud_spawner.store import events
from dcloud_spawner.store.events import Actor, Event
from dcloud_spawner.store.schema import State, accelerators, nodes, reservations, workloads
from dcloud_spawner.store.workloads import Workload
from hub_services.web.api.operations import OPERATIONS
from hub_services.web.wiring import WEB_SCOPE
from tests import platforms
from tests.web_stage import ADMINISTRATOR, WebStage

pytestmark = pytest.mark.database

REASON = {"reason": "the memory test comes first"}


@pytest.fixture(scope="module")
def module_stage(
    tmp_path_factory: pytest.TempPathFactory, module_databases: dict[str, str]
) -> Iterator[WebStage]:
    """One hub for the module."""
    with WebStage(tmp_path_factory.mktemp("web"), **module_databases) as running:
        yield running


@pytest.fixture
def stage(module_stage: WebStage) -> Iterator[WebStage]:
    """The stage with nobody on it."""
    yield module_stage
    module_stage.clear()


@pytest.fixture
def admin(stage: WebStage) -> Iterator[httpx.Client]:
    """An administrator's client."""
    with stage.api(ADMINISTRATOR) as api:
        yield api


@pytest.fixture
def alice(stage: WebStage) -> Iterator[httpx.Client]:
    """A user's client."""
    with stage.api("alice") as api:
        yield api


def waiting(stage: WebStage, user: str, gpus: int = 1, **more: Any) -> Workload:
    """A request that cannot start: the pool is full."""
    if not platforms.held(stage.platform):
        platforms.start(stage.platform, "holder", 4)
    found = platforms.submit(stage.platform, user, gpus, **more)
    stage.platform.run_pass()
    return platforms.get(stage.platform, found.id)


def log_of(stage: WebStage, target: str) -> list[Event]:
    with stage.platform.database.reading() as connection:
        return list(events.read(connection, target=target))


def everything(stage: WebStage) -> list[Any]:
    """All that an act could change."""
    with stage.platform.database.reading() as connection:
        rows: list[Any] = [events.head(connection).sequence]
        for table in (workloads, reservations):
            rows += [tuple(row) for row in connection.execute(select(table))]
        for drained in (nodes.c.drained, accelerators.c.drained):
            rows += [tuple(row) for row in connection.execute(select(drained))]
    return rows


def refused(answer: httpx.Response, status: int, code: str = "") -> dict[str, str]:
    """What a refusal says, in the shape that all have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    error: dict[str, str] = answer.json()["error"]
    assert {"code", "message", "hint"} <= error.keys() <= {"code", "message", "hint", "field"}
    assert error["code"] and error["message"]
    assert not code or error["code"] == code
    return error


# ---------------------------------------------------------------------------- who


def test_nobody_gets_in_without_a_name(stage: WebStage) -> None:
    with stage.api(None) as api:
        refused(api.get("/queue"), 403, "not_signed_in")
        refused(api.post("/nodes/local/drain", json=REASON), 403, "not_signed_in")
        api.headers["Authorization"] = "token 0000"
        refused(api.get("/queue"), 401, "not_signed_in")


def test_a_token_made_for_something_else_is_not_let_in(stage: WebStage) -> None:
    with stage.api("alice", scopes=["read:users!user"]) as api:
        refused(api.get("/queue"), 403, "not_allowed")


def test_a_narrow_token_of_an_administrator_is_that_of_a_plain_user(stage: WebStage) -> None:
    with stage.api(ADMINISTRATOR, scopes=[WEB_SCOPE, "read:users!user"]) as api:
        assert api.get("/availability").status_code == 200
        refused(api.post("/nodes/local/drain", json=REASON), 403, "not_allowed")


def test_a_service_owns_nothing_of_the_user_of_its_name(stage: WebStage) -> None:
    waiting(stage, "tester")
    with stage.api(None) as api:
        api.headers["Authorization"] = f"token {stage.token}"
        items = api.get("/queue").json()["items"]
        assert [(item["mine"], item["workload"]) for item in items] == [(False, None)]
        assert api.get("/workloads").json()["items"] == []


# ---------------------------------------------------------------------------- reading


def test_a_user_sees_what_is_free(stage: WebStage, alice: httpx.Client) -> None:
    platforms.start(stage.platform, "bob", 3)
    answer = alice.get("/availability")
    assert answer.status_code == 200, answer.text
    found = answer.json()["models"][0]
    assert (found["model"], found["total"], found["free"]) == ("A100", 4, 1)


def test_others_in_the_queue_have_neither_name_nor_id(stage: WebStage, admin: httpx.Client) -> None:
    waiting(stage, "bob", 2)
    own = waiting(stage, "carol", 1)
    with stage.api("carol") as api:
        # Reasons are no line of the action log: the reading that has them may come a moment later.
        for _ in range(100):
            items = api.get("/queue").json()["items"]
            mine = next(item for item in items if item["mine"])
            if mine["workload"]["reasons"]:
                break
            time.sleep(0.1)
    theirs = [item for item in items if not item["mine"]]
    assert len(theirs) == 1
    assert theirs[0]["workload"] is None
    assert theirs[0].keys() == {"place", "size", "due_at", "state", "mine", "workload"}
    assert "bob" not in str(theirs)
    assert mine["workload"]["id"] == own.id
    assert mine["workload"]["reasons"]
    assert all(item["workload"] for item in admin.get("/queue").json()["items"])


def test_the_queue_has_the_order_in_which_it_is_served(
    stage: WebStage, admin: httpx.Client
) -> None:
    late = waiting(stage, "bob", 2, hours=24)
    soon = waiting(stage, "carol", 1, hours=1)
    places = {item["workload"]["id"]: item["place"] for item in admin.get("/queue").json()["items"]}
    assert places == {soon.id: 1, late.id: 2}


def test_lists_page_by_cursor(stage: WebStage, admin: httpx.Client) -> None:
    made = [waiting(stage, f"user-{n}").id for n in range(5)]
    for path, key in (("/workloads?state=queued", "id"), ("/queue?", "workload")):
        seen: list[str] = []
        cursor = ""
        while cursor is not None:
            page = admin.get(f"{path}&limit=2&cursor={cursor}").json()
            assert len(page["items"]) <= 2
            seen += [item[key] if key == "id" else item[key]["id"] for item in page["items"]]
            cursor = page["next_cursor"]
        assert sorted(seen) == sorted(made), path


def test_workloads_of_others_are_not_there(stage: WebStage, alice: httpx.Client) -> None:
    theirs = waiting(stage, "bob")
    own = waiting(stage, "alice")
    assert [item["id"] for item in alice.get("/workloads").json()["items"]] == [own.id]
    assert alice.get(f"/workloads/{own.id}").json()["user"] == "alice"
    refused(alice.get(f"/workloads/{theirs.id}"), 404, "not_found")
    refused(alice.post(f"/workloads/{theirs.id}/cancel", json=REASON), 404, "not_found")
    refused(alice.get("/workloads?user=bob"), 403, "not_allowed")
    assert platforms.state(stage.platform, theirs) is State.QUEUED


# ---------------------------------------------------------------------------- doing


def test_a_held_request_does_not_start_until_it_is_released(
    stage: WebStage, admin: httpx.Client
) -> None:
    first = waiting(stage, "alice", hours=1)
    second = waiting(stage, "bob", hours=2)
    answer = admin.post(f"/workloads/{first.id}/hold", json=REASON)
    assert answer.status_code == 200, answer.text
    assert answer.json()["on_hold"] and answer.json()["hold_reason"] == REASON["reason"]
    rows = admin.get("/queue").json()["items"]
    assert [(row["place"], row["state"]) for row in rows] == [(1, "waiting"), (None, "on hold")]
    with stage.api("alice") as api:
        own = next(row for row in api.get("/queue").json()["items"] if row["mine"])
    assert own["workload"]["hold_reason"] == REASON["reason"]
    stage.end("holder")
    assert platforms.state(stage.platform, second) is State.ADMITTED
    assert platforms.state(stage.platform, first) is State.QUEUED
    assert admin.post(f"/workloads/{first.id}/release").status_code == 200
    assert platforms.state(stage.platform, first) is State.ADMITTED


def test_a_moved_request_is_at_the_head(stage: WebStage, admin: httpx.Client) -> None:
    waiting(stage, "alice", hours=1)
    last = waiting(stage, "bob", hours=24)
    assert admin.post(f"/workloads/{last.id}/move", json=REASON).json()["place"] == 1


def test_acts_are_on_the_log_with_name_address_and_reason(
    stage: WebStage, admin: httpx.Client
) -> None:
    own = waiting(stage, "alice")
    for act in ("hold", "release", "move", "cancel"):
        body = None if act == "release" else REASON
        answer = admin.post(f"/workloads/{own.id}/{act}", json=body)
        assert answer.status_code == 200, answer.text
    admin.post("/nodes/local/drain", json=REASON)
    admin.post("/nodes/local/undrain")
    lines = [*log_of(stage, own.id)[1:], *log_of(stage, "local")]
    assert [line.action for line in lines] == [
        "workload.hold",
        "workload.unhold",
        "workload.move",
        "workload.cancel",
        "node.drain",
        "node.undrain",
    ]
    assert {line.actor for line in lines} == {ADMINISTRATOR}
    assert {line.source for line in lines} == {"127.0.0.1"}
    assert lines[0].detail["reason"] == REASON["reason"]


def test_a_user_leaves_the_queue_and_nobody_elses_place(
    stage: WebStage, alice: httpx.Client
) -> None:
    own = waiting(stage, "alice")
    answer = alice.post(f"/workloads/{own.id}/cancel")
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "ended"
    refused(alice.post(f"/workloads/{own.id}/cancel"), 409, "not_waiting")


def test_a_running_server_is_not_stopped_from_the_queue(
    stage: WebStage, alice: httpx.Client
) -> None:
    running = platforms.start(stage.platform, "alice")
    refused(alice.post(f"/workloads/{running.id}/cancel"), 409, "not_waiting")
    assert platforms.state(stage.platform, running) is State.RUNNING


def test_a_drained_gpu_is_offered_to_nobody_and_then_again(
    stage: WebStage, admin: httpx.Client
) -> None:
    path = "/accelerators/GPU-local-2"
    drained = admin.post(f"{path}/drain", json=REASON).json()
    assert (drained["drained"], drained["drained_by"]) == (True, ADMINISTRATOR)
    model = admin.get("/availability").json()["models"][0]
    assert (model["free"], model["out_of_service"]) == (3, 1)
    refused(admin.post(f"{path}/drain", json=REASON), 409)
    assert admin.post(f"{path}/undrain").json()["drained"] is False
    assert admin.get("/availability").json()["models"][0]["free"] == 4


def test_a_drained_node_takes_no_new_work(stage: WebStage, admin: httpx.Client) -> None:
    assert admin.post("/nodes/local/drain", json=REASON).json()["drained"] is True
    found = platforms.submit(stage.platform, "alice")
    stage.platform.run_pass()
    assert platforms.state(stage.platform, found) is State.QUEUED
    admin.post("/nodes/local/undrain")
    assert platforms.state(stage.platform, found) is State.ADMITTED


def booking(**more: object) -> dict[str, object]:
    """A reservation that is possible."""
    start = datetime.now(UTC) + timedelta(hours=30)
    return {
        "title": "Class on transformers",
        "starts_at": start.isoformat(),
        "ends_at": (start + timedelta(hours=2)).isoformat(),
        "gpus": 2,
        "users": ["alice"],
        **more,
    }


def test_a_reservation_is_made_listed_and_given_back(stage: WebStage, admin: httpx.Client) -> None:
    stage.token_of("alice")
    made = admin.post("/reservations", json=booking())
    assert made.status_code == 201, made.text
    identifier = made.json()["id"]
    with stage.api("alice") as alice, stage.api("bob") as bob:
        assert alice.get("/reservations").json()["items"][0]["title"] == "Class on transformers"
        theirs = bob.get("/reservations").json()["items"][0]
    assert (theirs["gpus"], theirs["title"], theirs["users"]) == (2, "", [])
    assert admin.delete(f"/reservations/{identifier}").json()["state"] == "cancelled"
    assert admin.get("/reservations").json()["items"] == []
    past = admin.get("/reservations?past=true").json()["items"]
    assert identifier in [item["id"] for item in past]
    assert [line.action for line in log_of(stage, identifier)] == [
        "reservation.create",
        "reservation.cancel",
    ]


def test_a_reservation_for_a_group_has_a_name_for_its_members_only(
    stage: WebStage, admin: httpx.Client
) -> None:
    stage.join("grace", "course")
    made = admin.post("/reservations", json=booking(users=[], groups=["course"]))
    assert made.status_code == 201, made.text
    with stage.api("grace") as member, stage.api("bob") as other:
        assert member.get("/reservations").json()["items"][0]["groups"] == ["course"]
        assert other.get("/reservations").json()["items"][0]["groups"] == []


def test_a_reservation_for_a_name_that_nobody_has_is_refused(
    stage: WebStage, admin: httpx.Client
) -> None:
    platforms.submit(stage.platform, "alice", groups=["course"])
    stage.join("zoe", "seminar")  # she and her group are known to the hub alone
    before = everything(stage)
    for names, field, meant in (
        ({"users": ["alice", "Alcie"]}, "users", "Did you mean alice?"),
        ({"users": ["zoe", "nobody-of-this-name"]}, "users", "Somebody new"),
        ({"users": ["../groups/seminar"]}, "users", ""),
        ({"users": ["zoe"], "groups": ["cuorse"]}, "groups", "Did you mean course?"),
    ):
        for ahead in (False, True):
            answer = admin.post("/reservations", json=booking(**names, ahead=ahead))
            error = refused(answer, 400, "nobody")
            assert error["field"] == field and meant in error["hint"], error
            assert names[field][-1] in error["message"]
            assert "zoe" not in error["message"]
    assert everything(stage) == before
    made = admin.post("/reservations", json=booking(users=["zoe", "alice"], groups=["seminar"]))
    assert made.status_code == 201, made.text


def test_where_people_sign_in_elsewhere_a_reservation_may_be_for_somebody_who_comes_later(
    stage: WebStage, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = stage.platform.settings.model_copy(update={"authenticator": "oauth.Of.Another"})
    monkeypatch.setattr(stage.platform, "settings", elsewhere)
    platforms.submit(stage.platform, "alice")
    for names in ({"users": ["alicia"]}, {"users": ["alice"], "groups": ["freshmen"]}):
        refused(admin.post("/reservations", json=booking(**names)), 400, "nobody_yet")
        made = admin.post("/reservations", json=booking(**names, gpus=1, ahead=True))
        assert made.status_code == 201, made.text


# ---------------------------------------------------------------------------- what is refused

LONG = "x" * 501

BAD_BODIES: list[tuple[str, str, object]] = [
    (f"{path}/{act}", f"{act}: {name}", body)
    for path, act in (
        ("/workloads/ID", "hold"),
        ("/workloads/ID", "move"),
        ("/nodes/local", "drain"),
    )
    for name, body in (
        ("no reason", {}),
        ("no body", None),
        ("an empty reason", {"reason": ""}),
        ("blanks", {"reason": "    "}),
        ("a long reason", {"reason": LONG}),
        ("a number", {"reason": 7}),
        ("a list", {"reason": ["x"]}),
        ("a NUL", {"reason": "abc\x00def"}),
        ("another field", {"reason": "abc def", "force": True}),
        ("an array", [1]),
        ("a text", "reason"),
    )
]
BAD_BODIES += [
    ("/reservations", name, booking(**change))
    for name, change in (
        ("no title", {"title": ""}),
        ("a long title", {"title": "x" * 200}),
        ("no GPUs", {"gpus": 0}),
        ("minus one GPU", {"gpus": -1}),
        ("half a GPU", {"gpus": 1.5}),
        ("GPUs as text", {"gpus": "two"}),
        ("more GPUs than exist", {"gpus": 99}),
        ("an unknown model", {"gpu_model": "H9000"}),
        ("nobody", {"users": []}),
        ("an empty name", {"users": [""]}),
        ("users as text", {"users": "alice"}),
        ("no zone", {"starts_at": "2030-01-01T10:00:00"}),
        ("no time", {"starts_at": "soon"}),
        ("an end before its start", {"ends_at": "2020-01-01T00:00:00Z"}),
        ("only the past", {"starts_at": "2020-01-01T00:00Z", "ends_at": "2020-01-01T01:00Z"}),
        ("ten years", {"ends_at": "2040-01-01T00:00:00Z"}),
        ("the year 9999", {"starts_at": "9999-01-01T00:00Z", "ends_at": "9999-01-02T00:00Z"}),
        ("minus memory", {"memory_gib_per_gpu": -1}),
        ("memory that no node has", {"memory_gib_per_gpu": 60000}),
        ("minus cores", {"cpus_per_gpu": -1}),
        ("another field", {"priority": 1}),
    )
]


def test_bad_bodies_are_refused_and_change_nothing(stage: WebStage, admin: httpx.Client) -> None:
    own = waiting(stage, "alice")
    before = everything(stage)
    assert len(BAD_BODIES) >= 40
    for path, name, body in BAD_BODIES:
        answer = admin.post(path.replace("ID", own.id), json=body)
        assert 400 <= answer.status_code < 500, f"{path} {name}: {answer.text}"
        error = refused(answer, answer.status_code)
        assert "Traceback" not in str(error), name
    assert everything(stage) == before


RAW: list[tuple[str, bytes]] = [
    ("not JSON", b"{reason"),
    ("half a JSON", b'{"reason": "abc'),
    ("not UTF-8", b'{"reason": "\xff\xfe abc"}'),
    ("NaN", b'{"reason": NaN}'),
    ("deep", b"[" * 5000),
    ("large", b'{"reason": "' + b"x" * 70_000 + b'"}'),
    ("a form", b"reason=abcdef"),
]


@pytest.mark.parametrize(("name", "body"), RAW, ids=[name for name, _ in RAW])
def test_what_is_no_json_is_refused(
    stage: WebStage, admin: httpx.Client, name: str, body: bytes
) -> None:
    before = everything(stage)
    answer = admin.post("/nodes/local/drain", content=body)
    refused(answer, 413 if name == "large" else 400)
    assert everything(stage) == before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/workloads/none", 404),
        ("GET", "/workloads/%00", 404),
        ("GET", "/workloads/..%2f..%2fetc", 404),
        ("POST", "/workloads/none/hold", 404),
        ("POST", "/workloads/' OR 1=1 --/hold", 404),
        ("POST", "/nodes/none/drain", 404),
        ("POST", "/nodes/local/reboot", 404),
        ("POST", "/accelerators/none/drain", 404),
        ("DELETE", "/reservations/none", 404),
        ("POST", "/queue", 405),
        ("DELETE", "/queue", 405),
        ("PUT", "/reservations", 405),
        ("PATCH", "/workloads/none", 405),
        ("GET", "/queue?limit=0", 400),
        ("GET", "/queue?limit=501", 400),
        ("GET", "/queue?limit=x", 400),
        ("GET", "/queue?limit=1&limit=2", 400),
        ("GET", "/queue?cursor=-1", 400),
        ("GET", "/queue?cursor=1e9", 400),
        ("GET", "/queue?cursor=%D9%A1", 400),
        ("GET", "/queue?cursor=99999999999999999999", 400),
        ("GET", "/queue?sort=name", 400),
        ("GET", "/queue?cursor=%ff", 400),
        ("GET", "/workloads?state=gone", 400),
        ("GET", "/workloads?user=" + "x" * 300, 400),
        ("GET", "/reservations?past=perhaps", 400),
        ("POST", "/nodes/local/undrain", 409),
    ],
)
def test_what_is_not_there_is_refused_in_the_same_shape(
    stage: WebStage, admin: httpx.Client, method: str, path: str, status: int
) -> None:
    before = everything(stage)
    body = REASON if path.endswith(("/hold", "/drain")) else None
    refused(admin.request(method, path, json=body), status)
    assert everything(stage) == before


def test_users_may_do_nothing_that_is_the_administrators(
    stage: WebStage, alice: httpx.Client
) -> None:
    own = waiting(stage, "alice")
    before = everything(stage)
    for operation in OPERATIONS:
        if operation.administrators:
            path = re.sub(r"\{\w+\}", own.id, operation.path)
            refused(alice.request(operation.method, f"/{path}", json=REASON), 403, "not_allowed")
    assert everything(stage) == before


def test_whoever_takes_somebody_elses_place_says_why(stage: WebStage, admin: httpx.Client) -> None:
    theirs = waiting(stage, "alice")
    assert refused(admin.post(f"/workloads/{theirs.id}/cancel"), 400)["field"] == "reason"
    assert platforms.state(stage.platform, theirs) is State.QUEUED


def test_acts_that_contradict_what_is_are_conflicts(stage: WebStage, admin: httpx.Client) -> None:
    own = waiting(stage, "alice")
    refused(admin.post(f"/workloads/{own.id}/release"), 409)
    queueing.hold(stage.platform, own.id, "for a test", Actor("test"))
    refused(admin.post(f"/workloads/{own.id}/hold", json=REASON), 409)
    refused(admin.post(f"/workloads/{own.id}/move", json=REASON), 409)


# ---------------------------------------------------------------------------- the document


def test_the_document_has_every_operation_and_nothing_else(
    stage: WebStage, admin: httpx.Client
) -> None:
    document = admin.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    described = {
        (method.upper(), path) for path, found in document["paths"].items() for method in found
    }
    assert described == {(each.method, f"/{each.path}") for each in OPERATIONS}
    answered = set()
    for method, path in described:
        tried = admin.request(method, re.sub(r"\{\w+\}", "none", path), json={})
        assert tried.status_code != 405
        said = tried.json().get("error", {}).get("message", "")
        assert said != "The API has no such address.", path
        answered.add(str(tried.status_code) in document["paths"][path][method.lower()]["responses"])
    assert answered == {True}


def test_references_of_the_document_lead_somewhere(admin: httpx.Client) -> None:
    text = admin.get("/openapi.json").text
    known = set(admin.get("/openapi.json").json()["components"]["schemas"])
    referred = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert referred <= known
    assert "Refusal" in known


def test_answers_have_the_fields_that_the_document_says(
    stage: WebStage, admin: httpx.Client
) -> None:
    waiting(stage, "alice")
    document = admin.get("/openapi.json").json()
    for path in ("availability", "queue", "workloads", "reservations"):
        operation = document["paths"][f"/{path}"]["get"]
        reference = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
        schema = document["components"]["schemas"][reference.rsplit("/", 1)[1]]
        assert admin.get(f"/{path}").json().keys() == set(schema["required"]), path


def test_answers_carry_the_headers_that_keep_browsers_safe(admin: httpx.Client) -> None:
    for path in ("/queue", "/nothing"):
        headers = admin.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_the_token_file_is_for_its_owner_only(stage: WebStage) -> None:
    assert (stage.settings.secrets_dir / "web.token").stat().st_mode & 0o077 == 0
