"""Sign-in against a real hub behind the real proxy. Each rule is attacked at least once."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from dcloud_spawner.authenticator.bootstrap import bootstrap_admin_link
from dcloud_spawner.store import events, logins
from tests.conftest import ON_POSTGRESQL
from tests.hub.sign_in import GOOD_PASSWORD, SignInHub, Visitor
from tests.patience import patient
from tests.services import PostgreSQL

pytestmark = pytest.mark.database

OTHER_PASSWORD = "velvet harbour nine"
WRONG = "Name or password is wrong"


@pytest.fixture(scope="module")
def urls(request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    """Databases of the hub and of DCloud: SQLite in the state folder, or PostgreSQL."""
    if not ON_POSTGRESQL:
        yield {}
        return
    server: PostgreSQL = request.getfixturevalue("postgresql_server")
    ours, hubs = (f"{kind}_{secrets.token_hex(6)}" for kind in ("signin", "hub"))
    yield {
        "database_url": server.create(ours, "dcloud_template"),
        "hub_database_url": server.create(hubs),
    }
    server.drop(ours)
    server.drop(hubs)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, urls: dict[str, object]) -> Iterator[SignInHub]:
    """One hub for all tests here; each uses names of its own."""
    state: Path = tmp_path_factory.mktemp("sign-in")
    with SignInHub(state, lockout_attempts=3, admins=["chief"], **urls) as running:
        yield running


def _status(hub: SignInHub, name: str) -> str:
    with hub.database.reading() as connection:
        login = logins.find(connection, name)
    return "none" if login is None else str(login.status)


def _api_token(visitor: Visitor, name: str) -> str:
    """A token that a signed-in user makes on the hub's own page."""
    token = visitor.post(
        f"/hub/api/users/{name}/tokens", headers={"X-XSRFToken": visitor.cookies["_xsrf"]}
    )
    assert token.status_code == 201, token.text
    return str(token.json()["token"])


def _by_token(hub: SignInHub, token: str) -> int:
    answer = httpx.get(
        f"{hub.url}/hub/api/user", headers={"Authorization": f"token {token}"}, trust_env=False
    )
    return answer.status_code


# ---- signing up and being approved


@pytest.mark.sqlite_suffices
def test_the_pages_of_sign_in_leave_no_error_in_the_log(hub: SignInHub) -> None:
    visitor = hub.visitor()
    for page in ("signup", "reset", "login"):
        assert visitor.get(f"/hub/{page}").status_code == 200
    visitor.sign_up("Not A Name")
    visitor.sign_in("nobody-here", WRONG)
    assert "Traceback" not in hub.log()


def test_a_person_signs_up_is_approved_and_gets_in(hub: SignInHub) -> None:
    visitor = hub.visitor()
    answer = visitor.sign_up(" Ada ", note="Ada, group of C. Babbage")
    assert answer.status_code == 303
    assert "once an administrator has approved" in visitor.get(answer.headers["location"]).text
    admin = hub.admin()
    page = Visitor.said(admin.get("/hub/approvals"))
    assert "ada Ada, group of C. Babbage" in page
    answer = admin.act("approve", "ada")
    assert answer.status_code == 303
    assert "ada may sign in now" in Visitor.said(admin.get(answer.headers["location"]))
    assert visitor.sign_in("ADA").status_code == 303
    assert visitor.is_in and not visitor.is_admin


@pytest.mark.sqlite_suffices
def test_without_approval_nobody_gets_in_by_form_or_by_token_api(hub: SignInHub) -> None:
    # "listed" is in the hub's allowed_users, and the hub is told allow_all.
    for name in ("early", "listed"):
        visitor = hub.visitor()
        visitor.sign_up(name)
        answer = visitor.sign_in(name)
        assert answer.status_code == 403 and "waits for an administrator" in answer.text
        assert not visitor.is_in
        auth = {"username": name, "password": GOOD_PASSWORD}
        answer = hub.visitor().post(f"/hub/api/users/{name}/tokens", json={"auth": auth})
        assert answer.status_code == 403


@pytest.mark.sqlite_suffices
def test_an_approval_does_not_open_what_the_hub_blocks(hub: SignInHub) -> None:
    visitor = hub.visitor()
    visitor.sign_up("blocked")
    hub.admin().act("approve", "blocked")
    answer = visitor.sign_in("blocked")
    assert answer.status_code == 403 and not visitor.is_in


@pytest.mark.sqlite_suffices
@pytest.mark.parametrize("name", ["admin", "chief"])
def test_signing_up_first_under_an_administrators_name_gives_nothing(
    hub: SignInHub, name: str
) -> None:
    hub.admin()
    visitor = hub.visitor()
    visitor.sign_up(name, OTHER_PASSWORD)
    answer = visitor.sign_in(name, OTHER_PASSWORD)
    assert answer.status_code == 403 and not visitor.is_in and not visitor.is_admin


@pytest.mark.sqlite_suffices
def test_an_administrator_by_setting_is_one_after_approval_and_the_page_says_so_before(
    hub: SignInHub,
) -> None:
    visitor = hub.visitor()
    visitor.sign_up("chief", OTHER_PASSWORD)
    admin = hub.admin()
    assert "approving makes them administrator" in admin.get("/hub/approvals").text
    admin.act("approve", "chief")
    assert visitor.sign_in("chief", OTHER_PASSWORD).status_code == 303
    assert visitor.is_admin


def test_declining_frees_the_name_and_leaves_nothing_to_sign_in_with(hub: SignInHub) -> None:
    visitor = hub.visitor()
    visitor.sign_up("unwanted")
    assert hub.admin().act("decline", "unwanted").status_code == 303
    assert WRONG in visitor.sign_in("unwanted").text
    assert visitor.sign_up("unwanted", OTHER_PASSWORD).status_code == 303


BAD_SIGN_UPS = [
    ({"username": ""}, "1 to 63 characters"),
    ({"username": "x" * 64}, "1 to 63 characters"),
    ({"username": "../admin"}, "1 to 63 characters"),
    ({"username": "two words"}, "1 to 63 characters"),
    ({"username": "<script>"}, "1 to 63 characters"),
    ({"username": "\u212aing"}, "1 to 63 characters"),
    ({"password": "short", "password_again": "short"}, "at least 10"),
    ({"password": "careful123", "password_again": "careful123"}, "must not be the name"),
    ({"password": "password123", "password_again": "password123"}, "guessing programs"),
    ({"password": "x" * 300, "password_again": "x" * 300}, "at most 256"),
    ({"password_again": "another one"}, "differ"),
    ({"note": "n" * 201}, "at most 200"),
]


@pytest.mark.sqlite_suffices
@pytest.mark.parametrize(("fields", "message"), BAD_SIGN_UPS)
def test_a_bad_sign_up_is_refused_on_the_same_page_and_keeps_what_was_typed(
    hub: SignInHub, fields: dict[str, str], message: str
) -> None:
    good = {"password": GOOD_PASSWORD, "password_again": GOOD_PASSWORD}
    typed = {"username": "careful", "note": "a note", **good, **fields}
    answer = hub.visitor().form("/hub/signup", typed)
    assert answer.status_code == 400 and message in answer.text
    if "username" not in fields:
        assert 'value="careful"' in answer.text
    if "note" not in fields:
        assert 'value="a note"' in answer.text
    assert typed["password"] not in answer.text or "note" in fields
    assert _status(hub, "careful") == "none"


@pytest.mark.sqlite_suffices
def test_a_name_that_is_taken_stays_who_it_was(hub: SignInHub) -> None:
    hub.member("taken")
    answer = hub.visitor().sign_up("TAKEN", OTHER_PASSWORD)
    assert answer.status_code == 409 and "is taken" in answer.text
    assert WRONG in hub.visitor().sign_in("taken", OTHER_PASSWORD).text


@pytest.mark.sqlite_suffices
def test_a_note_cannot_bring_a_script_to_the_administrator(hub: SignInHub) -> None:
    hub.visitor().sign_up("scripter", note="<script>alert(1)</script>")
    page = hub.admin().get("/hub/approvals").text
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


# ---- who may approve


@pytest.mark.sqlite_suffices
def test_only_an_administrators_post_with_the_pages_token_approves(hub: SignInHub) -> None:
    hub.visitor().sign_up("hopeful")
    member, admin = hub.member("ordinary"), hub.admin()
    action = {"action": "approve", "name": "hopeful"}
    xsrf = {"_xsrf": admin.cookies["_xsrf"]}

    assert admin.get("/hub/approvals", params=action).status_code == 200  # shows, changes nothing
    assert admin.get("/hub/approvals", params={**action, **xsrf}).status_code == 200
    assert admin.post("/hub/approvals", data=action).status_code == 403
    assert admin.post("/hub/approvals", data={**action, "_xsrf": "guess"}).status_code == 403
    foreign = {**action, "_xsrf": member.cookies["_xsrf"]}
    assert admin.post("/hub/approvals", data=foreign).status_code == 403
    assert admin.post("/hub/approvals", params=action, data=xsrf).status_code == 400
    for method in ("PUT", "DELETE", "PATCH"):
        answer = admin.request(method, "/hub/approvals", data={**action, **xsrf})
        assert answer.status_code == 405

    assert member.get("/hub/approvals").status_code == 403
    mine = {**action, "_xsrf": member.cookies["_xsrf"]}
    assert member.post("/hub/approvals", data=mine).status_code == 403
    nobody = hub.visitor()
    nobody.get("/hub/login")
    assert nobody.get("/hub/approvals").status_code == 302
    answer = nobody.post("/hub/approvals", data={**action, "_xsrf": nobody.cookies["_xsrf"]})
    assert answer.status_code == 403
    token = {"Authorization": f"token {_api_token(admin, 'admin')}"}
    assert hub.visitor().post("/hub/approvals", data=action, headers=token).status_code == 403
    assert _status(hub, "hopeful") == "pending"


@pytest.mark.sqlite_suffices
@pytest.mark.parametrize(
    ("action", "name", "status"),
    [
        ("approve", "nobody-here", 404),
        ("lock", "nobody-here", 404),
        ("unlock", "never-tried", 409),
        ("link", "nobody-here", 404),
        ("link", "../x", 404),
        ("decline", "admin", 409),
        ("lock", "admin", 409),
        ("destroy", "admin", 400),
        ("", "admin", 400),
    ],
)
def test_an_administrators_mistake_is_named_on_the_page(
    hub: SignInHub, action: str, name: str, status: int
) -> None:
    answer = hub.admin().act(action, name)
    assert answer.status_code == status and "Not done" in answer.text


def test_every_act_is_in_the_log_with_who_and_from_where(hub: SignInHub) -> None:
    visitor = hub.visitor("127.0.0.23")
    visitor.sign_up("logged")
    admin = hub.admin()
    for action in ("approve", "lock", "unlock", "link"):
        admin.act(action, "logged")
    visitor.sign_in("logged")
    assert [(act.action, act.actor, act.source) for act in hub.acts("logged")] == [
        ("login.sign-up", "logged", "127.0.0.23"),
        ("login.approve", "admin", "127.0.0.1"),
        ("login.lock", "admin", "127.0.0.1"),
        ("login.unlock", "admin", "127.0.0.1"),
        ("login.link", "admin", "127.0.0.1"),
        ("login.sign-in", "logged", "127.0.0.23"),
    ]
    with hub.database.reading() as connection:
        assert list(events.verify(connection)) == []


@pytest.mark.sqlite_suffices
def test_a_client_cannot_choose_the_address_in_the_log(hub: SignInHub) -> None:
    visitor = hub.visitor("127.0.0.24")
    visitor.headers.update({"X-Real-Ip": "192.0.2.1", "X-Forwarded-For": "192.0.2.2"})
    assert visitor.sign_up("spoofer").status_code == 303
    assert [act.source for act in hub.acts("spoofer")] == ["127.0.0.24"]


# ---- guessing


@pytest.mark.sqlite_suffices
def test_an_unknown_name_and_a_wrong_password_get_the_same_answer_in_the_same_time(
    hub: SignInHub,
) -> None:
    hub.member("known")
    answers: dict[bool, list[tuple[int, str, float]]] = {True: [], False: []}
    for n in range(5):
        for known in (True, False):
            if known and n == 2:
                hub.visitor("127.0.0.30").sign_in("known")  # forgets the failures
            visitor = hub.visitor(f"127.0.1.{n}")
            fields = {"username": "known" if known else f"unknown{n}", "password": "wrong one"}
            visitor.get("/hub/login")
            start = time.perf_counter()
            answer = visitor.post("/hub/login", data={**fields, "_xsrf": visitor.cookies["_xsrf"]})
            seconds = time.perf_counter() - start
            if not (known and n == 4):
                answers[known].append((answer.status_code, _without(answer, fields), seconds))
    assert {(status, text) for status, text, _ in answers[True] + answers[False]} == {
        answers[True][0][:2]
    }
    known_s, unknown_s = (
        statistics.median(seconds for *_, seconds in answers[known]) for known in (True, False)
    )
    assert 0.4 < known_s / unknown_s < 2.5


def _without(answer: httpx.Response, fields: dict[str, str]) -> str:
    said = Visitor.said(answer)
    assert WRONG in said
    return said.replace(fields["username"], "NAME")


@pytest.mark.sqlite_suffices
@pytest.mark.parametrize("exists", [True, False])
def test_failing_too_often_locks_a_name_out_even_for_the_right_password(
    hub: SignInHub, exists: bool
) -> None:
    name = f"target-{exists}".lower()
    owner = hub.member(name) if exists else None
    attacker = hub.visitor("127.0.0.66")
    codes = [attacker.sign_in(name, f"guess number {n}").status_code for n in range(4)]
    assert codes == [403, 403, 429, 429]
    answer = hub.visitor("127.0.0.31").sign_in(name)
    assert answer.status_code == 429
    assert "locked for 15 min, until" in answer.text and "UTC" in answer.text
    if owner is not None:
        assert owner.is_in  # a session that is there goes on
        auth = {"username": name, "password": GOOD_PASSWORD}
        by_api = hub.visitor().post(f"/hub/api/users/{name}/tokens", json={"auth": auth})
        assert by_api.status_code == 403


@pytest.mark.sqlite_suffices
def test_who_signed_in_here_before_is_not_kept_out_by_a_strangers_failures(hub: SignInHub) -> None:
    owner = hub.member("harassed")
    for n in range(4):
        hub.visitor("127.0.0.71").sign_in("harassed", f"guess number {n}")
    assert owner.get("/hub/logout").status_code in {200, 302}
    assert not owner.is_in
    assert hub.visitor().sign_in("harassed").status_code == 429
    assert owner.sign_in("harassed").status_code == 303
    # The same cookie under another name, or made up, counts like none.
    stolen = owner.cookies["dcloud-browser"]
    for cookie in (stolen, '"harassed@' + "0" * 32 + '"'):
        other = hub.visitor("127.0.0.72")
        other.cookies.set("dcloud-browser", cookie, domain="127.0.0.1", path="/hub/")
        name = "admin" if cookie == stolen else "harassed"
        codes = [other.sign_in(name, f"guess number {n}").status_code for n in range(3)]
        assert codes[2] == 429
    hub.admin().act("unlock", "admin")


def test_a_lock_out_outlives_the_hub_and_an_administrator_ends_it(hub: SignInHub) -> None:
    hub.member("lasting")
    attacker = hub.visitor("127.0.0.67")
    for n in range(3):
        attacker.sign_in("lasting", f"guess number {n}")
    hub.kill_hub()
    hub.start_hub()
    visitor = hub.visitor()
    assert visitor.sign_in("lasting").status_code == 429
    admin = hub.admin()
    assert "failed too often" in admin.get("/hub/approvals").text
    assert admin.act("unlock", "lasting").status_code == 303
    assert visitor.sign_in("lasting").status_code == 303


def test_guessing_in_parallel_gains_no_guess(hub: SignInHub) -> None:
    hub.member("crowded")
    with hub.visitor("127.0.0.68") as visitor, ThreadPoolExecutor(12) as pool:
        visitor.get("/hub/login")
        xsrf = visitor.cookies["_xsrf"]

        def guess(n: int) -> str:
            data = {"_xsrf": xsrf, "username": "crowded", "password": f"guess number {n}"}
            return visitor.post("/hub/login", data=data).text

        said = list(pool.map(guess, range(24)))
    # The third is answered with the lock-out, like all after it.
    assert sum(WRONG in text for text in said) == 2
    assert sum("is locked for" in text for text in said) == 22


@pytest.mark.sqlite_suffices
def test_an_attack_from_one_address_does_not_keep_others_at_it_out(hub: SignInHub) -> None:
    hub.member("colleague")
    with hub.visitor("127.0.0.69") as attacker, ThreadPoolExecutor(12) as pool:
        attacker.get("/hub/login")
        xsrf = attacker.cookies["_xsrf"]

        def guess(n: int) -> int:
            data = {"_xsrf": xsrf, "username": f"victim{n}", "password": "guess one"}
            return attacker.post("/hub/login", data=data).status_code

        assert set(pool.map(guess, range(24))) == {403}
    start = time.perf_counter()
    answer = hub.visitor("127.0.0.69").sign_in("colleague")
    assert answer.status_code == 303
    assert 0.5 < time.perf_counter() - start < patient(8)


@pytest.mark.sqlite_suffices
@pytest.mark.parametrize(
    "fields", [{}, {"username": "ada"}, {"password": "x"}, {"username": "a b", "password": "x"}]
)
def test_a_sign_in_with_a_part_missing_says_what_is_missing(
    hub: SignInHub, fields: dict[str, str]
) -> None:
    answer = hub.visitor().form("/hub/login", fields)
    assert answer.status_code == 400 and "Not signed in" in answer.text


@pytest.mark.sqlite_suffices
@pytest.mark.parametrize("auth", [None, [], "x", {"username": 7, "password": []}, {"token": "x"}])
def test_the_token_api_takes_no_nonsense_for_a_password(hub: SignInHub, auth: object) -> None:
    answer = hub.visitor().post("/hub/api/users/admin/tokens", json={"auth": auth})
    assert answer.status_code == 403


@pytest.mark.sqlite_suffices
def test_a_sign_in_form_of_another_site_is_refused(hub: SignInHub) -> None:
    visitor = hub.visitor()
    data = {"username": "admin", "password": GOOD_PASSWORD}
    assert visitor.post("/hub/login", data=data).status_code == 403
    assert visitor.post("/hub/signup", data={**data, "username": "forged"}).status_code == 403
    assert _status(hub, "forged") == "none"


@pytest.mark.sqlite_suffices
def test_nobody_is_sent_to_another_site_after_signing_in(hub: SignInHub) -> None:
    hub.member("traveller")
    visitor = hub.visitor()
    page = visitor.get("/hub/login", params={"next": "https://evil.example/"})
    assert page.status_code == 200
    data = {"_xsrf": visitor.cookies["_xsrf"], "username": "traveller", "password": GOOD_PASSWORD}
    for evil in ("https://evil.example/", "//evil.example", "/\\evil.example", "///evil.example"):
        answer = visitor.post("/hub/login", params={"next": evil}, data=data)
        target = urlsplit(answer.headers.get("location", "/"))
        assert target.netloc in {"", urlsplit(hub.url).netloc}


# ---- sessions end


@pytest.mark.sqlite_suffices
def test_a_lock_ends_sessions_and_tokens_at_the_next_request(hub: SignInHub) -> None:
    member = hub.member("leaver")
    token = _api_token(member, "leaver")
    assert member.is_in and _by_token(hub, token) == 200
    admin = hub.admin()
    assert admin.act("lock", "leaver").status_code == 303
    assert not member.is_in and _by_token(hub, token) == 403
    answer = member.sign_in("leaver")
    assert answer.status_code == 403 and "locked your account" in answer.text
    admin.act("unlock", "leaver")
    assert not member.is_in
    assert member.sign_in("leaver").status_code == 303


@pytest.mark.sqlite_suffices
def test_rights_taken_away_outside_the_hub_end_sessions_and_tokens_too(hub: SignInHub) -> None:
    member = hub.member("remote")
    token = _api_token(member, "remote")
    with hub.database.transaction() as connection:
        logins.change(connection, "remote", status=logins.LoginStatus.LOCKED.value)
    time.sleep(1.1)  # auth_refresh_age
    assert not member.is_in and _by_token(hub, token) == 403


def test_ending_sessions_is_made_good_after_a_crash_in_between(hub: SignInHub) -> None:
    member = hub.member("halfway")
    token = _api_token(member, "halfway")
    with hub.database.transaction() as connection:  # committed; then the hub died
        logins.change(connection, "halfway", end_sessions=True)
    hub.kill_hub()
    hub.start_hub()
    assert not member.is_in and _by_token(hub, token) == 403
    assert member.sign_in("halfway").status_code == 303
    time.sleep(1.1)
    assert member.is_in


@pytest.mark.sqlite_suffices
def test_a_one_time_link_sets_a_password_once_and_ends_all_sessions(hub: SignInHub) -> None:
    member = hub.member("forgetful")
    token = _api_token(member, "forgetful")
    for n in range(3):
        hub.visitor("127.0.0.70").sign_in("forgetful", f"guess number {n}")
    link = hub.admin().make_link("forgetful")
    assert link.startswith(f"{hub.url}/hub/reset#")
    visitor = hub.visitor()
    answer = visitor.use_link(link, "weak")
    assert answer.status_code == 400 and "at least 10" in answer.text
    assert parse_qs(urlsplit(link).fragment)["token"][0] in answer.text  # need not be typed again
    answer = visitor.use_link(link, OTHER_PASSWORD)
    assert answer.status_code == 303
    assert not member.is_in and _by_token(hub, token) == 403
    assert WRONG in hub.visitor().sign_in("forgetful", GOOD_PASSWORD).text
    assert visitor.sign_in("forgetful", OTHER_PASSWORD).status_code == 303
    time.sleep(1.1)
    assert visitor.is_in
    again = hub.visitor().use_link(link, "a third good one")
    assert again.status_code == 403 and "has been used" in again.text


@pytest.mark.sqlite_suffices
def test_a_running_server_goes_on_when_the_sessions_of_its_owner_end(hub: SignInHub) -> None:
    member = hub.member("worker")
    xsrf = {"X-XSRFToken": member.cookies["_xsrf"]}
    assert member.post("/hub/api/users/worker/server", headers=xsrf).status_code in {201, 202}
    fake = {"note": "Server at /user/worker/", "scopes": ["self"]}
    headers = {"X-XSRFToken": member.cookies["_xsrf"]}
    token = member.post("/hub/api/users/worker/tokens", json=fake, headers=headers).json()["token"]
    _wait_until(lambda: hub.user("worker")["servers"].get("", {}).get("ready"))
    servers = hub.server_token("worker")
    assert _by_token(hub, servers) == 200
    hub.visitor().use_link(hub.admin().make_link("worker"), OTHER_PASSWORD)
    assert not member.is_in and _by_token(hub, token) == 403
    # With its own token the server still tells the hub that it is there.
    assert _by_token(hub, servers) == 200
    again = hub.visitor()
    again.sign_in("worker", OTHER_PASSWORD)
    again.get("/hub/home")
    assert again.delete(
        "/hub/api/users/worker/server", headers={"X-XSRFToken": again.cookies["_xsrf"]}
    ).status_code in {202, 204}
    _wait_until(lambda: not hub.user("worker")["servers"])


def _wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + patient(seconds)
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


@pytest.mark.sqlite_suffices
@pytest.mark.parametrize("token", ["", "x", "a" * 43, "' OR 1=1 --", "é" * 43, "a" * 100_000])
def test_a_made_up_link_opens_nothing(hub: SignInHub, token: str) -> None:
    both = {"password": GOOD_PASSWORD, "password_again": GOOD_PASSWORD}
    answer = hub.visitor().form("/hub/reset", {"token": token, **both})
    assert answer.status_code == 403 and "has been used, has expired" in answer.text


@pytest.mark.sqlite_suffices
def test_the_first_administrators_link_works_once_and_then_there_is_none(hub: SignInHub) -> None:
    assert hub.admin().is_admin
    assert bootstrap_admin_link(hub.database, hub.settings) is None
    link = bootstrap_admin_link(hub.database, hub.settings, "rescue", again=True)
    assert link is not None
    rescuer = hub.visitor()
    assert rescuer.use_link(link, OTHER_PASSWORD).status_code == 303
    assert rescuer.sign_in("rescue", OTHER_PASSWORD).status_code == 303
    assert rescuer.is_admin
    assert hub.visitor().use_link(link, "another good one").status_code == 403
    assert [act.action for act in hub.acts("rescue")][-1] == "login.admin-granted"


@pytest.mark.sqlite_suffices
def test_who_is_no_administrator_any_more_does_not_become_one_by_signing_in(
    hub: SignInHub,
) -> None:
    link = bootstrap_admin_link(hub.database, hub.settings, "former-chief", again=True)
    assert link is not None
    former = hub.visitor()
    former.use_link(link)
    former.sign_in("former-chief")
    assert former.is_admin
    admin = hub.admin()
    admin.get("/hub/home")
    answer = admin.patch(
        "/hub/api/users/former-chief",
        json={"admin": False},
        headers={"X-XSRFToken": admin.cookies["_xsrf"]},
    )
    assert answer.status_code == 200
    again = hub.visitor()
    again.sign_in("former-chief")
    assert again.is_in and not again.is_admin and not former.is_admin


@pytest.mark.sqlite_suffices
def test_changing_the_own_password_needs_the_old_one_and_ends_the_other_sessions(
    hub: SignInHub,
) -> None:
    member = hub.member("changer")
    elsewhere = hub.visitor()
    elsewhere.sign_in("changer")
    token = _api_token(elsewhere, "changer")
    new = {"password": OTHER_PASSWORD, "password_again": OTHER_PASSWORD}
    weak = {"password": "changer1234", "password_again": "changer1234"}

    answer = member.form("/hub/password", {"old_password": "not this one", **new})
    assert answer.status_code == 400 and "old password is wrong" in answer.text
    answer = member.form("/hub/password", {"old_password": GOOD_PASSWORD, **weak})
    assert answer.status_code == 400 and "must not be the name" in answer.text
    assert elsewhere.is_in
    answer = member.form("/hub/password", {"old_password": GOOD_PASSWORD, **new})
    assert answer.status_code == 303
    time.sleep(1.1)
    assert member.is_in and not elsewhere.is_in and _by_token(hub, token) == 403
    assert hub.visitor().sign_in("changer", OTHER_PASSWORD).status_code == 303


@pytest.mark.sqlite_suffices
def test_an_open_session_is_no_way_to_guess_the_password(hub: SignInHub) -> None:
    member = hub.member("unattended")
    new = {"password": OTHER_PASSWORD, "password_again": OTHER_PASSWORD}
    codes = [
        member.form("/hub/password", {"old_password": f"guess number {n}", **new}).status_code
        for n in range(4)
    ]
    assert codes == [400, 400, 429, 429]


@pytest.mark.sqlite_suffices
def test_the_password_page_is_for_who_is_signed_in(hub: SignInHub) -> None:
    visitor = hub.visitor()
    assert visitor.get("/hub/password").status_code == 302
    visitor.get("/hub/login")
    data = {"_xsrf": visitor.cookies["_xsrf"], "old_password": GOOD_PASSWORD}
    assert visitor.post("/hub/password", data=data).status_code == 403


# ---- users come and go


def test_a_deleted_user_is_out_at_once_and_needs_a_new_approval(hub: SignInHub) -> None:
    member, admin = hub.member("gone"), hub.admin()
    token = _api_token(member, "gone")
    xsrf = {"X-XSRFToken": admin.cookies["_xsrf"]}
    admin.get("/hub/home")
    assert admin.delete("/hub/api/users/gone", headers=xsrf).status_code == 204
    assert not member.is_in and _by_token(hub, token) == 403
    assert _status(hub, "gone") == "none"
    assert WRONG in member.sign_in("gone").text
    assert member.sign_up("gone").status_code == 303
    assert "waits for an administrator" in member.sign_in("gone").text


@pytest.mark.sqlite_suffices
def test_a_user_added_in_the_administration_gets_in_by_a_link_and_not_before(
    hub: SignInHub,
) -> None:
    admin = hub.admin()
    admin.get("/hub/home")
    answer = admin.post("/hub/api/users/invited", headers={"X-XSRFToken": admin.cookies["_xsrf"]})
    assert answer.status_code == 201
    visitor = hub.visitor()
    for password in ("", " ", GOOD_PASSWORD):
        assert visitor.sign_in("invited", password).status_code in {400, 403}
    link = admin.make_link("invited")
    assert visitor.use_link(link).status_code == 303
    assert visitor.sign_in("invited").status_code == 303 and not visitor.is_admin


@pytest.mark.sqlite_suffices
def test_a_stranger_who_signs_up_as_an_added_user_is_not_that_user(hub: SignInHub) -> None:
    admin = hub.admin()
    admin.get("/hub/home")
    xsrf = {"X-XSRFToken": admin.cookies["_xsrf"]}
    admin.post("/hub/api/users/wanted", headers=xsrf)
    stranger = hub.visitor()
    assert stranger.sign_up("wanted").status_code == 303
    assert stranger.sign_in("wanted").status_code == 403
    assert "approving hands that user to them" in admin.get("/hub/approvals").text
    answer = admin.act("link", "wanted")
    assert answer.status_code == 409 and "Approve it first" in answer.text


# ---- what stays behind


@pytest.mark.sqlite_suffices
def test_no_password_and_no_token_is_in_any_log_or_address(hub: SignInHub) -> None:
    link = hub.admin().make_link("admin")
    visitor = hub.visitor()
    visitor.use_link(link, OTHER_PASSWORD)
    visitor.use_link(link, OTHER_PASSWORD)
    restored = hub.admin(OTHER_PASSWORD).make_link("admin")
    hub.visitor().use_link(restored)
    log = hub.log()
    assert "/hub/reset" in log
    for secret in (GOOD_PASSWORD, OTHER_PASSWORD, "guess number", link, restored):
        assert secret not in log
        assert parse_qs(urlsplit(secret).fragment).get("token", ["?" * 9])[0] not in log


@pytest.mark.sqlite_suffices
def test_pages_with_secrets_are_kept_by_no_cache_and_framed_by_nobody(hub: SignInHub) -> None:
    for path in ("/hub/login", "/hub/signup", "/hub/reset"):
        headers = hub.visitor().get(path).headers
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
