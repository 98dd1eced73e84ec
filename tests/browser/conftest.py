"""One staged hub and one browser for all page tests; each test signs in as a user of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import signing_in
from tests.browser.staged import StagedHub
from tests.chromium import chromium
from tests.patience import patient_ms

NOTE = "Servers run in a sandbox here, which isolates less than a container."

SignIn = Callable[..., Page]

_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def staged_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StagedHub]:
    """Hub and proxy with the staged spawner."""
    with StagedHub(tmp_path_factory.mktemp("staged"), note=NOTE) as hub:
        yield hub


@pytest.fixture
def hub(staged_hub: StagedHub) -> Iterator[StagedHub]:
    """The staged hub with a pool as new."""
    staged_hub.pool()
    yield staged_hub


@pytest.fixture(scope="package")
def browser(chromium_path: str) -> Iterator[Browser]:
    """A real Chromium."""
    with chromium(chromium_path) as opened:
        yield opened


@pytest.fixture
def user() -> str:
    """A user nobody has been before."""
    return f"user-{next(_numbers)}"


@pytest.fixture
def sign_in(browser: Browser, hub: StagedHub) -> Iterator[SignIn]:
    """Open a window of a user; a script error in any of them fails the test."""
    contexts, errors = [], []

    def open_window(
        name: str, *, script: bool = True, width: int = 1280, zone: str = "Europe/Berlin"
    ) -> Page:
        context = browser.new_context(
            java_script_enabled=script,
            viewport={"width": width, "height": 900},
            timezone_id=zone,
            reduced_motion="reduce",  # else axe measures colours in the middle of a change
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(patient_ms(8))
        page.on("pageerror", lambda error: errors.append(str(error)))
        signing_in.sign_in(context, hub.url, name, hub.password)
        page.goto(f"{hub.url}/hub/")
        page.wait_for_url("**/hub/*spawn*")
        return page

    yield open_window
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture
def page(sign_in: SignIn, user: str) -> Page:
    """A window of ``user``."""
    return sign_in(user)
