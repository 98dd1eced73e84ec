"""What a choice costs, who pays, what limits leave, and what is blocked, in a real Chromium."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from dcloud_spawner.form.purse import live_purse, price_words
from dcloud_spawner.live.purse import Payer, Purse, Rates
from dcloud_spawner.store.accounts import Budget
from tests.browser.conftest import SignIn
from tests.browser.staged import StagedHub
from tests.browser.story import A100, A5000, holding, queued
from tests.browser.test_pages import findings

pytestmark = pytest.mark.browser

PURSE: dict[str, Any] = {
    "payers": [
        ["", "user-a", "hard", 38.0],
        ["vision-lab", "vision-lab", "hard", 412.6],
        ["nlp-course", "nlp-course", "hard", 1.2],
    ],
    "gpu": {"": 1, A100: 2.4, A5000: 1},
    "cpu_core": 0.01,
    "memory_gib": 0.00375,
    "bounds": {"gpus": [3, {"train": 1}], "memory_gib": [64, {}], "hours": [12, {}]},
}
LAST = {"profile": "pytorch", "gpus": 2, "gpu_model": A100, "memory_gib": 64, "cpus": 16}
BLOCKED = {
    "code": "budget",
    "reason": "vision-lab has 1.20 credits left, the first hour costs 2.00.",
}


def blocked() -> dict[str, Any]:
    return queued(
        place=None,
        message="It may not start yet.",
        blocked=BLOCKED,
        reasons=[BLOCKED["reason"]],
        expected=None,
        latest_start=None,
        alternatives=[],
        record=None,
        on_cpu=False,
    )


def open_page(page: Page, hub: StagedHub, purse: dict[str, Any], **last: Any) -> None:
    hub.pool(purse=purse, last_choice={**LAST, **last})
    page.goto(f"{hub.url}/hub/spawn")


def test_the_price_follows_the_choice_exactly(page: Page, hub: StagedHub) -> None:
    open_page(page, hub, PURSE, account="vision-lab")
    expect(page.locator("#o-price")).to_have_text("5.20")
    expect(page.locator("#o-parts")).to_have_text("GPUs 4.80, memory and cores 0.40")
    expect(page.locator("#o-total")).to_have_text("20.80 at most")
    expect(page.locator("#o-left")).to_have_text("412.60 → 391.80")
    page.locator("[name='pytorch.gpus'][value='1']").check(force=True)
    expect(page.locator("#o-price")).to_have_text("2.80")
    expect(page.locator("#o-said")).to_contain_text("2.80 credits an hour")
    page.locator("[name='pytorch.memory_gib'][value='16']").check(force=True)
    page.locator("[name='pytorch.cpus'][value='4']").check(force=True)
    expect(page.locator("#o-price")).to_have_text("2.50")
    page.locator("[name='pytorch.hours']").fill("3")
    expect(page.locator("#o-hours")).to_have_text("3")
    expect(page.locator("#o-total")).to_have_text("7.50 at most")
    page.get_by_label("GPU model").and_(page.locator("select:visible")).select_option("")
    expect(page.locator("#o-price")).to_have_text("1.10–2.50")
    page.get_by_role("radio", name="CPU only").check(force=True)
    expect(page.locator("#o-parts")).to_be_hidden()


PRICED = """async (wishes) => {
  const price = await import("/hub/dcloud/static/price.js");
  return wishes.map(({ mine, payer, models, wish, hours }) => {
    const found = price.priceOf(mine, models, wish), total = found.high * BigInt(hours);
    const no = price.short(mine, payer, found.high, hours);
    return [price.span(found.low, found.high), price.figure(total), price.leftOf(payer, total),
      price.parts(found, wish.gpus), no && !no.aside ? no.text : "", no?.aside ? no.text : ""];
  });
}"""


def test_browser_and_server_reckon_alike_to_the_last_micro_credit(
    page: Page, hub: StagedHub
) -> None:
    page.goto(f"{hub.url}/hub/spawn")
    pick = random.Random(5)
    wishes, expected = [], []
    for _ in range(300):
        rates = Rates(
            {"": pick.randrange(10**7), A100: pick.randrange(10**12), A5000: pick.randrange(10**7)},
            pick.randrange(10**6),
            pick.randrange(10**5),
        )
        balance = pick.choice([pick.randrange(-(10**9), 10**10), pick.randrange(2**60)])
        left = balance - pick.randrange(10**8)
        payer = Payer("", "user-a", pick.choice(list(Budget)), balance, left)
        purse = Purse((payer,), rates, hold_seconds=pick.choice([None, 3600]))
        models = tuple(pick.sample([A100, A5000], pick.randrange(3)))
        asked = pick.randrange(5), pick.choice([0.25, 1.7, 16, 333]), pick.choice([0.5, 2, 7]), 7
        words = price_words(purse, payer, models, asked, datetime.now(UTC))
        expected.append(
            [words.an_hour, words.total, words.left, words.parts, words.short, words.aside]
        )
        mine: Any = live_purse(purse, ())
        gpus, memory, cpus, hours = asked
        wish = {"gpus": gpus, "memory_gib": memory, "cpus": cpus}
        paid = {"mine": mine, "payer": mine["payers"][0], "models": models}
        wishes.append({**paid, "wish": wish, "hours": hours})
    assert page.evaluate(PRICED, wishes) == expected


def test_a_rate_that_changes_reaches_the_open_page(page: Page, hub: StagedHub) -> None:
    open_page(page, hub, PURSE)
    expect(page.locator("#o-price")).to_have_text("5.20")
    hub.pool(purse={**PURSE, "gpu": {"": 1, A100: 3}}, last_choice=LAST)
    expect(page.locator("#o-price")).to_have_text("6.40")


def test_who_pays_is_chosen_and_kept_and_who_cannot_says_why(
    page: Page, hub: StagedHub, user: str
) -> None:
    hub.stage(user, event=queued())
    open_page(page, hub, PURSE)
    poor = page.locator("[name=account][value='nlp-course']")
    expect(poor).to_be_disabled()
    expect(poor.locator("xpath=..")).to_contain_text("1.20 credits, 5.20 needed")
    expect(page.locator("#d-payers")).to_have_text(
        "nlp-course cannot pay: 1.20 credits, 5.20 needed."
    )
    page.locator("[name=account][value='vision-lab']").check(force=True)
    expect(page.locator("#o-payer")).to_have_text("vision-lab")
    page.get_by_role("radio", name="CPU only").check(force=True)
    expect(poor).to_be_enabled()
    page.get_by_role("radio", name="PyTorch").check(force=True)
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")
    assert hub.posted()["account"] == "vision-lab"


def test_with_only_ones_own_account_nobody_is_asked_who_pays(page: Page, hub: StagedHub) -> None:
    open_page(page, hub, {**PURSE, "payers": PURSE["payers"][:1]})
    expect(page.locator("#o-price")).to_have_text("5.20")
    expect(page.locator("#payers")).to_have_count(0)
    expect(page.locator("#o-payer")).to_have_text("Your account")


def test_a_hard_budget_that_cannot_pay_is_a_clear_no_with_the_next_step(
    page: Page, hub: StagedHub
) -> None:
    open_page(page, hub, {**PURSE, "payers": [["", "user-a", "hard", 3.0]]})
    note = page.locator("#o-note")
    expect(note.locator("b")).to_have_text("Not enough credits")
    expect(note).to_contain_text("Your account has 3.00 credits left, the first hour costs 5.20.")
    expect(page.locator("#o-left")).to_have_text("3.00 → 0.00")
    expect(page.locator("#o-go")).to_be_disabled()
    more = note.get_by_role("link", name="Ask for more")
    expect(more).to_have_attribute("href", "/services/dcloud/requests")
    page.locator("[name='pytorch.gpus'][value='1']").check(force=True)
    expect(page.locator("#o-go")).to_be_enabled()
    expect(note).to_contain_text("The credits last for about 1 h 4 min, then it is stopped")
    expect(more).to_be_hidden()


def test_what_running_servers_have_set_aside_is_waited_for(page: Page, hub: StagedHub) -> None:
    open_page(page, hub, {**PURSE, "payers": [["", "user-a", "hard", 8.0, 5.0]]})
    expect(page.locator("#o-note b")).to_have_text("Waits for credits")
    expect(page.locator("#o-note")).to_contain_text(
        "beside what its running servers have set aside"
    )
    expect(page.locator("#o-go")).to_have_text("Join the queue")


def test_limits_close_choices_with_the_reason_and_name_the_servers_that_use_them(
    page: Page, hub: StagedHub
) -> None:
    open_page(page, hub, PURSE, gpus=4)
    four = page.locator("[name='pytorch.gpus'][value='4']")
    expect(four).to_be_disabled()
    expect(four.locator("xpath=..")).to_contain_text("your limit is 3")
    three = page.locator("[name='pytorch.gpus'][value='3']")
    expect(three).to_be_checked()  # the most that there may be
    group = page.get_by_role("radiogroup", name="GPUs").first
    ids = (group.get_attribute("aria-describedby") or "").split()
    said = " ".join(page.locator(f"#{name}").inner_text() for name in ids)
    assert "“train” uses 1 of your 3" in said
    assert "4 GPUs are not possible: your limit is 3. Ask for more" in said
    expect(page.locator("#o-note b")).to_have_text("Waits for your own servers")
    hours = page.locator("[name='pytorch.hours']")
    expect(hours).to_have_attribute("max", "12")
    hub.pool(purse={**PURSE, "bounds": {"gpus": [3, {}]}}, last_choice=LAST)
    expect(page.locator("#o-note b")).to_have_text("Joins the queue")
    expect(hours).to_have_attribute("max", "24")


def test_models_and_hours_of_a_week_have_limits_too(page: Page, hub: StagedHub) -> None:
    words = "Your limit is 20 GPU-hours in 7 days, 12.0 are used"
    mine = {"closed_models": {A5000: "not for you"}, "rolling": [[20, 13, words]]}
    open_page(page, hub, {**PURSE, **mine})
    option = page.locator(f"[name='pytorch.gpu_model'] option[value='{A5000}']")
    expect(option).to_be_disabled()
    expect(option).to_contain_text("not for you")
    expect(page.locator("#o-note b")).to_have_text("Not possible")
    expect(page.locator("#o-note")).to_contain_text(f"{words}, and this asks for 8. Ask for more")
    page.locator("[name='pytorch.hours']").fill("3")
    expect(page.locator("#o-note b")).to_have_text("Starts now")


def test_without_a_script_who_pays_and_the_limits_are_there_too(
    sign_in: SignIn, hub: StagedHub, user: str
) -> None:
    page = sign_in(user, script=False)
    hub.stage(user, event=blocked())
    open_page(page, hub, PURSE, account="vision-lab")
    expect(page.locator("[name='pytorch.gpus'][value='4']")).to_be_disabled()
    expect(page.locator("[name=account][value='vision-lab']")).to_be_checked()
    page.locator("#o-go").click()
    page.wait_for_url("**/spawn-pending/**")
    assert hub.posted()["account"] == "vision-lab"
    expect(page.locator("#w-blocked")).to_have_text("by its budget")
    expect(page).to_have_title("Blocked · DCloud")


def test_a_blocked_request_says_why_and_what_to_do_and_has_no_place(
    page: Page, hub: StagedHub, user: str
) -> None:
    hub.stage(user, event=queued())
    open_page(page, hub, PURSE)
    page.click("#o-go")
    expect(page.locator("#w-place")).to_have_text("3")
    hub.stage(user, event=blocked())
    expect(page).to_have_title("Blocked · DCloud")
    expect(page.locator("#w-place-box")).to_be_hidden()
    expect(page.locator("#w-expected-box")).to_be_hidden()
    expect(page.locator("#w-blocked")).to_have_text("by its budget")
    expect(page.locator("#w-list")).to_have_text(BLOCKED["reason"])
    expect(page.locator("#w-next a")).to_have_attribute("href", "/services/dcloud/requests")
    expect(page.locator("#w-news")).to_contain_text("Blocked.")
    found = findings(page)
    assert not found, "\n".join(found)
    page.goto(f"{hub.url}/hub/home")
    row = page.locator("[data-server='']")
    expect(row).to_contain_text("Waiting, blocked")
    expect(row.get_by_role("link", name="Ask for more")).to_be_visible()
    hub.stage(user, event=queued(place=1))
    page.goto(f"{hub.url}/hub/spawn-pending/{user}")
    expect(page.locator("#w-next")).to_be_hidden()


def test_the_servers_page_says_what_a_server_costs_and_the_bar_what_is_left(
    page: Page, hub: StagedHub, user: str
) -> None:
    hub.stage(user, ready=True, holding={**holding(), "an_hour": "5.20", "cost": "8.93"})
    open_page(page, hub, PURSE)
    page.click("#o-go")
    page.wait_for_url(f"**/user/{user}/**")
    page.goto(f"{hub.url}/hub/home")
    expect(page.locator("[data-server='']")).to_contain_text("8.93 credits so far, 5.20 an hour")
    balance = page.locator("#balance")
    expect(balance).to_have_text("Balance: 38.0 credits")
    expect(balance).to_have_attribute("href", "/services/dcloud/usage")
    found = findings(page)
    assert not found, "\n".join(found)


def test_axe_finds_nothing_on_a_start_page_with_prices_and_limits(
    page: Page, hub: StagedHub
) -> None:
    open_page(page, hub, PURSE, account="nlp-course", gpus=1)
    expect(page.locator("#o-note b")).to_have_text("Not enough credits")
    found = findings(page)
    assert not found, "\n".join(found)
