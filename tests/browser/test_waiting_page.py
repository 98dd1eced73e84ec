"""The waiting page and the list of servers in a real Chromium, through a hub restart too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import SignIn
from tests.browser.staged import StagedHub
from tests.browser.story import ago, holding, queued, starting
from tests.patience import patient_ms

pytestmark = pytest.mark.browser

WORDS = (
    "#w-title, #w-lede, #w-place, #w-of, #w-list, #w-doing, #w-message, #w-yours, #w-where, "
    "#w-when, #w-record, #w-booked, #w-instead, #w-on-cpu-name, #h-alt"
)


def wait_for_place(page: Page, hub: StagedHub, user: str, server: str = "") -> None:
    hub.stage(user, server, event=queued())
    page.goto(f"{hub.url}/hub/spawn/{user}/{server}" if server else f"{hub.url}/hub/spawn")
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")
    expect(page).to_have_title("Place 3 · DCloud")
    expect(page.locator("#w-live .dc-state")).to_have_text("Live")


def test_the_page_follows_the_request_from_the_queue_into_the_server(
    page: Page, hub: StagedHub, user: str
) -> None:
    wait_for_place(page, hub, user)
    expect(page.locator("#w-news")).to_be_empty()
    hub.stage(user, event=queued(2))
    expect(page.locator("#w-place")).to_have_text("2")
    expect(page.locator("#w-news")).to_contain_text("Place 2 of 4. Expected start ")
    expect(page).to_have_title("Place 2 · DCloud")
    hub.stage(user, event=starting())
    expect(page.locator("#w-title")).to_have_text("Starting on 3 × A100 SXM4 80 GB")
    expect(page.locator("#w-news")).to_have_text("Fetching the image.")
    expect(page.get_by_role("progressbar", name="Image")).to_have_attribute("aria-valuenow", "62")
    expect(page.locator("#w-log")).to_be_visible()
    hub.stage(user, event=starting(), ready=True)
    page.wait_for_url(f"**/user/{user}/**")
    expect(page.get_by_role("heading")).to_have_text("The server")


@pytest.mark.parametrize("event", [queued, starting])
def test_server_and_script_say_the_same(
    event: object, sign_in: SignIn, hub: StagedHub, user: str
) -> None:
    assert callable(event)
    page = sign_in(user)
    wait_for_place(page, hub, user)
    hub.stage(user, event=event())
    page.reload()
    page.wait_for_timeout(500)
    scripted = page.locator(WORDS).all_text_contents(), page.locator("#w-steps").inner_text()
    cookies = page.context.cookies()
    plain = sign_in(f"{user}-plain", script=False)
    plain.context.add_cookies(
        [{key: cookie[key] for key in ("name", "value", "domain", "path")} for cookie in cookies]
    )
    plain.goto(f"{hub.url}/hub/spawn-pending/{user}")
    drawn = plain.locator(WORDS).all_text_contents(), plain.locator("#w-steps").inner_text()
    assert [" ".join(text.split()) for text in drawn[0]] == [
        " ".join(text.split()) for text in scripted[0]
    ]
    assert drawn[1] == scripted[1]


def test_whoever_asks_for_it_is_told_when_it_is_ready(
    page: Page, hub: StagedHub, user: str
) -> None:
    page.context.grant_permissions(["notifications"], origin=hub.url)
    # The notification itself is the browser's; what is asked of it is written down.
    page.add_init_script(
        "const Real = Notification; window.Notification = class extends Real {"
        " constructor(title, said) { super(title, said);"
        "  localStorage.told = `${title}: ${said.body}`; } };"
    )
    wait_for_place(page, hub, user)
    tell = page.locator("#w-tell")
    expect(tell).to_have_attribute("aria-pressed", "false")
    tell.click()
    expect(tell).to_have_text("You will be told")
    expect(tell).to_have_attribute("aria-pressed", "true")
    hub.stage(user, event=starting(), ready=True)
    page.wait_for_url(f"**/user/{user}/**")
    told = page.evaluate("localStorage.told")
    assert told == "Your server is ready: 3 × A100 SXM4 80 GB"


def test_the_range_the_record_and_what_would_start_instead_are_shown(
    page: Page, hub: StagedHub, user: str
) -> None:
    wait_for_place(page, hub, user)
    expect(page.locator("#w-when")).to_have_text(re.compile(r"^in \d+ to \d+ min$"))
    expect(page.locator("#w-record")).to_have_text("Of the last 50 such ranges, 41 held.")
    page.get_by_role("button", name="Start 2 GPUs").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Start with 2 GPUs of this model?")
    expect(dialog).to_contain_text("You give up place 3 in the queue.")
    page.keyboard.press("Escape")
    hub.stage(user, event=queued(on_cpu=False))
    expect(page.locator("#w-cpu")).to_be_hidden()
    hub.stage(user, event=queued(meanwhile={"server": "cpu", "state": "running"}))
    expect(page.locator("#w-on-cpu")).to_contain_text("Server “cpu”")
    hub.stage(user, event=queued(reservation={"title": "Class", "from": None, "to": None}))
    expect(page.locator("#w-booked")).to_have_text("On the reservation “Class”")
    hub.stage(user, event=queued(reservation={"title": "Class", "from": ago(-9999), "to": None}))
    expect(page.locator("#w-booked")).to_have_text(re.compile("^May start on .* once that begins$"))


def test_times_are_local_with_the_exact_utc_in_the_title(
    page: Page, hub: StagedHub, user: str
) -> None:
    wait_for_place(page, hub, user)
    event = queued(stages={"queue": {"since": "2026-03-01T12:30:00+00:00", "until": None}})
    hub.stage(user, event=event)
    since = page.locator("#w-since time")
    expect(since).to_have_text("1 Mar, 13:30")
    expect(since).to_have_attribute("title", "2026-03-01 12:30:00 UTC")


def test_a_failed_start_says_why_and_offers_to_change_the_request(
    page: Page, hub: StagedHub, user: str
) -> None:
    wait_for_place(page, hub, user)
    hub.stage(user, event=starting(), fail="The image has no single-user server.")
    expect(page.locator("#w-why")).to_have_text("The image has no single-user server.")
    expect(page.locator("#w-failed")).to_be_focused()
    expect(page).to_have_title("Failed · DCloud")
    page.get_by_role("link", name="Change the request").click()
    page.wait_for_url(f"**/hub/spawn/{user}")


def test_markup_in_a_reason_is_text(page: Page, hub: StagedHub, user: str) -> None:
    wait_for_place(page, hub, user)
    evil = "<img src=x onerror=document.title='evil'>"
    hub.stage(user, event=queued(reasons=[evil], log=[{"at": ago(1), "text": evil}]))
    expect(page.locator("#w-list")).to_have_text(evil)
    hub.stage(user, event=queued(), fail=evil)
    expect(page.locator("#w-why")).to_have_text(evil)
    page.reload()
    expect(page.locator(".dc-fail p")).to_have_text(evil)


def test_leaving_asks_first_and_escape_keeps_the_place(
    page: Page, hub: StagedHub, user: str
) -> None:
    wait_for_place(page, hub, user)
    page.get_by_role("button", name="Leave the queue").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("You give up place 3 in the queue.")
    expect(page.get_by_role("button", name="Stay")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator("#w-leave")).to_be_focused()
    expect(page).to_have_title("Place 3 · DCloud")


def test_leaving_ends_the_request_and_goes_to_the_servers(
    page: Page, hub: StagedHub, user: str
) -> None:
    wait_for_place(page, hub, user)
    page.click("#w-leave")
    hub.stage(user)
    page.click("#w-sure")
    page.wait_for_url("**/hub/home")
    expect(page.get_by_role("heading", name="No servers yet")).to_be_visible()


def test_changing_a_named_request_leaves_the_queue_and_opens_its_start_page(
    page: Page, hub: StagedHub, user: str
) -> None:
    wait_for_place(page, hub, user, "sweep")
    page.click("#w-change")
    expect(page.get_by_role("dialog")).to_contain_text("A new request gets a place of its own.")
    hub.stage(user, "sweep")
    page.click("#w-sure")
    page.wait_for_url(f"**/hub/spawn/{user}/sweep")
    expect(page.locator("#server-name")).to_have_value("sweep")


def test_a_hub_that_dies_and_comes_back_loses_nothing(browser: Browser, tmp_path: Path) -> None:
    with StagedHub(tmp_path) as hub:
        page = browser.new_context().new_page()
        page.goto(f"{hub.url}/hub/login")
        page.fill("input[name=username]", "user-a")
        page.fill("input[name=password]", hub.password)
        page.press("input[name=password]", "Enter")
        wait_for_place(page, hub, "user-a")
        hub.kill("hub")
        expect(page.locator("#w-live")).to_contain_text("Not live, as of", timeout=patient_ms(8))
        expect(page.locator("#w-place")).to_have_text("3")
        hub.stage("user-a", event=queued(1))
        hub.start_hub()
        page.wait_for_timeout(1000)
        hub.request_start("user-a")
        expect(page.locator("#w-place")).to_have_text("1", timeout=patient_ms(8))
        expect(page.locator("#w-live .dc-state")).to_have_text("Live")
        hub.stage("user-a", event=starting(), ready=True)
        page.wait_for_url("**/user/user-a/**")
        page.context.close()


def test_a_page_opened_between_a_restart_and_the_resumption_says_so_and_goes_on(
    page: Page, hub: StagedHub, user: str
) -> None:
    page.goto(f"{hub.url}/hub/spawn")
    hub.stage(user, event=queued())
    page.goto(f"{hub.url}/hub/spawn-pending/{user}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Your server still waits")
    expect(page).to_have_title("Waiting · DCloud")
    hub.request_start(user)
    expect(page).to_have_title("Place 3 · DCloud")


# ---------------------------------------------------------------------------- servers


def run(page: Page, hub: StagedHub, user: str, health: str = "ok") -> None:
    hub.stage(user, ready=True, holding=holding(health))
    page.goto(f"{hub.url}/hub/spawn")
    page.click("#o-go")
    page.wait_for_url(f"**/user/{user}/**")
    page.goto(f"{hub.url}/hub/home")


def test_a_running_server_shows_what_it_holds_and_an_unhealthy_gpu_plainly(
    page: Page, hub: StagedHub, user: str
) -> None:
    run(page, hub, user, "lost")
    server = page.locator("[data-server='']")
    expect(server).to_contain_text("Running")
    expect(server).to_contain_text("PyTorch, 2 × A100 SXM4 80 GB, 64 GiB, 16 cores, on gpu-02")
    expect(server).to_contain_text("1 h 43 min")
    expect(server).to_contain_text("GPU 2 is out of order: it has fallen off the bus (Xid 79).")


def test_stopping_asks_and_then_stops(page: Page, hub: StagedHub, user: str) -> None:
    run(page, hub, user)
    page.get_by_role("button", name="Stop Default server").click()
    expect(page.get_by_role("dialog")).to_contain_text("files in your home stay")
    page.keyboard.press("Escape")
    expect(page.locator("[data-server='']")).to_contain_text("Running")
    page.get_by_role("button", name="Stop Default server").click()
    page.get_by_role("button", name="Stop server", exact=True).click()
    expect(page.get_by_role("heading", name="No servers yet")).to_be_visible()


def test_a_stopped_named_server_can_be_removed(page: Page, hub: StagedHub, user: str) -> None:
    hub.stage(user, "sweep", event=queued())
    page.goto(f"{hub.url}/hub/spawn/{user}/sweep")
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")
    page.goto(f"{hub.url}/hub/home")
    sweep = page.locator("[data-server=sweep]")
    expect(sweep).to_contain_text("Waiting, place 3")
    sweep.get_by_role("button", name="Leave the queue").click()
    hub.stage(user, "sweep")
    page.click("#h-sure")
    expect(sweep).to_contain_text("Stopped")
    sweep.get_by_role("button", name="Remove sweep").click()
    page.click("#h-sure")
    expect(sweep).to_have_count(0)


def test_the_list_follows_a_server_that_waits(page: Page, hub: StagedHub, user: str) -> None:
    hub.stage(user, event=queued())
    page.goto(f"{hub.url}/hub/spawn")
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")
    page.goto(f"{hub.url}/hub/home")
    expect(page.locator("[data-server='']")).to_contain_text("Waiting, place 3")
    hub.stage(user, event=queued(1))
    expect(page.locator("[data-server='']")).to_contain_text("Waiting, place 1")
    hub.stage(user, ready=True, holding=holding())
    expect(page.locator("[data-server='']")).to_contain_text("Running")
