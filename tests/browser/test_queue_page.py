"""The queue page, the GPUs and the reservations in a real Chromium, behind a real hub.

Real: proxy, hub, sign-in, the web service, the scheduler and the store. Simulated: the engine, so
that the pool is as full as the test wants it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, Page, expect

from dcloud_spawner import accounting, drains, granting, queueing, reservations
from dcloud_spawner.ledger.rates import MICRO
from dcloud_spawner.store import events
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.reservations import NewReservation, open_reservations
from tests import platforms
from tests.browser.test_pages import findings
from tests.browser.windows import Open, windows
from tests.conftest import fresh_database
from tests.memory_engine import node
from tests.patience import patient, patient_ms
from tests.web_stage import ADMINISTRATOR, WebStage

pytestmark = pytest.mark.browser

BOSS = Actor(ADMINISTRATOR, "10.0.0.9")


@pytest.fixture(scope="module")
def module_stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebStage]:
    """Two nodes of four GPUs."""
    folder = tmp_path_factory.mktemp("queue")
    with (
        fresh_database(request, folder, "dcloud") as database,
        fresh_database(request, folder, "jupyterhub") as hub,
        WebStage(
            folder,
            database_url=database,
            hub_database_url=hub,
            nodes=(node(name="gpu-01"), node(name="gpu-02")),
        ) as running,
    ):
        yield running


@pytest.fixture
def stage(module_stage: WebStage) -> Iterator[WebStage]:
    """The stage with nobody on it."""
    yield module_stage
    module_stage.clear()


@pytest.fixture
def open_page(browser: Browser, stage: WebStage) -> Iterator[Open]:
    """Opens a page as a user."""
    with windows(browser, stage) as opened:
        yield opened


def full(stage: WebStage) -> None:
    """Three servers hold all but one GPU."""
    platforms.start(stage.platform, "user-b", 3, hours=4)
    platforms.start(stage.platform, "user-c", 3, hours=6)
    platforms.start(stage.platform, "user-e", 1, hours=1)


def story(stage: WebStage) -> None:
    """Everything that the pages can show at once."""
    full(stage)
    start = datetime.now(UTC) + timedelta(hours=8)
    reservations.reserve(
        stage.platform,
        NewReservation(
            "Class on transformers",
            start,
            start + timedelta(hours=2),
            2,
            users=("user-a", "user-b"),
        ),
        BOSS,
    )
    for user, gpus, hours in (("user-j", 4, 8), ("user-k", 3, 2), ("user-a", 2, 4)):
        platforms.submit(stage.platform, user, gpus, hours=hours)
    held = platforms.submit(stage.platform, "user-h", 4, hours=12)
    stage.platform.run_pass()
    queueing.hold(stage.platform, held.id, "The memory test of gpu-02 comes first.", BOSS)
    drains.drain_accelerator(stage.platform, "GPU-gpu-02-3", "memory test", BOSS)


def row(page: Page, name: str) -> str:
    """The text of a row of the queue."""
    found = page.locator("tr", has=page.get_by_role("rowheader", name=name))
    return re.sub(r"\s+", " ", found.first.inner_text())


# ---------------------------------------------------------------------------- looking


@pytest.mark.parametrize("path", ["queue", "gpus", "reservations"])
def test_axe_finds_nothing_for_an_administrator(
    stage: WebStage, open_page: Open, path: str
) -> None:
    story(stage)
    page = open_page(ADMINISTRATOR, path)
    if path == "queue":
        page.get_by_text("The same as a table").click()
    found = findings(page)
    assert not found, "\n".join(found)


def test_axe_finds_nothing_in_a_question(stage: WebStage, open_page: Open) -> None:
    story(stage)
    page = open_page(ADMINISTRATOR)
    page.get_by_role("button", name="Change the request of user-k").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    found = findings(page)
    assert not found, "\n".join(found)


def test_axe_finds_nothing_for_a_user_and_on_empty_pages(stage: WebStage, open_page: Open) -> None:
    page = open_page("user-a")
    expect(page.get_by_text("Nobody waits.")).to_be_visible()
    expect(page.get_by_role("link", name="Start a server")).to_be_visible()
    found = findings(page)
    page.goto(f"{stage.url}/services/dcloud/reservations")
    expect(page.get_by_text("Nothing is reserved.")).to_be_visible()
    found += findings(page)
    page.goto(f"{stage.url}/services/dcloud/nothing")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no such page.")
    found += findings(page)
    assert not found, "\n".join(found)


def test_a_user_sees_their_own_request_in_full_and_nobodys_name(
    stage: WebStage, open_page: Open
) -> None:
    story(stage)
    page = open_page("user-a")
    own = row(page, "You")
    assert "2 GPUs" in own and "bronze" in own and "You asked for" in own
    assert "Somebody" in row(page, "Somebody")
    shown = page.content()
    for name in ("user-j", "user-k", "user-h", "user-b"):
        assert name not in shown.replace("user-a and user-b", "")
    assert page.get_by_role("link", name="GPUs").count() == 0
    expect(page.locator(".dc-nav [aria-current]")).to_have_text("Queue")
    expect(page).to_have_title(re.compile(r"Place \d, queue · DCloud"))


def test_what_is_blocked_says_why_to_its_owner_and_the_bar_says_what_is_left(
    stage: WebStage, open_page: Open
) -> None:
    project = accounting.create_project(stage.platform, "vision-lab", ["user-a"], BOSS)
    granting.grant(stage.platform, project.id, 3 * MICRO, BOSS, reason="for the class")
    platforms.start(stage.platform, "user-a", 2, account="vision-lab")
    platforms.submit(stage.platform, "user-a", 2, account="vision-lab", server="second")
    page = open_page("user-a")
    expect(page.locator("tr.mine").first).to_contain_text("Blocked")
    assert "vision-lab has 1.00 credits left beside what" in row(page, "You")
    assert "once it may start" in row(page, "You")
    more = page.locator("tr.mine").get_by_role("link", name="Ask for more")
    expect(more).to_have_attribute("href", "requests")
    expect(page.locator("#balance")).to_contain_text("Balance of vision-lab: 3.0 credits")
    found = findings(page)
    assert not found, "\n".join(found)
    other = open_page("user-z")
    expect(other.locator("tbody").first).to_contain_text("Blocked")
    assert "vision-lab" not in other.content()


def test_the_page_can_be_read_without_scripts(stage: WebStage, open_page: Open) -> None:
    story(stage)
    page = open_page("user-a", script=False)
    assert "2 GPUs" in row(page, "You")
    expect(page.get_by_role("button", name="Leave")).to_have_count(0)


def test_the_chart_has_a_table_with_the_same_figures(stage: WebStage, open_page: Open) -> None:
    full(stage)
    page = open_page("user-a")
    expect(page.get_by_text("GPUs in service are free within the hour")).to_be_visible()
    page.get_by_text("The same as a table").click()
    cells = page.get_by_role("region", name="Free GPUs, table").locator("tbody tr")
    # The forecast is made beside the page and comes a moment later.
    expect(cells.first).to_have_text(re.compile(r"now\s*1\s*1\s*1"), timeout=patient_ms(4))
    for cell in cells.all():
        low, median, high = (int(text) for text in cell.inner_text().split()[-3:])
        assert 0 <= low <= median <= high <= 8


def test_only_administrators_see_the_gpus(stage: WebStage, open_page: Open) -> None:
    page = open_page("user-a")
    page.goto(f"{stage.url}/services/dcloud/gpus")
    expect(page.get_by_role("heading", level=1)).to_have_text("Only administrators see this page.")


def test_a_member_of_a_group_sees_its_reservation_and_nobody_after_signing_out(
    stage: WebStage, open_page: Open
) -> None:
    stage.join("user-g", "course")
    start = datetime.now(UTC) + timedelta(days=2)
    reservations.reserve(
        stage.platform,
        NewReservation("Course of g", start, start + timedelta(hours=1), 1, groups=("course",)),
        BOSS,
    )
    page = open_page("user-g", "reservations")
    expect(page.get_by_role("rowheader", name="Course of g you")).to_be_visible()
    answer = page.goto(f"{stage.url}/services/dcloud/reservations")
    assert answer is not None
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    page.click("#logout")
    page.wait_for_url("**/hub/**")
    page.goto(f"{stage.url}/services/dcloud/reservations")
    expect(page.locator("input[name=username]")).to_be_visible()


# ---------------------------------------------------------------------------- live


def test_two_users_see_within_two_seconds_what_the_other_does(
    stage: WebStage, open_page: Open
) -> None:
    first, second = open_page("user-a"), open_page("user-b")
    expect(first.get_by_text("8 of 8 free")).to_be_visible()
    start = time.monotonic()
    platforms.start(stage.platform, "user-b", 3)
    expect(first.get_by_text("5 of 8 free")).to_be_visible(timeout=patient_ms(1))
    expect(second.get_by_role("rowheader", name="You")).to_be_visible(timeout=patient_ms(1))
    assert time.monotonic() - start < patient(1.25)
    platforms.start(stage.platform, "user-c", 4)
    platforms.submit(stage.platform, "user-d", 2, hours=1)
    platforms.submit(stage.platform, "user-a", 3, hours=8)
    stage.platform.run_pass()
    expect(first).to_have_title("Place 2, queue · DCloud", timeout=patient_ms(1))
    stage.end("user-d")
    expect(first).to_have_title("Place 1, queue · DCloud", timeout=patient_ms(1))
    expect(first.locator("#l-news")).to_have_text("You are at place 1.")


def test_a_page_finds_the_service_again_after_it_was_away(stage: WebStage, open_page: Open) -> None:
    page = open_page("user-a")
    expect(page.get_by_text("8 of 8 free")).to_be_visible()
    page.evaluate("window.stayed = true")
    stage.stop_web()
    page.wait_for_timeout(1500)
    platforms.start(stage.platform, "user-b", 3)
    stage.start_web()
    expect(page.get_by_text("5 of 8 free")).to_be_visible(timeout=30000)
    expect(page.locator("#l-away")).to_be_hidden()
    assert page.evaluate("window.stayed")


def test_leaving_the_queue_asks_first_and_frees_the_place(stage: WebStage, open_page: Open) -> None:
    full(stage)
    own = platforms.submit(stage.platform, "user-a", 2)
    behind = platforms.submit(stage.platform, "user-k", 2, hours=24)
    stage.platform.run_pass()
    page, other = open_page("user-a"), open_page("user-k")
    expect(other).to_have_title("Place 2, queue · DCloud")
    page.get_by_role("button", name="Leave the queue with the default server").click()
    dialog = page.get_by_role("dialog", name="Leave the queue?")
    expect(dialog.get_by_role("button", name="Do nothing")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert platforms.get(stage.platform, own.id).ended_at is None
    page.get_by_role("button", name="Leave the queue with the default server").click()
    dialog.get_by_role("button", name="Leave the queue").click()
    expect(dialog).to_be_hidden()
    expect(page).to_have_title("Queue · DCloud", timeout=patient_ms(1))
    expect(other).to_have_title("Place 1, queue · DCloud", timeout=patient_ms(1))
    assert platforms.get(stage.platform, own.id).end_reason == "cancelled"
    assert platforms.get(stage.platform, behind.id).ended_at is None


# ---------------------------------------------------------------------------- administrators


def change(page: Page, who: str, kind: str, reason: str, button: str) -> None:
    """What an administrator does with a request."""
    page.get_by_role("button", name=f"Change the request of {who}").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("radio", name=kind).check(force=True)
    if reason:
        dialog.get_by_label("Reason").fill(reason)
    dialog.get_by_role("button", name=button, exact=True).click()
    expect(dialog).to_be_hidden()


def test_an_administrator_holds_releases_and_moves_while_the_owner_watches(
    stage: WebStage, open_page: Open
) -> None:
    full(stage)
    first = platforms.submit(stage.platform, "user-k", 2, hours=2)
    platforms.submit(stage.platform, "user-a", 2, hours=8)
    stage.platform.run_pass()
    owner, boss = open_page("user-a"), open_page(ADMINISTRATOR)
    expect(owner).to_have_title("Place 2, queue · DCloud")
    change(boss, "user-k", "Hold", "The class comes first.", "Hold")
    expect(owner).to_have_title("Place 1, queue · DCloud", timeout=patient_ms(1))
    expect(boss.get_by_text("On hold by admin-a: The class comes first.")).to_be_visible()
    change(boss, "user-k", "Release", "", "Release")
    expect(owner).to_have_title("Place 2, queue · DCloud", timeout=patient_ms(1))
    change(boss, "user-a", "To the head", "A deadline tonight.", "Move to the head")
    expect(owner).to_have_title("Place 1, queue · DCloud", timeout=patient_ms(1))
    expect(owner.get_by_text("Moved to the head: A deadline tonight.")).to_be_visible()
    change(boss, "user-k", "Take out", "Asked by mail.", "Take out")
    expect(boss.get_by_role("button", name="Change the request of user-k")).to_have_count(0)
    assert platforms.get(stage.platform, first.id).end_detail == "Asked by mail."
    with stage.platform.database.reading() as connection:
        lines = events.read(connection, target=first.id)
    assert [line.actor for line in lines[1:]] == [ADMINISTRATOR] * 3


def test_a_reason_is_needed_and_a_refusal_is_shown_in_the_question(
    stage: WebStage, open_page: Open
) -> None:
    full(stage)
    first = platforms.submit(stage.platform, "user-k", 2)
    stage.platform.run_pass()
    boss = open_page(ADMINISTRATOR)
    boss.get_by_role("button", name="Change the request of user-k").click()
    dialog = boss.get_by_role("dialog")
    dialog.get_by_role("button", name="Hold", exact=True).click()
    expect(dialog).to_be_visible()  # the browser asks for the reason
    assert platforms.get(stage.platform, first.id).held_at is None
    queueing.hold(stage.platform, first.id, "somebody was quicker", BOSS)
    dialog.get_by_label("Reason").fill("The class comes first.")
    dialog.get_by_role("button", name="Hold", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("It is on hold already")


def test_draining_says_who_runs_there_and_is_seen_by_everybody(
    stage: WebStage, open_page: Open
) -> None:
    full(stage)
    user, boss = open_page("user-a"), open_page(ADMINISTRATOR, "gpus")
    boss.get_by_role("button", name="Drain gpu-01", exact=True).click()
    dialog = boss.get_by_role("dialog", name="Drain gpu-01?")
    expect(dialog).to_contain_text(
        re.compile(r"Runs there: .*at most until (\d+ \w+, )?\d\d:\d\d\)")
    )
    expect(dialog).to_contain_text("user-b")
    dialog.get_by_label("Reason").fill("new memory")
    dialog.get_by_role("button", name="Drain", exact=True).click()
    expect(dialog).to_be_hidden()
    expect(boss.get_by_text("Taken out by admin-a: new memory")).to_be_visible(
        timeout=patient_ms(1)
    )
    expect(user.get_by_text("4 out of service")).to_be_visible(timeout=patient_ms(1))
    boss.get_by_role("button", name="Offer gpu-01 again").click()
    boss.get_by_role("dialog").get_by_role("button", name="Offer again").click()
    expect(user.get_by_text("4 out of service")).to_have_count(0, timeout=3000)
    boss.get_by_role("button", name="Drain GPU 3 of gpu-02").click()
    dialog = boss.get_by_role("dialog", name="Drain GPU 3 of gpu-02?")
    dialog.get_by_label("Reason").fill("memory test")
    dialog.get_by_role("button", name="Drain", exact=True).click()
    expect(boss.get_by_role("button", name="Offer again GPU 3 of gpu-02")).to_be_visible()


def test_a_reservation_is_made_in_the_readers_zone_and_cancelled(
    stage: WebStage, open_page: Open
) -> None:
    boss = open_page(ADMINISTRATOR, "reservations")
    expect(boss.locator("#r-zone")).to_have_text("Europe/Berlin")
    boss.get_by_label("For what").fill("Course in May")
    day = (datetime.now(UTC) + timedelta(days=20)).date()
    boss.get_by_label("From", exact=True).fill(f"{day}T10:00")
    boss.get_by_label("To", exact=True).fill(f"{day}T12:00")
    boss.get_by_label("GPUs", exact=True).fill("4")
    boss.get_by_role("button", name="Reserve").click()
    expect(boss.locator("#r-wrong")).to_have_text("Users: name at least one user or group.")
    for name in ("user-a", "user-b"):
        stage.token_of(name)
    boss.get_by_label("Users").fill("user-a, user-bee")
    boss.get_by_role("button", name="Reserve").click()
    expect(boss.locator("#r-wrong")).to_contain_text("Users: nobody has the name user-bee.")
    boss.get_by_label("Users").fill("user-a, user-b")
    boss.get_by_role("button", name="Reserve").click()
    expect(boss.get_by_role("rowheader", name="Course in May")).to_be_visible()
    with stage.platform.database.reading() as connection:
        made = open_reservations(connection)[0]
    assert made.starts_at.hour in (8, 9)  # Berlin is ahead of UTC by one or two hours
    assert tuple(made.users) == ("user-a", "user-b")
    user = open_page("user-c", "reservations")
    assert "Course in May" not in user.content()
    boss.get_by_role("button", name="Cancel the reservation Course in May").click()
    boss.get_by_role("dialog").get_by_role("button", name="Cancel reservation").click()
    expect(boss.get_by_text("Nothing is reserved.")).to_be_visible(timeout=patient_ms(1))


def test_where_people_sign_in_elsewhere_the_page_asks_about_a_name_that_nobody_has_yet(
    stage: WebStage, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = stage.platform.settings.model_copy(update={"authenticator": "oauth.Of.Another"})
    monkeypatch.setattr(stage.platform, "settings", elsewhere)
    boss = open_page(ADMINISTRATOR, "reservations")
    boss.get_by_label("For what").fill("First lesson")
    day = (datetime.now(UTC) + timedelta(days=20)).date()
    boss.get_by_label("From", exact=True).fill(f"{day}T10:00")
    boss.get_by_label("To", exact=True).fill(f"{day}T12:00")
    boss.get_by_label("Users").fill("freshman")
    boss.get_by_role("button", name="Reserve").click()
    dialog = boss.get_by_role("dialog")
    expect(dialog).to_contain_text("Users: nobody has the name freshman here yet.")
    dialog.get_by_role("button", name="Do nothing").click()
    expect(boss.get_by_text("Nothing is reserved.")).to_be_visible()
    boss.get_by_role("button", name="Reserve").click()
    dialog.get_by_role("button", name="Reserve all the same").click()
    expect(boss.get_by_role("rowheader", name="First lesson")).to_be_visible()


def test_a_forged_request_from_elsewhere_changes_nothing(stage: WebStage, open_page: Open) -> None:
    full(stage)
    first = platforms.submit(stage.platform, "user-a", 2)
    stage.platform.run_pass()
    page = open_page("user-a")
    status = page.evaluate(
        "path => fetch(path, {method: 'POST'}).then(answer => answer.status)",
        f"/services/dcloud/api/v1/workloads/{first.id}/cancel",
    )
    assert status == 403
    assert platforms.get(stage.platform, first.id).ended_at is None
