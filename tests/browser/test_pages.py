"""Every page in a real Chromium: axe in both themes and widths, keyboard, without scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NOTE, SignIn
from tests.browser.staged import StagedHub, axe_script
from tests.browser.story import holding, queued, starting

pytestmark = pytest.mark.browser

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


OF_COLOURS = ["color-contrast", "link-in-text-block"]
"""Rules that a theme can break; all others see the same page in both."""


def findings(page: Page, impacts: set[str] | None = None) -> list[str]:
    """What axe finds at 1280 and 390 px and in both themes, and what is wider than the screen."""
    # In one piece, for some pages load themselves again.
    look = f"""([theme, rules]) => {{
        document.documentElement.dataset.bsTheme = theme;
        if (!window.axe) {{ {axe_script().read_text()} }}
        return axe.run(document, {{runOnly: rules, resultTypes: ["violations"]}});
    }}"""
    found = []
    for width, theme, rules in (
        (1280, "light", TAGS),
        (1280, "dark", {"type": "rule", "values": OF_COLOURS}),
        (390, "light", TAGS),
    ):
        page.set_viewport_size({"width": width, "height": 900})
        result: dict[str, Any] = page.evaluate(look, [theme, rules])
        found += [
            f"{theme} {width}: {item['id']} ({item['impact']}) {node['target']}"
            for item in result["violations"]
            if impacts is None or item["impact"] in impacts
            for node in item["nodes"]
        ]
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"{width}: the page is wider than the screen")
    return found


def start_page(page: Page, hub: StagedHub, user: str) -> None:
    hub.pool(
        images={
            "tensorflow": {"state": "preparing", "progress": 0.4, "message": "step 3 of 7"},
            "multi-gpu": {"state": "failed", "message": "No space left on the disk."},
        }
    )
    page.goto(f"{hub.url}/hub/spawn")
    page.get_by_role("radio", name="PyTorch").check(force=True)
    page.locator("[name='pytorch.gpus'][value='3']").check(force=True)
    expect(page.locator("[data-live]")).to_have_text("Live")


def refused_page(page: Page, hub: StagedHub, user: str) -> None:
    page.goto(f"{hub.url}/hub/spawn")
    page.evaluate("document.querySelector('[name=\"cpu.hours\"]').type = 'text'")
    page.fill("[name='cpu.hours']", "NaN")
    page.click("#o-go")
    expect(page.get_by_role("alert")).to_contain_text("hours")


def queue_page(page: Page, hub: StagedHub, user: str) -> None:
    hub.stage(user, event=queued())
    page.goto(f"{hub.url}/hub/spawn")
    page.click("#o-go")
    expect(page).to_have_title("Place 3 · DCloud")
    page.click("#w-more summary")


def dialog_page(page: Page, hub: StagedHub, user: str) -> None:
    queue_page(page, hub, user)
    page.click("#w-leave")


def starting_page(page: Page, hub: StagedHub, user: str) -> None:
    queue_page(page, hub, user)
    hub.stage(user, event=starting())
    expect(page).to_have_title("Starting, 30 % · DCloud")


def failed_page(page: Page, hub: StagedHub, user: str) -> None:
    starting_page(page, hub, user)
    hub.stage(user, event=starting(), fail="The image has no single-user server.")
    expect(page.locator("#w-why")).to_have_text("The image has no single-user server.")


def not_running_page(page: Page, hub: StagedHub, user: str) -> None:
    failed_page(page, hub, user)
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("The start failed")
    expect(page.locator(".dc-fail")).to_contain_text("The image has no single-user server.")


def servers_page(page: Page, hub: StagedHub, user: str) -> None:
    hub.stage(user, ready=True, holding=holding("lost"))
    page.goto(f"{hub.url}/hub/spawn")
    page.click("#o-go")
    page.wait_for_url(f"**/user/{user}/**")
    hub.stage(user, "sweep", event=queued())
    page.goto(f"{hub.url}/hub/spawn/{user}/sweep")
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")
    page.goto(f"{hub.url}/hub/home")
    expect(page.locator("[data-server]")).to_have_count(2)


def stop_dialog_page(page: Page, hub: StagedHub, user: str) -> None:
    servers_page(page, hub, user)
    page.get_by_role("button", name="Stop Default server").click()


def empty_page(page: Page, hub: StagedHub, user: str) -> None:
    page.goto(f"{hub.url}/hub/home")
    expect(page.get_by_role("heading", name="No servers yet")).to_be_visible()


def stopping_page(page: Page, hub: StagedHub, user: str) -> None:
    hub.stage(user, ready=True, stop_seconds=300)  # longer than whoever looks at the page
    page.goto(f"{hub.url}/hub/spawn")
    page.click("#o-go")
    page.wait_for_url(f"**/user/{user}/**")
    page.goto(f"{hub.url}/hub/home")
    page.get_by_role("button", name="Stop Default server").click()
    page.click("#h-sure")
    page.wait_for_timeout(500)
    page.goto(f"{hub.url}/hub/spawn-pending/{user}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Your server is stopping")


def token_page(page: Page, hub: StagedHub, user: str) -> None:
    page.goto(f"{hub.url}/hub/token")
    page.wait_for_function("window._jupyterhub_page_loaded")
    page.fill("#token-note", "laptop")
    page.click("text=Make a token")
    expect(page.locator("#token-result")).not_to_be_empty()
    page.reload()
    page.locator("summary").first.click()


def missing_page(page: Page, hub: StagedHub, user: str) -> None:
    page.goto(f"{hub.url}/hub/nothing-here")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no such page")


PAGES: list[Callable[[Page, StagedHub, str], None]] = [
    start_page,
    refused_page,
    queue_page,
    dialog_page,
    starting_page,
    failed_page,
    not_running_page,
    servers_page,
    stop_dialog_page,
    empty_page,
    stopping_page,
    token_page,
    missing_page,
]


@pytest.mark.parametrize("open_page", PAGES, ids=lambda found: found.__name__)
def test_axe_finds_nothing_in_both_themes_wide_and_narrow(
    open_page: Callable[[Page, StagedHub, str], None], page: Page, hub: StagedHub, user: str
) -> None:
    open_page(page, hub, user)
    found = findings(page)
    assert not found, "\n".join(found)


def test_axe_finds_nothing_serious_in_the_hubs_own_administration(
    sign_in: SignIn, hub: StagedHub
) -> None:
    page = sign_in("admin-a")
    page.goto(f"{hub.url}/hub/admin")
    expect(page.get_by_role("cell", name="admin-a")).to_be_visible()
    found = findings(page, {"serious", "critical"})
    assert not found, "\n".join(found)
    expect(page.locator(".dc-nav [aria-current]")).to_have_text("Admin")


def test_the_hubs_own_administration_asks_before_it_ends_everybodys_servers(
    sign_in: SignIn, hub: StagedHub
) -> None:
    page = sign_in("admin-a")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(f"{request.method} {request.url}"))
    page.goto(f"{hub.url}/hub/admin")
    page.get_by_role("button", name="Stop All").click()
    dialog = page.get_by_role("dialog", name="Stop the servers of every user on this page?")
    expect(dialog.get_by_role("button", name="Do nothing")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert not [each for each in sent if each.startswith(("DELETE", "POST"))]

    page.route("**/hub/api/shutdown*", lambda route: route.fulfill(json={}))
    page.get_by_role("button", name="Shutdown Hub").click()
    with page.expect_request("**/hub/api/shutdown*"):
        page.get_by_role("dialog", name="Restart the hub?").get_by_role(
            "button", name="Shutdown Hub"
        ).click()


def test_every_page_says_that_gpus_are_simulated_and_that_isolation_is_weaker(
    page: Page, hub: StagedHub, user: str
) -> None:
    for path in ("spawn", "home", "token", "nothing-here", f"spawn-pending/{user}"):
        page.goto(f"{hub.url}/hub/{path}")
        told = page.locator(".dc-told").first
        expect(told).to_contain_text("The GPUs here are simulated.")
        expect(told).to_contain_text(NOTE)


def test_the_theme_is_the_hubs_own_setting_and_stays(page: Page, hub: StagedHub) -> None:
    page.goto(f"{hub.url}/hub/home")
    before = page.evaluate("document.documentElement.dataset.bsTheme")
    page.get_by_role("button", name="Switch between light and dark").click()
    other = "light" if before == "dark" else "dark"
    assert page.evaluate("localStorage.getItem('jupyterhub-bs-theme')") == other
    page.goto(f"{hub.url}/hub/spawn")
    assert page.evaluate("document.documentElement.dataset.bsTheme") == other


def test_only_administrators_are_shown_the_administration(sign_in: SignIn, user: str) -> None:
    links = sign_in(user).locator(".dc-nav a")
    assert links.all_inner_texts() == ["Servers", "Queue", "Datasets", "Usage", "Tokens"]
    assert sign_in("admin-a").locator(".dc-nav a").all_inner_texts() == [
        "Servers",
        "Queue",
        "Datasets",
        "Usage",
        "Tokens",
        "Admin",
    ]
