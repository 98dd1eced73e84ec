"""The usage pages in a real Chromium, as owner, member, newcomer, stranger and administrator.

Real: proxy, hub, sign-in, the web service, the ledger and the store, the library for charts.
Simulated: the engine, so that nothing has to run; the past is moved there (``tests/usage_story``).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from dcloud_spawner.store import accounts
from dcloud_spawner.store.accounts import Account
from dcloud_spawner.store.workloads import Workload
from tests.browser.test_pages import findings
from tests.browser.windows import Open, windows
from tests.conftest import fresh_database
from tests.memory_engine import node
from tests.usage_story import HOUR, Past, begun, past, project
from tests.web_stage import ADMINISTRATOR, WebStage

pytestmark = pytest.mark.browser

DAY = timedelta(days=1)
SECRET = "secret-lab"


@dataclass(frozen=True)
class Scene:
    """A lab with a past."""

    stage: WebStage
    project: Account
    runs: Workload
    """Of the owner, user-a, paid by the project."""
    over: Workload
    """Of a member, user-b, paid by the project."""
    own: Account
    """Of user-a."""


@pytest.fixture(scope="module")
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """Some sessions, one of which runs."""
    folder = tmp_path_factory.mktemp("usage")
    with (
        fresh_database(request, folder, "dcloud") as database,
        fresh_database(request, folder, "jupyterhub") as hub,
        WebStage(
            folder,
            database_url=database,
            hub_database_url=hub,
            nodes=(node(name="gpu-01", gib=500, cores=100),),
        ) as stage,
    ):
        platform = stage.platform
        made = project(platform, SECRET, ("user-a",), ("user-b",), 200)
        past(platform, Past("user-a", 2, 9 * DAY, 5 * HOUR, project=SECRET, server="sweep"))
        over = past(platform, Past("user-b", 1, 4 * DAY, 3 * HOUR, busy=4, project=SECRET))
        past(platform, Past("user-a", 1, 2 * DAY, HOUR, reason="out of memory"))
        runs = begun(
            platform, Past("user-a", 2, 2 * HOUR, 24 * HOUR, project=SECRET, server="main")
        )
        with platform.database.reading() as connection:
            own = accounts.personal(connection, "user-a")
        assert own is not None
        yield Scene(stage, made, runs, over, own)


@pytest.fixture
def open_page(browser: Browser, scene: Scene) -> Iterator[Open]:
    """Opens a page as a user."""
    with windows(browser, scene.stage, first="usage", zone="Asia/Tokyo") as opened:
        yield opened


def paths(scene: Scene) -> dict[str, str]:
    account = scene.project.id
    return {
        "usage": f"usage?account={account}",
        "session": f"usage/session/{scene.runs.id}",
        "ledger": f"usage/ledger?account={account}",
        "project": f"usage/project/{SECRET}",
        "statement": f"usage/statement?account={account}",
    }


@pytest.mark.parametrize("name", ["usage", "session", "ledger", "project", "statement"])
def test_axe_finds_nothing_for_an_owner(scene: Scene, open_page: Open, name: str) -> None:
    page = open_page("user-a", paths(scene)[name])  # axe has styles of its own
    page.evaluate(
        "for (const each of document.querySelectorAll('main details')) "
        "{ each.removeAttribute('name'); each.open = true; }"
    )
    found = findings(page)
    assert not found, "\n".join(found)


def test_axe_finds_nothing_on_empty_pages_which_say_what_to_do(
    scene: Scene, open_page: Open
) -> None:
    page = open_page("newcomer")
    expect(page.get_by_text("No sessions yet.")).to_be_visible()
    expect(page.get_by_role("main").get_by_role("link", name="Start a server")).to_be_visible()
    found = findings(page)
    page.goto(f"{scene.stage.url}/services/dcloud/usage/ledger")
    expect(page.get_by_text("You have no account yet.")).to_be_visible()
    found += findings(page)
    assert not found, "\n".join(found)


def test_an_owner_walks_from_the_figures_to_a_session_and_the_project(
    scene: Scene, open_page: Open
) -> None:
    page = open_page("user-a")
    page.get_by_label("Account").select_option(label=SECRET)
    page.get_by_role("button", name="Show this account").click()
    figures = page.locator(".dc-figs").first
    expect(figures).to_contain_text(re.compile(r"Balance\s*182\.\d\d of 200 credits"))
    expect(figures).to_contain_text(re.compile(r"Burn rate now\s*2\.00 an hour"))
    expect(figures).to_contain_text(re.compile(r"GPU time, 30 days\s*17\.\d GPU-hours"))
    table = page.get_by_role("region", name="Sessions, table")
    expect(table.get_by_role("row")).to_have_count(4)
    expect(table).to_contain_text("Still running")
    page.get_by_role("link", name="7 days").click()
    expect(table.get_by_role("row")).to_have_count(3)
    page.get_by_role("link", name="Started").click()
    expect(table.get_by_role("columnheader", name="Started")).to_have_attribute(
        "aria-sort", "ascending"
    )
    table.get_by_role("link").nth(1).click()
    expect(page.get_by_role("heading", name="On the ledger")).to_be_visible()
    page.goto(f"{scene.stage.url}/services/dcloud/{paths(scene)['project']}")
    shares = page.get_by_role("region", name="Members and shares, table")
    expect(shares).to_contain_text("user-b")
    page.get_by_role("link", name="Statement of this month").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Statement, ")
    page.emulate_media(media="print")
    expect(page.get_by_role("button", name="Print")).to_be_hidden()
    expect(page.get_by_text("Balance now")).to_be_visible()


def test_a_member_sees_their_own_part_and_nothing_to_decide(scene: Scene, open_page: Open) -> None:
    page = open_page("user-b", f"usage?account={scene.project.id}")
    table = page.get_by_role("region", name="Sessions, table")
    expect(table.get_by_role("row")).to_have_count(2)
    expect(table).not_to_contain_text("main")
    page.get_by_role("link", name="The project and its members").click()
    expect(page.get_by_text("Owners of the project see every entry")).to_be_visible()
    shares = page.get_by_role("region", name="Your share, table")
    expect(shares).to_contain_text("Everybody else")
    expect(page.get_by_text("Owned by user-a")).to_be_visible()
    expect(shares).not_to_contain_text("user-a")
    expect(page.get_by_role("button", name=re.compile("Take out|Make"))).to_have_count(0)
    assert status_of(page, f"usage/session/{scene.runs.id}") == 403


def test_a_stranger_is_told_the_same_of_what_is_there_and_of_what_is_not(
    scene: Scene, open_page: Open
) -> None:
    page = open_page("stranger")
    answers = set()
    for path in (
        *(f"usage/session/{each}" for each in (scene.runs.id, "0" * 32)),
        *(f"usage/session/{each}/live" for each in (scene.runs.id, "0" * 32)),
        *(f"usage/project/{each}" for each in (SECRET, "no-such-lab")),
        *(
            f"{each}account={account}"
            for account in (scene.project.id, scene.own.id, "0" * 32)
            for each in ("usage?", "usage/running?", "usage/ledger?", "usage/statement?")
        ),
        *(
            f"usage/export?table={table}&account={account}"
            for account in (scene.project.id, "0" * 32)
            for table in ("sessions", "entries", "days", "hours", "members")
        ),
        *(
            f"usage/export?table={table}&session={session}"
            for session in (scene.over.id, "0" * 32)
            for table in ("session", "measures")
        ),
    ):
        answer = page.context.request.get(f"{scene.stage.url}/services/dcloud/{path}")
        text = re.sub(r'<meta name="xsrf" content="[^"]*">', "", answer.text())
        answers.add((answer.status, text))
    ((status, text),) = answers
    assert status == 403
    for word in (SECRET, "user-a", "user-b", scene.own.id, scene.project.id, "200"):
        assert word not in text


def status_of(page: Page, path: str) -> int:
    """How the service answers the page's own user."""
    root = page.url.split("/services/dcloud/")[0]
    return page.context.request.get(f"{root}/services/dcloud/{path}").status


def test_an_administrator_may_look_at_everybodys(scene: Scene, open_page: Open) -> None:
    page = open_page(ADMINISTRATOR, f"usage?account={scene.own.id}")
    expect(page.get_by_role("region", name="Sessions, table")).to_contain_text("user-a")
    for path in paths(scene).values():
        assert status_of(page, path) == 200


def test_nobody_is_sent_to_sign_in(scene: Scene) -> None:
    for path in ("usage", f"usage/session/{scene.runs.id}", "usage/export?table=sessions"):
        answer = httpx.get(f"{scene.stage.url}/services/dcloud/{path}", trust_env=False)
        assert answer.status_code == 302 and "oauth2/authorize" in answer.headers["location"]


# ---------------------------------------------------------------------------- charts, days


def test_charts_are_drawn_by_our_own_host_and_days_are_the_readers(
    scene: Scene, open_page: Open
) -> None:
    page = open_page("user-a", f"usage?account={scene.project.id}")
    expect(page.get_by_text("Times and days are those of Asia/Tokyo.")).to_be_visible()
    chart = page.locator("#c-days")
    expect(chart.locator("canvas")).to_have_count(1)
    expect(chart).to_have_role("img")
    expect(chart).to_have_attribute("aria-label", re.compile("Highest on .* in all"))
    painted = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)"
    assert chart.locator("canvas").evaluate(f"canvas => ({painted})(canvas).data.some(v => v > 0)")
    chart.locator(".u-over").hover(position={"x": 400, "y": 60})
    expect(page.locator(".u-read")).to_contain_text("GPU-hours")
    page.get_by_text("Show as a table").click()
    rows = page.get_by_role("region", name="Use by day, table").get_by_role("row")
    assert rows.count() >= 4


def test_graphs_of_a_session_are_drawn_each_with_its_words_and_one_table(
    scene: Scene, open_page: Open
) -> None:
    page = open_page("user-a", f"usage/session/{scene.runs.id}")
    expect(page.locator(".u-graphs canvas")).to_have_count(8)
    for name in ("GPU use", "GPU memory", "GPU power", "CPU", "Memory", "Disk", "Network"):
        expect(page.get_by_role("img", name=re.compile(f"^{name}")).first).to_be_visible()
    page.get_by_text("Show as a table").click()
    table = page.get_by_role("region", name="Measures, table")
    expect(table.get_by_role("columnheader")).to_have_count(10)


def test_without_scripts_everything_can_be_read(scene: Scene, open_page: Open) -> None:
    page = open_page("user-a", f"usage?account={scene.project.id}", script=False)
    expect(page.locator("#c-days")).to_be_hidden()
    page.get_by_text("Show as a table").click()
    expect(page.get_by_role("region", name="Use by day, table")).to_be_visible()
    expect(page.get_by_text("Times and days are UTC.")).to_be_visible()


def test_without_the_library_the_tables_are_open(scene: Scene, open_page: Open) -> None:
    page = open_page("user-a")

    def gone(route: Route) -> None:
        route.abort()

    page.route("**/uPlot.iife.min.js", gone)
    page.goto(f"{scene.stage.url}/services/dcloud/usage?account={scene.project.id}")
    expect(page.get_by_role("region", name="Use by day, table")).to_be_visible()
    expect(page.locator("#c-days")).to_be_hidden()


# ---------------------------------------------------------------------------- live, files, acts


def test_what_is_not_live_says_so_and_keeps_its_last_values(scene: Scene, open_page: Open) -> None:
    page = open_page("user-a", f"usage?account={scene.project.id}")
    state, row = page.locator("#u-state"), page.locator("#u-running .dc-run")
    expect(state).to_contain_text("Live every 5 s")
    page.evaluate("document.querySelector('[data-live]').dataset.seconds = 0.5")
    scene.stage.stop_web()
    try:
        expect(state).to_contain_text(re.compile(r"Not live: .* at \d\d:\d\d:\d\d"))
        expect(row).to_contain_text("main")
    finally:
        scene.stage.start_web()
    expect(state).to_contain_text("Live every 5 s")


def test_tables_come_as_files(scene: Scene, open_page: Open) -> None:
    page = open_page("user-a", f"usage?account={scene.project.id}")
    with page.expect_download() as waits:
        page.locator("[aria-labelledby=h-sess]").get_by_role("link", name="CSV").click()
    assert waits.value.suggested_filename.startswith(f"sessions-{SECRET}-")
    with open(waits.value.path(), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["user"] for row in rows} == {"user-a", "user-b"}
    with page.expect_download() as waits:
        page.locator("[aria-labelledby=h-sess]").get_by_role("link", name="Parquet").click()
    with open(waits.value.path(), "rb") as file:
        assert file.read(4) == b"PAR1"


def test_an_owner_adds_somebody_and_passes_credits_on(scene: Scene, open_page: Open) -> None:
    page = open_page("user-a", f"usage/project/{SECRET}")
    scene.stage.token_of("user-z")  # the hub has to know them
    page.get_by_text("Add somebody").click()
    page.get_by_label("User").fill("user-z")
    page.get_by_role("button", name="Add to the project").click()
    shares = page.get_by_role("region", name="Members and shares, table")
    expect(shares).to_contain_text("user-z")
    page.get_by_text("Pass credits on to another account of yours").click()
    form = page.locator("form", has=page.locator("#t-amount"))
    form.get_by_label("Credits").fill("1.50")
    form.get_by_label("Reason").fill("for a test")
    form.get_by_role("button", name="Transfer").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("1.50 credits")
    dialog.get_by_role("button", name="Transfer", exact=True).click()
    moves = page.get_by_role("region", name="Last grants and transfers, table")
    expect(moves).to_contain_text("−1.50")
    page.get_by_role("button", name="Take out user-z").click()
    page.get_by_role("dialog").get_by_role("button", name="Take out").click()
    expect(shares).not_to_contain_text("user-z")


def test_what_ends_leaves_the_page_without_a_reload(scene: Scene, open_page: Open) -> None:
    found = begun(scene.stage.platform, Past("user-q", 1, HOUR, 24 * HOUR, server="short"))
    page, other = open_page("user-q"), open_page("user-q", f"usage/session/{found.id}")
    expect(page.locator("#u-running")).to_contain_text("short")
    for each in (page, other):
        each.evaluate("document.querySelector('[data-live]').dataset.seconds = 0.5")
    scene.stage.end("user-q")
    expect(page.get_by_text("Nothing runs on this account.")).to_be_visible()
    expect(other.locator("#u-state")).to_have_text("It is over.")
