"""Accounts, rates, limits, requests and use of the lab in a real Chromium, behind a real hub.

Real: proxy, hub, sign-in, the web service and its API, the ledger. Simulated: the engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from dcloud_spawner import accounting, asking, granting, overrides, transfers
from dcloud_spawner.ledger.cost import Quantity
from dcloud_spawner.ledger.rates import MICRO, Resource
from dcloud_spawner.platform import utc_now
from dcloud_spawner.roles import DEFAULT_ROLES
from dcloud_spawner.store import accounts, asks, entries, meters
from dcloud_spawner.store.accounts import Account, Role
from dcloud_spawner.store.asks import Ask, AskState, NewAsk, What
from dcloud_spawner.store.entries import Kind, NewEntry
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.grants import Every
from dcloud_spawner.store.ledger_schema import usage_hours
from dcloud_spawner.store.meters import HourlyUse
from tests import platforms
from tests.browser.test_pages import findings
from tests.browser.windows import Open, windows
from tests.conftest import fresh_database
from tests.memory_engine import node
from tests.web_stage import ADMINISTRATOR, WebStage

pytestmark = pytest.mark.browser

BOSS = Actor(ADMINISTRATOR, "10.0.0.9")
OPEN_ALL = """for (const each of document.querySelectorAll("details")) {
  each.removeAttribute("name");
  each.open = true;
}"""
PAGES = ("requests", "accounts", "rates", "limits?user=user-b", "lab")


@pytest.fixture(scope="module")
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebStage]:
    """Two nodes of four GPUs, and the built-in roles."""
    folder = tmp_path_factory.mktemp("administration")
    with (
        fresh_database(request, folder, "dcloud") as database,
        fresh_database(request, folder, "jupyterhub") as hub,
        WebStage(
            folder,
            database_url=database,
            hub_database_url=hub,
            nodes=(node(name="gpu-01"), node(name="gpu-02")),
            roles=dict(DEFAULT_ROLES),
        ) as running,
    ):
        yield running


@pytest.fixture
def open_page(browser: Browser, stage: WebStage) -> Iterator[Open]:
    """Opens a page as a user."""
    with windows(browser, stage) as opened:
        yield opened


def account_of(stage: WebStage, name: str) -> Account:
    with stage.platform.database.reading() as connection:
        found = accounts.project(connection, name) or accounts.personal(connection, name)
    assert found is not None
    return found


def ask_of(stage: WebStage, user: str) -> Ask:
    with stage.platform.database.reading() as connection:
        return asks.page(connection, user=user)[0]


def project(stage: WebStage, name: str, *, credits: int = 600) -> Account:
    """A project with credits, an owner and a member."""
    made = accounting.create_project(
        stage.platform, name, ["user-o"], BOSS, title=f"{name.capitalize()} group"
    )
    accounting.set_member(stage.platform, made.id, "user-m", Role.MEMBER, BOSS)
    granting.grant(
        stage.platform, made.id, credits * MICRO, BOSS, reason="Year 2026", every=Every.MONTH
    )
    return account_of(stage, name)


def ask(stage: WebStage, user: str, what: What, value: object, **values: object) -> Ask:
    until = utc_now() + timedelta(days=60)
    new = NewAsk(what, value, "Training for the paper, which is due in May.", until, **values)  # type: ignore[arg-type]
    return asking.ask(stage.platform, new, Actor(user))


def charge(stage: WebStage, account: Account, microcredits: int, key: str) -> int:
    """A charge on the ledger; returns its number."""
    new = NewEntry(account.id, Kind.CHARGE, -microcredits, key, "meter", "1 × A100")
    with stage.platform.database.transaction() as connection:
        return entries.post(connection, new, utc_now()).entry.id


def used(stage: WebStage, account: Account, user: str, days: int = 20) -> None:
    """A past with measured hours."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    with stage.platform.database.transaction() as connection:
        for number in range(days):
            at = hour - timedelta(days=number + 1)
            length = 3_600_000_000 * (1 + number % 5)
            rows = [
                HourlyUse(account.id, user, model, at, Quantity(length), length // 3600)
                for model in ("NVIDIA A100-SXM4-80GB", "NVIDIA RTX A5000")[: 1 + number % 2]
            ]
            meters.add_use(connection, rows)
        mine = usage_hours.c.user == user
        connection.execute(
            usage_hours.update()
            .where(mine)
            .values(
                measured_microseconds=usage_hours.c.gpu_microseconds * 9 // 10,
                busy_microseconds=usage_hours.c.gpu_microseconds // 3,
                energy_millijoules=900_000_000,
            )
        )


def story(stage: WebStage) -> Account:
    """Everything that the pages can show at once."""
    name = f"vision-{datetime.now(UTC):%H%M%S%f}"
    made = project(stage, name)
    entry = charge(stage, made, 13_050_000, f"charge:{name}")
    transfers.refund(stage.platform, entry, BOSS, reason="The node failed.", microcredits=MICRO)
    charge(stage, made, 4_000_000, f"charge-2:{name}")
    granting.grant(
        stage.platform,
        made.id,
        50 * MICRO,
        BOSS,
        reason="For the deadline",
        ends_at=utc_now() + timedelta(days=20),
    )
    used(stage, made, f"user-{name[-4:]}")
    accounting.change_rate(
        stage.platform, Resource.GPU, 2 * MICRO, BOSS, gpu_model="NVIDIA A100-SXM4-80GB"
    )
    accounting.change_rate(
        stage.platform,
        Resource.CPU_CORE,
        10_000,
        BOSS,
        tier="gold",
        valid_from=utc_now() + timedelta(days=30),
    )
    overrides.set_override(
        stage.platform,
        "user-k",
        "gpus",
        4,
        "A class of four",
        BOSS,
        ends_at=utc_now() + timedelta(days=9),
    )
    ask(stage, f"ann-{name[-6:]}", What.CREDITS, 40 * MICRO)
    ask(stage, f"ben-{name[-6:]}", What.LIMIT, 4, limit="gpus")
    ask(stage, f"cat-{name[-6:]}", What.ROLE, "premium")
    done = ask(stage, f"dan-{name[-6:]}", What.LIMIT, 64, limit="memory_gib")
    asking.grant(stage.platform, done.id, BOSS, value=48, words="48 GiB is what a node has left.")
    return made


def form_of(page: Page) -> Locator:
    """The one form of a page that does something."""
    return page.locator("form[data-path]")


def in_days(days: int) -> str:
    """As a field of a time has it."""
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT10:00")


# ---------------------------------------------------------------------------- looking


def test_axe_finds_nothing_on_empty_pages_and_full_ones(stage: WebStage, open_page: Open) -> None:
    page = open_page(ADMINISTRATOR, "requests")
    expect(page.get_by_text("Nobody waits for an answer.")).to_be_visible()
    found = findings(page)
    page.goto(f"{stage.url}/services/dcloud/lab")
    expect(page.get_by_text("Nothing ran in this time")).to_be_visible()
    made = story(stage)
    platforms.start(stage.platform, "user-b", 2, hours=4)
    for path in (*PAGES, f"accounts/{made.id}"):
        page.goto(f"{stage.url}/services/dcloud/{path}")
        page.evaluate(OPEN_ALL)
        found += [f"{path}: {each}" for each in findings(page)]
    platforms.end_all(stage.platform)
    assert not found, "\n".join(found)


def test_strangers_and_owners_get_nothing_of_the_administration(
    stage: WebStage, open_page: Open
) -> None:
    made = project(stage, "hidden")
    pages = ("accounts", f"accounts/{made.id}", "accounts/nothing", "rates", "limits", "lab")
    for user in ("user-o", "user-z"):
        page = open_page(user, "requests")
        links = page.get_by_role("navigation", name="Usage and credits")
        for name in ("Accounts", "Rates", "Limits", "Lab usage"):
            expect(links.get_by_role("link", name=name)).to_have_count(0)
        for path in pages:
            answer = page.goto(f"{stage.url}/services/dcloud/{path}")
            assert answer is not None and answer.status == 403, path
            text = page.locator("main").inner_text()
            assert "Hidden group" not in text and "Only administrators see this page." in text
            assert user == "user-o" or "Hidden" not in page.content()
    with stage.api("user-z") as api:
        for table in ("lab-users", "lab-days", "accounts", "rates", "limits"):
            refused = api.get(f"{stage.url}/services/dcloud/usage/export?table={table}")
            assert refused.status_code == 403, table
            assert "Hidden" not in refused.text
        own = api.get(f"{stage.url}/services/dcloud/usage/export?table=requests")
        assert own.status_code == 200 and len(own.text.splitlines()) == 1


# ---------------------------------------------------------------------------- asking


def test_a_user_asks_and_reads_what_an_administrator_gave_of_it(
    stage: WebStage, open_page: Open
) -> None:
    page = open_page("user-ask", "requests")
    expect(page.get_by_text("You have not asked for anything yet.")).to_be_visible()
    page.get_by_role("radio", name="A higher limit").check(force=True)
    form_of(page).get_by_label("Limit", exact=True).select_option("gpus")
    form_of(page).get_by_label("Up to").fill("8")
    form_of(page).get_by_label("Until").fill(in_days(30))
    form_of(page).get_by_label("Reason").fill("A paper that is due in May.")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#d-done")).to_have_text("Asked. The answer will stand here.")
    own = page.get_by_role("region", name="Requests, table")
    expect(own).to_contain_text("GPUs at once: 8")
    expect(own).to_contain_text("Open")

    boss = open_page(ADMINISTRATOR, "requests")
    links = boss.get_by_role("navigation", name="Usage and credits")
    expect(links.get_by_role("link", name="Ask for more")).to_have_text(re.compile(r"\d open"))
    asked = boss.get_by_role("article", name="user-ask: GPUs at once: 8")
    expect(asked).to_contain_text("A paper that is due in May.")
    expect(asked).to_contain_text("GPUs at once now 2")
    asked.get_by_text("Grant the request of user-ask").click()
    asked.get_by_label("Up to").fill("4")
    asked.get_by_label("Answer").fill("Four is what one node has.")
    asked.get_by_role("button", name="Grant…").click()
    question = boss.get_by_role("dialog")
    expect(question).to_contain_text("Grant user-ask GPUs at once: 4?")
    expect(question).to_contain_text("It counts at once")
    question.get_by_role("button", name="Grant", exact=True).click()
    expect(boss.locator("#d-done")).to_have_text("Granted to user-ask.")
    expect(boss.get_by_role("article", name="user-ask")).to_have_count(0)

    page.reload()
    expect(own).to_contain_text("Granted in part")
    expect(own).to_contain_text("Four is what one node has.")
    mine = page.get_by_role("region", name="Your limits, table")
    expect(mine.get_by_role("row", name="GPUs at once")).to_contain_text("Set for you")
    assert ask_of(stage, "user-ask").given == 4


def test_a_request_is_withdrawn_and_one_is_declined_with_words(
    stage: WebStage, open_page: Open
) -> None:
    page = open_page("user-two", "requests?what=credits&value=12.5")
    expect(form_of(page).get_by_label("Credits", exact=True).last).to_have_value("12.5")
    form_of(page).get_by_label("Until").fill(in_days(30))
    form_of(page).get_by_label("Reason").fill("A class of thirty.")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_text("12.50 credits for user-two").first).to_be_visible()
    page.get_by_role("button", name="Withdraw").click()
    page.get_by_role("dialog").get_by_role("button", name="Withdraw").click()
    expect(page.locator("#d-done")).to_have_text("Withdrawn.")
    assert ask_of(stage, "user-two").state is AskState.WITHDRAWN

    ask(stage, "user-three", What.ROLE, "premium")
    boss = open_page(ADMINISTRATOR, "requests")
    asked = boss.get_by_role("article", name="user-three: the role premium")
    asked.get_by_text("Decline the request of user-three").click()
    asked.get_by_role("button", name="Decline", exact=True).click()
    assert ask_of(stage, "user-three").state is AskState.OPEN  # words are missing
    asked.get_by_label("Why").fill("Not this year.")
    asked.get_by_role("button", name="Decline", exact=True).click()
    expect(boss.locator("#d-done")).to_have_text("Declined; user-three reads why.")
    assert ask_of(stage, "user-three").answer == "Not this year."


def test_owners_read_what_is_asked_for_their_project(stage: WebStage, open_page: Open) -> None:
    made = project(stage, "asked")
    ask(stage, "user-m", What.CREDITS, 40 * MICRO, account=made.id)
    page = open_page("user-o", "requests")
    shown = page.get_by_role("region", name="Requests, table").get_by_role(
        "row", name="40.00 credits for Asked group"
    )
    expect(shown).to_contain_text("asked by user-m")
    expect(shown.get_by_role("button")).to_have_count(0)
    page = open_page("user-z", "requests")
    assert "Asked group" not in page.content()


def test_what_is_refused_is_said_in_the_form(stage: WebStage, open_page: Open) -> None:
    page = open_page("user-four", "requests?what=limit&limit=gpus&value=2")
    expect(form_of(page).get_by_label("Up to")).to_have_value("2")
    form_of(page).get_by_label("Until").fill(in_days(30))
    form_of(page).get_by_label("Reason").fill("As much as I have.")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("You have that already.")
    form_of(page).get_by_label("Up to").fill("3")
    form_of(page).get_by_label("Until").fill("2020-01-01T10:00")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("this time is over")
    expect(form_of(page).get_by_label("Until")).to_be_focused()


# ---------------------------------------------------------------------------- accounts


def test_a_project_is_made_and_gets_credits_every_month(stage: WebStage, open_page: Open) -> None:
    for user in ("user-s", "user-t", "user-new"):
        stage.token_of(user)  # the hub has to know them
    page = open_page(ADMINISTRATOR, "accounts")
    page.get_by_label("Name", exact=True).last.fill("speech")
    page.get_by_label("Title").fill("Speech group")
    page.get_by_label("Owners").fill("user-s, user-tt")
    page.get_by_role("button", name="Create project").click()
    refused = page.get_by_role("alert")
    expect(refused).to_contain_text("Owners: nobody has the name user-tt.")
    page.get_by_label("Owners").fill("user-s, user-t")
    page.get_by_role("button", name="Create project").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Speech group")
    expect(page.locator("#d-done")).to_contain_text("The project speech is there.")
    made = account_of(stage, "speech")
    page.get_by_text("Grant credits", exact=True).click()
    form = page.locator("#act-grant")
    form.get_by_label("Credits").fill("100.5")
    form.get_by_label("How often").select_option("month")
    form.get_by_label("stays for the next period").check()
    form.get_by_label("Last period").fill(in_days(200))
    form.get_by_label("Reason").fill("Budget of 2027")
    form.get_by_role("button", name="Grant…").click()
    question = page.get_by_role("dialog")
    expect(question).to_contain_text("Grant 100.5 credits to Speech group, every month?")
    expect(question).to_contain_text("What is left of a period stays.")
    question.get_by_role("button", name="Do nothing").click()
    assert account_of(stage, "speech").balance_microcredits == 0
    form.get_by_role("button", name="Grant…").click()
    question.get_by_role("button", name="Grant", exact=True).click()
    expect(page.locator("#d-done")).to_have_text("Granted: 100.5 credits, every month.")
    assert account_of(stage, "speech").balance_microcredits == 100_500_000
    grants = page.get_by_role("region", name="Grants, table")
    expect(grants).to_contain_text("carried over, 1 given")
    grants.get_by_role("button", name="End").click()
    page.get_by_role("dialog").get_by_role("button", name="End grant").click()
    expect(grants).to_contain_text("Ended early")
    people = page.get_by_role("region", name="Members and owners, table")
    people.get_by_role("button", name="Take out user-t").click()
    page.get_by_role("dialog").get_by_role("button", name="Take out").click()
    expect(people.get_by_role("rowheader", name="user-t")).to_have_count(0)
    page.get_by_label("User", exact=True).fill("user-new")
    page.get_by_role("button", name="Add to the project").click()
    expect(people.get_by_role("row", name="user-new")).to_contain_text("Member")
    page.get_by_role("button", name="Close this project").click()
    page.get_by_role("dialog").get_by_role("button", name="Close project").click()
    expect(page.get_by_text("It pays for nothing new.")).to_be_visible()
    assert account_of(stage, made.name).closed_at is not None


def test_whether_a_name_that_nobody_has_yet_is_right_is_asked(
    stage: WebStage, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = project(stage, "early")
    elsewhere = stage.platform.settings.model_copy(update={"authenticator": "oauth.Of.Another"})
    monkeypatch.setattr(stage.platform, "settings", elsewhere)
    page = open_page(ADMINISTRATOR, f"accounts/{made.id}")
    page.get_by_label("User", exact=True).fill("first-day")
    page.get_by_role("button", name="Add to the project").click()
    question = page.get_by_role("dialog")
    expect(question).to_contain_text("Add somebody who is not here yet?")
    expect(question).to_contain_text("first-day")
    question.get_by_role("button", name="Do nothing").click()
    page.get_by_role("button", name="Add to the project").click()
    question.get_by_role("button", name="The name is right").click()
    people = page.get_by_role("region", name="Members and owners, table")
    expect(people.get_by_role("row", name="first-day")).to_contain_text("Member")


def test_a_charge_is_given_back_and_a_balance_set_right(stage: WebStage, open_page: Open) -> None:
    made = project(stage, "robots")
    whole = charge(stage, made, 13_050_000, "robots-1")
    part = charge(stage, made, 4_000_000, "robots-2")
    page = open_page(ADMINISTRATOR, f"accounts/{made.id}")
    page.get_by_role("link", name="Charges").click()
    page.get_by_role("button", name=f"Give back entry {whole}").click()
    question = page.get_by_role("dialog")
    expect(question).to_contain_text("Give back the charge of 13.05 credits")
    question.get_by_label("Reason").fill("The node failed.")
    question.get_by_role("button", name="Give back").click()
    expect(page.locator("#d-done")).to_contain_text("was given back")
    assert account_of(stage, "robots").balance_microcredits == 596_000_000
    page.get_by_role("button", name=f"Give back entry {whole}").click()
    question.get_by_label("Reason").fill("Once more.")
    question.get_by_role("button", name="Give back").click()
    expect(question.get_by_role("alert")).to_contain_text("0.000000 credits are left to refund")
    question.get_by_role("button", name="Do nothing").click()
    page.get_by_text("Give back a part of a charge").click()
    form = page.locator("details[open] form")
    form.get_by_label("Entry").fill(str(part))
    form.get_by_label("Credits").fill("1,5")
    form.get_by_label("Reason").fill("Half of it was ours.")
    form.get_by_role("button", name="Give back…").click()
    question.get_by_role("button", name="Give back").click()
    expect(page.locator("#d-done")).to_contain_text(f"1,5 credits of entry {part}")
    page.get_by_text("Set the balance right").click()
    form = page.locator("details[open] form")
    form.get_by_label("By").fill("-7.5")
    form.get_by_label("Reason").fill("Granted twice by hand.")
    form.get_by_role("button", name="Set right…").click()
    question.get_by_role("button", name="Set right").click()
    expect(page.locator("#d-done")).to_have_text("The balance was changed by -7.5 credits.")
    assert account_of(stage, "robots").balance_microcredits == 590_000_000
    page.get_by_text("Change the budget").click()
    form = page.locator("details[open] form")
    form.get_by_label("Budget").select_option("soft")
    form.get_by_role("button", name="Change…").click()
    expect(question).to_contain_text("Budget of Robots group: Soft")
    question.get_by_role("button", name="Change budget").click()
    expect(page.locator("#d-done")).to_have_text("The budget was changed.")
    assert account_of(stage, "robots").budget.value == "soft"


def test_an_owner_passes_credits_on(stage: WebStage, open_page: Open) -> None:
    made, other = project(stage, "giver"), project(stage, "taker")
    page = open_page(ADMINISTRATOR, f"accounts/{made.id}")
    page.get_by_text("Transfer credits").click()
    expect(page.get_by_text("Only owners of an account give its credits")).to_be_visible()
    accounting.set_member(stage.platform, made.id, ADMINISTRATOR, Role.OWNER, BOSS)
    page.reload()
    page.get_by_text("Transfer credits").click()
    form = page.locator("details[open] form")
    form.get_by_label("Credits").fill("50")
    form.get_by_label("To").select_option(other.id)
    form.get_by_label("Reason").fill("For the class")
    form.get_by_role("button", name="Transfer…").click()
    question = page.get_by_role("dialog")
    expect(question).to_contain_text("Transfer 50 credits from Giver group to Taker group?")
    question.get_by_role("button", name="Transfer", exact=True).click()
    expect(page.locator("#d-done")).to_have_text("50 credits went to Taker group.")
    entries_shown = page.get_by_role("region", name="Entries, table")
    expect(entries_shown).to_contain_text("to Taker group. For the class")
    assert account_of(stage, "taker").balance_microcredits == 650 * MICRO


def test_a_double_click_does_nothing_twice(stage: WebStage, open_page: Open) -> None:
    made = project(stage, "once")
    page = open_page(ADMINISTRATOR, f"accounts/{made.id}")
    page.get_by_text("Set the balance right").click()
    form = page.locator("details[open] form")
    form.get_by_label("By").fill("5")
    form.get_by_label("Reason").fill("By one click")
    form.get_by_role("button", name="Set right…").click()
    page.get_by_role("dialog").get_by_role("button", name="Set right").dblclick()
    expect(page.locator("#d-done")).to_contain_text("The balance was changed")
    assert account_of(stage, "once").balance_microcredits == 605_000_000


# ---------------------------------------------------------------------------- rates and limits


def test_a_rate_is_planned_and_the_present_one_stays(stage: WebStage, open_page: Open) -> None:
    page = open_page(ADMINISTRATOR, "rates")
    now = page.get_by_role("region", name="Rates now, table")
    form_of(page).get_by_label("What", exact=True).select_option("memory_gib")
    expect(form_of(page).get_by_label("GPU model")).to_be_hidden()
    form_of(page).get_by_label("Credits").fill("0.002")
    form_of(page).get_by_label("From", exact=True).fill(in_days(40))
    page.get_by_role("button", name="Set…").click()
    question = page.get_by_role("dialog")
    expect(question).to_contain_text("0.002 credits for Memory: an hour of one GiB?")
    expect(question).to_contain_text("everything before stays")
    question.get_by_role("button", name="Set the rate").click()
    expect(page.get_by_role("region", name="Planned rates, table")).to_contain_text("0.002")
    expect(now.get_by_role("row", name="Memory")).to_contain_text("0.00")
    form_of(page).get_by_label("Credits").fill("1")
    form_of(page).get_by_label("From", exact=True).fill("2020-01-01T10:00")
    page.get_by_role("button", name="Set…").click()
    question.get_by_role("button", name="Set the rate").click()
    expect(question.get_by_role("alert")).to_contain_text("A rate never changes the past")


def test_a_limit_is_set_for_one_person_and_removed(stage: WebStage, open_page: Open) -> None:
    page = open_page(ADMINISTRATOR, "limits?user=user-lim")
    person = page.get_by_role("region", name="Limits of user-lim, table")
    expect(person.get_by_role("row", name="GPUs at once")).to_contain_text("Role standard")
    expect(form_of(page).get_by_label("User", exact=True)).to_have_value("user-lim")
    form_of(page).get_by_label("Up to").fill("6")
    form_of(page).get_by_label("Until").fill(in_days(30))
    form_of(page).get_by_label("Reason").fill("A class")
    page.get_by_role("button", name="Set…").click()
    question = page.get_by_role("dialog")
    expect(question).to_contain_text("For user-lim: GPUs at once 6?")
    question.get_by_role("button", name="Set the limit").click()
    expect(page.locator("#d-done")).to_have_text("GPUs at once of user-lim: 6.")
    expect(person.get_by_role("row", name="GPUs at once")).to_contain_text("Set for this person")
    form_of(page).get_by_label("Limit", exact=True).select_option("gpu_models")
    form_of(page).get_by_label("Models").fill("NVIDIA A100-SXM4-80GB")
    form_of(page).get_by_label("Reason").fill("Only these")
    page.get_by_role("button", name="Set…").click()
    question.get_by_role("button", name="Set the limit").click()
    expect(person.get_by_role("row", name="GPU models")).to_contain_text("A100")
    everybody = page.get_by_role("region", name="Limits set for one person, table")
    everybody.get_by_role("button", name="Remove GPUs at once of user-lim").click()
    expect(question).to_contain_text("The limit of their roles counts again at once.")
    question.get_by_role("button", name="Remove").click()
    expect(page.locator("#d-done")).to_contain_text("again as their roles say")
    expect(person.get_by_role("row", name="GPUs at once")).to_contain_text("Role standard")


# ---------------------------------------------------------------------------- use of the lab


def test_use_of_the_lab_adds_up_in_every_table_and_file(stage: WebStage, open_page: Open) -> None:
    made = project(stage, "sums")
    used(stage, made, "user-sums")
    page = open_page(ADMINISTRATOR, "lab")

    def total(name: str) -> float:
        cells = page.get_by_role("region", name=name).locator("tbody tr td:nth-child(2)")
        return round(sum(float(text.replace(",", "")) for text in cells.all_inner_texts()), 1)

    page.get_by_text("The same as a table").click()
    held = page.locator(".dc-figs dd").first.inner_text()
    shown = float(re.sub(r"[^\d.]", "", held))
    names = ("Use by user, table", "Use by project, table", "Use by GPU model, table", "Use by day")
    assert {total(name) for name in names} == {shown} and shown >= 90
    row = page.get_by_role("region", name="Use by user, table").get_by_role("row", name="user-sums")
    expect(row).to_contain_text("63 %")
    page.get_by_role("link", name="7 days").click()
    expect(page.get_by_role("link", name="7 days")).to_have_attribute("aria-current", "true")
    less = float(re.sub(r"[^\d.]", "", page.locator(".dc-figs dd").first.inner_text()))
    assert 0 < less < shown
    with stage.api(ADMINISTRATOR) as api:
        sent = api.get(f"{stage.url}/services/dcloud/usage/export?table=lab-users&days=30").text
        wrong = api.get(f"{stage.url}/services/dcloud/lab?from=2026-02-01&to=2026-01-01")
    assert "user-sums" in sent and "unused_share" in sent
    assert wrong.status_code == 400 and "after the end" in wrong.text
