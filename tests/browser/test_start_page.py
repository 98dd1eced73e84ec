"""The start page in a real Chromium."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SignIn
from tests.browser.staged import StagedHub
from tests.browser.story import A100, A5000, queued
from tests.patience import patient_ms

pytestmark = pytest.mark.browser

HOUR = r"(\d{1,2} [A-Z][a-z]{2}( \d{4})?, )?\d\d:\d\d"
"""A time as pages say it: with the day where that is not today's."""

RANGE = f"{HOUR}–{HOUR}"


def test_a_server_is_started_with_the_keyboard_alone(page: Page, hub: StagedHub, user: str) -> None:
    hub.stage(user, event=queued())
    page.goto(f"{hub.url}/hub/spawn")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to content")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#o-profile")).to_have_text("PyTorch")
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#o-gpus")).to_have_text("3, any model")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#o-memory")).to_have_text("32 GiB")
    for _ in range(10):
        if page.locator(":focus").get_attribute("id") == "o-go":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/spawn-pending/**")
    assert "_xsrf" not in page.url
    posted = hub.posted()
    assert (posted["profile"], posted["gpus"], posted["memory_gib"]) == ("pytorch", 3, 32)


def test_the_summary_follows_the_form_and_says_what_will_happen(page: Page, hub: StagedHub) -> None:
    page.goto(f"{hub.url}/hub/spawn")
    page.get_by_role("radio", name="PyTorch").check(force=True)
    expect(page.locator("#o-note b")).to_have_text("Starts now")
    expect(page.locator("#o-stops")).to_contain_text("at the latest")
    page.locator("[name='pytorch.gpus'][value='3']").check(force=True)
    expect(page.locator("#o-note b")).to_have_text("Joins the queue")
    note = page.locator("#o-note div")
    expect(note).to_contain_text(re.compile(rf"Expected {RANGE}\."))
    page.locator("[name='pytorch.hours']").fill("2")
    expect(note).to_contain_text(
        re.compile(rf"Expected {RANGE} with \d+ GiB, \d+ cores and 4 hours\.")
    )
    page.locator("[name='pytorch.hours']").fill("4")
    expect(page.locator("#o-go")).to_have_text("Join the queue")
    expect(page.locator("#o-stops")).to_have_text("4 h after it starts")
    expect(page.locator("#o-said")).to_contain_text("Joins the queue")


def test_another_model_changes_what_is_possible_and_a_lost_choice_is_told(
    page: Page, hub: StagedHub
) -> None:
    page.goto(f"{hub.url}/hub/spawn")
    page.get_by_role("radio", name="PyTorch").check(force=True)
    page.locator("[name='pytorch.gpus'][value='4']").check(force=True)
    page.get_by_label("GPU model").and_(page.locator("select:visible")).select_option(A5000)
    four = page.locator("[name='pytorch.gpus'][value='4']")
    expect(four).to_be_disabled()
    expect(four.locator("xpath=..")).to_contain_text("this node type has 2")
    expect(page.locator("#o-gpus")).to_have_text("2 × RTX A5000 24 GB")
    expect(page.locator("#o-said")).to_contain_text("4 is not possible here, 2 is chosen instead.")


def test_what_is_free_is_kept_fresh_while_the_page_is_open(page: Page, hub: StagedHub) -> None:
    page.goto(f"{hub.url}/hub/spawn")
    page.get_by_role("radio", name="PyTorch").check(force=True)
    expect(page.locator("#o-go")).to_have_text("Start server")
    hub.pool(free={A100: 0, A5000: 0}, queue=0)
    expect(page.locator(f"[data-model='{A100}'] [data-free]")).to_have_text(
        "0 of 8 free", timeout=patient_ms(4)
    )
    expect(page.locator("#o-note b")).to_have_text("Joins the queue at place 1")


def test_where_events_do_not_come_through_the_page_asks(page: Page, hub: StagedHub) -> None:
    hub.pool(silent=True)
    page.goto(f"{hub.url}/hub/spawn")
    expect(page.locator("[data-live]")).to_have_text("Live")
    hub.pool(silent=True, free={A100: 0, A5000: 0}, queue=0)
    expect(page.locator(f"[data-model='{A100}'] [data-free]")).to_have_text(
        "0 of 8 free", timeout=12000
    )


def zone_where_it_is(hour: int) -> str:
    """A time zone in which it is this hour of the day now."""
    ahead = (hour - datetime.now(UTC).hour) % 24
    ahead = ahead - 24 if ahead > 14 else ahead
    return f"Etc/GMT{-ahead:+d}"  # the names count westwards


def said_hour(moment: datetime, now: datetime) -> str:
    """A time as pages say it, on the clock of ``moment``."""
    if moment.date() == now.date():
        return f"{moment:%H:%M}"
    year = "" if moment.year == now.year else f" {moment.year}"
    return f"{moment.day} {moment:%b}{year}, {moment:%H:%M}"


@pytest.mark.parametrize("begins", [-120, -15, 15], ids=["today", "over midnight", "tomorrow"])
def test_an_expected_range_is_in_the_readers_own_zone(
    sign_in: SignIn, hub: StagedHub, user: str, begins: int
) -> None:
    """Half an hour that begins so many minutes from the reader's next midnight."""
    zone = zone_where_it_is(20)
    page = sign_in(user, zone=zone)
    before = datetime.now(ZoneInfo(zone)).replace(second=0, microsecond=0)
    wait = 24 * 60 - before.hour * 60 - before.minute + begins
    hub.pool(expected=[wait, wait + 30])
    page.goto(f"{hub.url}/hub/spawn")
    page.get_by_role("radio", name="PyTorch").check(force=True)
    page.locator("[name='pytorch.gpus'][value='3']").check(force=True)
    mark = page.locator("label:has([name='pytorch.gpus'][value='3']) [data-mark]")
    expect(mark).to_have_text(re.compile(RANGE))
    said = mark.inner_text()
    expected = set()
    for late in range(2):  # the minute may end meanwhile
        start, end = (before + timedelta(minutes=wait + late + more) for more in (0, 30))
        until = said_hour(end, start if start.date() == end.date() else before)
        expected.add(f"{said_hour(start, before)}–{until}")
    assert said in expected


def test_an_image_that_becomes_ready_opens_the_way(page: Page, hub: StagedHub) -> None:
    hub.pool(images={"tensorflow": {"state": "preparing", "progress": 0.9}})
    page.goto(f"{hub.url}/hub/spawn")
    page.get_by_role("radio", name="TensorFlow").check(force=True)
    expect(page.locator("#o-note b")).to_have_text("The image is being prepared")
    expect(page.locator("#o-go")).to_be_disabled()
    hub.pool()
    expect(page.locator("#o-go")).to_be_enabled(timeout=patient_ms(4))
    expect(page.locator("#o-note b")).to_have_text("Starts now")


def test_a_refusal_is_read_out_and_keeps_what_was_entered(page: Page, hub: StagedHub) -> None:
    page.goto(f"{hub.url}/hub/spawn")
    page.get_by_role("radio", name="PyTorch").check(force=True)
    page.locator("[name='pytorch.memory_gib'][value='32']").check(force=True)
    page.evaluate("document.querySelector('[name=\"pytorch.hours\"]').removeAttribute('max')")
    page.fill("[name='pytorch.hours']", "99")
    page.click("#o-go")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("hours: 99 is not possible. Choose 1 to 24.")
    expect(alert).to_be_focused()
    expect(page.locator("[name='pytorch.memory_gib'][value='32']")).to_be_checked()
    expect(page.locator("[name='pytorch.hours']")).to_have_value("99")
    expect(page.locator(".dc-wrong label")).to_have_text("Hours")


def test_the_name_decides_which_server_it_is(page: Page, hub: StagedHub, user: str) -> None:
    hub.stage(user, "sweep-2", event=queued())
    page.goto(f"{hub.url}/hub/spawn")
    page.fill("#server-name", "sweep-2")
    page.click("#o-go")
    page.wait_for_url(f"**/spawn-pending/{user}/sweep-2*")
    expect(page.locator("#w-lede")).to_contain_text("Server “sweep-2”")
    page.goto(f"{hub.url}/hub/spawn")
    page.fill("#server-name", "sweep-2")
    expect(page.locator("#d-server-name")).to_contain_text("runs already")
    expect(page.locator("#o-go")).to_be_disabled()


def test_a_refused_named_server_keeps_its_name(page: Page, hub: StagedHub, user: str) -> None:
    page.goto(f"{hub.url}/hub/spawn/{user}/sweep")
    page.evaluate("document.querySelector('[name=\"cpu.hours\"]').removeAttribute('max')")
    page.fill("[name='cpu.hours']", "99")
    page.click("#o-go")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.locator("#server-name")).to_have_value("sweep")


def test_it_works_without_a_script(sign_in: SignIn, hub: StagedHub, user: str) -> None:
    page = sign_in(user, script=False)
    hub.stage(user, event=queued())
    page.goto(f"{hub.url}/hub/spawn")
    expect(page.get_by_text("requires JavaScript")).to_be_hidden()
    page.get_by_role("radio", name="PyTorch").check(force=True)
    expect(page.locator(".dc-res[data-profile=pytorch]")).to_be_visible()
    expect(page.locator(".dc-res[data-profile=cpu]")).to_be_hidden()
    page.locator("[name='pytorch.gpus'][value='1']").check(force=True)
    page.get_by_role("button", name="Start server").click()
    page.wait_for_url("**/spawn-pending/**")
    assert (hub.posted()["profile"], hub.posted()["gpus"]) == ("pytorch", 1)
    expect(page.locator("#w-place")).to_have_text("3")
    expect(page.get_by_text("at most 2 together")).to_be_visible()
    expect(page).to_have_title("Place 3 · DCloud")


def test_a_name_typed_on_the_servers_page_leads_to_its_start_page_without_a_script(
    sign_in: SignIn, hub: StagedHub, user: str
) -> None:
    page = sign_in(user, script=False)
    hub.stage(user, event=queued())
    page.goto(f"{hub.url}/hub/spawn")
    page.get_by_role("button", name="Start server").click()
    page.wait_for_url("**/spawn-pending/**")
    page.goto(f"{hub.url}/hub/home")
    page.fill("#new-name", "second")
    page.get_by_role("button", name="Choose its resources").click()
    page.wait_for_url(f"**/hub/spawn/{user}/second")


def test_the_live_figures_of_another_user_are_not_to_be_had(
    sign_in: SignIn, hub: StagedHub, user: str
) -> None:
    page = sign_in(user)
    other = sign_in(f"{user}-other")
    assert other.request.get(f"{hub.url}/hub/dcloud/live/{user}").status in (403, 404)
    assert page.request.get(f"{hub.url}/hub/dcloud/live/{user}").status == 200
    assert other.request.get(f"{hub.url}/hub/dcloud/events/{user}").status in (403, 404)
    assert page.request.get(f"{hub.url}/hub/dcloud/events/nobody").status in (403, 404)
