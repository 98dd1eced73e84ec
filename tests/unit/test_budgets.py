"""Budgets: what is set aside, who may start, when it ends, and what is said before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest

from dcloud_spawner import accounting, granting, lifecycle
from dcloud_spawner.budgets import LastsUntil, Level, Runway, lasts_until, runway
from dcloud_spawner.errors import NotAllowed
from dcloud_spawner.ledger.rates import MICRO, Resource
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.resizing import change_limits
from dcloud_spawner.store import accounts, meters, rates
from dcloud_spawner.store.accounts import Account, Budget, Role
from dcloud_spawner.store.entries import Part
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.meters import Meter
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import PREEMPTED, Workload
from hub_services.controller.budgets import BudgetKeeper
from hub_services.controller.limits import end_overdue
from hub_services.controller.meter import settle_running
from tests.memory_engine import MemoryEngine, node
from tests.platforms import actions, get, launch, opened, place, settings_for, state, submit
from tests.platforms import start as run

ADMIN = Actor("admin")
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), MemoryEngine(node(gpus=4))) as found:
        yield found


@pytest.fixture
def lab(platform: Platform) -> Account:
    return project(platform, "lab", Budget.HARD, 2)


def project(platform: Platform, name: str, budget: Budget, credits: float) -> Account:
    """A project of ann and bob with some credits."""
    made = accounting.create_project(platform, name, ["ann"], ADMIN, budget=budget)
    accounting.set_member(platform, made.id, "bob", Role.MEMBER, ADMIN)
    if credits:
        granting.grant(platform, made.id, round(credits * MICRO), ADMIN, reason="a start")
    return made


def available(platform: Platform, account: Account) -> float:
    """Credits that are not set aside."""
    with platform.database.reading() as connection:
        found = accounts.get(connection, account.id)
        return accounts.available_microcredits(connection, found) / MICRO


def meter_of(platform: Platform, workload: Workload) -> Meter:
    with platform.database.reading() as connection:
        found = meters.find(connection, workload.id)
    assert found is not None
    return found


def ran(platform: Platform, user: str, gpus: int, so_long: timedelta, **more: object) -> Workload:
    """A server that the engine started so long ago."""
    workload = submit(platform, user, gpus, **more)
    platform.run_pass()
    facts = launch(platform, workload.id)
    engine = platform.engine
    assert isinstance(engine, MemoryEngine)
    facts = replace(facts, started_at=utc_now() - so_long)
    engine.containers[workload.id] = facts
    assert lifecycle.mark_ready(platform, workload.id, facts)
    return get(platform, workload.id)


# ---------------------------------------------------------------------------- the runway


def reaches(
    credits: float, an_hour: float, *, granted: float = 100, unsettled: float = 0
) -> Runway:
    parts = [Part(round(credits * MICRO))] if credits > 0 else []
    return runway(
        round(credits * MICRO),
        parts,
        round(granted * MICRO),
        round(unsettled * MICRO),
        Fraction(round(an_hour * MICRO)),
        NOON,
    )


def test_credits_reach_until_they_are_used_up_at_the_present_pace() -> None:
    assert reaches(10, 4).ends_at == NOON + timedelta(hours=2.5)
    assert reaches(10, 4, unsettled=2).ends_at == NOON + 2 * HOUR
    assert reaches(10, 0).ends_at is None
    assert reaches(0, 4).ends_at == NOON
    assert reaches(-1, 4).ends_at == NOON
    assert reaches(10**6, 0.001).ends_at is None, "not in sight"


def test_what_expires_before_it_is_used_does_not_count() -> None:
    parts = [
        Part(4 * MICRO, NOON + HOUR),  # 1 is used in this hour, 3 are lost
        Part(2 * MICRO, NOON + 2 * HOUR),  # 1 is used, 1 is lost
        Part(3 * MICRO),
    ]
    found = runway(9 * MICRO, parts, 9 * MICRO, 0, Fraction(MICRO), NOON)
    assert found.ends_at == NOON + 5 * HOUR


def test_credits_that_expire_last_until_then_also_when_nothing_runs() -> None:
    day = timedelta(days=1)
    expiring = [Part(4 * MICRO, NOON + 2 * day), Part(3 * MICRO, NOON + 5 * day)]
    pace = Fraction(MICRO, 24)  # a credit a day
    assert lasts_until(expiring, 0, Fraction(0), NOON) == LastsUntil(NOON + 5 * day, expires=True)
    assert lasts_until([*expiring, Part(1)], 0, Fraction(0), NOON) is None
    # Of the first 2 are used in time, of the second 3 more: nothing of those is left to expire.
    assert lasts_until(expiring, 0, pace, NOON) == LastsUntil(NOON + 5 * day, expires=False)
    assert lasts_until(expiring, 0, pace / 2, NOON) == LastsUntil(NOON + 5 * day, expires=True)
    for_ever = [*expiring, Part(MICRO)]
    assert lasts_until(for_ever, 0, pace, NOON) == LastsUntil(NOON + 6 * day, expires=False)
    assert lasts_until(for_ever, 5 * MICRO, pace, NOON) == LastsUntil(NOON + 3 * day, expires=False)
    assert lasts_until([Part(MICRO)], 0, Fraction(1, 10**6), NOON) is None, "not in sight"


def test_what_grants_bring_counts_where_credits_still_last() -> None:
    week, pace = timedelta(days=7), Fraction(MICRO, 24)
    left = [Part(7 * MICRO, NOON + week)]

    def weekly(amount: int, number: int) -> list[tuple[datetime, Part]]:
        return [
            (NOON + n * week, Part(amount * MICRO, NOON + (n + 1) * week))
            for n in range(1, number + 1)
        ]

    assert lasts_until(left, 0, pace / 2, NOON, weekly(7, 9)) == LastsUntil(
        NOON + 10 * week, expires=True
    ), "each comes as the one before goes"
    assert lasts_until(left, 0, pace / 2, NOON, weekly(7, 600)) is None
    used = lasts_until(left, 0, pace / 2, NOON, weekly(3, 600))
    assert used == LastsUntil(NOON + week + timedelta(days=6), expires=False)


def test_a_grant_that_is_due_in_time_moves_the_end_away() -> None:
    def ends(*coming: tuple[datetime, int]) -> datetime | None:
        parts = [Part(2 * MICRO)]
        return runway(2 * MICRO, parts, 2 * MICRO, 0, Fraction(MICRO), NOON, coming).ends_at

    assert ends((NOON + HOUR, 3 * MICRO)) == NOON + 5 * HOUR
    assert ends((NOON + 3 * HOUR, 3 * MICRO)) == NOON + 2 * HOUR, "too late"
    both = ends((NOON + 2 * HOUR, MICRO), (NOON + 3 * HOUR, MICRO))
    assert both == NOON + 4 * HOUR


@pytest.mark.parametrize(
    ("credits", "an_hour", "level"),
    [
        (21, 0, None),
        (20, 0, Level.FEW),
        (20, 30, Level.FEW),
        (20, 40, Level.SOON),
        (50, 100, Level.SOON),
        (50, 599, Level.SOON),
        (50, 600, Level.NOW),
        (0, 0, Level.OUT),
        (-3, 1, Level.OUT),
    ],
)
def test_a_warning_holds_at_20_percent_and_30_and_5_minutes(
    credits: float, an_hour: float, level: Level | None
) -> None:
    assert reaches(credits, an_hour).level is level


# ---------------------------------------------------------------------------- holds


def test_a_start_sets_its_first_hour_aside_until_it_is_charged(
    platform: Platform, lab: Account
) -> None:
    workload = ran(platform, "ann", 1, timedelta(minutes=30), account="lab", hours=4)
    assert meter_of(platform, workload).held_microcredits == MICRO
    assert available(platform, lab) == 1
    settle_running(platform)
    assert available(platform, lab) == pytest.approx(1, abs=1e-6), "charged from what was set aside"
    lifecycle.stop(platform, workload.id, "stopped", ADMIN)
    assert available(platform, lab) == pytest.approx(1.5, abs=0.01)


def test_less_than_an_hour_sets_less_aside_and_by_setting_all_that_is_asked_for(
    database_url: str, tmp_path: Path
) -> None:
    settings = settings_for(database_url, tmp_path, budget_hold="asked")
    with opened(settings, MemoryEngine(node(gpus=4))) as platform:
        lab = project(platform, "lab", Budget.HARD, 10)
        workload = run(platform, "ann", 2, account="lab", hours=3)
        assert meter_of(platform, workload).held_microcredits == 6 * MICRO
        with pytest.raises(NotAllowed, match=r"its whole time costs 12\.00"):
            submit(platform, "bob", 3, account="lab", hours=4)
        assert available(platform, lab) == 4


def test_of_two_starts_against_a_budget_for_one_exactly_one_is_admitted(
    platform: Platform, lab: Account
) -> None:
    asked: dict[str, Workload] = {}
    ready = threading.Barrier(2)

    def ask(user: str) -> None:
        ready.wait()
        asked[user] = submit(platform, user, 2, account="lab")
        platform.run_pass()

    threads = [threading.Thread(target=ask, args=(user,)) for user in ("ann", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {user: get(platform, workload.id) for user, workload in asked.items()}
    states = sorted(one.state.value for one in found.values())
    assert states == [State.ADMITTED.value, State.QUEUED.value]
    (waits,) = (one for one in found.values() if one.state is State.QUEUED)
    (starts,) = (one for one in found.values() if one.state is State.ADMITTED)
    assert waits.blocked == "budget"
    assert waits.blocked_reason == (
        "lab has 0.00 credits left beside what its running servers have set aside, the first hour "
        "costs 2.00. Ask for more, or wait until one of them ends."
    )
    assert available(platform, lab) == 0
    lifecycle.stop(platform, starts.id, "cancelled", ADMIN)  # nothing was charged
    assert state(platform, waits) is State.ADMITTED


def test_what_a_whole_balance_cannot_pay_is_refused_at_once(
    platform: Platform, lab: Account
) -> None:
    with pytest.raises(NotAllowed) as refused:
        submit(platform, "ann", 3, account="lab")
    assert refused.value.code == "budget"
    said = "account: lab has 2.00 credits left, the first hour costs 3.00. Ask for more."
    assert refused.value.message == said
    with platform.database.reading() as connection:
        assert not meters.open_meters(connection)
    submit(platform, "ann", 0, account="lab", server="cpu")  # costs nothing


@pytest.mark.parametrize("how", ["cancelled", "failed", "never ready"])
def test_what_was_set_aside_is_free_again_when_it_does_not_become_ready(
    platform: Platform, lab: Account, how: str
) -> None:
    workload = submit(platform, "ann", 2, account="lab")
    platform.run_pass()
    assert available(platform, lab) == 0
    if how != "cancelled":
        launch(platform, workload.id)
    lifecycle.stop(platform, workload.id, how, ADMIN)
    assert available(platform, lab) == 2
    assert meter_of(platform, workload).settled_at is not None


def test_a_server_that_grows_sets_more_aside_or_may_not(platform: Platform, lab: Account) -> None:
    with platform.database.transaction() as connection:
        now = utc_now()
        rates.add_rate(connection, Resource.MEMORY_GIB, MICRO // 2, now, created_by="admin", at=now)
    workload = run(platform, "ann", 1, account="lab")  # 1 GPU and 1 GiB
    assert available(platform, lab) == 0.5
    with pytest.raises(NotAllowed, match=r"lab has 0\.50 credits left, and 1\.00 credits more"):
        change_limits(platform, workload.id, 3 * 2**30, 1000, ADMIN)
    change_limits(platform, workload.id, 2 * 2**30, 1000, ADMIN)
    assert available(platform, lab) == 0


def test_more_credits_let_in_who_waits(platform: Platform, lab: Account) -> None:
    run(platform, "ann", 2, account="lab")
    waits = submit(platform, "bob", 1, account="lab")
    platform.run_pass()
    assert get(platform, waits.id).blocked == "budget"
    granting.grant(platform, lab.id, MICRO, ADMIN, reason="more")
    platform.run_pass()
    assert state(platform, waits) is State.ADMITTED


def test_a_budget_that_only_counts_stops_nobody(platform: Platform) -> None:
    for server in ("a", "b"):
        run(platform, "zoe", 2, server=server)
    BudgetKeeper(platform).turn()
    assert end_overdue(platform) == []


# ---------------------------------------------------------------------------- the end


def test_at_zero_all_servers_of_a_hard_budget_end_and_money_in_time_withdraws_it(
    platform: Platform, lab: Account
) -> None:
    keeper = BudgetKeeper(platform)
    one = ran(platform, "ann", 1, timedelta(minutes=55), account="lab", hours=10)
    two = ran(platform, "bob", 1, timedelta(minutes=55), account="lab", hours=10)
    free = ran(platform, "bob", 0, timedelta(minutes=55), account="lab", server="cpu")
    keeper.turn()
    ends = [get(platform, workload.id).budget_ends_at for workload in (one, two)]
    assert ends[0] == ends[1] is not None, "they share it"
    assert abs(ends[0] - utc_now() - timedelta(minutes=5)) < timedelta(seconds=10)
    assert get(platform, free.id).budget_ends_at is None, "it uses no credits"
    granting.grant(platform, lab.id, 1000 * MICRO, ADMIN, reason="in time")
    keeper.turn()
    assert get(platform, one.id).budget_ends_at is None
    assert actions(platform, lab.id)[-2:] == ["budget.warning", "budget.well"] or (
        "budget.well" in actions(platform, lab.id)
    )
    assert end_overdue(platform) == []


def test_who_has_used_it_up_is_stopped_and_told(platform: Platform, lab: Account) -> None:
    workload = ran(platform, "ann", 2, HOUR, account="lab", hours=10)
    keeper = BudgetKeeper(platform)
    keeper.turn()
    assert [found.id for found in end_overdue(platform)] == [workload.id]
    ended = get(platform, workload.id)
    assert (ended.state, ended.end_reason) == (State.ENDED, "budget")
    assert ended.end_detail == "Its account had no credits left."
    assert available(platform, lab) == pytest.approx(0, abs=0.01)
    with pytest.raises(NotAllowed):
        submit(platform, "ann", 1, account="lab")


def test_credits_that_came_a_moment_ago_keep_a_server_from_its_stop(
    platform: Platform, lab: Account
) -> None:
    workload = ran(platform, "ann", 2, HOUR, account="lab", hours=10)
    keeper = BudgetKeeper(platform)
    keeper.turn()
    granting.grant(platform, lab.id, MICRO, ADMIN, reason="just in time")
    assert end_overdue(platform) == []
    keeper.turn()
    end = get(platform, workload.id).budget_ends_at
    assert end is not None and end > utc_now() + timedelta(minutes=25)


def test_each_warning_is_logged_once_also_by_the_next_controller(
    platform: Platform, lab: Account
) -> None:
    def warnings() -> list[str]:
        return [found for found in actions(platform, lab.id) if found.startswith("budget.")]

    ran(platform, "ann", 1, timedelta(minutes=100), account="lab", hours=10)
    keeper = BudgetKeeper(platform)
    for _ in range(3):
        keeper.turn()
    assert warnings() == ["budget.warning"]
    BudgetKeeper(platform).turn()
    assert warnings() == ["budget.warning"]


# ---------------------------------------------------------------------------- soft budgets


def test_a_soft_budget_without_credits_goes_on_until_somebody_needs_its_gpus(
    platform: Platform,
) -> None:
    project(platform, "soft", Budget.SOFT, 1)
    workload = ran(platform, "ann", 4, HOUR, account="soft", hours=10)
    settle_running(platform)
    BudgetKeeper(platform).turn()
    assert get(platform, workload.id).budget_ends_at is None
    platform.run_pass()
    assert get(platform, workload.id).notice_at is None, "nobody needs it"
    other = submit(platform, "zoe", 2)
    platform.run_pass()
    told = get(platform, workload.id)
    assert told.notice_reason == PREEMPTED
    assert told.notice_detail.startswith("Its account has no credits left")
    lifecycle.cancel(platform, other.id, "cancelled", ADMIN)
    assert get(platform, workload.id).notice_at is None


def test_a_soft_budget_waits_behind_everybody_until_it_can_pay_again(platform: Platform) -> None:
    soft = project(platform, "soft", Budget.SOFT, 0)
    first = run(platform, "zoe", 4)
    poor = submit(platform, "ann", 1, account="soft")
    rich = submit(platform, "zoe", 1, server="b")
    platform.run_pass()
    assert (place(platform, poor), place(platform, rich)) == (2, 1)
    assert get(platform, poor.id).reasons[-1].startswith("Its account has too few credits left")
    granting.grant(platform, soft.id, 10 * MICRO, ADMIN, reason="more")
    BudgetKeeper(platform).turn()
    assert (place(platform, poor), place(platform, rich)) == (1, 2)
    lifecycle.stop(platform, first.id, "stopped", ADMIN)
    assert state(platform, poor) is State.ADMITTED
