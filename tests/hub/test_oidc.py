"""A whole sign-in by OpenID Connect: a real Keycloak, a real hub, a real browser."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.chromium import chromium
from tests.hub.keycloak import CLIENT, PASSWORD, Keycloak
from tests.hub.sign_in import SignInHub
from tests.patience import patient_ms
from tests.services import Missing

# Keycloak's start alone may take a minute on a busy machine.
pytestmark = [pytest.mark.keycloak, pytest.mark.browser, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    """The lab's provider."""
    try:
        provider = Keycloak(tmp_path_factory.mktemp("keycloak"))
    except Missing as error:
        pytest.skip(str(error))
    with provider:
        yield provider


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, keycloak: Keycloak) -> Iterator[SignInHub]:
    """A hub that signs in there, as docs/sign-in.md says."""
    with _hub(tmp_path_factory.mktemp("hub"), keycloak) as running:
        yield running


def _hub(state: Path, keycloak: Keycloak, **more: object) -> SignInHub:
    return SignInHub(
        state,
        authenticator="oauthenticator.generic.GenericOAuthenticator",
        authenticator_config={
            "client_id": CLIENT,
            "authorize_url": f"{keycloak.issuer}/auth",
            "token_url": f"{keycloak.issuer}/token",
            "userdata_url": f"{keycloak.issuer}/userinfo",
            "scope": ["openid", "profile", "email"],
            "username_claim": "preferred_username",
            "login_service": "the lab",
            "allowed_groups": ["members"],
            "admin_groups": ["chiefs"],
            **more,
        },
        secret_files={"oidc_client_secret": keycloak.client_secret},
        environment={"JUPYTERHUB_CRYPT_KEY": secrets.token_hex(32)},
    )


@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Browser]:
    with chromium(chromium_path) as opened:
        yield opened


class Person:
    """A browser profile of one person."""

    def __init__(self, hub: SignInHub, context: BrowserContext) -> None:
        self.hub = hub
        self.page: Page = context.new_page()
        self.visited: list[str] = []
        self.page.on("request", lambda request: self.visited.append(request.url))

    def sign_in(self, name: str) -> int:
        """From the hub's button through the provider's form and back; the last page's status."""
        self.page.goto(f"{self.hub.url}/hub/login")
        self.page.get_by_role("link", name="Sign in with the lab").click()
        self.page.locator("#username").fill(name)
        self.page.locator("#password").fill(PASSWORD)
        with self.page.expect_response(lambda answer: "/oauth_callback" in answer.url) as callback:
            self.page.locator("#kc-login").click()
        self.page.wait_for_load_state()
        return callback.value.status

    def status(self, path: str) -> int:
        """Status of one of the hub's pages for this session."""
        return self.page.request.get(self.hub.url + path, max_redirects=0).status


@pytest.fixture
def person(hub: SignInHub, browser: Browser) -> Iterator[Person]:
    with _person(hub, browser) as one:
        yield one


@contextmanager
def _person(hub: SignInHub, browser: Browser) -> Iterator[Person]:
    context = browser.new_context()
    context.set_default_timeout(patient_ms(20))
    try:
        yield Person(hub, context)
    finally:
        context.close()


def test_a_member_signs_in_with_pkce_and_the_providers_groups_are_the_hubs(
    hub: SignInHub, keycloak: Keycloak, person: Person
) -> None:
    keycloak.user("ada", "members", "vision")
    assert person.sign_in("ada") == 302
    assert person.status("/hub/home") == 200 and person.status("/hub/admin") == 403
    found = hub.user("ada")
    assert sorted(found["groups"]) == ["members", "vision"] and not found["admin"]
    asked = next(url for url in person.visited if "/protocol/openid-connect/auth" in url)
    query = parse_qs(urlsplit(asked).query)
    assert query["code_challenge_method"] == ["S256"] and len(query["code_challenge"][0]) == 43


def test_an_administrators_group_makes_an_administrator_until_it_is_taken_away(
    hub: SignInHub, keycloak: Keycloak, browser: Browser
) -> None:
    keycloak.user("grace", "members", "chiefs")
    with _person(hub, browser) as before:
        assert before.sign_in("grace") == 302
        assert before.status("/hub/admin") == 200 and hub.user("grace")["admin"]
        keycloak.user("grace", "members")
        with _person(hub, browser) as after:
            assert after.sign_in("grace") == 302
            assert after.status("/hub/admin") == 403
        found = hub.user("grace")
        assert found["groups"] == ["members"] and not found["admin"]
        assert before.status("/hub/admin") == 403
    assert [act.detail for act in hub.acts("grace")] == [
        {"groups": [[], ["chiefs", "members"]], "admin": [False, True]},
        {"groups": [["chiefs", "members"], ["members"]], "admin": [True, False]},
    ]


def test_who_lost_the_last_group_is_refused_and_loses_groups_rights_sessions_and_tokens(
    hub: SignInHub, keycloak: Keycloak, browser: Browser
) -> None:
    keycloak.user("eve", "members", "chiefs")
    with _person(hub, browser) as before, _person(hub, browser) as after:
        assert before.sign_in("eve") == 302
        before.page.goto(f"{hub.url}/hub/token")
        token = before.page.evaluate(
            """async () => (await (await fetch("/hub/api/users/eve/tokens", {
                method: "POST", headers: {"X-XSRFToken": window.jhdata.xsrf_token},
            })).json()).token"""
        )
        assert _by_token(hub, token) == 200
        keycloak.user("eve")
        assert after.sign_in("eve") == 403
        found = hub.user("eve")
        assert found["groups"] == [] and not found["admin"]
        assert "admin" not in found["roles"]
        assert before.status("/hub/home") == 302 and after.status("/hub/home") == 302
        assert _by_token(hub, token) == 403
        assert [act.action for act in hub.acts("eve")] == ["login.follow", "login.taken-away"]
        keycloak.user("eve", "members")
        assert after_is_back(hub, browser)


def after_is_back(hub: SignInHub, browser: Browser) -> bool:
    """Given a group again, she gets in again, with that group and no more."""
    with _person(hub, browser) as back:
        return back.sign_in("eve") == 302 and hub.user("eve")["groups"] == ["members"]


def test_a_stranger_without_a_group_is_refused_and_leaves_no_user(
    hub: SignInHub, keycloak: Keycloak, person: Person
) -> None:
    keycloak.user("stranger")
    assert person.sign_in("stranger") == 403
    assert hub.user("stranger") == {}
    assert "does not exist" not in hub.log()  # a missing groups claim is no error


def test_with_the_providers_tokens_kept_a_lost_group_ends_the_session_by_itself(
    tmp_path: Path, keycloak: Keycloak, browser: Browser
) -> None:
    keycloak.user("joan", "members", "chiefs")
    with (
        _hub(tmp_path, keycloak, enable_auth_state=True, auth_refresh_age=1) as hub,
        _person(hub, browser) as joan,
    ):
        assert joan.sign_in("joan") == 302 and joan.status("/hub/admin") == 200
        keycloak.user("joan", "members")
        time.sleep(1.1)
        assert joan.status("/hub/admin") == 403 and joan.status("/hub/home") == 200
        keycloak.user("joan")
        time.sleep(1.1)
        assert joan.status("/hub/home") == 302
        assert hub.user("joan")["groups"] == []


@pytest.mark.parametrize(
    "query", ["", "?code=x", "?code=x&state=eyJzdGF0ZV9pZCI6ICJ4In0=", "?error=access_denied"]
)
def test_an_answer_the_provider_never_gave_lets_nobody_in(hub: SignInHub, query: str) -> None:
    answer = httpx.get(f"{hub.url}/hub/oauth_callback{query}", trust_env=False)
    assert answer.status_code == 400


def test_our_own_sign_up_is_closed_where_a_provider_decides(hub: SignInHub) -> None:
    for path in ("/hub/signup", "/hub/approvals", "/hub/reset", "/hub/password"):
        assert httpx.get(hub.url + path, trust_env=False).status_code == 404
    assert "Sign up" not in httpx.get(f"{hub.url}/hub/login", trust_env=False).text


def test_the_client_secret_is_in_no_log_and_no_page(hub: SignInHub, keycloak: Keycloak) -> None:
    assert keycloak.client_secret not in hub.log()


def _by_token(hub: SignInHub, token: str) -> int:
    answer = httpx.get(
        f"{hub.url}/hub/api/user", headers={"Authorization": f"token {token}"}, trust_env=False
    )
    return answer.status_code
