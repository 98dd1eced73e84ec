"""The start page's money: prices, payers and limits in words, and what is read for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dcloud_spawner import accounting, granting
from dcloud_spawner.form.fit import NOW as FREE
from dcloud_spawner.form.purse import (
    balance_words,
    hours_most,
    limited,
    live_purse,
    price_words,
    short_words,
)
from dcloud_spawner.form.servers import PageWords
from dcloud_spawner.form.view import Offer, SpawnFormView, mine_data, render_spawn_form
from dcloud_spawner.form.waiting import waiting_page
from dcloud_spawner.form.words import credits_figure, left_figure
from dcloud_spawner.ledger.rates import MICRO, Resource
from dcloud_spawner.limits import Limit
from dcloud_spawner.live.availability import GIB, Availability, ModelAvailability
from dcloud_spawner.live.bounds import bounds_of
from dcloud_spawner.live.ledger import payers_of
from dcloud_spawner.live.pool import PoolState, read_pool
from dcloud_spawner.live.purse import Bound, Payer, Purse, Rates, Rolling
from dcloud_spawner.platform import Platform
from dcloud_spawner.platform import utc_now as platform_now
from dcloud_spawner.profiles import load_profiles
from dcloud_spawner.store.accounts import Budget, Role
from dcloud_spawner.store.events import Actor
from hub_services.cli.status import LowAccount, _low_accounts, _low_line
from tests.memory_engine import MemoryEngine
from tests.platforms import get, opened, settings_for, start, submit

NOW = datetime(2026, 11, 21, 13, 38, 4, tzinfo=UTC)
BOSS = Actor("boss")
PROFILES = load_profiles(Path(__file__).parents[1] / "browser" / "profiles")
A100, A5000 = "NVIDIA A100-SXM4-80GB", "NVIDIA RTX A5000"
POOL = Availability(
    (
        ModelAvailability(A100, 80 * GIB, 8, 3, 0, 3, 4),
        ModelAvailability(A5000, 24 * GIB, 4, 4, 0, 4, 4),
    ),
    512,
    512,
    64,
    64,
    0,
    NOW,
    False,
    "docker",
)
RATES = Rates({"": MICRO, A100: 2_400_000, A5000: MICRO}, 10_000, 3_750)


def payer(
    credits: float, *, budget: Budget = Budget.HARD, aside: float = 0, name: str = ""
) -> Payer:
    left = round(credits * MICRO)
    return Payer(name, name or "user-a", budget, left, left - round(aside * MICRO))


def purse(*payers: Payer, **more: Any) -> Purse:
    return Purse(payers or (payer(38),), more.pop("rates", RATES), **more)


def page(found: Purse, **choice: Any) -> str:
    offers = tuple(Offer(profile) for profile in PROFILES.values())
    last = {"profile": "pytorch", "gpus": 2, "gpu_model": A100, "memory_gib": 64, "cpus": 16}
    view = SpawnFormView(
        "user-a", offers, POOL, last_choice={**last, **choice}, purse=found, ask_url="/ask"
    )
    return render_spawn_form(view)


# ---------------------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("microcredits", "price", "left"),
    [
        (5_200_000, "5.20", "5.20"),
        (4_999, "0.00", "0.00"),
        (5_000, "0.01", "0.00"),
        (-1, "0.00", "−0.01"),
        (1_234_567_890_000, "1,234,567.89", "1,234,567.89"),
        (Fraction(1_000_000, 3), "0.33", "0.33"),
        (10**18, "1,000,000,000,000.00", "1,000,000,000,000.00"),
    ],
)
def test_prices_are_rounded_and_what_is_left_is_rounded_down(
    microcredits: int | Fraction, price: str, left: str
) -> None:
    assert (credits_figure(microcredits), left_figure(microcredits)) == (price, left)


def test_the_price_of_the_choice_is_that_of_its_gpus_memory_and_cores() -> None:
    words = price_words(purse(), payer(412.6), (A100,), (2, 64, 16, 4), NOW)
    assert (words.an_hour, words.total) == ("5.20", "20.80")
    assert words.parts == "GPUs 4.80, memory and cores 0.40"
    assert words.left == "412.60 → 391.80"
    assert words.until == NOW + timedelta(hours=412.6 / 5.2)


def test_where_any_model_may_be_had_the_price_is_a_range() -> None:
    words = price_words(purse(), payer(1000), (A100, A5000), (1, 0.01, 0.01, 2), NOW)
    assert words.an_hour == "1.00–2.40"
    assert words.total == "4.80"


def test_without_a_budget_nothing_is_left_and_nothing_ends() -> None:
    words = price_words(purse(), payer(0, budget=Budget.NONE), (A100,), (1, 1, 1, 1), NOW)
    assert (words.left, words.until, words.short, words.aside) == ("only counted", None, "", "")


def test_what_runs_on_an_account_shortens_how_long_it_lasts() -> None:
    rich = payer(12)
    assert rich.lasts(Fraction(MICRO)) == timedelta(hours=12)
    busy = replace(rich, burn_microcredits=Fraction(2 * MICRO))
    assert busy.lasts(Fraction(MICRO)) == timedelta(hours=4)
    assert rich.lasts(Fraction(0)) is None
    assert payer(10**9).lasts(Fraction(1)) is None


# ---------------------------------------------------------------------------- who cannot pay


def test_a_hard_budget_that_cannot_pay_the_first_hour_says_no_and_why() -> None:
    price = Fraction(2 * MICRO)
    assert short_words(purse(), payer(2), price, 4) == ("", "")
    no, wait = short_words(purse(), payer(1.2), price, 4)
    assert no == "Your account has 1.20 credits left, the first hour costs 2.00."
    assert not wait
    whole, _ = short_words(purse(hold_seconds=None), payer(7, name="lab"), price, 4)
    assert whole == "lab has 7.00 credits left, its whole time costs 8.00."


def test_what_others_have_set_aside_is_waited_for() -> None:
    no, wait = short_words(purse(), payer(3, aside=2), Fraction(2 * MICRO), 1)
    assert not no
    assert wait == (
        "Your account has 1.00 credits left beside what its running servers have set aside, "
        "the first hour costs 2.00."
    )


@pytest.mark.parametrize("budget", [Budget.SOFT, Budget.NONE])
def test_other_budgets_never_say_no(budget: Budget) -> None:
    assert short_words(purse(), payer(-5, budget=budget), Fraction(MICRO), 1) == ("", "")


def test_the_bar_shows_ones_own_account_or_else_a_project_and_nothing_that_means_nothing() -> None:
    own = payer(399.69)
    project = payer(7, name="vision-lab")
    assert balance_words((own, project)) == {"of": "Balance", "figure": "399.6"}
    uncounted = payer(-3, budget=Budget.NONE)
    assert balance_words((uncounted, project)) == {"of": "Balance of vision-lab", "figure": "7.0"}
    assert balance_words((uncounted, payer(1.2, name="course"), project)) == {
        "of": "Balance of vision-lab",
        "figure": "7.0",
    }
    assert balance_words((uncounted,)) is None


# ---------------------------------------------------------------------------- limits


def test_a_choice_beyond_a_limit_is_closed_and_one_that_is_in_use_waits() -> None:
    found = purse(bounds={"gpus": Bound(3, {"train": 1, "": 1}), "hours": Bound(6)})
    fits = {f"{count}": fit for count, fit in _gpus().items()}
    mine = limited(fits, "gpus", found)
    assert [mine[key].state for key in "01234"] == ["now", "now", "mine", "mine", "no"]
    assert mine["4"].mark == "your limit is 3"
    assert mine["2"].why == "your default server uses 1 and “train” uses 1 of your 3"
    assert hours_most(PROFILES["pytorch"], found) == 6
    assert hours_most(PROFILES["pytorch"], None) == 24


def _gpus() -> dict[int, Any]:
    return dict.fromkeys(range(5), FREE)


def test_limits_are_said_in_the_choice_and_named_by_the_group() -> None:
    html = page(purse(bounds={"gpus": Bound(2, {"train": 1})}))
    assert 'name="pytorch.gpus" value="3" disabled><b>3</b>' in html.replace("\n", "")
    assert "your limit is 2</small>" in html
    assert 'aria-describedby="d-pytorch-gpus m-pytorch-gpus"' in html
    assert (
        "2 GPUs wait: “train” uses 1 of your 2. 3 and 4 GPUs are not possible: your limit is 2."
        in html
    )
    assert '<a href="/ask">Ask for more</a>' in html


def test_the_limits_of_the_ledger_become_those_of_the_form() -> None:
    def limit(name: str, value: Any, used: float | None = None, *by: tuple[str, float]) -> Limit:
        return Limit(name, name, value, used, by, "standard", None)

    found = bounds_of(
        [
            limit("gpus", 2, 1.0, ("train", 1.0)),
            limit("memory_gib", None, 8.0),
            limit("gpu_models", (A5000,)),
            limit("hours", 12),
            limit("queued", 1, 1.0, ("", 1.0)),
            limit("gpu_hours_week", 20.0, 12.0),
            limit("tier", "gold"),
        ],
        [A100, A5000],
    )
    assert found.bounds == {"gpus": Bound(2, {"train": 1}), "hours": Bound(12)}
    assert found.closed_models == {A100: "not for you", "": "choose one of yours"}
    assert found.rolling[0].left == 8
    assert found.rolling[0].words == "Your limit is 20 GPU-hours in 7 days, 12.0 are used"
    assert found.refused == "Your limit is 1 request in the queue, and your default server waits."
    assert found.tier == "gold"
    full = bounds_of([limit("storage_gib", 100, 120.5)], [])
    assert full.refused == "Your limit is 100 GiB of storage, and you have 120.5 GiB."


# ---------------------------------------------------------------------------- the page


def test_only_who_has_a_choice_is_asked_who_pays() -> None:
    assert 'name="account"' not in page(purse())
    html = page(purse(payer(38), payer(412.6, name="vision-lab")), account="vision-lab")
    assert 'name="account" value="vision-lab" checked' in html
    assert "412.60 credits" in html
    assert '<dd id="o-left">412.60 → 391.80</dd>' in html


def test_a_project_one_is_no_longer_in_pays_nothing() -> None:
    html = page(purse(payer(38), payer(7, name="other")), account="vision-lab")
    assert 'name="account" value="" checked' in html


def test_the_personal_part_is_sent_by_itself_and_in_exact_amounts() -> None:
    huge = Payer("", "user-a", Budget.HARD, 2**62 + 1, 2**62 + 1)
    data: Any = live_purse(purse(huge, rolling=(Rolling(20, 12, "w"),)), PROFILES.values())
    assert data["payers"][0]["balance"] == "4611686018427387905"
    assert json.dumps(data)
    assert data["rolling"] == [{"left": 8, "words": "w"}]
    view = SpawnFormView("user-a", tuple(Offer(each) for each in PROFILES.values()), POOL)
    assert mine_data(view) is None
    assert "o-price" not in render_spawn_form(view)


def test_a_blocked_request_says_so_and_has_no_place() -> None:
    event = {
        "stage": "queue",
        "place": None,
        "blocked": {"code": "budget", "reason": "Your account has 0.00 credits left."},
        "reasons": ["Your account has 0.00 credits left."],
    }
    shown = waiting_page(event, "", NOW)
    assert (shown.blocked, shown.place, shown.tab) == ("by its budget", "", "Blocked")
    limit = waiting_page({**event, "blocked": {"code": "limit:gpus", "reason": ""}}, "", NOW)
    assert limit.blocked == "by your limit"
    spawner = SimpleNamespace(name="", pending="spawn", waiting_view=lambda: event)
    assert PageWords().server(spawner, NOW).blocked == "Your account has 0.00 credits left."


def test_status_has_a_line_for_each_account_with_few_credits() -> None:
    low = LowAccount("vision-lab", "project", "hard", "soon", 1_250_000, None)
    assert _low_line(low) == "project vision-lab: 1.25 credits left (hard budget)"
    out = replace(low, kind="user", name="alice", left_microcredits=-5)
    assert "account of alice: [red]no credits left" in _low_line(out)


# ---------------------------------------------------------------------------- what is read


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), MemoryEngine()) as platform:
        yield platform


def _project(platform: Platform, name: str, credits: int, budget: Budget = Budget.HARD) -> str:
    made = accounting.create_project(platform, name, ["bob"], BOSS, budget=budget)
    accounting.set_member(platform, made.id, "alice", Role.MEMBER, BOSS)
    if credits:
        granting.grant(platform, made.id, credits * MICRO, BOSS, reason="for the course")
    return made.id


@pytest.mark.database
def test_accounts_of_a_person_are_read_with_the_pool(platform: Platform) -> None:
    nothing = payers_of(read_pool(platform).ledger, platform.settings, "alice")
    assert [(each.name, each.balance_microcredits) for each in nothing] == [("", 0)]
    _project(platform, "vision-lab", 10)
    running = start(platform, "alice", 2, account="vision-lab")
    state = read_pool(platform)
    own, lab = payers_of(state.ledger, platform.settings, "alice")
    assert own.budget is Budget.NONE
    assert (lab.name, lab.balance_microcredits) == ("vision-lab", 10 * MICRO)
    assert lab.available_microcredits == 8 * MICRO  # the first hour of two GPUs is set aside
    assert lab.burn_microcredits == 2 * MICRO
    assert len(payers_of(state.ledger, platform.settings, "stranger")) == 1
    found = state.ledger.running[running.id]
    assert found.an_hour_microcredits == 2 * MICRO
    assert found.since is not None
    assert found.cost_microcredits(found.since + timedelta(minutes=30)) == MICRO


@pytest.mark.database
def test_a_reading_of_the_ledger_is_kept_for_a_second(platform: Platform) -> None:
    before = read_pool(platform)
    _project(platform, "vision-lab", 1)
    soon = read_pool(platform, before)
    assert soon.ledger.accounts == before.ledger.accounts
    old = replace(before, ledger=replace(before.ledger, at=before.at - timedelta(minutes=2)))
    assert len(read_pool(platform, old).ledger.accounts) == 1


@pytest.mark.database
def test_status_reads_which_accounts_have_few_credits(platform: Platform) -> None:
    _project(platform, "rich", 100)
    _project(platform, "poor", 1)
    start(platform, "alice", 1, account="poor")
    with platform.database.reading() as connection:
        now = platform_now()
        soon = _low_accounts(connection, now + timedelta(minutes=50))
        later = _low_accounts(connection, now + timedelta(hours=2))
    assert [(each.name, each.level) for each in soon] == [("poor", "soon")]
    assert [(each.name, each.level) for each in later] == [("poor", "out")]
    assert "[red]no credits left" in _low_line(later[0])


@pytest.mark.database
def test_the_price_on_the_page_is_what_the_rate_of_now_says(platform: Platform) -> None:
    accounting.change_rate(platform, Resource.CPU_CORE, 50_000, BOSS)
    running = start(platform, "alice", 1, cores=4)
    state = read_pool(platform)
    assert state.ledger.running[running.id].an_hour_microcredits == 1_200_000


@pytest.mark.database
def test_who_waits_for_a_budget_has_no_place_and_a_reason(platform: Platform) -> None:
    _project(platform, "vision-lab", 3)
    start(platform, "alice", 2, account="vision-lab", server="train")
    second = submit(platform, "alice", 2, account="vision-lab", server="second")
    platform.run_pass()
    found = get(platform, second.id)
    assert found.blocked == "budget"
    state: PoolState = read_pool(platform)
    assert state.place_of(second.id) is None


def test_memory_and_cores_alone_have_a_price() -> None:
    assert price_words(purse(), payer(1), (), (0, 4, 2, 1), NOW).an_hour == "0.04"
