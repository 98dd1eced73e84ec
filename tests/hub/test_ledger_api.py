"""Use, entries, accounts, grants and rates by the API, behind a real hub and proxy: who sees and
may do what, lists part by part, and nothing twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jsonschema
import pytest

from dcloud_spawner import granting
from dcloud_spawner.platform import utc_now
from dcloud_spawner.roles import RoleLimits
from dcloud_spawner.store import grants
from hub_services.web.api.operations import OPERATIONS
from hub_services.web.api.wire_types import credits_text
from tests.hub.ledger_lab import (
    MEMBER,
    MICRO,
    OTHER,
    OWNER,
    STRANGER,
    Lab,
    balance_of,
    everything,
    furnish,
    later,
    log_head,
    log_since,
    measured,
)
from tests.hub.ledger_refusals import REFUSED, Bad, filled
from tests.web_stage import ADMINISTRATOR, WebStage

pytestmark = pytest.mark.database

REASON = "the night was lost"
LEDGER_PATHS = ("/usage", "/ledger", "/accounts", "/rates", "/limits", "/requests")

ROLES = {
    "standard": RoleLimits(gpus=3, memory_gib=32, storage_gib=100, environments=5),
    "premium": RoleLimits(gpus=4, memory_gib=64),
}


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, module_databases: dict[str, str]
) -> Iterator[WebStage]:
    """One hub for the module."""
    settings = {"roles": ROLES, "api_calls_per_minute": 100_000}
    folder = tmp_path_factory.mktemp("ledger")
    with WebStage(folder, **module_databases, **settings) as running:
        yield running
        running.clear()


@pytest.fixture(scope="module")
def lab(stage: WebStage) -> Lab:
    """The lab; tests leave its people and sessions, and look at how balances change."""
    return furnish(stage.platform)


@pytest.fixture(scope="module")
def clients(stage: WebStage, lab: Lab) -> Iterator[dict[str, httpx.Client]]:
    """A client for each person, and one for a service."""
    with ExitStack() as stack:
        people = (OWNER, MEMBER, OTHER, STRANGER, ADMINISTRATOR)
        found = {name: stack.enter_context(stage.api(name)) for name in people}
        found["service"] = stack.enter_context(stage.api(None))
        found["service"].headers["Authorization"] = f"token {stage.token}"
        yield found


@pytest.fixture
def owner(clients: dict[str, httpx.Client]) -> httpx.Client:
    """Owns the project."""
    return clients[OWNER]


@pytest.fixture
def member(clients: dict[str, httpx.Client]) -> httpx.Client:
    """Is in the project."""
    return clients[MEMBER]


@pytest.fixture
def stranger(clients: dict[str, httpx.Client]) -> httpx.Client:
    """Has nothing to do with it."""
    return clients[STRANGER]


@pytest.fixture
def admin(clients: dict[str, httpx.Client]) -> httpx.Client:
    """May do everything."""
    return clients[ADMINISTRATOR]


def good(answer: httpx.Response, status: int = 200) -> Any:
    """What a success says."""
    assert answer.status_code == status, answer.text
    return answer.json()


def refused(answer: httpx.Response, status: int, code: str = "") -> dict[str, str]:
    """What a refusal says, in the shape that all have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    error: dict[str, str] = answer.json()["error"]
    assert {"code", "message", "hint"} <= error.keys() <= {"code", "message", "hint", "field"}
    assert error["code"] and error["message"]
    assert not code or error["code"] == code, answer.text
    return error


def all_of(api: httpx.Client, path: str, **query: Any) -> list[Any]:
    """Every item of a list, two at a time; no item comes twice."""
    items: list[Any] = []
    cursor = ""
    while cursor is not None:
        page = good(api.get(path, params={**query, "limit": 2, "cursor": cursor}))
        assert len(page["items"]) <= 2
        items += page["items"]
        cursor = page["next_cursor"]
    assert len({str(item) for item in items}) == len(items)
    return items


# ---------------------------------------------------------------------------- who sees what


def test_everybody_sees_their_own_accounts_and_administrators_all(
    lab: Lab, clients: dict[str, httpx.Client]
) -> None:
    seen = {
        name: {(item["name"], item["role"]) for item in all_of(api, "/accounts")}
        for name, api in clients.items()
    }
    assert seen[OWNER] == {(OWNER, "owner"), ("vision", "owner")}
    assert seen[MEMBER] == {(MEMBER, "owner"), ("vision", "member")}
    assert seen[STRANGER] == {(STRANGER, "owner")}
    assert seen["service"] == set()
    assert {("vision", None), (STRANGER, None), (ADMINISTRATOR, "owner")} <= seen[ADMINISTRATOR]
    mine = good(clients[ADMINISTRATOR].get("/accounts", params={"mine": True}))["items"]
    assert [item["name"] for item in mine] == [ADMINISTRATOR]


def test_the_first_look_makes_ones_own_account(stage: WebStage, lab: Lab) -> None:
    with stage.api("newcomer") as api:
        assert good(api.get("/ledger"))["items"] == []
        (own,) = good(api.get("/accounts"))["items"]
    assert (own["kind"], own["name"], own["role"]) == ("user", "newcomer", "owner")
    assert own["balance"] == {"microcredits": 0, "credits": "0.00"}


def test_a_member_sees_the_balance_of_a_project_but_not_its_people(
    lab: Lab, owner: httpx.Client, member: httpx.Client
) -> None:
    seen = good(member.get(f"/accounts/{lab.project}"))
    full = good(owner.get(f"/accounts/{lab.project}"))
    assert seen["balance"] == full["balance"]
    assert [person["user"] for person in full["members"]] == [OWNER, OTHER, MEMBER]
    assert [person["user"] for person in seen["members"]] == [OWNER, MEMBER]


def test_use_is_seen_by_who_used_it_and_who_owns_what_paid(
    lab: Lab, clients: dict[str, httpx.Client]
) -> None:
    query = {"group_by": "user,account", "since": later(hours=-30)}
    seen = {
        name: {
            (item["user"], item["account_name"]): item["use"]["gpu_hours"]
            for item in all_of(api, "/usage", **query)
        }
        for name, api in clients.items()
    }
    title = "Vision and language"
    assert seen[OWNER] == {(MEMBER, title): 6, (OTHER, title): 1}
    assert seen[MEMBER] == {(MEMBER, title): 6, (MEMBER, MEMBER): 2}
    assert seen[STRANGER] == seen["service"] == {}
    assert seen[ADMINISTRATOR] == {(MEMBER, title): 6, (OTHER, title): 1, (MEMBER, MEMBER): 2}


def test_sums_add_up_whatever_they_are_for(lab: Lab, owner: httpx.Client) -> None:
    total = None
    for groups in ("hour", "day", "month", "user", "gpu_model", "account", "day,user"):
        page = good(owner.get("/usage", params={"group_by": groups, "limit": 500}))
        cost = sum(item["use"]["cost"]["microcredits"] for item in page["items"])
        assert cost == page["total"]["cost"]["microcredits"], groups
        assert total in (None, cost)
        total = cost
    assert total == 7 * MICRO
    assert {item["gpu_model"] for item in page["items"]} == {None}


def test_sessions_are_seen_by_who_ran_them_and_who_owns_what_paid(
    lab: Lab, clients: dict[str, httpx.Client]
) -> None:
    for name, expected in {
        OWNER: [lab.maxs.id, lab.mias.id],
        MEMBER: [lab.alone.id, lab.mias.id],
        OTHER: [lab.maxs.id],
        STRANGER: [],
        "service": [],
        ADMINISTRATOR: [lab.alone.id, lab.maxs.id, lab.mias.id],
    }.items():
        api = clients[name]
        assert [item["id"] for item in all_of(api, "/usage/sessions")] == expected, name
        for workload in (lab.mias, lab.maxs, lab.alone):
            answer = api.get(f"/usage/sessions/{workload.id}")
            if workload.id in expected:
                assert good(answer)["id"] == workload.id
            else:
                refused(answer, 404, "not_found")


def test_a_session_says_what_it_held_and_what_each_entry_charged(
    lab: Lab, member: httpx.Client
) -> None:
    found = good(member.get(f"/usage/sessions/{lab.mias.id}"))
    assert found["cost"] == {"microcredits": 6 * MICRO, "credits": "6.00"}
    assert (found["gpu_hours"], found["account_name"]) == (6, "Vision and language")
    assert [span["gpu_models"] for span in found["spans"]] == [{"A100": 2}]
    (line,) = found["lines"]
    assert (line["kind"], line["amount"]["credits"]) == ("charge", "-6.00")
    assert line["rates"]["gpu:A100"] == MICRO


def test_measures_of_a_session_are_for_who_may_see_it(
    stage: WebStage, lab: Lab, clients: dict[str, httpx.Client]
) -> None:
    path = f"/usage/sessions/{lab.mias.id}"
    assert good(clients[MEMBER].get(f"{path}/measures"))["items"] == []
    measured(stage.platform, lab.mias, minutes=2)
    for name in (MEMBER, OWNER, ADMINISTRATOR):
        assert good(clients[name].get(f"{path}/measures"))["seconds"] == 60  # of three hours
        lately = {"since": later(minutes=-10)}
        found = good(clients[name].get(f"{path}/measures", params=lately))
        assert found["seconds"] == 10
        assert len(found["items"]) >= 10
        last = found["items"][-1]
        assert (last["gpus"], last["gpu_utilisation_percent"]) == (2, 75)
        assert last["gpu_power_milliwatts"] == 600_000
        minutes = good(clients[name].get(f"{path}/measures", params={"seconds": "60"}))
        assert 2 <= len(minutes["items"]) <= 3
    for name in (OTHER, STRANGER, "service"):
        refused(clients[name].get(f"{path}/measures"), 404)
    session = good(clients[MEMBER].get(path))
    assert session["gpu_utilisation_percent"] == 75
    assert session["energy_kwh"] > 0


def test_entries_of_a_session_are_listed_for_who_may_see_it(
    lab: Lab, clients: dict[str, httpx.Client]
) -> None:
    for name in (MEMBER, OWNER, ADMINISTRATOR):
        items = all_of(clients[name], "/ledger", workload=lab.mias.id, kind="charge")
        assert sum(item["amount"]["microcredits"] for item in items) == -6 * MICRO, name
        assert {item["account"] for item in items} == {lab.project}
        assert "key" not in items[0]
    for name in (OTHER, STRANGER, "service"):
        refused(clients[name].get("/ledger", params={"workload": lab.mias.id}), 404)
    other = {"workload": lab.mias.id, "account": lab.own}
    refused(clients[MEMBER].get("/ledger", params=other), 404)


def test_of_a_projects_entries_a_member_sees_their_own_and_an_owner_all(
    lab: Lab, clients: dict[str, httpx.Client]
) -> None:
    def charged(name: str) -> set[str]:
        items = all_of(clients[name], "/ledger", account=lab.project, kind="charge")
        return {item["workload"] for item in items}

    assert charged(MEMBER) == {lab.mias.id}
    assert charged(OTHER) == {lab.maxs.id}
    assert charged(OWNER) == charged(ADMINISTRATOR) == {lab.mias.id, lab.maxs.id}
    assert all_of(clients[MEMBER], "/ledger", account=lab.project, kind="grant") == []
    own = all_of(clients[MEMBER], "/ledger")
    assert {item["account"] for item in own} == {lab.own}
    refused(clients["service"].get("/ledger"), 404)


def test_entries_add_up_to_the_balance(lab: Lab, owner: httpx.Client) -> None:
    items = all_of(owner, "/ledger", account=lab.project)
    assert [item["id"] for item in items] == sorted((i["id"] for i in items), reverse=True)
    total = sum(item["amount"]["microcredits"] for item in items)
    assert total == items[0]["balance_after"]["microcredits"]
    assert total == balance_of(owner, lab.project)


def test_entries_of_a_time_are_those_that_were_written_in_it(lab: Lab, owner: httpx.Client) -> None:
    past = {"account": lab.project, "until": later(hours=-1)}
    assert good(owner.get("/ledger", params=past))["items"] == []
    now = {"account": lab.project, "since": later(hours=-1), "until": later(hours=1)}
    assert good(owner.get("/ledger", params=now))["items"]


def test_what_is_anothers_is_not_there(
    stage: WebStage, lab: Lab, stranger: httpx.Client, member: httpx.Client
) -> None:
    before = everything(stage.platform)
    money = {"microcredits": 1, "reason": REASON, "to_account": lab.foreign}
    for identifier in (lab.project, lab.own, "0" * 32):
        for method, path, body in (
            ("GET", f"/accounts/{identifier}", None),
            ("PATCH", f"/accounts/{identifier}", {"title": "Mine"}),
            ("PUT", f"/accounts/{identifier}/members/{STRANGER}", {"role": "owner"}),
            ("DELETE", f"/accounts/{identifier}/members/{MEMBER}", None),
            ("GET", f"/accounts/{identifier}/grants", None),
            ("POST", f"/accounts/{identifier}/transfer", money),
            ("GET", f"/ledger?account={identifier}", None),
            ("GET", f"/usage?account={identifier}", None),
            ("GET", f"/usage/sessions?account={identifier}", None),
        ):
            answer = stranger.request(method, path, json=body)
            error = refused(answer, 404, "not_found")
            assert error["message"] == "You have no account of that id.", path
    assert good(stranger.get("/usage", params={"user": MEMBER}))["items"] == []
    assert good(stranger.get("/usage/sessions", params={"user": MEMBER}))["items"] == []
    refused(member.get(f"/accounts/{lab.foreign}"), 404)
    assert everything(stage.platform) == before


def test_a_member_may_not_do_what_is_the_owners(
    stage: WebStage, lab: Lab, member: httpx.Client
) -> None:
    before = everything(stage.platform)
    path = f"/accounts/{lab.project}"
    refused(member.patch(path, json={"title": "Ours"}), 403, "not_allowed")
    refused(member.put(f"{path}/members/{STRANGER}", json={}), 403)
    refused(member.delete(f"{path}/members/{OTHER}"), 403)
    refused(member.get(f"{path}/grants"), 403)
    money = {"microcredits": 1, "reason": REASON, "to_account": lab.own}
    refused(member.post(f"{path}/transfer", json=money), 403)
    assert everything(stage.platform) == before


def test_users_may_do_nothing_that_is_the_administrators(
    stage: WebStage, lab: Lab, clients: dict[str, httpx.Client]
) -> None:
    before = everything(stage.platform)
    for operation in OPERATIONS:
        if operation.administrators:
            path = "/" + re.sub(r"\{\w+\}", lab.project, operation.path)
            for name in (OWNER, STRANGER, "service"):
                answer = clients[name].request(operation.method, path, json={"reason": REASON})
                refused(answer, 403, "not_allowed")
    assert everything(stage.platform) == before


def test_a_narrow_token_of_an_administrator_sees_only_what_is_their_own(
    stage: WebStage, lab: Lab
) -> None:
    scopes = ["access:services!service=dcloud", "read:users!user"]
    with stage.api(ADMINISTRATOR, scopes=scopes) as api:
        assert [item["name"] for item in good(api.get("/accounts"))["items"]] == [ADMINISTRATOR]
        refused(api.get(f"/accounts/{lab.project}"), 404)
        refused(api.post(f"/accounts/{lab.project}/adjust", json={}), 403)


def test_owners_change_the_title_and_administrators_the_budget(
    lab: Lab, owner: httpx.Client, member: httpx.Client, admin: httpx.Client
) -> None:
    path = f"/accounts/{lab.project}"
    assert refused(owner.patch(path, json={"budget": "none"}), 403)["field"] == "budget"
    assert refused(owner.patch(path, json={"closed": True}), 403)["field"] == "closed"
    assert refused(member.patch(f"/accounts/{lab.own}", json={"title": "x"}), 403)
    assert good(owner.patch(path, json={"title": "Vision"}))["title"] == "Vision"
    changed = good(admin.patch(path, json={"budget": "soft", "title": "Vision and language"}))
    assert (changed["budget"], changed["title"]) == ("soft", "Vision and language")


def test_owners_put_people_in_and_out_and_one_owner_stays(
    lab: Lab, owner: httpx.Client, stranger: httpx.Client
) -> None:
    path = f"/accounts/{lab.project}/members"
    good(owner.put(f"{path}/{STRANGER}", json={"role": "owner"}))
    assert good(stranger.get(f"/accounts/{lab.project}"))["role"] == "owner"
    assert [item["id"] for item in all_of(stranger, "/usage/sessions")] == [
        lab.maxs.id,
        lab.mias.id,
    ]
    good(stranger.delete(f"{path}/{STRANGER}"))
    refused(stranger.get(f"/accounts/{lab.project}"), 404)
    refused(owner.delete(f"{path}/{STRANGER}"), 404)
    refused(owner.delete(f"{path}/{OWNER}"), 409, "last_owner")
    refused(owner.put(f"{path}/{OWNER}", json={"role": "member"}), 409, "last_owner")


# ---------------------------------------------------------------------------- moving credits


def test_amounts_are_written_exactly() -> None:
    written = {0: "0.00", 1: "0.000001", -5_200_000: "-5.20", 10**15: "1000000000.00"}
    written |= {1_234_567: "1.234567", -999_999: "-0.999999", 10: "0.00001"}
    assert {value: credits_text(value) for value in written} == written


def test_a_transfer_is_two_entries_and_one_line_on_the_log(
    stage: WebStage, lab: Lab, owner: httpx.Client, admin: httpx.Client
) -> None:
    before = balance_of(owner, lab.project), balance_of(admin, lab.own)
    head = log_head(stage.platform)
    body = {"microcredits": 1_500_001, "reason": REASON, "to_user": MEMBER}
    sent = good(owner.post(f"/accounts/{lab.project}/transfer", json=body), 201)
    assert sent["amount"] == {"microcredits": -1_500_001, "credits": "-1.500001"}
    assert (sent["other_account"], sent["actor"], sent["reason"]) == (lab.own, OWNER, REASON)
    after = balance_of(owner, lab.project), balance_of(admin, lab.own)
    assert after == (before[0] - 1_500_001, before[1] + 1_500_001)
    assert log_since(stage.platform, head) == ["ledger.transfer"]


def test_credits_go_only_to_accounts_that_one_can_know_of(
    stage: WebStage, lab: Lab, owner: httpx.Client
) -> None:
    before = everything(stage.platform)
    path = f"/accounts/{lab.project}/transfer"
    for target in (
        {"to_account": lab.foreign},
        {"to_account": "f" * 32},
        {"to_user": STRANGER},
        {"to_user": "nobody-at-all"},
        {"to_project": "no-such-project"},
    ):
        error = refused(owner.post(path, json={"microcredits": 1, "reason": REASON, **target}), 404)
        assert error["message"] == "You cannot see the account that is to get the credits."
    assert everything(stage.platform) == before


def test_nobody_gives_more_than_there_is(lab: Lab, owner: httpx.Client) -> None:
    body = {"microcredits": 101 * MICRO, "reason": REASON, "to_user": MEMBER}
    refused(owner.post(f"/accounts/{lab.project}/transfer", json=body), 409, "not_enough_credits")


def test_a_refund_gives_back_a_part_and_then_the_rest_and_never_more(
    lab: Lab, admin: httpx.Client, owner: httpx.Client
) -> None:
    (charge,) = all_of(owner, "/ledger", account=lab.project, kind="charge")[:1]
    before, path = balance_of(owner, lab.project), f"/ledger/{charge['id']}/refund"
    part = good(admin.post(path, json={"reason": REASON, "microcredits": 1}), 201)
    assert (part["amount"]["microcredits"], part["refund_of"]) == (1, charge["id"])
    rest = good(admin.post(path, json={"reason": REASON}), 201)
    assert 1 + rest["amount"]["microcredits"] == -charge["amount"]["microcredits"]
    refused(admin.post(path, json={"reason": REASON}), 409, "refunded_already")
    refused(admin.post(f"/ledger/{rest['id']}/refund", json={"reason": REASON}), 409)
    assert balance_of(owner, lab.project) == before - charge["amount"]["microcredits"]


def test_grants_are_given_listed_and_ended(
    lab: Lab, admin: httpx.Client, stranger: httpx.Client
) -> None:
    path = f"/accounts/{lab.foreign}/grants"
    before = balance_of(stranger, lab.foreign)
    body = {"microcredits": 5 * MICRO, "every": "month", "reason": "for the thesis"}
    made = good(admin.post(path, json={**body, "ends_at": later(days=90)}), 201)
    assert (made["given"], made["created_by"]) == (1, ADMINISTRATOR)
    assert balance_of(stranger, lab.foreign) == before + 5 * MICRO
    assert [item["id"] for item in all_of(stranger, path)] == [made["id"]]
    refused(admin.delete(f"/accounts/{lab.project}/grants/{made['id']}"), 404)
    assert good(admin.delete(f"{path}/{made['id']}"))["next_at"] is None
    refused(admin.delete(f"{path}/{made['id']}"), 409, "grant_over")
    assert balance_of(stranger, lab.foreign) == before + 5 * MICRO


def test_a_grant_beyond_what_an_account_may_have_ends_and_keeps_nobody_from_theirs(
    stage: WebStage, lab: Lab, admin: httpx.Client
) -> None:
    body = {"name": "rich", "budget": "none"}
    rich = good(admin.post("/accounts", json=body), 201)["id"]
    body = {"microcredits": 10**15, "every": "week", "carry_over": True, "reason": "too much"}
    endless = good(admin.post(f"/accounts/{rich}/grants", json=body), 201)
    modest = good(
        admin.post(f"/accounts/{lab.foreign}/grants", json={**body, "microcredits": 5}), 201
    )
    before = balance_of(admin, lab.foreign)
    with stage.platform.database.transaction() as connection:
        for grant in (endless, modest):
            grants.set_values(connection, grant["id"], next_at=utc_now())
    assert granting.give_due_grants(stage.platform) == 1
    assert balance_of(admin, rich) == 10**15
    assert balance_of(admin, lab.foreign) == before + 5
    (ended,) = all_of(admin, f"/accounts/{rich}/grants")
    assert (ended["next_at"], ended["given"]) == (None, 1)
    good(admin.delete(f"/accounts/{lab.foreign}/grants/{modest['id']}"))


def test_a_rate_holds_from_its_time_and_the_past_costs_what_it_did(
    lab: Lab, admin: httpx.Client, member: httpx.Client
) -> None:
    before = good(member.get(f"/usage/sessions/{lab.mias.id}"))["cost"]
    body = {"resource": "gpu", "gpu_model": "A100", "microcredits": 2 * MICRO}
    made = good(admin.post("/rates", json={**body, "valid_from": later(days=1)}), 201)
    today = good(member.get("/rates", params={"at": later()}))["items"]
    assert {(item["resource"], item["id"]) for item in today if item["resource"] == "gpu"} == {
        ("gpu", None)
    }
    to_come = good(member.get("/rates", params={"at": later(days=2), "resource": "gpu"}))
    assert {item["id"] for item in to_come["items"]} == {None, made["id"]}
    everywhere = all_of(member, "/rates")
    assert [item["resource"] for item in everywhere if item["id"] is None] == [
        "gpu",
        "cpu_core",
        "memory_gib",
        "storage_gib_month",
    ]
    assert good(member.get(f"/usage/sessions/{lab.mias.id}"))["cost"] == before


def test_a_project_is_made_with_its_owners(admin: httpx.Client, stranger: httpx.Client) -> None:
    body = {"name": "robots", "title": "Röbots 🤖", "budget": "hard", "owners": [STRANGER]}
    made = good(admin.post("/accounts", json=body), 201)
    assert (made["title"], made["budget"], made["role"]) == ("Röbots 🤖", "hard", None)
    assert good(stranger.get(f"/accounts/{made['id']}"))["role"] == "owner"
    refused(admin.post("/accounts", json=body), 409)
    good(admin.patch(f"/accounts/{made['id']}", json={"closed": True}))
    money = {"microcredits": 1, "reason": REASON, "to_project": "robots"}
    own = good(stranger.get("/accounts", params={"kind": "user"}))["items"][0]["id"]
    refused(stranger.post(f"/accounts/{own}/transfer", json=money), 409, "account_closed")


def test_a_name_that_nobody_has_comes_into_no_project(
    stage: WebStage, lab: Lab, admin: httpx.Client, owner: httpx.Client
) -> None:
    stage.token_of("zora")  # she is known to the hub alone
    before = everything(stage.platform)
    for ahead in ({}, {"ahead": True}):
        body = {"name": "typos", "owners": [OWNER, "Olag"], **ahead}
        error = refused(admin.post("/accounts", json=body), 400, "nobody")
        assert (error["field"], "Olag" in error["message"]) == ("owners", True)
        assert error["hint"] == f"Did you mean {OWNER}?"
        for role in ("member", "owner"):
            path = f"/accounts/{lab.project}/members/Stam"
            error = refused(admin.put(path, json={"role": role, **ahead}), 400, "nobody")
            assert (error["field"], error["hint"]) == ("user", f"Did you mean {STRANGER}?")
            error = refused(owner.put(path, json={"role": role, **ahead}), 400, "nobody")
            assert error["field"] == "user" and STRANGER not in str(error)
    assert everything(stage.platform) == before
    good(owner.put(f"/accounts/{lab.project}/members/zora", json={}))
    good(owner.delete(f"/accounts/{lab.project}/members/zora"))


def test_where_people_sign_in_elsewhere_somebody_may_be_in_a_project_before_they_come(
    stage: WebStage, lab: Lab, owner: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = stage.platform.settings.model_copy(update={"authenticator": "oauth.Of.Another"})
    monkeypatch.setattr(stage.platform, "settings", elsewhere)
    path = f"/accounts/{lab.project}/members/stam"
    refused(owner.put(path, json={}), 400, "nobody_yet")
    good(owner.put(path, json={"ahead": True}))
    good(owner.put(path, json={"role": "owner"}))  # who is in it already is not asked about
    good(owner.delete(path))


# ---------------------------------------------------------------------------- limits


def test_an_administrator_who_never_started_anything_has_no_limits(admin: httpx.Client) -> None:
    found = good(admin.get("/limits"))
    assert "admin" in found["roles"]
    assert {item["value"] for item in found["items"] if item["name"] == "gpus"} == {None}
    until = datetime.now(UTC) + timedelta(days=3)
    body = {"what": "limit", "limit": "gpus", "value": 4, "reason": REASON}
    asked = admin.post("/requests", json={**body, "until": until.isoformat()})
    refused(asked, 409, "have_already")


def test_limits_say_what_is_used_by_which_server(
    lab: Lab, member: httpx.Client, stranger: httpx.Client, admin: httpx.Client
) -> None:
    mine = good(member.get("/limits"))
    (gpus,) = [item for item in mine["items"] if item["name"] == "gpus"]
    assert (mine["user"], mine["roles"], gpus["source"]) == (MEMBER, ["standard"], "standard")
    assert (gpus["value"], gpus["used"], gpus["left"]) == (3, 3, 0)
    assert gpus["used_by"] == [{"server": "", "amount": 2}, {"server": "second", "amount": 1}]
    for api in (admin, member):
        items = good(api.get(f"/limits/{MEMBER}"))["items"]
        assert [(i["name"], i["value"]) for i in items] == [
            (i["name"], i["value"]) for i in mine["items"]
        ]
    refused(stranger.get(f"/limits/{MEMBER}"), 404, "not_found")


def test_an_override_counts_until_it_is_taken_back(
    stage: WebStage, lab: Lab, admin: httpx.Client, stranger: httpx.Client
) -> None:
    path, head = f"/limits/{STRANGER}/gpus", log_head(stage.platform)
    body = {"value": 8, "reason": "the deadline", "ends_at": later(days=3)}
    set_ = good(admin.put(path, json=body))
    assert good(stranger.get("/limits")) == set_
    (gpus,) = [item for item in set_["items"] if item["name"] == "gpus"]
    assert (gpus["value"], gpus["source"], gpus["reason"]) == (8, "override", "the deadline")
    refused(stranger.put(path, json=body), 403)
    refused(stranger.delete(path), 403)
    good(admin.put(path, json={"value": None, "reason": "no limit at all"}))
    good(admin.put(f"/limits/{STRANGER}/gpu_models", json={"value": ["A100"], "reason": REASON}))
    models = good(admin.delete(path))
    (gpus,) = [item for item in models["items"] if item["name"] == "gpus"]
    assert (gpus["value"], gpus["source"]) == (3, "standard")
    assert [(each["limit"], each["value"]) for each in models["overrides"]] == [
        ("gpu_models", ["A100"]),
        ("gpus", None),
        ("gpus", 8),
    ]
    good(admin.delete(f"/limits/{STRANGER}/gpu_models"))
    said = log_since(stage.platform, head)
    assert said == ["limit.set", "limit.set", "limit.set", "limit.remove", "limit.remove"]


def test_a_service_has_no_limits(clients: dict[str, httpx.Client]) -> None:
    refused(clients["service"].get("/limits"), 404)
    refused(clients["service"].get("/limits/tester"), 404)


# ---------------------------------------------------------------------------- asking for more


def asking(**more: object) -> dict[str, object]:
    """A request for credits."""
    return {
        "what": "credits",
        "value": 4 * MICRO,
        "reason": "the long run",
        "until": later(days=20),
        **more,
    }


def test_what_is_asked_for_is_granted_in_part_and_both_see_it(
    stage: WebStage, lab: Lab, stranger: httpx.Client, member: httpx.Client, admin: httpx.Client
) -> None:
    head, before = log_head(stage.platform), balance_of(stranger, lab.foreign)
    made = good(stranger.post("/requests", json=asking()), 201)
    assert (made["state"], made["account"], made["value"]) == ("open", lab.foreign, 4 * MICRO)
    refused(stranger.post("/requests", json=asking()), 409, "asked_already")
    path = f"/requests/{made['id']}"
    for act in ("grant", "decline"):
        refused(stranger.post(f"{path}/{act}", json={"words": REASON}), 403)
    refused(member.get(path), 404)
    refused(member.post(f"{path}/withdraw"), 404)
    given = good(admin.post(f"{path}/grant", json={"value": 3 * MICRO, "words": "for now"}))
    assert (given["state"], given["given"], given["in_part"]) == ("granted", 3 * MICRO, True)
    assert good(stranger.get(path)) == given == all_of(stranger, "/requests")[0]
    assert balance_of(stranger, lab.foreign) == before + 3 * MICRO
    refused(admin.post(f"{path}/grant", json={}), 409, "answered_already")
    refused(stranger.post(f"{path}/withdraw"), 409, "answered_already")
    said = log_since(stage.platform, head)
    assert said == ["ask.create", "grant.create", "ledger.grant", "ask.grant"]


def test_a_higher_limit_is_asked_for_and_counts_when_it_is_granted(
    lab: Lab, stranger: httpx.Client, admin: httpx.Client
) -> None:
    body = asking(what="limit", limit="memory_gib", value=64)
    made = good(stranger.post("/requests", json=body), 201)
    good(admin.post(f"/requests/{made['id']}/grant", json={}))
    (memory,) = [i for i in good(stranger.get("/limits"))["items"] if i["name"] == "memory_gib"]
    assert (memory["value"], memory["source"]) == (64, "override")
    good(admin.delete(f"/limits/{STRANGER}/memory_gib"))


def test_owners_see_what_is_asked_for_on_their_project(
    lab: Lab, clients: dict[str, httpx.Client]
) -> None:
    made = good(clients[OTHER].post("/requests", json=asking(account=lab.project)), 201)
    path = f"/requests/{made['id']}"
    assert good(clients[OWNER].get(path)) == made
    assert made in all_of(clients[OWNER], "/requests", user=OTHER)
    for name in (MEMBER, STRANGER, "service"):
        refused(clients[name].get(path), 404)
        assert made not in all_of(clients[name], "/requests")
    refused(clients[OWNER].post(f"{path}/withdraw"), 403)
    good(clients[OTHER].post(f"{path}/withdraw"))


def test_requests_are_declined_with_words_or_withdrawn(
    lab: Lab, stranger: httpx.Client, admin: httpx.Client, clients: dict[str, httpx.Client]
) -> None:
    first = good(stranger.post("/requests", json=asking(what="role", value="premium")), 201)
    declined = good(admin.post(f"/requests/{first['id']}/decline", json={"words": "not yet"}))
    assert (declined["state"], declined["answer"]) == ("declined", "not yet")
    assert declined["answered_by"] == ADMINISTRATOR
    second = good(stranger.post("/requests", json=asking()), 201)
    assert good(stranger.post(f"/requests/{second['id']}/withdraw"))["state"] == "withdrawn"
    assert {item["user"] for item in all_of(stranger, "/requests")} == {STRANGER}
    assert first["id"] in {item["id"] for item in all_of(admin, "/requests", user=STRANGER)}
    assert good(stranger.get("/requests", params={"user": MEMBER}))["items"] == []
    assert good(clients["service"].get("/requests"))["items"] == []
    refused(clients["service"].post("/requests", json=asking()), 403)


# ---------------------------------------------------------------------------- nothing twice


@pytest.mark.parametrize("act", ["adjust", "transfer", "grants", "refund"])
def test_a_request_that_is_sent_again_by_its_key_does_nothing_twice(
    stage: WebStage, lab: Lab, admin: httpx.Client, owner: httpx.Client, act: str
) -> None:
    api = owner if act == "transfer" else admin
    body: dict[str, Any] = {"microcredits": 7, "reason": REASON}
    path = f"/accounts/{lab.project}/{act}"
    if act == "transfer":
        body["to_user"] = MEMBER
    if act == "refund":
        charges = all_of(owner, "/ledger", account=lab.project, kind="charge")
        path = f"/ledger/{charges[-1]['id']}/refund"
    key = {"Idempotency-Key": f"key-{act}"}
    before = balance_of(owner, lab.project)
    first = good(api.post(path, json=body, headers=key), 201)
    changed = balance_of(owner, lab.project)
    assert abs(changed - before) == 7
    rows = everything(stage.platform)
    for _ in range(3):
        assert good(api.post(path, json=body, headers=key), 201) == first
    refused(api.post(path, json={**body, "microcredits": 8}, headers=key), 409, "key_used")
    assert everything(stage.platform) == rows
    other = {"Idempotency-Key": f"another-{act}"}
    assert good(api.post(path, json=body, headers=other), 201)["id"] != first["id"]


def test_many_at_once_by_one_key_do_it_once(stage: WebStage, lab: Lab, admin: httpx.Client) -> None:
    before = balance_of(admin, lab.foreign)
    body, key = {"microcredits": 11, "reason": REASON}, {"Idempotency-Key": "all-at-once"}

    def post(_: int) -> str:
        made = admin.post(f"/accounts/{lab.foreign}/adjust", json=body, headers=key)
        return str(good(made, 201)["id"])

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(post, range(24)))) == 1
    assert balance_of(admin, lab.foreign) == before + 11


def test_keys_are_each_callers_own(lab: Lab, owner: httpx.Client, member: httpx.Client) -> None:
    key = {"Idempotency-Key": "the-same"}
    body = {"microcredits": 3, "reason": REASON, "to_user": MEMBER}
    first = good(owner.post(f"/accounts/{lab.project}/transfer", json=body, headers=key), 201)
    body = {"microcredits": 3, "reason": REASON, "to_account": lab.project}
    second = good(member.post(f"/accounts/{lab.own}/transfer", json=body, headers=key), 201)
    assert first["id"] != second["id"]


def test_acts_are_on_the_log_with_their_person_and_address(
    stage: WebStage, lab: Lab, admin: httpx.Client
) -> None:
    head = log_head(stage.platform)
    good(
        admin.post(f"/accounts/{lab.own}/adjust", json={"microcredits": -1, "reason": REASON}), 201
    )
    good(admin.patch(f"/accounts/{lab.project}", json={"budget": "hard"}))
    stage.token_of("guest")  # the hub has to know them
    good(admin.put(f"/accounts/{lab.project}/members/guest", json={}))
    good(admin.delete(f"/accounts/{lab.project}/members/guest"))
    assert log_since(stage.platform, head) == [
        "ledger.adjust",
        "account.change",
        "account.member",
        "account.member",
    ]


def test_a_page_of_somewhere_else_moves_nothing_for_who_is_signed_in(
    stage: WebStage, lab: Lab, admin: httpx.Client
) -> None:
    before = everything(stage.platform)
    body = {"microcredits": 1, "reason": REASON}
    path = f"/services/dcloud/api/v1/accounts/{lab.own}"
    with httpx.Client(base_url=stage.url, follow_redirects=True, trust_env=False) as browser:
        browser.get("/hub/login")
        who = {"username": ADMINISTRATOR, "password": stage.password}
        browser.post("/hub/login", data={**who, "_xsrf": browser.cookies["_xsrf"]})
        page = browser.get("/services/dcloud/queue").text
        assert good(browser.get(path))["id"] == lab.own
        for method, address, sent in (
            ("POST", f"{path}/adjust", body),
            ("POST", f"{path}/grants", body),
            ("PATCH", path, {"budget": "hard"}),
            ("PUT", f"/services/dcloud/api/v1/limits/{MEMBER}/gpus", {**body, "value": 9}),
            ("DELETE", f"{path}/members/{MEMBER}", None),
        ):
            for headers in ({}, {"X-XSRFToken": "guessed"}):
                refused(browser.request(method, address, json=sent, headers=headers), 403)
        assert everything(stage.platform) == before
        (token,) = re.findall(r'<meta name="xsrf" content="([^"]+)">', page)
        made = browser.post(f"{path}/adjust", json=body, headers={"X-XSRFToken": token})
        assert good(made, 201)["actor"] == ADMINISTRATOR


# ---------------------------------------------------------------------------- the document


def test_answers_are_as_the_document_says(
    lab: Lab, clients: dict[str, httpx.Client], admin: httpx.Client
) -> None:
    document = good(admin.get("/openapi.json"))
    for path, found in document["paths"].items():
        if "get" not in found or not path.startswith(LEDGER_PATHS):
            continue
        schema = found["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        whole = {**schema, "components": document["components"]}
        asked = path.replace("/sessions/{id}", f"/sessions/{lab.mias.id}")
        asked = asked.replace("{id}", lab.project).replace("{user}", MEMBER)
        if "requests/" in path:
            continue  # by its id; the list has the same items
        for api in (admin, clients[MEMBER], clients[OWNER]):
            answer = api.get(asked)
            if answer.status_code == 200:
                jsonschema.validate(answer.json(), whole)
        assert good(admin.get(asked)), path


def test_the_document_says_where_a_key_may_be_sent(admin: httpx.Client) -> None:
    document = good(admin.get("/openapi.json"))
    taking = {
        path
        for path, found in document["paths"].items()
        for operation in found.values()
        if any(each["name"] == "Idempotency-Key" for each in operation["parameters"])
    }
    assert taking == {
        "/ledger/{id}/refund",
        "/accounts/{id}/grants",
        "/accounts/{id}/transfer",
        "/accounts/{id}/adjust",
    }


# ---------------------------------------------------------------------------- what is refused


@pytest.fixture(scope="module")
def names(lab: Lab, clients: dict[str, httpx.Client]) -> dict[str, str]:
    """What stands for what in the table of refusals."""
    items = good(clients[MEMBER].get("/ledger", params={"account": lab.own, "limit": 500}))["items"]
    by_kind = {item["kind"]: str(item["id"]) for item in items}
    asked = good(clients[OWNER].post("/requests", json=asking(value=7 * MICRO)), 201)
    return {
        "PROJECT": lab.project,
        "OWN": lab.own,
        "FOREIGN": lab.foreign,
        "SESSION": lab.alone.id,
        "CHARGE": by_kind["charge"],
        "GRANTED": by_kind["grant"],
        "ASKED": asked["id"],
        "SOON": later(days=20),
    }


def send(api: httpx.Client, bad: Bad, names: dict[str, str]) -> httpx.Response:
    """One request of the table."""
    headers = [(name.encode(), value.encode()) for name, value in bad.headers]
    # Not httpx's own encoder: it refuses what a careless client would send.
    content = bad.raw
    if content is None and bad.body is not None:
        content = json.dumps(filled(bad.body, names)).encode()
    return api.request(bad.method, filled(bad.path, names), content=content, headers=headers)


def test_bad_requests_are_refused_with_words_and_nothing_is_written(
    stage: WebStage, lab: Lab, clients: dict[str, httpx.Client], names: dict[str, str]
) -> None:
    assert len({bad.name for bad in REFUSED}) == len(REFUSED) >= 60
    before = everything(stage.platform)
    wrong = []
    for bad in REFUSED:
        # One's own credits and wishes; everything else an administrator might do by mistake.
        own = "/transfer" in bad.path or bad.path == "/requests"
        api = clients[MEMBER if own else ADMINISTRATOR]
        answer = send(api, bad, names)
        if answer.status_code not in bad.status:
            wrong.append(f"{bad.name}: {answer.status_code} {answer.text[:300]}")
            continue
        error = refused(answer, answer.status_code)
        if bad.field and error.get("field") != bad.field:
            wrong.append(f"{bad.name}: {error}")
        assert "Traceback" not in str(error), bad.name
        assert log_head(stage.platform) == before[0], f"{bad.name} is on the log"
    assert everything(stage.platform) == before
    assert not wrong, "\n".join(wrong)


def test_nobody_gets_at_the_ledger_without_a_name(stage: WebStage, lab: Lab) -> None:
    before = everything(stage.platform)
    with stage.api(None) as api:
        for operation in OPERATIONS:
            path = "/" + re.sub(r"\{\w+\}", lab.project, operation.path)
            refused(api.request(operation.method, path, json={}), 403, "not_signed_in")
    assert everything(stage.platform) == before
